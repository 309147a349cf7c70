//! `-- COMMAND…`: run it, watch until it ends, and exit as it did.

use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};

use crate::escape;

/// A command that cannot be run, as a shell would put it.
#[derive(Debug)]
pub(super) struct Refused {
    /// One line for a person.
    pub(super) line: String,
    /// 127: there is no such command; 126: it cannot be executed.
    pub(super) code: u8,
}

/// Starts the command, if there is one. Its stdout goes to our stderr: our stdout carries data.
pub(super) fn start(command: &[OsString]) -> Result<Option<Child>, Refused> {
    let Some((program, arguments)) = command.split_first() else { return Ok(None) };
    let started = Command::new(program)
        .args(arguments)
        .stdout(Stdio::from(io::stderr()))
        .kill_on_drop(true)
        .spawn();
    started.map(Some).map_err(|error| {
        let name = program.to_string_lossy();
        let line = format!("{}: {error}", escape::quote(&name));
        let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        Refused { line, code }
    })
}

/// Waits for the command to end; for ever if there is none.
pub(super) async fn ended(command: &mut Option<Child>) -> io::Result<ExitStatus> {
    match command {
        Some(child) => child.wait().await,
        None => pending().await,
    }
}

/// The exit code a shell would give.
pub(super) fn code(status: ExitStatus) -> u8 {
    let code =
        status.code().or_else(|| status.signal().map(|signal| 128_i32.saturating_add(signal)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
