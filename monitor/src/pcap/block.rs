//! The blocks of a capture file, as <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>
//! has them. The only file that knows the crate which encodes them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness};

use super::comment::shown;
use crate::endpoint::{Direction, Interface, Netns};

/// Interfaces that a section describes one by one; packets of further ones share the last.
const MAX_INTERFACES: usize = 1024;

/// Bytes that everything of a packet block but data and comments takes at most.
const PACKET_OVERHEAD: usize = 96;

/// The same of an interface, with its description and its statistics.
const INTERFACE_SIZE: usize = 1024;

/// An interface, by the inode of its network namespace and its index.
pub type Place = (u64, u32);

/// What is said once in each file.
#[derive(Clone, Debug, Default)]
pub struct Heading {
    /// The machine: `x86_64`.
    pub hardware: String,
    /// The kernel: `Linux 6.18.5`.
    pub os: String,
    /// What writes it: `portwatch 0.1.0`.
    pub application: String,
    /// A line each; foreign bytes are escaped already.
    pub comments: Vec<String>,
    /// The ports, in the language of pcap-filter(7).
    pub filter: String,
    /// Bytes of a packet that are kept at most.
    pub snaplen: u32,
}

/// A packet, from its IP header on.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Nanoseconds since the Unix epoch; what is before that is shown as its beginning.
    pub time_unix_ns: i64,
    /// Where it was seen.
    pub interface: &'a Interface,
    /// The namespace of that.
    pub netns: &'a Netns,
    /// Which way it went there.
    pub direction: Direction,
    /// Bytes it had.
    pub length: u32,
    /// Those that are kept.
    pub data: &'a [u8],
    /// A block of lines each; foreign bytes are escaped already.
    pub comments: &'a [String],
    /// Packets of this interface that were lost since the one before; 0: none that is known of.
    pub dropped: u64,
}

/// What was counted at an interface from the start of the run on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Statistics {
    /// When the run began, Unix nanoseconds.
    pub start_unix_ns: i64,
    /// When this was so, Unix nanoseconds.
    pub time_unix_ns: i64,
    /// Packets of the watched ports.
    pub counted: Option<u64>,
    /// Of those, packets that are lost although they were sampled.
    pub lost: Option<u64>,
    /// Of those, packets that were not sampled.
    pub unsampled: Option<u64>,
    /// Of those, packets that were written.
    pub written: u64,
    /// What the numbers do not say.
    pub comment: Option<String>,
}

/// A section under way: blocks are encoded into memory, and taken from there.
pub struct Section {
    writer: PcapNgWriter<Vec<u8>>,
    interfaces: HashMap<Place, u32>,
    /// The interface that stands for all further ones.
    others: Option<u32>,
    filter: String,
    snaplen: u32,
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section").field("interfaces", &self.interfaces).finish_non_exhaustive()
    }
}

impl Section {
    /// A section with its header.
    pub fn new(heading: &Heading) -> io::Result<Self> {
        let text = |text: &str| Cow::Owned(shown(text));
        let mut options = vec![
            SectionHeaderOption::Hardware(text(&heading.hardware)),
            SectionHeaderOption::OS(text(&heading.os)),
            SectionHeaderOption::UserApplication(text(&heading.application)),
        ];
        let comments = heading.comments.iter().map(|comment| {
            SectionHeaderOption::Common(CommonOption::Comment(Cow::Borrowed(comment)))
        });
        options.extend(comments);
        let header =
            SectionHeaderBlock { endianness: Endianness::Little, options, ..Default::default() };
        let writer = PcapNgWriter::with_section_header(Vec::new(), header).map_err(other)?;
        Ok(Self {
            writer,
            interfaces: HashMap::new(),
            others: None,
            filter: shown(&heading.filter),
            snaplen: heading.snaplen,
        })
    }

    /// The bytes of blocks that were not taken yet.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        self.writer.get_mut()
    }

    /// Bytes that the blocks of a packet take at most, and the statistics that follow in the end.
    pub fn room_for(&self, packet: &Packet<'_>) -> u64 {
        let comments: usize = packet.comments.iter().map(|comment| comment.len() + 8).sum();
        let described = self.interfaces.len() + 2;
        let bytes = PACKET_OVERHEAD + packet.data.len() + comments + described * INTERFACE_SIZE;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// The number of an interface; describes it when it is met first.
    pub fn interface(&mut self, netns: &Netns, interface: &Interface) -> io::Result<u32> {
        let place = (netns.inode, interface.ifindex);
        if let Some(&number) = self.interfaces.get(&place) {
            return Ok(number);
        }
        if self.interfaces.len() >= MAX_INTERFACES {
            if let Some(others) = self.others {
                return Ok(others);
            }
            let what = format!("all interfaces but the first {MAX_INTERFACES}");
            let others = self.describe("others", what)?;
            self.others = Some(others);
            return Ok(others);
        }
        let name = shown(&interface.name);
        let number = self.describe(&name, place_in_words(netns, interface))?;
        self.interfaces.insert(place, number);
        Ok(number)
    }

    fn describe(&mut self, name: &str, description: String) -> io::Result<u32> {
        let number = u32::try_from(self.writer.interfaces().len()).map_err(io::Error::other)?;
        let mut options = vec![
            InterfaceDescriptionOption::IfName(name.into()),
            InterfaceDescriptionOption::IfDescription(description.into()),
            InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
        ];
        if !self.filter.is_empty() {
            // The first byte says that it is text.
            let filter = [b"\0", self.filter.as_bytes()].concat();
            options.push(InterfaceDescriptionOption::IfFilter(filter.into()));
        }
        // Samples begin with the IP header, whatever the device puts before it.
        let linktype = DataLink::RAW;
        let block = InterfaceDescriptionBlock { linktype, snaplen: self.snaplen, options };
        self.writer.write_pcapng_block(block).map_err(other)?;
        Ok(number)
    }

    /// Encodes a packet, and its interface if that is new.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let interface_id = self.interface(packet.netns, packet.interface)?;
        let direction = match packet.direction {
            Direction::Ingress => 1,
            Direction::Egress => 2,
        };
        let mut options = vec![EnhancedPacketOption::Flags(direction)];
        if packet.dropped > 0 {
            options.push(EnhancedPacketOption::DropCount(packet.dropped));
        }
        let comments = packet.comments.iter().map(|comment| {
            EnhancedPacketOption::Common(CommonOption::Comment(Cow::Borrowed(comment)))
        });
        options.extend(comments);
        let captured = u32::try_from(packet.data.len()).unwrap_or(u32::MAX);
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: since_epoch(packet.time_unix_ns),
            // A device may pad what the IP header says.
            original_len: packet.length.max(captured),
            data: Cow::Borrowed(packet.data),
            options,
        };
        self.writer.write_pcapng_block(block).map_err(other)?;
        Ok(())
    }

    /// Encodes what was counted at an interface.
    pub fn statistics(
        &mut self,
        netns: &Netns,
        interface: &Interface,
        statistics: &Statistics,
    ) -> io::Result<()> {
        use InterfaceStatisticsOption as Option_;

        let interface_id = self.interface(netns, interface)?;
        let Statistics { counted, lost, unsampled, written, .. } = *statistics;
        let timestamp = since_epoch(statistics.time_unix_ns);
        let mut options = vec![
            Option_::IsbStartTime(since_epoch(statistics.start_unix_ns)),
            Option_::IsbEndTime(timestamp),
        ];
        options.extend(counted.map(Option_::IsbIfRecv));
        options.extend(lost.map(Option_::IsbIfDrop));
        options.extend(counted.map(Option_::IsbFilterAccept));
        options.extend(unsampled.map(Option_::IsbOsDrop));
        options.push(Option_::IsbUsrDeliv(written));
        let comment = statistics.comment.as_deref();
        options.extend(
            comment.map(|text| Option_::Common(CommonOption::Comment(Cow::Borrowed(text)))),
        );
        let block = InterfaceStatisticsBlock { interface_id, timestamp, options };
        self.writer.write_pcapng_block(block).map_err(other)?;
        Ok(())
    }
}

/// `network namespace lab (4026532281), interface 2`.
fn place_in_words(netns: &Netns, interface: &Interface) -> String {
    let Netns { inode, name } = netns;
    let namespace = match name {
        Some(name) => format!("{} ({inode})", shown(name)),
        None => inode.to_string(),
    };
    format!("network namespace {namespace}, interface {}", interface.ifindex)
}

fn since_epoch(unix_ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(unix_ns).unwrap_or(0))
}

fn other(error: pcap_file::pcapng::PcapNgWriteError) -> io::Error {
    io::Error::other(error)
}
