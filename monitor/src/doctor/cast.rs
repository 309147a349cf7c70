//! Who takes part in the self-test: decoys, and the portwatch that has to see them.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

use super::ITSELF;
use crate::privilege::{self, Thread, Work};

/// The observer ends by itself at the latest then, whatever becomes of us.
const AT_MOST: &str = "30s";
/// Between two reports of a flow. Also how soon the observer notices that nobody reads any more.
const INTERVAL: &str = "250ms";

/// Lines that may wait to be read; who says more waits.
const QUEUE: usize = 256;

/// A process that plays; killed when dropped.
#[derive(Debug)]
pub(super) struct Decoy {
    child: Child,
    steps: ChildStdin,
    answers: Receiver<String>,
}

impl Decoy {
    /// Starts one, which does nothing yet.
    pub(super) fn call() -> Result<Self> {
        let mut command = Command::new(ITSELF);
        command.arg("decoy").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("starting a decoy")?;
        let steps = child.stdin.take().context("talking to a decoy")?;
        let answers = lines(child.stdout.take(), Some)?;
        Ok(Self { child, steps, answers })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for a step, whose answer is to be [heard](Self::hear).
    pub(super) fn tell(&mut self, step: &str) {
        // Of a decoy that is gone nothing will be heard.
        if let Err(error) = writeln!(self.steps, "{step}") {
            tracing::debug!(step, "telling a decoy: {error}");
        }
    }

    /// What the decoy says of the step; the error is why it was not done, in words.
    pub(super) fn hear(&self, deadline: Instant) -> Result<String, String> {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = self.answers.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => "the decoy did not answer in time".to_owned(),
            RecvTimeoutError::Disconnected => "the decoy is gone".to_owned(),
        })?;
        match answer.split_once(' ') {
            Some(("ok", what)) => Ok(what.to_owned()),
            Some((_, why)) => Err(why.to_owned()),
            None => Err(answer),
        }
    }

    /// Both.
    pub(super) fn perform(&mut self, step: &str, deadline: Instant) -> Result<String, String> {
        self.tell(step);
        self.hear(deadline)
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A real `portwatch watch`; killed when dropped.
#[derive(Debug)]
pub(super) struct Observer {
    child: Child,
    documents: Receiver<Value>,
    log: Receiver<String>,
    /// Everything it has said so far.
    events: Vec<Value>,
}

impl Observer {
    /// Starts it; see [`started`](Self::started).
    pub(super) fn start(ports: &str) -> Result<Self> {
        let mut command = Command::new(ITSELF);
        command.args(["watch", "--no-policy", "--format", "json", "--sample", "0"]);
        command.args(["--interval", INTERVAL, "--for", AT_MOST, "--port", ports]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting `portwatch watch`")?;
        let documents = lines(child.stdout.take(), |line| serde_json::from_str(&line).ok())?;
        let log = lines(child.stderr.take(), Some)?;
        Ok(Self { child, documents, log, events: Vec::new() })
    }

    /// Waits until everything is attached: its first document.
    ///
    /// The error is what it said instead.
    pub(super) fn started(&mut self, deadline: Instant) -> Result<Value> {
        if self.read(deadline)
            && let Some(first) = self.events.first()
        {
            return Ok(first.clone());
        }
        let said: Vec<String> = self.log.try_iter().collect();
        let said = said.join("; ");
        anyhow::bail!("`portwatch watch` did not start in time: {said}")
    }

    /// Reads one more document. False: there is none by then.
    pub(super) fn read(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let document = self.documents.recv_timeout(left);
        let is_there = document.is_ok();
        self.events.extend(document);
        is_there
    }

    /// Everything it has said.
    pub(super) fn events(&self) -> &[Value] {
        &self.events
    }

    /// Interrupts it, and reads what it says of everything that is still going on.
    pub(super) fn stop(&mut self, deadline: Instant) {
        // Not waited for yet: the pid is its own.
        if let Err(error) = kill_process(Pid::from_child(&self.child), Signal::INT) {
            tracing::debug!("interrupting the observer: {error}");
        }
        while self.read(deadline) {}
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends a child for good.
fn end(child: &mut Child) {
    let ended = child.kill().and_then(|()| child.wait());
    if let Err(error) = ended {
        tracing::debug!("ending a process of the self-test: {error}");
    }
}

/// What a process says, line by line, as far as `read` makes something of it.
fn lines<T: Send + 'static>(
    pipe: Option<impl Read + Send + 'static>,
    read: impl Fn(String) -> Option<T> + Send + 'static,
) -> Result<Receiver<T>> {
    let pipe = BufReader::new(pipe.context("listening to a process")?);
    let (sender, receiver) = sync_channel(QUEUE);
    let listen = move || {
        let read = pipe.lines().map_while(Result::ok).filter_map(read);
        for item in read {
            if sender.send(item).is_err() {
                return;
            }
        }
    };
    privilege::spawn("pw-cast".to_owned(), Thread::Output, Work::default(), listen)
        .context("starting a thread")?;
    Ok(receiver)
}

/// So long from now.
pub(super) fn within(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now)
}
