//! Frames put together by hand, for what no socket sends: innermost header first,
//! `Frame::udp(40000, 3516, b"hello").ipv4().vxlan().ethernet()`.

use std::fmt::Write as _;
use std::io::Write as _;

use tempfile::NamedTempFile;

/// Bytes, and what the next header around them says that it carries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// What there is so far.
    pub bytes: Vec<u8>,
    /// Protocol number or ethertype.
    kind: u16,
}

const ICMP: u16 = 1;
const IPIP: u16 = 4;
const TCP: u16 = 6;
const UDP: u16 = 17;
const IPV6: u16 = 41;
const FRAGMENT: u16 = 44;
const GRE: u16 = 47;
const ICMPV6: u16 = 58;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_TEB: u16 = 0x6558;

impl Frame {
    /// A UDP datagram, with a checksum of 0: none.
    pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Self {
        let length = short(payload.len().saturating_add(8));
        let header = [source, destination, length, 0].map(u16::to_be_bytes).concat();
        Self { bytes: [&header, payload].concat(), kind: UDP }
    }

    /// A TCP segment that acknowledges and pushes.
    pub fn tcp(source: u16, destination: u16, payload: &[u8]) -> Self {
        let ports = [source, destination].map(u16::to_be_bytes).concat();
        let rest = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0x20, 0, 0, 0, 0, 0];
        Self { bytes: [&ports, &rest[..], payload].concat(), kind: TCP }
    }

    /// A TCP segment without payload, with this sequence number and these flags.
    pub fn segment(source: u16, destination: u16, sequence: u32, flags: u8) -> Self {
        let ports = [source, destination].map(u16::to_be_bytes).concat();
        let rest = [0, 0, 0, 1, 0x50, flags, 0x20, 0, 0, 0, 0, 0];
        Self { bytes: [&ports, &sequence.to_be_bytes()[..], &rest].concat(), kind: TCP }
    }

    /// Anything, as this protocol or ethertype.
    pub fn other(kind: u16, bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), kind }
    }

    /// In IPv4 from 10.99.0.1 to 10.99.0.2, where nobody is.
    #[must_use]
    pub fn ipv4(self) -> Self {
        self.ipv4_with(0, 0, &[])
    }

    /// Likewise, with an identification, the field of flags and fragment offset, and options.
    #[must_use]
    pub fn ipv4_with(self, id: u16, fragment: u16, options: &[u8]) -> Self {
        let header_len = options.len().saturating_add(20);
        let words = u8::try_from(header_len / 4).unwrap_or(15);
        let length = short(header_len.saturating_add(self.bytes.len()));
        let protocol = u8::try_from(self.kind).unwrap_or_default();
        let mut header = vec![0x40 | words, 0];
        header.extend([length, id, fragment].map(u16::to_be_bytes).concat());
        header.extend([64, protocol, 0, 0, 10, 99, 0, 1, 10, 99, 0, 2]);
        header.extend(options);
        let sum = checksum(&header).to_be_bytes();
        header.splice(10..12, sum);
        Self { bytes: [header, self.bytes].concat(), kind: ETH_P_IP }
    }

    /// In IPv6 from `fd99::1` to `fd99::2`, where nobody is.
    #[must_use]
    pub fn ipv6(self) -> Self {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(short(self.bytes.len()).to_be_bytes());
        header.extend([u8::try_from(self.kind).unwrap_or_default(), 64]);
        for last in [1, 2] {
            header.extend([0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        Self { bytes: [header, self.bytes].concat(), kind: ETH_P_IPV6 }
    }

    /// Behind an IPv6 extension header of 8 bytes: hop-by-hop (0), routing (43), destination (60).
    #[must_use]
    pub fn extension(self, kind: u16) -> Self {
        // Padding of six bytes; as a routing header, the type for experiments and no segments left.
        let body = if kind == 43 { [0, 253, 0, 0, 0, 0, 0] } else { [0, 1, 4, 0, 0, 0, 0] };
        let next = u8::try_from(self.kind).unwrap_or_default();
        Self { bytes: [&[next], &body[..], &self.bytes].concat(), kind }
    }

    /// Behind an authentication header of 24 bytes.
    #[must_use]
    pub fn authentication(self) -> Self {
        let next = u8::try_from(self.kind).unwrap_or_default();
        Self { bytes: [&[next, 4], &[0; 22][..], &self.bytes].concat(), kind: 51 }
    }

    /// Behind the IPv6 fragment header of this datagram: the offset in bytes, and whether more follow.
    #[must_use]
    pub fn fragment(self, id: u32, offset: u16, more: bool) -> Self {
        let next = u8::try_from(self.kind).unwrap_or_default();
        let place = (offset & 0xfff8 | u16::from(more)).to_be_bytes();
        let bytes = [&[next, 0], &place[..], &id.to_be_bytes(), &self.bytes].concat();
        Self { bytes, kind: FRAGMENT }
    }

    /// In an Ethernet frame to nobody.
    #[must_use]
    pub fn ethernet(self) -> Self {
        let addresses = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8];
        let bytes = [&addresses, &self.kind.to_be_bytes()[..], &self.bytes].concat();
        Self { bytes, kind: ETH_P_TEB }
    }

    /// The same from the receiver to the sender, of an Ethernet frame with IPv4.
    #[must_use]
    pub fn turned(mut self) -> Self {
        let addresses = self.bytes.get_mut(26..34).expect("a frame with IPv4");
        let (sender, receiver) = addresses.split_at_mut(4);
        sender.swap_with_slice(receiver);
        self
    }

    /// The same from one address to another, of an Ethernet frame with IPv4.
    #[must_use]
    pub fn between(mut self, sender: [u8; 4], receiver: [u8; 4]) -> Self {
        let addresses = self.bytes.get_mut(26..34).expect("a frame with IPv4");
        addresses.copy_from_slice(&[sender, receiver].concat());
        // The sum of the header is wrong now, which only the receiver's IP stack minds.
        self
    }

    /// The same with these TCP flags, of an Ethernet frame with IPv4.
    #[must_use]
    pub fn flagged(mut self, flags: u8) -> Self {
        *self.bytes.get_mut(47).expect("a frame with TCP") = flags;
        self
    }

    /// Behind a VLAN tag: 0x8100, or 0x88a8 for an outer one.
    #[must_use]
    pub fn tag(self, kind: u16) -> Self {
        Self { bytes: [&[0, 7], &self.kind.to_be_bytes()[..], &self.bytes].concat(), kind }
    }

    /// What an IP packet is called in another one.
    #[must_use]
    pub fn in_ip(mut self) -> Self {
        self.kind = if self.kind == ETH_P_IPV6 { IPV6 } else { IPIP };
        self
    }

    /// In GRE with a word for each of the flags: checksum 0x8000, key 0x2000, sequence 0x1000.
    #[must_use]
    pub fn gre(self, flags: u16) -> Self {
        let options = vec![0; (flags & 0xb000).count_ones() as usize * 4];
        let header = [flags, self.kind].map(u16::to_be_bytes).concat();
        Self { bytes: [header, options, self.bytes].concat(), kind: GRE }
    }

    /// An Ethernet frame in VXLAN.
    #[must_use]
    pub fn vxlan(self) -> Self {
        Self::udp(50_000, 4789, &[&[8, 0, 0, 0, 0, 0, 42, 0], &self.bytes[..]].concat())
    }

    /// In Geneve with so many words of options.
    #[must_use]
    pub fn geneve(self, words: u8) -> Self {
        let header = [&[words, 0], &self.kind.to_be_bytes()[..], &[0, 0, 42, 0]].concat();
        // Options of the experimental class, without data.
        let options = [0xff, 0xff, 0, 0].repeat(words.into());
        Self::udp(50_001, 6081, &[&header, &options[..], &self.bytes].concat())
    }

    /// Quoted by an ICMP error of this type, in a packet of the same family.
    #[must_use]
    pub fn icmp_error(self, kind: u8) -> Self {
        let bytes = [&[kind, 0, 0, 0, 0, 0, 0, 0], &self.bytes[..]].concat();
        if self.kind == ETH_P_IPV6 {
            Self { bytes, kind: ICMPV6 }.ipv6()
        } else {
            Self { bytes, kind: ICMP }.ipv4()
        }
    }

    /// Are these ports next to each other somewhere in it?
    pub fn has_ports(&self, one: u64, other: u64) -> bool {
        let bytes = |port: u64| u16::try_from(port).unwrap_or_default().to_be_bytes();
        let pairs = [[bytes(one), bytes(other)].concat(), [bytes(other), bytes(one)].concat()];
        self.bytes.windows(4).any(|window| pairs.iter().any(|pair| pair == window))
    }

    /// Only its first bytes.
    #[must_use]
    pub fn cut(mut self, length: usize) -> Self {
        self.bytes.truncate(length);
        self
    }
}

/// A file that an actor's `inject` reads.
pub fn frames_file(frames: &[Frame]) -> NamedTempFile {
    hexadecimal_file(frames.iter().map(|frame| frame.bytes.as_slice()))
}

/// A file with the bytes of each frame on a line, in hexadecimal digits.
pub(crate) fn hexadecimal_file(frames: impl Iterator<Item = impl AsRef<[u8]>>) -> NamedTempFile {
    let mut text = String::new();
    for frame in frames {
        for byte in frame.as_ref() {
            write!(text, "{byte:02x}").expect("write into a string");
        }
        text.push('\n');
    }
    let mut file = NamedTempFile::new().expect("make a file of frames");
    file.write_all(text.as_bytes()).expect("write a file of frames");
    file
}

fn short(length: usize) -> u16 {
    u16::try_from(length).expect("fit a length into a header")
}

/// RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).filter_map(|pair| pair.try_into().ok());
    let sum: u32 = words.map(u16::from_be_bytes).map(u32::from).sum();
    !u16::try_from((sum & 0xffff).wrapping_add(sum >> 16)).unwrap_or_default()
}
