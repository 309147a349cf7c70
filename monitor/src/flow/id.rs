//! Which conversation a packet belongs to, and which of its two ends has sent it.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use monitor_ebpf::wire::{FlowKey, InterfaceId, Place};
use serde::{Deserialize, Serialize};

use crate::endpoint::{Endpoint, Family, LOOPBACK_IFINDEX, Transport};

/// What both directions of a conversation have in common.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct FlowId {
    /// TCP or UDP.
    pub transport: Transport,
    /// Family of the packets.
    pub family: Family,
    /// The lower endpoint.
    pub low: Endpoint,
    /// The higher endpoint.
    pub high: Endpoint,
    /// Number of the namespace that it does not leave, if that is not portwatch's: on each loopback device
    /// the same addresses mean another conversation. 0: it may be seen in several.
    pub inside: u16,
}

/// All fields in one piece: hashing them one by one takes several times as long.
impl Hash for FlowId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0_u8; 2 * 18 + 4];
        let (ends, kind) = bytes.split_at_mut(2 * 18);
        for (to, end) in ends.chunks_exact_mut(18).zip([self.low, self.high]) {
            let (ip, port) = to.split_at_mut(16);
            ip.copy_from_slice(&match end.ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            });
            port.copy_from_slice(&end.port.to_ne_bytes());
        }
        let [inside, inside_high] = self.inside.to_ne_bytes();
        kind.copy_from_slice(&[
            u8::from(self.transport == Transport::Udp),
            u8::from(self.family == Family::Ipv6),
            inside,
            inside_high,
        ]);
        state.write(&bytes);
    }
}

/// One of the two ends of a [`FlowId`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// [`FlowId::low`].
    Low,
    /// [`FlowId::high`].
    High,
}

impl End {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }
}

impl FlowId {
    /// The conversation a packet with this key belongs to, and the end that sent it.
    pub fn of(key: &FlowKey) -> (Self, End) {
        let place = Place(key.place);
        let source = Endpoint::from_mapped(key.source(), key.source_port());
        let destination = Endpoint::from_mapped(key.destination(), key.destination_port());
        let transport = if place.is_udp() { Transport::Udp } else { Transport::Tcp };
        let family = if place.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
        let (low, high, sender) = if source <= destination {
            (source, destination, End::Low)
        } else {
            (destination, source, End::High)
        };
        (Self { transport, family, low, high, inside: inside(place.interface()) }, sender)
    }

    /// The endpoint of an end.
    pub const fn endpoint(&self, end: End) -> Endpoint {
        match end {
            End::Low => self.low,
            End::High => self.high,
        }
    }
}

fn inside(interface: InterfaceId) -> u16 {
    let netns = if interface.ifindex() == LOOPBACK_IFINDEX { interface.netns() } else { 0 };
    u16::try_from(netns).unwrap_or_default()
}
