//! The thread behind an output: encodes and writes, at once when nothing waits, in batches else.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::Duration;

use crate::policy::draft::Draft;
use crate::report::{Body, Report};

use super::sink::State;
use super::{Message, Style, ecs, text};

/// Bytes that are written in one go while more reports wait.
const BATCH: usize = 256 << 10;

/// How long a file that does not block is left alone when it takes nothing.
const PAUSE: Duration = Duration::from_millis(2);

/// Takes reports from the queue and puts them into the file.
#[derive(Debug)]
pub(super) struct Writer {
    name: String,
    file: File,
    encoder: Encoder,
    batch: Batch,
    state: Arc<State>,
}

impl Writer {
    /// A writer with nothing to write yet.
    pub(super) fn new(name: String, file: File, style: Style, state: Arc<State>) -> Self {
        Self { name, file, encoder: Encoder::new(style), batch: Batch::default(), state }
    }

    /// Writes until the last sender is gone.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            let mut next = Ok(first);
            loop {
                match next {
                    Ok(Message::Report(report)) => self.take(report),
                    Ok(Message::Drain(done)) => {
                        self.encoder.complete(&mut self.batch);
                        self.write();
                        if done.send(()).is_err() {
                            tracing::debug!(output = self.name, "nobody waits for it any more");
                        }
                    }
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
                if self.batch.bytes.len() >= BATCH {
                    self.write();
                }
                next = messages.try_recv();
            }
            self.write();
        }
    }

    fn take(&mut self, report: Arc<Report>) {
        if self.state.is_closed() {
            return;
        }
        self.batch.begin();
        if let Err(error) = self.encoder.encode(report, &mut self.batch) {
            self.state.lose(1);
            self.fail(&error.into());
        }
    }

    fn write(&mut self) {
        if self.batch.ends.is_empty() {
            return;
        }
        let (written, result) = write_all(&self.file, &self.batch.bytes);
        let (delivered, rest) = self.batch.written(written);
        self.state.deliver(delivered);
        match result {
            Ok(()) => {}
            // Nobody wanted the rest.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.state.close(),
            Err(error) => {
                self.state.lose(rest);
                self.fail(&error);
            }
        }
    }

    /// Said at once, and once: the counters say how much it grows to.
    fn fail(&self, error: &io::Error) {
        if self.state.fail() {
            tracing::error!("writing to {}: {error}; reports are being lost", self.name);
        }
    }
}

/// Encoded reports that wait to be written.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each report ends in `bytes`.
    ends: Vec<usize>,
    /// The file ends in the middle of a line.
    torn: bool,
}

impl Batch {
    /// Whatever was cut short before, the next report starts a line of its own.
    fn begin(&mut self) {
        if self.torn && self.bytes.is_empty() {
            self.bytes.push(b'\n');
        }
    }

    /// So many reports end where the bytes end now.
    fn end(&mut self, reports: usize) {
        self.ends.extend(std::iter::repeat_n(self.bytes.len(), reports));
    }

    /// Forgets everything; how many reports were written in full, and how many were not.
    fn written(&mut self, len: usize) -> (u64, u64) {
        let delivered = self.ends.partition_point(|&end| end <= len);
        let rest = self.ends.len().saturating_sub(delivered);
        if let Some(last) = self.bytes.get(..len).and_then(<[u8]>::last) {
            self.torn = *last != b'\n';
        }
        self.bytes.clear();
        self.ends.clear();
        let count = |reports| u64::try_from(reports).unwrap_or(u64::MAX);
        (count(delivered), count(rest))
    }
}

/// How everything together becomes text.
type Render = fn(&[Arc<Report>], &text::Look) -> String;

#[derive(Debug)]
enum Encoder {
    Json(ecs::Encoder),
    Lines(text::Encoder),
    Table { reports: Vec<Arc<Report>>, look: text::Look, render: Render },
    Policy { draft: Box<Draft>, taken: usize, is_over: bool },
    Nothing,
}

impl Encoder {
    fn new(style: Style) -> Self {
        match style {
            Style::Json(identity) => Self::Json(ecs::Encoder::new(identity)),
            Style::Lines(look) => Self::Lines(text::Encoder::new(look)),
            Style::Table(look) => Self::Table { reports: Vec::new(), look, render: text::scan },
            Style::Checks(look) => Self::Table { reports: Vec::new(), look, render: text::checks },
            Style::Policy(draft) => Self::Policy { draft, taken: 0, is_over: false },
            Style::Nothing => Self::Nothing,
        }
    }

    fn encode(&mut self, report: Arc<Report>, batch: &mut Batch) -> serde_json::Result<()> {
        match self {
            Self::Json(encoder) => encoder.encode(&report, &mut batch.bytes)?,
            Self::Lines(encoder) => encoder.encode(&report, &mut batch.bytes),
            Self::Table { reports, .. } => {
                reports.push(report);
                return Ok(());
            }
            Self::Nothing => {}
            Self::Policy { draft, taken, is_over } => {
                draft.take(&report);
                *taken = taken.saturating_add(1);
                *is_over |= matches!(report.body, Body::RunEnded(_));
                return Ok(());
            }
        }
        batch.end(1);
        Ok(())
    }

    /// What could not be written before everything was there.
    fn complete(&mut self, batch: &mut Batch) {
        match self {
            Self::Table { reports, look, render } if !reports.is_empty() => {
                batch.bytes.extend(render(reports, look).into_bytes());
                batch.end(reports.len());
                reports.clear();
            }
            Self::Policy { draft, taken, is_over: is_over @ true } => {
                *is_over = false;
                batch.bytes.extend(draft.render().into_bytes());
                batch.end(std::mem::take(taken));
            }
            _ => {}
        }
    }
}

/// As [`io::Write::write_all`], but says how much was written, and waits for a file that does not
/// block: stdout is one when another program of the same terminal has made it so.
pub(crate) fn write_all(mut file: &File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0usize;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(len) => written = written.saturating_add(len),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_was_cut_short_is_lost_and_the_next_starts_its_own_line() {
        let mut batch = three_reports();

        assert_eq!(batch.written(5), (1, 2));

        batch.begin();
        assert_eq!(batch.bytes, b"\n");
    }

    #[test]
    fn after_a_whole_line_no_empty_one_follows() {
        for written in [0, 3, 6, 9] {
            let mut batch = three_reports();

            assert_eq!(batch.written(written), (written as u64 / 3, 3 - written as u64 / 3));

            batch.begin();
            assert_eq!(batch.bytes, b"");
        }
    }

    #[test]
    fn a_file_that_took_nothing_is_still_torn() {
        let mut batch = Batch { torn: true, ..Batch::default() };
        batch.begin();
        batch.bytes.extend(b"a\n");
        batch.end(1);

        assert_eq!(batch.written(0), (0, 1));

        assert!(batch.torn);
    }

    fn three_reports() -> Batch {
        let mut batch = Batch::default();
        for text in [b"aa\n", b"bb\n", b"cc\n"] {
            batch.begin();
            batch.bytes.extend(text);
            batch.end(1);
        }
        batch
    }
}
