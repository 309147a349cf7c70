//! Captures: the sampled packets of a run in pcapng files, for Wireshark and its kin, each with who is at
//! its end.
//!
//! Written by a thread of its own behind a bounded queue: a slow disk or reader loses packets, which is
//! counted; it never holds up what is read from the kernel. docs/captures.md says what is in the files.

mod block;
mod comment;
mod files;
mod statistics;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use anyhow::{Context as _, Result};

use crate::escape;
use crate::output::sink::State;
use crate::pipeline::{Payload, Settings};
use crate::privilege::{self, Thread, Work};
use crate::recording::Origin;
use crate::report::{Body, Report, SampleReport, SinkCount};

pub use self::block::{Heading, Packet, Place, Section, Statistics};
pub use self::files::{Files, Limits};
pub use self::writer::Target;

use self::writer::Writer;

/// Packets that may wait to be written: a second of as many as are sampled at most.
const QUEUE: usize = 8192;

/// The name in `portwatch.counters.sinks[]`.
const NAME: &str = "pcap";

/// Interfaces whose losses are told apart.
const MAX_PLACES: usize = 1024;

/// Bytes of a filter expression that is still for people.
const MAX_FILTER: usize = 1024;

/// A capture under way.
#[derive(Debug)]
pub struct Pcap {
    queue: SyncSender<Message>,
    state: Arc<State>,
    /// Packets that found the queue full, by interface, since the last one that did not.
    dropped: HashMap<Place, u64>,
}

/// What the writing thread is told.
#[derive(Debug)]
enum Message {
    /// A packet or counters; and packets of its interface that were lost before it.
    Report { report: Arc<Report>, dropped: u64 },
    /// Write everything that came before, then answer.
    Drain(SyncSender<()>),
    /// The same, and then nothing more comes.
    Close(SyncSender<()>),
}

impl Pcap {
    /// Starts the thread that writes.
    pub fn start(target: Target, heading: Heading) -> Result<Self> {
        let state = Arc::new(State::default());
        let writer = Writer::new(target, heading, Arc::clone(&state));
        let writer = writer.context("beginning the capture")?;
        let (queue, messages) = sync_channel(QUEUE);
        let run = move || writer.run(&messages);
        privilege::spawn("pw-pcap".to_owned(), Thread::Output, Work::default(), run)
            .context("starting a thread")?;
        Ok(Self { queue, state, dropped: HashMap::new() })
    }

    /// Queues a packet or counters; what else there is a capture has no place for. Where the queue is
    /// full a packet is lost, and counted.
    pub fn send(&mut self, report: &Arc<Report>) {
        let Some(message) = self.message(report) else { return };
        if let Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) =
            self.queue.try_send(message)
        {
            self.lose(&message);
        }
    }

    /// The same, waiting for room.
    pub fn send_last(&mut self, report: &Arc<Report>) {
        let Some(message) = self.message(report) else { return };
        if let Err(refused) = self.queue.send(message) {
            self.lose(&refused.0);
        }
    }

    fn message(&mut self, report: &Arc<Report>) -> Option<Message> {
        let dropped = match &report.body {
            Body::Sample(sample) => self.dropped.remove(&place(sample)).unwrap_or(0),
            Body::RunStarted(_) | Body::Counters(_) | Body::RunEnded(_) => 0,
            _ => return None,
        };
        Some(Message::Report { report: Arc::clone(report), dropped })
    }

    fn lose(&mut self, message: &Message) {
        let Message::Report { report, dropped } = message else { return };
        let Body::Sample(sample) = &report.body else { return };
        self.state.lose(1);
        let place = place(sample);
        if self.dropped.len() < MAX_PLACES || self.dropped.contains_key(&place) {
            let sum = self.dropped.entry(place).or_default();
            *sum = sum.saturating_add(*dropped).saturating_add(1);
        }
    }

    /// Waits until everything queued has been written or lost.
    pub fn drain(&self) {
        self.wait(Message::Drain);
    }

    /// The same; then the last file is whole and on the disk.
    pub fn close(&self) {
        self.wait(Message::Close);
    }

    fn wait(&self, message: fn(SyncSender<()>) -> Message) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(message(done)).is_err() || wait.recv().is_err() {
            tracing::debug!("the thread that captures is gone");
        }
    }

    /// How many packets are lost so far.
    pub fn lost(&self) -> u64 {
        self.state.lost()
    }

    /// The reader went away: a normal end.
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

    /// What became of the packets so far; exact after [`Pcap::drain`].
    pub fn count(&self) -> SinkCount {
        self.state.count(NAME)
    }
}

impl Heading {
    /// What is said of a run in each of its files.
    pub fn of(origin: &Origin, settings: &Settings) -> Self {
        let Settings { ports, payload, snaplen, .. } = settings;
        let Origin { run, kernel, machine, .. } = origin;
        let arguments = std::env::args_os().skip(1).take_while(|argument| argument != "--");
        let arguments: Vec<String> = arguments
            .map(|argument| escape::quote(&argument.to_string_lossy()).into_owned())
            .collect();
        let run_line = format!(
            "portwatch run={} host={} command={}",
            run.run_id,
            escape::quote(&run.host_name),
            escape::quote(&comment::shown(&arguments.join(" ")))
        );
        let payload_line = match payload {
            Payload::None => "payload: none; packets are cut behind their headers",
            Payload::Masked => {
                "payload: masked; of it only what names the protocol is here: other bytes are 0, and \
                 packets are cut behind the last that is shown"
            }
            Payload::Full => "payload: full; secrets included",
        };
        let lines = [
            run_line.as_str(),
            "packets are samples: see represents= in the comment of each, and the statistics of the \
             interfaces",
            payload_line,
            "processes are those that were known when a packet was written; the events of the run may \
             know more",
        ];
        Self {
            hardware: machine.clone(),
            os: format!("Linux {kernel}"),
            application: format!("portwatch {}", run.version),
            comments: lines.map(str::to_owned).to_vec(),
            filter: filter(&ports.to_string()),
            snaplen: u32::try_from(*snaplen).unwrap_or(u32::MAX),
        }
    }
}

/// `3516,8000-8010` as pcap-filter(7) has it; empty where nobody would read it.
fn filter(ports: &str) -> String {
    let items = ports.split(',').map(|item| {
        let what = if item.contains('-') { "portrange" } else { "port" };
        format!("{what} {item}")
    });
    let filter = format!("(tcp or udp) and ({})", items.collect::<Vec<_>>().join(" or "));
    if filter.len() > MAX_FILTER { String::new() } else { filter }
}

/// What a capture goes to if it goes to stdout, which has to be somebody who can read it.
pub fn stdout() -> Result<Target, String> {
    use std::io::IsTerminal as _;
    use std::os::fd::AsFd as _;

    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(
            "a capture is not for a terminal: pipe it into `wireshark -k -i -`, or write to a \
                    file"
                .to_owned(),
        );
    }
    let copy = stdout.as_fd().try_clone_to_owned().map_err(|error| format!("stdout: {error}"))?;
    Ok(Target::Stdout(copy.into()))
}

const fn place(sample: &SampleReport) -> Place {
    (sample.netns.inode, sample.interface.ifindex)
}
