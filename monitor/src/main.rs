//! The `portwatch` command: parse, run, exit code.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use anstream::ColorChoice;
use monitor::cli::{self, Cli, Color, Command, EvidenceCommand, Format};
use monitor::extcap::{self, Asked};
use monitor::failure::{self, Failure};
use monitor::host::identity::Identity;
use monitor::kernel::pin;
use monitor::output::Style;
use monitor::output::ecs::RunIdentity;
use monitor::output::text::Look;
use monitor::recording::Origin;
use monitor::{descriptor, doctor, evidence, explain, replay, rulebook, scan, watch};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return answer(&exit),
    };
    start_log(cli.verbose);
    let code = run(cli).unwrap_or_else(|failure| {
        complain(&failure);
        failure.code()
    });
    ExitCode::from(code)
}

fn run(cli: Cli) -> Result<u8, Failure> {
    match cli.command {
        Command::Scan(args) => {
            let identity = Identity::read();
            let style = style(args.common.format, Style::Table, cli.color, run_identity(&identity));
            runtime()?.block_on(scan::run(args, &identity, style))
        }
        Command::Watch(args) => {
            // First of all, while no descriptor of ours can have the number that the user means.
            let ready = take_ready_fd(&args)?;
            let format = args.common.format;
            if args.pcap.is_to_stdout() {
                let look = Look::of_stderr(choice(cli.color));
                return watch(*args, ready, |_run| Style::Lines(look));
            }
            watch(*args, ready, |run| style(format, Style::Lines, cli.color, run))
        }
        Command::Evidence(args) => match &args.command {
            Some(EvidenceCommand::Verify(args)) => evidence::verify(args),
            None => {
                let identity = Identity::read();
                let run = run_identity(&identity);
                runtime()?.block_on(evidence::run(*args, &identity, run))
            }
        },
        Command::Extcap(args) => match extcap::ask(&args)? {
            Asked::Answer(text) => {
                // A reader that has had enough is a normal end.
                let _written = write!(anstream::stdout(), "{text}");
                Ok(failure::DONE)
            }
            Asked::Capture(args) => watch(*args, None, |_run| Style::Nothing),
        },
        Command::Doctor(args) => {
            let identity = Identity::read();
            doctor::run(style(args.format, Style::Checks, cli.color, run_identity(&identity)))
        }
        Command::Explain(args) => explain::run(args, &look(cli.color)),
        Command::Replay(args) if args.pcap.is_to_stdout() => {
            replay::run(&args, Look::of_stderr(choice(cli.color)))
        }
        Command::Replay(args) => replay::run(&args, look(cli.color)),
        Command::Policy(command) => {
            let identity = Identity::read();
            runtime()?.block_on(rulebook::run(command, &identity, look(cli.color)))
        }
        Command::Decoy => Ok(doctor::decoy()?),
        Command::DecoyWorker => Ok(doctor::decoy_worker()?),
        Command::Detach => detach(),
    }
}

/// `style` is how the reports of this run look.
fn watch(
    args: cli::Watch,
    ready: Option<OwnedFd>,
    style: impl FnOnce(RunIdentity) -> Style,
) -> Result<u8, Failure> {
    let identity = Identity::read();
    let run = run_identity(&identity);
    let origin = Origin::of_host(run.clone(), identity.boot_id.clone());
    runtime()?.block_on(watch::run(args, ready, &identity, origin, style(run)))
}

fn runtime() -> Result<Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Broken(error.into()))
}

/// Removes what is pinned, and says how much that was.
fn detach() -> Result<u8, Failure> {
    let line = match pin::remove_all()? {
        0 => "nothing was pinned".to_owned(),
        1 => "detached in 1 network namespace".to_owned(),
        count => format!("detached in {count} network namespaces"),
    };
    // A reader that has had enough is a normal end.
    let _written = writeln!(anstream::stdout(), "{line}");
    Ok(failure::DONE)
}

/// `text` is how the command's reports look as text.
fn style(format: Format, text: fn(Look) -> Style, color: Color, run: RunIdentity) -> Style {
    match format {
        Format::Text => text(look(color)),
        Format::Json => Style::Json(run),
    }
}

fn look(color: Color) -> Look {
    Look::of_stdout(choice(color))
}

const fn choice(color: Color) -> ColorChoice {
    match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
}

fn run_identity(identity: &Identity) -> RunIdentity {
    RunIdentity {
        host_name: identity.name.clone(),
        host_id: identity.machine_id.clone().unwrap_or_default(),
        run_id: run_id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// A random name for this run.
fn run_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    id.trim().to_owned()
}

fn take_ready_fd(watch: &cli::Watch) -> Result<Option<OwnedFd>, Failure> {
    let Some(number) = watch.ready_fd else { return Ok(None) };
    descriptor::take(number)
        .map(Some)
        .map_err(|error| Failure::Usage(format!("--ready-fd {number}: {error}")))
}

fn answer(exit: &cli::Exit) -> ExitCode {
    // A reader that has had enough is a normal end.
    let _written = match exit {
        cli::Exit::Answer(text) => write!(anstream::stdout(), "{text}"),
        cli::Exit::Usage(line) => writeln!(std::io::stderr(), "{line}"),
    };
    ExitCode::from(exit.code())
}

fn complain(failure: &Failure) {
    let _written = writeln!(std::io::stderr(), "{failure}");
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    // aya speaks through `log`; its warnings about old kernels are for us to put into words.
    let filter = EnvFilter::new(format!("{level},aya=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}
