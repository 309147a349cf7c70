//! Processes that tests start: waited for with a deadline, killed by pid and only if they are ours.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::{now, skip};

/// A process that has come to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finished {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Everything on its standard output.
    pub stdout: String,
    /// Everything on its standard error.
    pub stderr: String,
}

/// Runs a command to its end and takes what it writes.
pub fn finish(command: &mut Command) -> Finished {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child);
    let finished = |code| Finished {
        code,
        stdout: stdout.join().expect("read standard output"),
        stderr: stderr.join().expect("read standard error"),
    };
    match status {
        Some(status) => finished(status.code()),
        None => panic!("{command:?} did not end in time: {:?}", finished(None)),
    }
}

/// Runs a command that has to succeed, and gives its output.
pub(crate) fn succeed(command: &mut Command) -> String {
    let Finished { code, stdout, stderr } = finish(command);
    assert_eq!(code, Some(0), "{command:?}: {stderr}");
    stdout
}

/// Waits for what comes without telling anybody; `what` names it if it never does.
#[track_caller]
pub fn soon<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let start = now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(now().saturating_sub(start) < crate::deadline(), "there is not {what}");
        thread::yield_now();
    }
}

/// Is there such a tool? Noted as skipped if not.
pub fn is_installed(tool: &str) -> bool {
    let installed = Command::new(tool).arg("--version").output().is_ok();
    if !installed {
        skip(&format!("{tool} is not installed"));
    }
    installed
}

/// Waits until a child ends; kills it and returns `None` when it does not in time.
pub(crate) fn wait(child: &mut Child) -> Option<ExitStatus> {
    let handle = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("open a pidfd");
    let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&deadline()));
    let in_time = ended.expect("wait for a process") > 0;
    if !in_time {
        child.kill().expect("kill a process that does not end");
    }
    let status = child.wait().expect("wait for a process");
    in_time.then_some(status)
}

/// Sends a signal to a child that was not waited for yet, so that its pid is still its own.
pub(crate) fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("send a signal");
}

/// What Ctrl-C sends.
pub fn interrupt(child: &Child) {
    signal(child, Signal::INT);
}

/// [`crate::deadline`] as `poll` takes it.
pub(crate) fn deadline() -> Timespec {
    Timespec::try_from(crate::deadline()).expect("fit a deadline into a timespec")
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
