//! `-- COMMAND…`: run it, watch until it ends, and exit as it did.

use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use crate::escape;

/// A command that cannot be run, as a shell would put it.
#[derive(Debug)]
pub(super) struct Refused {
    /// One line for a person.
    pub(super) line: String,
    /// 127: there is no such command; 126: it cannot be executed.
    pub(super) code: u8,
}

/// A command that waits for its start on a thread that still has all the rights we were started with:
/// the user's command runs as if the user had run it. Dropped, it never starts.
#[derive(Debug)]
pub(super) struct Launch {
    go: SyncSender<()>,
    thread: JoinHandle<Option<io::Result<Child>>>,
    program: OsString,
}

impl Launch {
    /// Prepares the command, if there is one: inside the runtime, before rights are given up.
    pub(super) fn prepare(command: &[OsString]) -> Result<Option<Self>> {
        let Some((program, arguments)) = command.split_first() else { return Ok(None) };
        let mut command = Command::new(program);
        // Its stdout goes to our stderr: our stdout carries data.
        command.args(arguments).stdout(Stdio::from(io::stderr())).kill_on_drop(true);
        let (go, wait) = sync_channel(1);
        let runtime = Handle::current();
        let launch = move || {
            let () = wait.recv().ok()?;
            let _runtime = runtime.enter();
            Some(command.spawn())
        };
        let thread = thread::Builder::new().name("pw-command".to_owned());
        let thread = thread.spawn(launch).context("starting a thread")?;
        Ok(Some(Self { go, thread, program: program.clone() }))
    }

    /// Starts it; the thread is gone afterwards.
    pub(super) fn start(self) -> Result<Child, Refused> {
        let gone = || io::Error::other("the thread that starts it is gone");
        let sent = self.go.send(()).map_err(|_unsent| gone());
        let started =
            sent.and_then(|()| self.thread.join().ok().flatten().unwrap_or_else(|| Err(gone())));
        started.map_err(|error| {
            let name = self.program.to_string_lossy();
            let line = format!("{}: {error}", escape::quote(&name));
            let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            Refused { line, code }
        })
    }
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
