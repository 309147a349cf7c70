//! Outputs: reports become lines on stdout, behind a bounded queue.
//!
//! Writing happens on a thread of its own. A slow or broken reader loses its own reports, which is
//! counted; it never holds up what is read from the kernel.

pub mod ecs;
#[cfg(test)]
mod examples;
pub mod text;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;

use anyhow::{Context as _, Result};

use crate::report::{Report, SinkCount};

/// Reports that wait to be written.
const QUEUE: usize = 8192;
/// Bytes that are written in one go while more reports wait.
const BATCH: usize = 256 << 10;

/// What reports look like on stdout.
#[derive(Clone, Debug)]
pub enum Style {
    /// One ECS document a line.
    Json(ecs::RunIdentity),
    /// A line an event, for people.
    Lines(text::Look),
    /// A table of everything, once it is all there.
    Table(text::Look),
}

/// Standard output.
#[derive(Debug)]
pub struct Output {
    queue: SyncSender<Message>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    delivered: AtomicU64,
    lost: AtomicU64,
    closed: AtomicBool,
    failed: AtomicBool,
}

enum Message {
    Report(Box<Report>),
    /// Write everything that came before, then answer.
    Drain(SyncSender<()>),
}

impl Output {
    /// Starts the thread that writes to stdout.
    pub fn stdout(style: Style) -> Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned().context("opening stdout")?;
        let (queue, messages) = sync_channel(QUEUE);
        let state = Arc::new(State::default());
        let writer = Writer {
            file: stdout.into(),
            encoder: Encoder::new(style),
            buffer: Vec::new(),
            pending: 0,
            state: Arc::clone(&state),
        };
        thread::Builder::new()
            .name("pw-stdout".to_owned())
            .spawn(move || writer.run(&messages))
            .context("starting a thread")?;
        Ok(Self { queue, state })
    }

    /// Queues a report. Where the queue is full it is lost, and counted.
    pub fn send(&self, report: Report) {
        match self.queue.try_send(Message::Report(Box::new(report))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.state.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Queues a report that must not be lost, waiting for room.
    pub fn send_last(&self, report: Report) {
        if self.queue.send(Message::Report(Box::new(report))).is_err() {
            self.state.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything queued has been written.
    pub fn drain(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Message::Drain(done)).is_err() || wait.recv().is_err() {
            tracing::debug!("the thread that writes to stdout is gone");
        }
    }

    /// The reader went away: a normal end.
    pub fn is_closed(&self) -> bool {
        self.state.closed.load(Ordering::Relaxed)
    }

    /// Something could not be written.
    pub fn has_failed(&self) -> bool {
        self.state.failed.load(Ordering::Relaxed)
    }

    /// What became of the reports so far.
    pub fn counts(&self) -> Vec<SinkCount> {
        vec![SinkCount {
            name: "stdout".to_owned(),
            delivered: self.state.delivered.load(Ordering::Relaxed),
            lost: self.state.lost.load(Ordering::Relaxed),
        }]
    }
}

enum Encoder {
    Json(ecs::Encoder),
    Lines(text::Encoder),
    Table { reports: Vec<Report>, look: text::Look },
}

impl Encoder {
    fn new(style: Style) -> Self {
        match style {
            Style::Json(identity) => Self::Json(ecs::Encoder::new(identity)),
            Style::Lines(look) => Self::Lines(text::Encoder::new(look)),
            Style::Table(look) => Self::Table { reports: Vec::new(), look },
        }
    }

    fn encode(&mut self, report: Report, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Json(encoder) => encoder.encode(&report, out).is_ok(),
            Self::Lines(encoder) => {
                encoder.encode(&report, out);
                true
            }
            Self::Table { reports, .. } => {
                reports.push(report);
                true
            }
        }
    }

    /// What could not be written before everything was there.
    fn complete(&mut self, out: &mut Vec<u8>) {
        if let Self::Table { reports, look } = self
            && !reports.is_empty()
        {
            out.extend(text::scan(reports, look).into_bytes());
            reports.clear();
        }
    }
}

struct Writer {
    file: File,
    encoder: Encoder,
    buffer: Vec<u8>,
    /// Reports in the buffer.
    pending: u64,
    state: Arc<State>,
}

impl Writer {
    /// Writes until the last sender is gone: at once when nothing waits, in batches when much does.
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            let mut next = Ok(first);
            loop {
                match next {
                    Ok(Message::Report(report)) => self.take(*report),
                    Ok(Message::Drain(done)) => {
                        self.encoder.complete(&mut self.buffer);
                        self.write();
                        if done.send(()).is_err() {
                            tracing::debug!("nobody waits for the output any more");
                        }
                    }
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
                if self.buffer.len() >= BATCH {
                    self.write();
                }
                next = messages.try_recv();
            }
            self.write();
        }
    }

    fn take(&mut self, report: Report) {
        if self.encoder.encode(report, &mut self.buffer) {
            self.pending += 1;
        } else {
            self.state.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        let reports = std::mem::take(&mut self.pending);
        match written {
            Ok(()) => {
                self.state.delivered.fetch_add(reports, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.state.closed.store(true, Ordering::Relaxed);
            }
            Err(error) => {
                self.state.lost.fetch_add(reports, Ordering::Relaxed);
                if !self.state.failed.swap(true, Ordering::Relaxed) {
                    tracing::error!("writing to stdout: {error}; reports are being lost");
                }
                // A line may have been cut short: what comes next starts a line of its own.
                self.buffer.push(b'\n');
            }
        }
    }
}
