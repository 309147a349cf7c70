//! Builds portwatch, and runs it in the place of this program.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Error, Result};

use crate::{command, setup};

/// `cargo xtask build`.
pub(crate) fn build(release: bool, arguments: &[OsString]) -> Result<()> {
    setup::prepare()?;
    let mut build = command::cargo(["build", "--locked", "--package=monitor"]);
    if release {
        build.arg("--release");
    }
    command::run(build.args(arguments))
}

/// `cargo xtask run`: returns only the reason why it could not.
///
/// The process is replaced, so that signals and the exit code are portwatch's own.
pub(crate) fn replace_process(arguments: &[OsString]) -> Error {
    match start(arguments) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn start(arguments: &[OsString]) -> Result<Infallible> {
    build(true, &[])?;
    let portwatch = command::target_directory()?.join("release/portwatch");
    let sudo = command::program("sudo").filter(|_| !command::is_root());
    let mut run = match sudo {
        Some(sudo) => {
            let mut run = Command::new(sudo);
            run.arg(&portwatch);
            run
        }
        None => Command::new(&portwatch),
    };
    match arguments {
        [] => run.arg(OsStr::new("watch")),
        _ => run.args(arguments),
    };
    Err(run.exec()).with_context(|| format!("run {}", portwatch.display()))
}
