//! The thread that writes a capture: encodes what is waiting, and writes it at once when nothing waits.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use super::block::{Heading, Packet, Place, Section};
use super::files::Files;
use super::statistics::Tally;
use super::{Message, comment};
use crate::output;
use crate::output::sink::State;
use crate::report::{Body, Report, SampleReport};

/// Bytes that are written in one go while more packets wait.
const BATCH: usize = 256 << 10;

/// Where a capture goes.
#[derive(Debug)]
pub enum Target {
    /// Into one pipe, or whatever stdout is.
    Stdout(File),
    /// Into files.
    Files(Box<Files>),
}

/// Takes packets from the queue and puts them into the file.
pub(super) struct Writer {
    target: Target,
    heading: Heading,
    section: Section,
    batch: Batch,
    tally: Tally,
    /// Packets that could not be written since the last one that was, by interface.
    missing: HashMap<Place, u64>,
    has_packets: bool,
    /// What comes behind bytes that are missing could not be read.
    is_torn: bool,
    /// The file is finished, and the next one could not be made.
    is_between: bool,
    state: Arc<State>,
}

/// Blocks that wait to be written, behind each other in the bytes of the section.
#[derive(Debug, Default)]
struct Batch {
    blocks: Vec<Block>,
}

/// A block: where it ends, and what it is.
#[derive(Clone, Copy, Debug)]
struct Block {
    end: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// Without it, nothing that follows could be read.
    Frame,
    Packet(Place),
    Statistics,
}

impl Writer {
    pub(super) fn new(target: Target, heading: Heading, state: Arc<State>) -> io::Result<Self> {
        let section = Section::new(&heading)?;
        let mut writer = Self {
            target,
            heading,
            section,
            batch: Batch::default(),
            tally: Tally::default(),
            missing: HashMap::new(),
            has_packets: false,
            is_torn: false,
            is_between: false,
            state,
        };
        writer.end(Kind::Frame);
        Ok(writer)
    }

    /// Writes until it is told to close, or the last sender is gone.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        // Whoever reads from a pipe wants to know at once that there is a capture.
        self.write();
        while let Ok(first) = messages.recv() {
            let mut next = Ok(first);
            loop {
                match next {
                    Ok(Message::Report { report, dropped }) => self.take(&report, dropped),
                    Ok(Message::Drain(done)) => {
                        self.write();
                        tell(&done);
                    }
                    Ok(Message::Close(done)) => {
                        self.finish();
                        tell(&done);
                        return;
                    }
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
                if self.section.bytes().len() >= BATCH {
                    self.write();
                }
                next = messages.try_recv();
            }
            self.write();
        }
        // The run has failed on its way: what is there is made whole all the same.
        self.finish();
    }

    fn take(&mut self, report: &Report, dropped: u64) {
        if self.state.is_closed() {
            return;
        }
        match &report.body {
            Body::Sample(sample) => self.packet(sample, report.time_unix_ns, dropped),
            Body::RunStarted(_) => self.tally.start(report.time_unix_ns),
            Body::Counters(counters) => {
                self.tally.count(counters, report.time_unix_ns);
                self.rotate_if(0, report.time_unix_ns);
            }
            Body::RunEnded(ended) => {
                if let Some(counters) = &ended.counters {
                    self.tally.count(counters, report.time_unix_ns);
                }
            }
            _ => {}
        }
    }

    fn packet(&mut self, sample: &SampleReport, time_unix_ns: i64, dropped: u64) {
        let SampleReport { interface, netns, direction, length, packet, .. } = sample;
        let place = (netns.inode, interface.ifindex);
        let missing = self.missing.remove(&place).unwrap_or(0).saturating_add(dropped);
        if self.is_torn {
            self.miss(place, missing.saturating_add(1));
            self.state.lose(1);
            return;
        }
        let comments = comment::of_packet(sample);
        let packet = Packet {
            time_unix_ns,
            interface,
            netns,
            direction: *direction,
            length: *length,
            data: packet,
            comments: &comments,
            dropped: missing,
        };
        self.rotate_if(self.section.room_for(&packet), time_unix_ns);
        self.tally.wrote(netns, interface, time_unix_ns);
        self.tally.lost(place, dropped);
        let encoded = self.section.interface(netns, interface).and_then(|_number| {
            self.end(Kind::Frame);
            self.section.packet(&packet)
        });
        match encoded {
            Ok(()) => {
                self.has_packets = true;
                self.end(Kind::Packet(place));
            }
            Err(error) => {
                self.lose(place);
                self.fail(&error);
            }
        }
    }

    /// A block ends where the bytes end now, if there is one.
    fn end(&mut self, kind: Kind) {
        let end = self.section.bytes().len();
        if self.batch.blocks.last().map_or(0, |last| last.end) < end {
            self.batch.blocks.push(Block { end, kind });
        }
    }

    /// A packet that was to be written is not.
    fn lose(&mut self, place: Place) {
        self.tally.unwrote(place);
        self.miss(place, 1);
        self.state.lose(1);
    }

    fn miss(&mut self, place: Place, packets: u64) {
        let missing = self.missing.entry(place).or_default();
        *missing = missing.saturating_add(packets);
    }

    fn write(&mut self) {
        let bytes = std::mem::take(self.section.bytes());
        let blocks = std::mem::take(&mut self.batch.blocks);
        if bytes.is_empty() {
            return;
        }
        if self.is_torn {
            self.lose_all(&blocks);
            return;
        }
        let (written, result) = self.target.append(&bytes);
        let whole = blocks.partition_point(|block| block.end <= written);
        let (there, missing) = blocks.split_at_checked(whole).unwrap_or_default();
        let length = there.last().map_or(0, |block| block.end);
        let packets = there.iter().filter(|block| block.kind.is_packet()).count();
        self.state.deliver(packets as u64);
        let kept = self.target.keep(bytes.get(..length).unwrap_or_default(), result.is_ok());
        match (result, kept) {
            (Ok(()), Ok(())) => {}
            // Nobody wanted the rest.
            (Err(error), _) if error.kind() == ErrorKind::BrokenPipe => self.state.close(),
            (Err(error), kept) => {
                self.is_torn |= kept.is_err();
                self.take_back(&bytes, length, missing);
                self.fail(&error);
            }
            (Ok(()), Err(error)) => {
                self.is_torn = true;
                self.fail(&error);
            }
        }
    }

    /// What was not written: packets are lost, and what later ones need comes first in the next batch.
    fn take_back(&mut self, bytes: &[u8], written: usize, blocks: &[Block]) {
        let mut start = written;
        for block in blocks {
            if block.kind == Kind::Frame {
                let frame = bytes.get(start..block.end).unwrap_or_default();
                self.section.bytes().extend_from_slice(frame);
                self.end(Kind::Frame);
            }
            start = block.end;
        }
        self.lose_all(blocks);
    }

    fn lose_all(&mut self, blocks: &[Block]) {
        for block in blocks {
            if let Kind::Packet(place) = block.kind {
                self.lose(place);
            }
        }
    }

    /// Begins the next file, if that is due before so many bytes more.
    fn rotate_if(&mut self, more: u64, now_unix_ns: i64) {
        let waiting = u64::try_from(self.section.bytes().len()).unwrap_or(u64::MAX);
        let is_due = match &self.target {
            Target::Files(files) => files.is_over(waiting.saturating_add(more), now_unix_ns),
            Target::Stdout(_) => false,
        };
        // One without packets goes on.
        if !self.is_between && (!is_due || !self.has_packets) {
            return;
        }
        if !self.is_between {
            self.finish();
        }
        let next = match &mut self.target {
            Target::Files(files) => files.next(now_unix_ns),
            Target::Stdout(_) => Ok(()),
        };
        match next.and_then(|()| Section::new(&self.heading)) {
            Ok(section) => {
                self.section = section;
                self.has_packets = false;
                (self.is_torn, self.is_between) = (false, false);
                self.end(Kind::Frame);
            }
            Err(error) => {
                (self.is_torn, self.is_between) = (true, true);
                self.fail(&error);
            }
        }
    }

    /// Says what was counted, and puts the file on the disk.
    fn finish(&mut self) {
        if self.is_between || self.state.is_closed() {
            return;
        }
        for (netns, interface, statistics) in self.tally.all() {
            let described = self.section.interface(netns, interface);
            let end = self.section.bytes().len();
            if self.batch.blocks.last().map_or(0, |last| last.end) < end {
                self.batch.blocks.push(Block { end, kind: Kind::Frame });
            }
            let said =
                described.and_then(|_| self.section.statistics(netns, interface, &statistics));
            if let Err(error) = said {
                tracing::warn!("the capture lacks what was counted at an interface: {error}");
            }
            let end = self.section.bytes().len();
            self.batch.blocks.push(Block { end, kind: Kind::Statistics });
        }
        self.write();
        let finished = match &mut self.target {
            Target::Files(files) => files.finish(),
            Target::Stdout(_) => Ok(()),
        };
        if let Err(error) = finished {
            self.fail(&error);
        }
    }

    /// Said at once, and once: the counters say how much it grows to.
    fn fail(&self, error: &io::Error) {
        if self.state.fail() {
            let name = self.target.name();
            tracing::error!("writing to {name}: {error}; packets are missing in the capture");
        }
    }
}

impl Kind {
    const fn is_packet(self) -> bool {
        matches!(self, Self::Packet(_))
    }
}

impl Target {
    fn append(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        match self {
            Self::Stdout(stdout) => output::write_all(stdout, bytes),
            Self::Files(files) => files.append(bytes),
        }
    }

    /// Of what was appended last this is to stay; what is behind it is cut off.
    fn keep(&mut self, bytes: &[u8], are_all: bool) -> io::Result<()> {
        match self {
            Self::Stdout(_) if are_all => Ok(()),
            Self::Stdout(_) => Err(ErrorKind::Unsupported.into()),
            Self::Files(files) => files.keep(bytes, are_all),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Stdout(_) => "stdout".to_owned(),
            Self::Files(files) => files.name(),
        }
    }
}

fn tell(done: &std::sync::mpsc::SyncSender<()>) {
    if done.send(()).is_err() {
        tracing::debug!("nobody waits for the capture any more");
    }
}
