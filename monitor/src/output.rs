//! Outputs: reports become documents or lines, behind a bounded queue.
//!
//! Encoding and writing happen on a thread of the output's own. A slow or broken reader loses its
//! own reports, which is counted; it never holds up what is read from the kernel. A second output
//! is a second [`Output`]: both take the same `Arc<Report>`.

pub mod ecs;
#[cfg(test)]
mod examples;
pub mod rules;
pub(crate) mod sink;
#[cfg(test)]
mod tests;
pub mod text;
mod writer;

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use anyhow::{Context as _, Result};

use crate::policy::draft::Draft;
use crate::privilege::{self, Thread, Work};
use crate::report::{Report, SinkCount};

use self::sink::State;
use self::writer::Writer;

pub(crate) use self::writer::write_all;

/// Reports that may wait to be written: some seconds of a busy host, some megabytes.
const QUEUE: usize = 8192;

/// What reports look like.
#[derive(Debug)]
pub enum Style {
    /// One ECS document a line.
    Json(ecs::RunIdentity),
    /// A line an event, for people.
    Lines(text::Look),
    /// A table of everything, written by [`Output::drain`] once it is all there.
    Table(text::Look),
    /// What `doctor` looked at, written likewise.
    Checks(text::Look),
    /// The policy that expects what was seen, written likewise.
    Policy(Box<Draft>),
    /// Nothing: the run is for something else than its events.
    Nothing,
}

/// Where reports go.
#[derive(Debug)]
pub struct Output {
    name: String,
    queue: SyncSender<Message>,
    state: Arc<State>,
}

/// What the writing thread is told.
#[derive(Debug)]
enum Message {
    Report(Arc<Report>),
    /// Write everything that came before, then answer.
    Drain(SyncSender<()>),
}

impl Output {
    /// Starts the thread that writes to stdout.
    pub fn stdout(style: Style) -> Result<Self> {
        // A descriptor of our own: `io::stdout()` would buffer, and panic on a closed pipe in `print!`.
        let stdout = io::stdout().as_fd().try_clone_to_owned().context("opening stdout")?;
        Self::file("stdout", stdout.into(), style)
    }

    /// Starts the thread that writes to stderr, where stdout is for something else.
    pub fn stderr(style: Style) -> Result<Self> {
        let stderr = io::stderr().as_fd().try_clone_to_owned().context("opening stderr")?;
        Self::file("stderr", stderr.into(), style)
    }

    /// Starts the thread that writes to a file. The name is the one in `portwatch.counters.sinks[]`.
    pub fn file(name: impl Into<String>, file: File, style: Style) -> Result<Self> {
        Self::start(name.into(), file, style, QUEUE)
    }

    fn start(name: String, file: File, style: Style, queue: usize) -> Result<Self> {
        let (queue, messages) = sync_channel(queue);
        let state = Arc::new(State::default());
        let writer = Writer::new(name.clone(), file, style, Arc::clone(&state));
        let run = move || writer.run(&messages);
        privilege::spawn(format!("pw-{name}"), Thread::Output, Work::default(), run)
            .context("starting a thread")?;
        Ok(Self { name, queue, state })
    }

    /// Queues a report. Where the queue is full it is lost, and counted.
    pub fn send(&self, report: impl Into<Arc<Report>>) {
        match self.queue.try_send(Message::Report(report.into())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.state.lose(1),
        }
    }

    /// Queues a report that must not be lost, waiting for room.
    pub fn send_last(&self, report: impl Into<Arc<Report>>) {
        if self.queue.send(Message::Report(report.into())).is_err() {
            self.state.lose(1);
        }
    }

    /// Counts reports that were not even made, because this output could not have taken them.
    pub fn lose(&self, reports: u64) {
        self.state.lose(reports);
    }

    /// How many reports are lost so far.
    pub fn lost(&self) -> u64 {
        self.state.lost()
    }

    /// Waits until everything queued has been written or lost. As long as the reader takes.
    pub fn drain(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Message::Drain(done)).is_err() || wait.recv().is_err() {
            tracing::debug!(output = self.name, "the thread that writes is gone");
        }
    }

    /// The reader went away: a normal end. What is sent from then on is neither delivered nor lost.
    pub fn is_closed(&self) -> bool {
        self.state.is_closed()
    }

    /// Waits until the reader goes away; for one task at a time.
    pub async fn closed(&self) {
        self.state.closed().await;
    }

    /// Something could not be written, now or earlier; the log has said why.
    pub fn has_failed(&self) -> bool {
        self.state.has_failed()
    }

    /// What became of the reports so far; exact after [`Output::drain`].
    pub fn counts(&self) -> Vec<SinkCount> {
        vec![self.state.count(&self.name)]
    }
}
