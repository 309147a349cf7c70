//! `portwatch extcap`: portwatch as an interface of Wireshark's, by the protocol of
//! <https://www.wireshark.org/docs/man-pages/extcap.html>.
//!
//! Wireshark calls a script in a folder of its own, and that calls us. It shows whatever is written to
//! stderr as an error, so nothing else goes there.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::cli;
use crate::escape;
use crate::failure::Failure;
use crate::ports::PortSet;

/// The one interface.
const INTERFACE: &str = "portwatch";

/// The script.
const SCRIPT: &str = "portwatch";

/// What is asked for.
#[derive(Debug)]
pub enum Asked {
    /// An answer on stdout.
    Answer(String),
    /// A capture on stdout.
    Capture(Box<cli::Watch>),
}

/// Answers what Wireshark asks. Of a capture, stdout is where it goes from then on.
pub fn ask(args: &cli::Extcap) -> Result<Asked, Failure> {
    if let Some(directory) = &args.install {
        return install(directory.as_deref()).map(Asked::Answer);
    }
    if args.extcap_interfaces {
        return Ok(Asked::Answer(interfaces()));
    }
    let Some(interface) = args.extcap_interface.as_deref() else {
        return Err(Failure::Usage(NO_QUESTION.to_owned()));
    };
    if interface != INTERFACE {
        let interface = escape::quote(interface);
        return Err(Failure::Usage(format!("no interface {interface}; there is {INTERFACE}")));
    }
    let filter = args.extcap_capture_filter.as_deref().unwrap_or_default().trim();
    match &args.fifo {
        Some(_) if args.capture && !filter.is_empty() => Err(Failure::Usage(NO_FILTER.to_owned())),
        Some(fifo) if args.capture => capture(args, fifo),
        _ if args.extcap_dlts => Ok(Asked::Answer(DLTS.to_owned())),
        _ if args.extcap_config => Ok(Asked::Answer(CONFIG.to_owned())),
        // Whatever is answered says why a filter is not valid.
        _ if args.extcap_capture_filter.is_none() => Err(Failure::Usage(NO_QUESTION.to_owned())),
        _ if filter.is_empty() => Ok(Asked::Answer(String::new())),
        _ => Ok(Asked::Answer(format!("{NO_FILTER}\n"))),
    }
}

const NO_QUESTION: &str =
    "'extcap' answers Wireshark; `portwatch extcap --install` makes Wireshark ask";

const NO_FILTER: &str =
    "portwatch takes no capture filter: choose ports in the options of the interface";

fn interfaces() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let port = PortSet::default();
    format!(
        "extcap {{version={version}}}{{display=portwatch}}\n\
         interface {{value={INTERFACE}}}{{display=port {port}}}\n"
    )
}

/// Each interface in the file says its own, and all say this.
const DLTS: &str = "dlt {number=101}{name=RAW}{display=Raw IP}\n";

const CONFIG: &str = "\
arg {number=0}{call=--port}{display=Ports}{tooltip=Ports and ranges, such as 3516,8000-8010}\
{type=string}{default=3516}{required=true}
arg {number=1}{call=--sample}{display=One packet in}{tooltip=1: every packet, within the sampling \
budget; else the first of each flow that carry payload, and one in so many}{type=unsigned}\
{range=1,65535}{default=1}
arg {number=2}{call=--payload}{display=Payload}{tooltip=How much of a packet's payload is captured}\
{type=selector}{default=masked}
value {arg=2}{value=masked}{display=What names the protocol}{default=true}
value {arg=2}{value=none}{display=None}{default=false}
value {arg=2}{value=full}{display=All of it, secrets included}{default=false}
";

/// Lets stdout be the pipe that Wireshark reads.
fn capture(args: &cli::Extcap, fifo: &Path) -> Result<Asked, Failure> {
    let problem = |error: &dyn std::fmt::Display| {
        Failure::Usage(format!("{}: {error}", escape::quote(&fifo.to_string_lossy())))
    };
    // Waits until Wireshark reads. Not made: it is Wireshark's.
    let pipe = File::options().write(true).open(fifo).map_err(|error| problem(&error))?;
    rustix::stdio::dup2_stdout(pipe).map_err(|error| problem(&io::Error::from(error)))?;
    let watch = cli::Watch::for_wireshark(args.port.clone(), args.sample, args.payload);
    let watch = watch.map_err(|error| Failure::Broken(error.into()))?;
    Ok(Asked::Capture(Box::new(watch)))
}

/// Writes the script.
fn install(directory: Option<&Path>) -> Result<String, Failure> {
    let directory = match directory {
        Some(directory) => directory.to_owned(),
        None => folder().ok_or_else(|| {
            let folders = "Help > About Wireshark > Folders, or `tshark -G folders`, names it";
            Failure::Usage(format!(
                "'--install' does not find Wireshark's extcap folder: {folders}"
            ))
        })?,
    };
    let path = directory.join(SCRIPT);
    let shown = escape::quote(&path.to_string_lossy()).into_owned();
    let problem = |error: &dyn std::fmt::Display| Failure::Usage(format!("{shown}: {error}"));
    let program = std::env::current_exe().map_err(|error| problem(&error))?;
    let program = program.to_str().and_then(|program| shlex::try_quote(program).ok());
    let program = program.ok_or_else(|| problem(&"the path of portwatch is not text"))?;
    let script = format!(
        "#!/bin/sh\n# Made by `portwatch extcap --install`.\nexec {program} extcap \"$@\"\n"
    );
    if std::fs::read_to_string(&path).is_ok_and(|there| there == script) {
        return Ok(format!("{shown} is there already\n"));
    }
    let file = File::options().write(true).create_new(true).mode(0o755).open(&path);
    let written = file.and_then(|mut file| file.write_all(script.as_bytes()));
    written.map_err(|error| problem(&error))?;
    Ok(format!(
        "{shown} is there; Wireshark and tshark list \"portwatch (port 3516)\" from now on\n"
    ))
}

/// Where Wireshark's packages have such scripts.
fn folder() -> Option<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let libraries =
        [multiarch.as_str(), "/usr/lib64", "/usr/lib", "/usr/libexec", "/usr/local/lib"];
    libraries
        .into_iter()
        .map(|library| Path::new(library).join("wireshark/extcap"))
        .find(|folder| folder.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_of_lines_that_wireshark_reads() {
        for answer in [interfaces(), DLTS.to_owned(), CONFIG.to_owned()] {
            for line in answer.lines() {
                let (kind, rest) = line.split_once(' ').unwrap();
                assert!(["extcap", "interface", "dlt", "arg", "value"].contains(&kind), "{line}");
                let fields =
                    rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap();
                assert!(fields.split("}{").all(|field| field.contains('=')), "{line}");
                assert!(!fields.replace("}{", "").contains(['{', '}']), "{line}");
            }
        }
        assert!(interfaces().contains("{value=portwatch}{display=port 3516}"));
    }

    #[test]
    fn a_filter_is_refused_with_the_reason_and_none_is_not() {
        let asked = |filter: &str| {
            let args = ["portwatch", "extcap", "--extcap-interface", "portwatch"];
            let args = args.into_iter().chain(["--extcap-capture-filter", filter]);
            let cli = cli::parse(args.map(Into::into)).unwrap();
            let cli::Command::Extcap(args) = cli.command else { panic!("{cli:?}") };
            ask(&args).unwrap()
        };

        assert!(matches!(asked(""), Asked::Answer(answer) if answer.is_empty()));
        assert!(
            matches!(asked("port 1"), Asked::Answer(answer) if answer.contains("no capture filter"))
        );
    }

    #[test]
    fn a_script_is_written_once_and_nothing_else_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SCRIPT);

        let first = install(Some(directory.path())).unwrap();
        let again = install(Some(directory.path())).unwrap();
        std::fs::write(&path, "mine").unwrap();
        let refused = install(Some(directory.path())).unwrap_err();

        assert!(first.contains("is there; Wireshark"), "{first}");
        assert!(again.contains("is there already"), "{again}");
        assert!(matches!(refused, Failure::Usage(_)), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
