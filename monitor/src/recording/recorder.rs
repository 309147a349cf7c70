//! Writes a recording while the run goes on: inputs are put into frames where they are told, and into the
//! file by a thread of its own.
//!
//! A recording without a gap is all that can be replayed. So one that cannot keep up, or cannot be
//! written, ends there and says so; what came before stays good. It never holds up the core.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, Result, anyhow};

use super::frame::{self, Kind, MAGIC};
use super::header::Header;
use crate::pipeline::{Input, Tap};
use crate::privilege::{self, Thread, Work};
use crate::report::SinkCount;

/// Bytes that wait to be written before the disk is too slow: seconds of a flood.
const MAX_WAITING: usize = 64 << 20;

/// Pieces that may wait; with those handed on before they are full, more than bytes may.
const QUEUE: usize = 4096;

/// Bytes that are handed on in one go.
const CHUNK: usize = 64 << 10;

/// What is not handed on after this long would be lost if portwatch were killed.
const FLUSH_NS: u64 = 1_000_000_000;

/// The name in `portwatch.counters.sinks[]`.
const NAME: &str = "recording";

/// The end that is told.
#[derive(Debug)]
pub struct Recorder {
    queue: SyncSender<Message>,
    state: Arc<State>,
    chunk: Vec<u8>,
    inputs: u64,
    flushed_ns: u64,
}

/// A recording under way, as whoever started it sees it.
#[derive(Debug)]
pub struct Recording {
    state: Arc<State>,
    done: Receiver<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes handed on and not yet written.
    waiting: AtomicUsize,
    delivered: AtomicU64,
    lost: AtomicU64,
    /// Nothing is recorded any more.
    is_broken: AtomicBool,
    /// Why.
    reason: RwLock<String>,
}

enum Message {
    /// Frames, and how many inputs they are.
    Chunk(Vec<u8>, u64),
    /// The run is over.
    Close,
}

impl Recorder {
    /// Begins a recording in an empty file.
    pub fn start(mut file: File, header: &Header) -> Result<(Self, Recording)> {
        let mut first = MAGIC.to_vec();
        frame::append(&mut first, Kind::Header, header)
            .map_err(|error| anyhow!("writing the header of the recording: {error}"))?;
        file.write_all(&first).context("writing the header of the recording")?;
        let state = Arc::new(State::default());
        let (queue, messages) = sync_channel(QUEUE);
        let (finished, done) = sync_channel(1);
        let writer = Writer { file, state: Arc::clone(&state), has_failed: false };
        let run = move || writer.run(&messages, &finished);
        privilege::spawn("pw-recording".to_owned(), Thread::Output, Work::default(), run)
            .context("starting a thread")?;
        let recorder =
            Self { queue, state: Arc::clone(&state), chunk: Vec::new(), inputs: 0, flushed_ns: 0 };
        Ok((recorder, Recording { state, done }))
    }

    fn add(&mut self, input: &Input<'_>, is_end: bool) {
        if let Err(error) = frame::append(&mut self.chunk, Kind::Input, input) {
            self.flush();
            self.state.lose(1);
            self.state.stop(&format!("the recording ends here: {error}"));
            return;
        }
        self.inputs = self.inputs.saturating_add(1);
        let now_ns = input.time_ns().unwrap_or(self.flushed_ns);
        let is_due = now_ns.saturating_sub(self.flushed_ns) >= FLUSH_NS;
        if is_end || is_due || self.chunk.len() >= CHUNK {
            self.flushed_ns = now_ns;
            self.flush();
        }
    }

    fn flush(&mut self) {
        let chunk = std::mem::take(&mut self.chunk);
        let (length, inputs) = (chunk.len(), std::mem::take(&mut self.inputs));
        let waiting = self.state.waiting.fetch_add(length, Ordering::Relaxed);
        let handed_on = if waiting.saturating_add(length) > MAX_WAITING {
            Err("the disk is too slow for it")
        } else {
            self.queue.try_send(Message::Chunk(chunk, inputs)).map_err(|error| match error {
                TrySendError::Full(_) => "the disk is too slow for it",
                TrySendError::Disconnected(_) => "nobody writes it any more",
            })
        };
        if let Err(why) = handed_on {
            self.state.lose(inputs);
            self.state.stop(&format!("the recording ends here: {why}"));
        }
    }
}

impl Tap for Recorder {
    fn note(&mut self, input: &Input<'_>) {
        let is_end = matches!(input, Input::Ended { .. });
        if self.state.is_broken() {
            // What waits to be handed on can follow nothing that is missing.
            self.chunk.clear();
            self.state.lose(std::mem::take(&mut self.inputs).saturating_add(1));
        } else {
            self.add(input, is_end);
        }
        if is_end && self.queue.send(Message::Close).is_err() {
            tracing::debug!("the thread that records is gone");
        }
    }
}

/// A run that fails on its way tells no end.
impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.chunk.is_empty() {
            self.flush();
        }
    }
}

impl Recording {
    /// Waits until everything that was recorded is on the disk; the run has ended.
    pub fn close(&self) {
        if self.done.recv().is_err() {
            tracing::debug!("the thread that records is gone");
        }
    }

    /// It ended before the run did; the log has said why.
    pub fn is_broken(&self) -> bool {
        self.state.is_broken()
    }

    /// What became of the inputs so far.
    pub fn count(&self) -> SinkCount {
        SinkCount {
            name: NAME.to_owned(),
            delivered: self.state.delivered.load(Ordering::Relaxed),
            lost: self.state.lost.load(Ordering::Relaxed),
        }
    }
}

impl State {
    fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    fn lose(&self, inputs: u64) {
        self.lost.fetch_add(inputs, Ordering::Relaxed);
    }

    /// Said at once, and once.
    fn stop(&self, reason: &str) {
        if !self.is_broken.swap(true, Ordering::Relaxed) {
            let mut kept = self.reason.write().unwrap_or_else(PoisonError::into_inner);
            reason.clone_into(&mut kept);
            tracing::error!("{reason}");
        }
    }
}

/// The thread that writes.
struct Writer {
    file: File,
    state: Arc<State>,
    /// Whatever came behind bytes that are missing could not be read.
    has_failed: bool,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>, finished: &SyncSender<()>) {
        while let Ok(Message::Chunk(chunk, inputs)) = messages.recv() {
            self.write(&chunk, inputs);
        }
        if self.state.is_broken() && !self.has_failed {
            self.mark();
        }
        if let Err(error) = self.file.sync_all() {
            self.state.stop(&format!("the recording may not be on the disk: {error}"));
        }
        if finished.send(()).is_err() {
            tracing::debug!("nobody waits for the recording");
        }
    }

    fn write(&mut self, chunk: &[u8], inputs: u64) {
        if self.has_failed {
            self.state.lose(inputs);
            return;
        }
        match self.file.write_all(chunk) {
            Ok(()) => {
                self.state.delivered.fetch_add(inputs, Ordering::Relaxed);
            }
            Err(error) => {
                self.has_failed = true;
                self.state.lose(inputs);
                self.state.stop(&format!("the recording ends here: {error}"));
            }
        }
        self.state.waiting.fetch_sub(chunk.len(), Ordering::Relaxed);
    }

    /// The last frame of a recording that ends before its run.
    fn mark(&mut self) {
        let reason = self.state.reason.read().map(|reason| reason.clone()).unwrap_or_default();
        let mut last = Vec::new();
        let appended = frame::append(&mut last, Kind::Lost, &reason);
        if appended.is_ok() && self.file.write_all(&last).is_err() {
            tracing::debug!("the end of the recording cannot be marked");
        }
    }
}
