//! The program under test.

use std::env;
use std::fs;
use std::io::{PipeReader, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::FdFlags;
use rustix::process::Signal;

use crate::event::Event;
use crate::lines::Lines;
use crate::process::{deadline, signal, wait};
use crate::run::{Run, said};
use crate::usage;

/// A running `portwatch watch`; killed when dropped.
#[derive(Debug)]
pub struct Portwatch {
    child: Child,
    events: Lines<Event>,
    stderr: Lines<String>,
    /// The child was waited for.
    ended: bool,
}

/// The program under test: `PORTWATCH_BIN`, else what stands next to the test's directory.
pub fn program() -> PathBuf {
    let built = || {
        let test = env::current_exe().expect("find the test program");
        let directory = test.ancestors().nth(2).expect("find the directory of programs");
        directory.join("portwatch")
    };
    env::var_os("PORTWATCH_BIN").map_or_else(built, PathBuf::from)
}

/// The arguments after the subcommand. A policy that this host has is none of a test's business.
pub(crate) fn rest_of<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let judges = matches!(args.first(), Some(&("scan" | "watch")));
    let chooses = args.iter().any(|arg| matches!(*arg, "--policy" | "--no-policy"));
    let none = (judges && !chooses).then_some("--no-policy");
    none.into_iter().chain(args.iter().skip(1).copied()).collect()
}

impl Portwatch {
    /// Starts `command` with these arguments and waits until it says that it is ready.
    pub fn start(command: Command, args: &[&str]) -> Self {
        Self::start_reading(command, "json", args, |line| Some(Event::parse(line)))
    }

    /// The same with text for people: each line of it is an event that is nothing but that text.
    pub fn start_in_text(command: Command, args: &[&str]) -> Self {
        Self::start_reading(command, "text", args, |line| Some(Event::parse(line)))
    }

    /// As [`start`](Self::start), but keeps only the events that `read` gives.
    pub(crate) fn start_reading(
        mut command: Command,
        format: &str,
        args: &[&str],
        read: impl Fn(&str) -> Option<Event> + Send + 'static,
    ) -> Self {
        let (ready, announcer) = std::io::pipe().expect("make a pipe");
        // Pipes close on exec; this end is for the child.
        rustix::io::fcntl_setfd(&announcer, FdFlags::empty()).expect("hand on a pipe");
        let name = args.first().expect("a subcommand");
        let fd = announcer.as_raw_fd().to_string();
        command.arg(name).args(["--format", format, "--ready-fd", &fd]).args(rest_of(args));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = command.spawn();
        let mut child = started.unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        drop(announcer);
        let stdout = child.stdout.take().expect("take the events of portwatch");
        let stderr = child.stderr.take().expect("take the log of portwatch");
        let portwatch = Self {
            child,
            events: Lines::of(stdout, read),
            stderr: Lines::of(stderr, |line| Some(line.to_owned())),
            ended: false,
        };
        assert!(is_announced(ready), "portwatch did not get ready");
        portwatch
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of memory it takes now.
    pub fn memory(&self) -> u64 {
        usage::resident(self.pid())
    }

    /// Lets the [`peak`](Self::peak) of memory begin anew: starting takes more than running.
    pub fn forget_peak(&self) {
        usage::forget_peak(self.pid());
    }

    /// Bytes of memory it took at most.
    pub fn peak(&self) -> u64 {
        usage::peak(self.pid())
    }

    /// Processor time it has taken so far.
    pub fn processor_time(&self) -> Duration {
        usage::processor_time(self.pid())
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.pid());
        fs::read_dir(directory).expect("list the descriptors of portwatch").count()
    }

    /// Waits for an event, or finds it among those already there; `what` names it if it never comes.
    #[track_caller]
    pub fn expect(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let Some((_position, event)) = self.events.find(0, wanted) else {
            panic!("portwatch does not report {what}");
        };
        event
    }

    /// Waits for an event after those that there are now.
    #[track_caller]
    pub fn expect_next(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let Some((_position, event)) = self.events.find(self.events.count(), wanted) else {
            panic!("portwatch does not report {what} again");
        };
        event
    }

    /// Stops it where it stands: it reads nothing until [`resume`](Self::resume).
    pub fn pause(&self) {
        signal(&self.child, Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        signal(&self.child, Signal::CONT);
    }

    /// Hangs up: it reads its policy again.
    pub fn hang_up(&self) {
        signal(&self.child, Signal::HUP);
    }

    /// Interrupts it and takes everything it said.
    pub fn stop(self) -> Run {
        signal(&self.child, Signal::INT);
        self.finish()
    }

    /// Terminates it and takes everything it said.
    pub fn terminate(self) -> Run {
        signal(&self.child, Signal::TERM);
        self.finish()
    }

    /// Waits for its end and takes everything it said.
    pub fn finish(mut self) -> Run {
        let status = wait(&mut self.child).expect("portwatch does not end");
        self.ended = true;
        Run { events: self.events.to_end(), stderr: self.stderr.to_end(), code: status.code() }
    }

    /// Kills it without a chance to clean up.
    pub fn kill(mut self) {
        self.child.kill().expect("kill portwatch");
        self.child.wait().expect("wait for portwatch");
        self.ended = true;
    }
}

impl Drop for Portwatch {
    fn drop(&mut self) {
        if !self.ended {
            drop(self.child.kill());
            drop(self.child.wait());
            if thread::panicking() {
                said(&self.events.to_end(), &self.stderr.to_end());
            }
        }
    }
}

/// Waits for the newline of `--ready-fd`.
fn is_announced(mut ready: PipeReader) -> bool {
    let waited = poll(&mut [PollFd::new(&ready, PollFlags::IN)], Some(&deadline()));
    let mut newline = [0];
    waited.expect("wait for portwatch") > 0
        && ready.read(&mut newline).is_ok_and(|length| length == 1)
        && newline == *b"\n"
}
