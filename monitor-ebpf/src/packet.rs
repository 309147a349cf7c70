//! From the first byte of a packet to its ports.
//!
//! Twice. [`glance`] is for ordinary packets, by bounded direct access: it copies nothing, so that a
//! packet off the watched ports costs a few loads. [`parse`] is for every other shape: tags, options,
//! fragments, tunnels, errors, and what is broken. The same code runs in the kernel, where the verifier
//! proves every load, and in tests on the host, which hold one against the other.

mod ip;
mod link;
mod source;
mod transport;
mod tunnel;
mod walk;

use crate::bytes::{Bytes, Window};
#[cfg(doc)]
use crate::wire::aside;
use tunnel::{GENEVE_PORT, VXLAN_PORT};
use walk::{Next, Walk, Within};

pub use source::{Source, View};

/// What a device puts in front of the IP header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Link {
    /// Ethernet, including loopback.
    Ethernet,
    /// Nothing: tun, WireGuard, IPIP and their kin.
    Bare,
}

/// Where the headers of a TCP or UDP packet are; offsets count from the first byte of the packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Headers {
    /// Offset of the IP header.
    pub network: usize,
    /// Offset of the payload.
    pub payload: usize,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// UDP rather than TCP.
    pub udp: bool,
    /// The watched one of the ports.
    pub port: u16,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// The flags byte of the TCP header; 0 for UDP.
    pub tcp_flags: u8,
    /// IP bytes by the IP header; 0 for a packet too large for its length field (BIG TCP).
    pub length: u32,
}

impl Headers {
    /// By its own length, the IP packet ends before `offset`: what lies there is padding.
    #[inline(always)]
    const fn ends_before(&self, offset: usize) -> bool {
        self.length != 0 && (self.length as usize) < offset - self.network
    }
}

/// What a packet turned out to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Packet {
    /// TCP or UDP.
    Flow(Headers),
    /// A later fragment of what may be TCP or UDP. It has no ports: those of [`Headers`] are 0, and so
    /// says `udp` nothing in IPv6.
    LaterFragment(Headers),
    /// An ICMP error about a packet with these ports.
    IcmpError {
        /// Source port of the quoted packet.
        source_port: u16,
        /// Destination port of the quoted packet.
        destination_port: u16,
    },
    /// Counted apart: one of [`aside`].
    Aside(u32),
    /// None of our business: not IP, or another transport or port.
    Other,
}

/// Which part of a datagram an IP packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Its beginning, where the ports are.
    First,
    /// Some other part.
    Later,
}

/// The [`Packet`] that a [`Parsed`] is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// [`Packet::Flow`].
    Flow,
    /// [`Packet::LaterFragment`].
    LaterFragment,
    /// [`Packet::IcmpError`].
    IcmpError,
    /// [`Packet::Aside`].
    Aside,
    /// [`Packet::Other`].
    Other,
}

/// What [`parse`] found out.
///
/// Of a tunnelled packet everything is about the inner one; of an ICMP error, the IP fields are those
/// of the packet that it quotes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parsed {
    /// What the packet is.
    pub kind: Kind,
    /// One of [`aside`], if it is counted apart.
    pub reason: u32,
    /// Where its headers are, as far as its kind has them.
    pub headers: Headers,
    /// Is it a fragment?
    pub part: Part,
    /// Of a fragment: the identification of its datagram, 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Of a fragment: what its datagram carries. 0 in IPv6, where the identification is enough.
    pub protocol: u8,
    /// It came in a tunnel.
    pub tunnelled: bool,
    /// The tunnel's own packet is the first of several fragments: the inner one goes on in others.
    pub goes_on: bool,
}

impl Parsed {
    /// The same with only what goes with its kind.
    #[must_use]
    pub const fn packet(&self) -> Packet {
        match self.kind {
            Kind::Flow => Packet::Flow(self.headers),
            Kind::LaterFragment => Packet::LaterFragment(self.headers),
            Kind::IcmpError => Packet::IcmpError {
                source_port: self.headers.source_port,
                destination_port: self.headers.destination_port,
            },
            Kind::Aside => Packet::Aside(self.reason),
            Kind::Other => Packet::Other,
        }
    }
}

/// TCP flag bits, RFC 9293, 3.1.
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers: the first packet of a side.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;

    /// Are these the flags of the first packet of a connection?
    #[inline(always)]
    #[must_use]
    pub const fn opens(flags: u8) -> bool {
        flags & (SYN | ACK) == SYN
    }
}

const ETHERNET_LEN: usize = 14;
const VLAN_LEN: usize = 4;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
const ICMP_LEN: usize = 8;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_IPIP: u8 = 4;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_IPV6: u8 = 41;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_GRE: u8 = 47;
const IPPROTO_AH: u8 = 51;
const IPPROTO_ICMPV6: u8 = 58;
const IPPROTO_DSTOPTS: u8 = 60;

/// What an IP header that takes a glance says.
#[derive(Clone, Copy)]
struct PlainIp {
    transport: usize,
    protocol: u8,
    length: u32,
    ipv6: bool,
}

impl PlainIp {
    /// By its own length, the packet ends before `offset`: what lies there is padding.
    #[inline(always)]
    const fn ends_before(&self, offset: usize) -> bool {
        (self.length as usize) < offset - ETHERNET_LEN
    }
}

/// What is done with a packet of a watched port that took a [`glance`].
///
/// A trait of its own, since a closure that is called in several places need not be inlined, and in the
/// kernel a call costs 9 ns.
pub trait Follow: Copy {
    /// What comes of it.
    type Followed;

    /// Follows a TCP or UDP packet. Inlined once for each family and transport, so that there is code for each
    /// with what follows from these as constants.
    fn follow(self, headers: Headers) -> Self::Followed;
}

impl<T, F: Fn(Headers) -> T + Copy> Follow for F {
    type Followed = T;

    fn follow(self, headers: Headers) -> T {
        self(headers)
    }
}

/// What a [`glance`] tells about a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Glance<T> {
    /// It is TCP or UDP of a watched port, and was followed.
    Flow(T),
    /// It is none of our business.
    Other,
    /// It takes [`parse`].
    Unclear,
}

impl Glance<Headers> {
    /// The packet, if a glance was enough.
    #[must_use]
    pub const fn packet(self) -> Option<Packet> {
        match self {
            Self::Flow(headers) => Some(Packet::Flow(headers)),
            Self::Other => Some(Packet::Other),
            Self::Unclear => None,
        }
    }
}

/// Finds the ports of an ordinary packet with an Ethernet header: one without VLAN tag, IPv4 options,
/// IPv6 extension headers and fragments. For these [`parse`] gives the same.
///
/// `watched` is asked before anything else is read: most packets are none of ours.
#[inline(always)]
#[must_use]
pub fn glance<F: Follow>(
    bytes: Bytes,
    watched: impl Fn(u16, u16) -> Option<u16>,
    flows: F,
) -> Glance<F::Followed> {
    let Some(header) = bytes.window::<{ ETHERNET_LEN + IPV4_LEN + UDP_LEN }>(0) else {
        return Glance::Unclear;
    };
    match header.u16::<12>() {
        ETH_P_IP => glance_at_transport(bytes, plain_ipv4(header), watched, flows),
        ETH_P_IPV6 => glance_at_transport(bytes, plain_ipv6(header), watched, flows),
        ETH_P_8021Q | ETH_P_8021AD => Glance::Unclear,
        _ => Glance::Other,
    }
}

#[inline(always)]
fn glance_at_transport<F: Follow>(
    bytes: Bytes,
    ip: Option<PlainIp>,
    watched: impl Fn(u16, u16) -> Option<u16>,
    flows: F,
) -> Glance<F::Followed> {
    let Some(ip) = ip else {
        return Glance::Unclear;
    };
    match ip.protocol {
        IPPROTO_TCP => match bytes.window(ip.transport) {
            Some(header) => glance_at_tcp(header, ip, watched, flows),
            None => Glance::Unclear,
        },
        IPPROTO_UDP => match bytes.window(ip.transport) {
            Some(header) => glance_at_udp(header, ip, watched, flows),
            None => Glance::Unclear,
        },
        _ => Glance::Unclear,
    }
}

#[inline(always)]
fn plain_ipv4(header: Window<{ ETHERNET_LEN + IPV4_LEN + UDP_LEN }>) -> Option<PlainIp> {
    let length = header.u16::<16>();
    // Neither more fragments to come nor an offset of this one.
    let is_whole = matches!(header.u16::<20>() & 0x3fff, 0);
    if header.u8::<14>() != 0x45 || !is_whole || (length as usize) < IPV4_LEN {
        return None;
    }
    Some(PlainIp {
        transport: ETHERNET_LEN + IPV4_LEN,
        protocol: header.u8::<23>(),
        length: u32::from(length),
        ipv6: false,
    })
}

#[inline(always)]
fn plain_ipv6(header: Window<{ ETHERNET_LEN + IPV4_LEN + UDP_LEN }>) -> Option<PlainIp> {
    let payload = header.u16::<18>();
    if header.u8::<14>() >> 4 != 6 || payload == 0 {
        return None;
    }
    Some(PlainIp {
        transport: ETHERNET_LEN + IPV6_LEN,
        protocol: header.u8::<20>(),
        length: u32::from(payload) + 40,
        ipv6: true,
    })
}

#[inline(always)]
fn glance_at_tcp<F: Follow>(
    header: Window<TCP_LEN>,
    ip: PlainIp,
    watched: impl Fn(u16, u16) -> Option<u16>,
    flows: F,
) -> Glance<F::Followed> {
    let (source_port, destination_port) = (header.u16::<0>(), header.u16::<2>());
    let Some(port) = watched(source_port, destination_port) else {
        return Glance::Other;
    };
    let header_len = ((header.u8::<12>() >> 4) as usize) * 4;
    if header_len < TCP_LEN || ip.ends_before(ip.transport + header_len) {
        return Glance::Unclear;
    }
    Glance::Flow(flows.follow(Headers {
        network: ETHERNET_LEN,
        payload: ip.transport + header_len,
        ipv6: ip.ipv6,
        udp: false,
        port,
        source_port,
        destination_port,
        tcp_flags: header.u8::<13>(),
        length: ip.length,
    }))
}

#[inline(always)]
fn glance_at_udp<F: Follow>(
    header: Window<UDP_LEN>,
    ip: PlainIp,
    watched: impl Fn(u16, u16) -> Option<u16>,
    flows: F,
) -> Glance<F::Followed> {
    let (source_port, destination_port) = (header.u16::<0>(), header.u16::<2>());
    let Some(port) = watched(source_port, destination_port) else {
        let may_be_tunnel = matches!(destination_port, VXLAN_PORT | GENEVE_PORT);
        return if may_be_tunnel { Glance::Unclear } else { Glance::Other };
    };
    if ip.ends_before(ip.transport + UDP_LEN) {
        return Glance::Unclear;
    }
    Glance::Flow(flows.follow(Headers {
        network: ETHERNET_LEN,
        payload: ip.transport + UDP_LEN,
        ipv6: ip.ipv6,
        udp: true,
        port,
        source_port,
        destination_port,
        tcp_flags: 0,
        length: ip.length,
    }))
}

/// The most IP headers there can be: the packet's, the one in its tunnel, and one that is quoted there.
const MAX_NETWORK_HEADERS: usize = 3;

/// Tells what a packet is, whatever its shape. It is a flow's if `watched` gives the one of its ports
/// that is.
///
/// Of tunnels one level is looked into, and only when the packet itself is none of a watched port.
#[inline(always)]
pub fn parse<S: Source>(
    source: &mut S,
    link: Link,
    watched: impl Fn(u16, u16) -> Option<u16>,
) -> Parsed {
    let mut walk = Walk::START;
    let mut next = match link {
        Link::Ethernet => Next::Ethernet,
        Link::Bare => Next::Bare,
    };
    for _ in 0..MAX_NETWORK_HEADERS {
        walk.offset = source.blur(walk.offset);
        next = match next {
            Next::Ethernet => link::ethernet(source, &mut walk),
            Next::Bare => link::bare(source, &mut walk),
            _ => next,
        };
        walk.offset = source.blur(walk.offset);
        next = match next {
            Next::Ipv4 => ip::ipv4(source, &mut walk),
            Next::Ipv6 => ip::ipv6(source, &mut walk),
            _ => next,
        };
        walk.offset = source.blur(walk.offset);
        let (part, was_within) = (walk.parsed.part, walk.within);
        next = match next {
            Next::Transport => transport::transport(source, &mut walk, &watched),
            _ => next,
        };
        if matches!(next, Next::Stop) {
            break;
        }
        if matches!((was_within, walk.within), (Within::Nothing, Within::Tunnel)) {
            walk.parsed.tunnelled = true;
            walk.parsed.goes_on = matches!(part, Part::First);
        }
    }
    if matches!(walk.within, Within::Quote) {
        // The packet that is here is none.
        walk.parsed.part = Part::Whole;
    }
    walk.parsed
}

#[cfg(test)]
mod tests;
