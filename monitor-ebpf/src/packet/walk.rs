//! The way through a packet, header by header.
//!
//! Plain numbers, all of them set at any time, and fieldless enums: out of enums that carry values LLVM
//! makes code that moves what was never set, which the verifier refuses.

use super::{Headers, Kind, Parsed, Part};
use crate::wire::aside;

/// What comes next at [`Walk::offset`].
#[derive(Clone, Copy)]
pub(super) enum Next {
    Ethernet,
    /// IP of either version.
    Bare,
    Ipv4,
    Ipv6,
    Transport,
    /// Nothing: [`Walk::parsed`] has the answer.
    Stop,
}

/// What the header at [`Walk::offset`] belongs to.
#[derive(Clone, Copy)]
pub(super) enum Within {
    /// The packet itself.
    Nothing,
    /// A packet in a tunnel.
    Tunnel,
    /// A packet that an ICMP error quotes.
    Quote,
}

/// How far we are.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// Where the next header begins.
    pub(super) offset: usize,
    pub(super) within: Within,
    /// The protocol of the last IP header, behind its extension headers.
    pub(super) protocol: u8,
    /// What was found out so far; its IP fields are those of the last IP header.
    pub(super) parsed: Parsed,
}

impl Walk {
    pub(super) const START: Self = Self {
        offset: 0,
        within: Within::Nothing,
        protocol: 0,
        parsed: Parsed {
            kind: Kind::Other,
            reason: 0,
            headers: Headers {
                network: 0,
                payload: 0,
                ipv6: false,
                udp: false,
                port: 0,
                source_port: 0,
                destination_port: 0,
                tcp_flags: 0,
                length: 0,
            },
            part: Part::Whole,
            id: 0,
            protocol: 0,
            tunnelled: false,
            goes_on: false,
        },
    };

    /// The packet is none of our business.
    #[inline(always)]
    pub(super) const fn other(&mut self) -> Next {
        self.parsed.kind = Kind::Other;
        Next::Stop
    }

    /// The packet is counted apart, by where its fault is: what is wrong in a tunnel is not wrong with
    /// the packet around it.
    #[inline(always)]
    pub(super) const fn aside(&mut self, reason: u32) -> Next {
        self.parsed.kind = Kind::Aside;
        self.parsed.reason = match self.within {
            Within::Nothing => reason,
            Within::Tunnel => aside::BAD_TUNNEL,
            Within::Quote => aside::BAD_QUOTE,
        };
        Next::Stop
    }

    /// A packet inside this one is next: `next` at `offset`.
    #[inline(always)]
    pub(super) const fn enter(&mut self, within: Within, next: Next, offset: usize) -> Next {
        self.within = within;
        self.offset = offset;
        next
    }

    /// By its own length, the IP packet ends before `offset`: what lies there is padding.
    #[inline(always)]
    pub(super) const fn ends_before(&self, offset: usize) -> bool {
        self.parsed.headers.ends_before(offset)
    }
}
