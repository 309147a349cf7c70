//! Sockets that get or send packets of a port without being on it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::endpoint::Netns;
use crate::filter::Reach;
use crate::owner::Attribution;

/// A packet, raw or XDP socket that can see or answer packets of a watched port.
#[derive(Clone, Debug, PartialEq)]
pub struct PortlessReport {
    /// What it is.
    pub socket: PortlessSocket,
    /// Who.
    pub attribution: Attribution,
}

/// The socket itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PortlessSocket {
    /// What kind.
    pub kind: PortlessKind,
    /// What it receives: `all`, `ipv4`, `tcp`, `none`; left empty for an XDP socket, which gets what its
    /// program sends it.
    pub protocol: String,
    /// Its network namespace.
    pub netns: Netns,
    /// The interface it is bound to.
    pub interface: Option<String>,
    /// Its cookie.
    pub cookie: u64,
    /// What filters what it receives.
    pub filter: Option<PortlessFilter>,
}

/// What filters what a socket receives.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PortlessFilter {
    /// What it has to do with the watched ports.
    pub reach: Reach,
    /// Instructions of a classic program; 0: it is an eBPF program.
    pub length: u16,
    /// Number of an eBPF program.
    pub program: Option<u32>,
    /// What it compares the payload with, as hexadecimal numbers.
    pub payload: Vec<String>,
    /// The classic program as text, where the kernel shows it; no more than a reader can take.
    pub instructions: Vec<String>,
}

/// A kind of socket without a port.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum PortlessKind {
    /// `AF_PACKET`: sees and sends whole frames.
    Packet,
    /// A raw IP socket: sees and sends IP packets of a protocol.
    Raw,
    /// `AF_XDP`: gets frames before the rest of the kernel does.
    Xdp,
}

impl PortlessKind {
    /// The name in `portwatch.portless.kind`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Raw => "raw",
            Self::Xdp => "xdp",
        }
    }

    /// The name in a table.
    pub const fn short_name(self) -> &'static str {
        match self {
            Self::Packet => "pkt",
            Self::Raw => "raw",
            Self::Xdp => "xdp",
        }
    }
}

/// `packet socket`: what comes after an article.
impl fmt::Display for PortlessKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet => f.write_str("packet socket"),
            Self::Raw => f.write_str("raw socket"),
            Self::Xdp => f.write_str("XDP socket"),
        }
    }
}
