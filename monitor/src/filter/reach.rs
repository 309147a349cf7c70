//! Whether a filter lets packets of a port through: found out by letting it judge packets of that port, and
//! the same packets of another.

use serde::{Deserialize, Serialize};

use super::{Filter, Instruction, Packet};

/// How the packets begin that a filter sees.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Framing {
    /// With an Ethernet header.
    Ethernet,
    /// With the IP header.
    Ip,
}

/// What a filter has to do with a port.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Reach {
    /// It lets through what is of that port and other ports alike.
    Everything,
    /// It singles out the port.
    Port,
    /// It compares bytes of the payload: it waits for a certain packet, on whatever port.
    Payload,
    /// What it lets through cannot be told from outside.
    Unknown,
    /// It lets nothing of the port through.
    Nothing,
}

impl Reach {
    /// The name in `portwatch.portless.filter.reach`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Port => "port",
            Self::Payload => "payload",
            Self::Unknown => "unknown",
            Self::Nothing => "nothing",
        }
    }

    /// In words that come after "its filter".
    pub const fn words(self) -> &'static str {
        match self {
            Self::Everything => "lets packets of every port through",
            Self::Port => "singles out the watched port",
            Self::Payload => "waits for packets with certain bytes in them",
            Self::Unknown => "cannot be judged from outside",
            Self::Nothing => "lets nothing of the watched port through",
        }
    }

    /// It is after certain packets that have to do with the port.
    pub const fn is_pointed(self) -> bool {
        matches!(self, Self::Port | Self::Payload)
    }
}

impl Framing {
    /// Bytes before the IP header.
    const fn link_bytes(self) -> u8 {
        match self {
            Self::Ethernet => 14,
            Self::Ip => 0,
        }
    }
}

impl Filter {
    /// What it has to do with a port.
    pub fn reach(&self, port: u16, framing: Framing) -> Reach {
        // One that differs in every bit a filter could look at.
        let other = !port;
        let (mut of_port, mut of_others, mut unknown) = (false, false, false);
        for shape in Shape::all() {
            let judge = |port| self.judge(&shape.packet(port, framing), framing, shape.is_ipv6);
            match (judge(port), judge(other)) {
                (Some(yes), Some(others)) => {
                    of_port |= yes && !others;
                    of_others |= yes && others;
                }
                _ => unknown = true,
            }
        }
        if !self.payload_constants(framing).is_empty() {
            Reach::Payload
        } else if of_port || !of_others && self.names_port(port, framing) {
            Reach::Port
        } else if of_others {
            Reach::Everything
        } else if unknown {
            Reach::Unknown
        } else {
            Reach::Nothing
        }
    }

    fn judge(&self, bytes: &[u8], framing: Framing, is_ipv6: bool) -> Option<bool> {
        let ethertype = if is_ipv6 { IPV6 } else { IPV4 };
        self.accepts(Packet { bytes, network: framing.link_bytes().into(), ethertype })
    }

    /// Does it compare two bytes with this port, other than those of the ethertype? So it is found when it
    /// wants certain addresses besides.
    fn names_port(&self, port: u16, framing: Framing) -> bool {
        // These it compares anyway, and where is not to be told without following every jump.
        if [IPV4, IPV6].contains(&port) {
            return false;
        }
        let mut is_two_bytes = false;
        self.instructions.iter().any(|Instruction { code, k, .. }| {
            match *code {
                LD_HALF_AT_X => is_two_bytes = true,
                LD_HALF => is_two_bytes = framing == Framing::Ip || *k != ETHERTYPE_AT,
                JEQ => return is_two_bytes && *k == u32::from(port),
                code if code % 8 == LD => is_two_bytes = false,
                _ => {}
            }
            false
        })
    }

    /// Numbers of more than one byte with which it compares what it finds in the payload: behind the header
    /// of UDP, or at an offset that it has computed, as that of TCP's payload has to be.
    pub fn payload_constants(&self, framing: Framing) -> Vec<u32> {
        let link = u32::from(framing.link_bytes());
        let mut found = Vec::new();
        let (mut is_computed, mut is_payload) = (false, false);
        for Instruction { code, k, .. } in &self.instructions {
            match *code {
                TAX => is_computed = true,
                LDX_HEADER_LENGTH => is_computed = false,
                LD_HALF_AT_X | LD_WORD_AT_X => {
                    is_payload = is_computed || *k >= link + UDP_HEADER_BYTES;
                }
                LD_HALF | LD_WORD => {
                    is_payload = (link + IPV6_AND_UDP_BYTES..SPECIAL).contains(k);
                }
                JEQ if is_payload && *k > 0xff => found.push(*k),
                code if code % 8 == LD => is_payload = false,
                _ => {}
            }
        }
        found
    }
}

/// A kind of packet.
#[derive(Clone, Copy)]
struct Shape {
    is_ipv6: bool,
    is_tcp: bool,
    /// The port is that of its sender.
    is_source: bool,
}

impl Shape {
    fn all() -> impl Iterator<Item = Self> {
        (0..8_u8).map(|bits| Self {
            is_ipv6: bits & 1 != 0,
            is_tcp: bits & 2 != 0,
            is_source: bits & 4 != 0,
        })
    }

    /// A packet with this port, from and to addresses that are for documentation only.
    fn packet(self, port: u16, framing: Framing) -> Vec<u8> {
        let protocol = if self.is_tcp { 6 } else { 17 };
        let transport = self.transport(port);
        let length = u16::try_from(transport.len()).unwrap_or_default();
        let mut packet = Vec::with_capacity(128);
        if framing == Framing::Ethernet {
            packet.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
            packet.extend(if self.is_ipv6 { IPV6 } else { IPV4 }.to_be_bytes());
        }
        if self.is_ipv6 {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([protocol, 64]);
            for last in [1, 2] {
                packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            }
        } else {
            packet.extend([0x45, 0]);
            packet.extend(length.saturating_add(20).to_be_bytes());
            packet.extend([0, 1, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        }
        packet.extend(transport);
        packet
    }

    fn transport(self, port: u16) -> Vec<u8> {
        const EPHEMERAL: u16 = 45_678;
        let ports = if self.is_source { [port, EPHEMERAL] } else { [EPHEMERAL, port] };
        let mut bytes = ports.map(u16::to_be_bytes).concat();
        if self.is_tcp {
            // A SYN.
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xfa, 0xf0, 0, 0, 0, 0]);
        } else {
            bytes.extend([0, 24, 0, 0]);
            bytes.extend([0; 16]);
        }
        bytes
    }
}

const ETHERTYPE_AT: u32 = 12;
const UDP_HEADER_BYTES: u32 = 8;
const IPV6_AND_UDP_BYTES: u32 = 48;
/// Offsets from here on are none: `SKF_LL_OFF`.
const SPECIAL: u32 = 0xffe0_0000;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// The class of loads into the accumulator.
const LD: u16 = 0;
const JEQ: u16 = 0x15;
const TAX: u16 = 0x07;
const LDX_HEADER_LENGTH: u16 = 0xb1;
const LD_WORD: u16 = 0x20;
const LD_HALF: u16 = 0x28;
const LD_WORD_AT_X: u16 = 0x40;
const LD_HALF_AT_X: u16 = 0x48;
