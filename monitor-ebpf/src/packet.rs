//! From the first byte of a packet to its ports, by bounded direct access.
//!
//! The same code runs in the kernel, where the verifier proves every load, and in tests on the host.
//! It copies nothing: it finds where the headers are, so that a packet off the watched ports costs a
//! few loads. `bpf_skb_load_bytes`, the usual way, costs 20 ns a call.

use crate::bytes::{Bytes, Window};
use crate::wire::aside;

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
    /// First of several fragments.
    pub first_fragment: bool,
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

/// What a packet turned out to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Packet {
    /// TCP or UDP.
    Flow(Headers),
    /// An ICMP error about a packet with these ports.
    IcmpError {
        /// Source port of the quoted packet.
        source_port: u16,
        /// Destination port of the quoted packet.
        destination_port: u16,
    },
    /// Counted apart: one of [`aside`].
    Aside(u32),
    /// The headers go on behind the last byte we can reach, which may be another page of the same
    /// packet; the value is the [`aside`] it is when there is none.
    Short(u32),
    /// None of our business: not IP, or another transport.
    Other,
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
}

const ETHERNET_LEN: usize = 14;
const VLAN_LEN: usize = 4;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
const ICMP_LEN: usize = 8;
/// Extension headers followed before a packet counts as [`aside::EXTENSION_CHAIN`]. RFC 8200, 4.1
/// names six kinds and recommends each at most once.
const MAX_EXTENSIONS: usize = 6;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_AH: u8 = 51;
const IPPROTO_ICMPV6: u8 = 58;
const IPPROTO_DSTOPTS: u8 = 60;

/// What the IP header says, and where what it carries begins.
#[derive(Clone, Copy)]
struct Ip {
    network: usize,
    transport: usize,
    protocol: u8,
    length: u32,
    ipv6: bool,
    first_fragment: bool,
}

impl Ip {
    /// By its own length, the packet ends before `offset`: what lies there is padding.
    #[inline(always)]
    const fn ends_before(&self, offset: usize) -> bool {
        self.length != 0 && (self.length as usize) < offset - self.network
    }
}

/// Finds the ports of an ordinary packet with an Ethernet header: one without VLAN tag, IPv4 options,
/// IPv6 extension headers and fragments. `None`: it takes [`parse`], which gives the same for these.
///
/// `watched` is asked before anything else is read: most packets are none of ours.
#[inline(always)]
#[must_use]
pub fn glance(bytes: Bytes, watched: impl Fn(u16, u16) -> Option<u16>) -> Option<Packet> {
    let header = bytes.window::<{ ETHERNET_LEN + IPV4_LEN + UDP_LEN }>(0)?;
    let ip = match header.u16::<12>() {
        ETH_P_IP => plain_ipv4(header)?,
        ETH_P_IPV6 => plain_ipv6(header)?,
        ETH_P_8021Q | ETH_P_8021AD => return None,
        _ => return Some(Packet::Other),
    };
    if ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP {
        return None;
    }
    match transport(bytes, ip, watched) {
        Packet::Short(_) | Packet::Aside(_) => None,
        packet => Some(packet),
    }
}

#[inline(always)]
fn plain_ipv4(header: Window<{ ETHERNET_LEN + IPV4_LEN + UDP_LEN }>) -> Option<Ip> {
    let length = header.u16::<16>();
    // Neither more fragments to come nor an offset of this one.
    let is_whole = matches!(header.u16::<20>() & 0x3fff, 0);
    if header.u8::<14>() != 0x45 || !is_whole || (length as usize) < IPV4_LEN {
        return None;
    }
    Some(Ip {
        network: ETHERNET_LEN,
        transport: ETHERNET_LEN + IPV4_LEN,
        protocol: header.u8::<23>(),
        length: u32::from(length),
        ipv6: false,
        first_fragment: false,
    })
}

#[inline(always)]
fn plain_ipv6(header: Window<{ ETHERNET_LEN + IPV4_LEN + UDP_LEN }>) -> Option<Ip> {
    let payload = header.u16::<18>();
    if header.u8::<14>() >> 4 != 6 || payload == 0 {
        return None;
    }
    Some(Ip {
        network: ETHERNET_LEN,
        transport: ETHERNET_LEN + IPV6_LEN,
        protocol: header.u8::<20>(),
        length: u32::from(payload) + 40,
        ipv6: true,
        first_fragment: false,
    })
}

/// Finds the ports of a packet. It is a flow's if `watched` gives the one of its ports that is.
#[inline(always)]
#[must_use]
pub fn parse(bytes: Bytes, link: Link, watched: impl Fn(u16, u16) -> Option<u16>) -> Packet {
    let ip = match link {
        Link::Ethernet => ethernet(bytes),
        Link::Bare => match bytes.window::<1>(0) {
            Some(first) if first.u8::<0>() >> 4 == 4 => ipv4(bytes, 0),
            Some(first) if first.u8::<0>() >> 4 == 6 => ipv6(bytes, 0),
            Some(_) => Err(Packet::Other),
            None => Err(Packet::Short(aside::BAD_IP_HEADER)),
        },
    };
    match ip {
        Ok(ip) => transport(bytes, ip, watched),
        Err(packet) => packet,
    }
}

/// Offloaded VLAN tags are in `skb->vlan_tci` and not in the bytes: nothing to skip for those.
#[inline(always)]
fn ethernet(bytes: Bytes) -> Result<Ip, Packet> {
    let Some(header) = bytes.window::<ETHERNET_LEN>(0) else {
        return Err(Packet::Short(aside::SHORT_LINK_HEADER));
    };
    match header.u16::<12>() {
        ETH_P_IP => ipv4(bytes, ETHERNET_LEN),
        ETH_P_IPV6 => ipv6(bytes, ETHERNET_LEN),
        ETH_P_8021Q | ETH_P_8021AD => vlan(bytes),
        _ => Err(Packet::Other),
    }
}

/// One or two tags: 802.1Q, or 802.1ad around it.
#[inline(always)]
fn vlan(bytes: Bytes) -> Result<Ip, Packet> {
    let Some(tag) = bytes.window::<VLAN_LEN>(ETHERNET_LEN) else {
        return Err(Packet::Short(aside::SHORT_LINK_HEADER));
    };
    let mut ethertype = tag.u16::<2>();
    let mut network = ETHERNET_LEN + VLAN_LEN;
    if matches!(ethertype, ETH_P_8021Q | ETH_P_8021AD) {
        let Some(tag) = bytes.window::<VLAN_LEN>(network) else {
            return Err(Packet::Short(aside::SHORT_LINK_HEADER));
        };
        ethertype = tag.u16::<2>();
        network += VLAN_LEN;
    }
    match ethertype {
        ETH_P_IP => ipv4(bytes, network),
        ETH_P_IPV6 => ipv6(bytes, network),
        ETH_P_8021Q | ETH_P_8021AD => Err(Packet::Aside(aside::VLAN_STACK)),
        _ => Err(Packet::Other),
    }
}

#[inline(always)]
fn ipv4(bytes: Bytes, network: usize) -> Result<Ip, Packet> {
    let Some(header) = bytes.window::<IPV4_LEN>(network) else {
        return Err(Packet::Short(aside::BAD_IP_HEADER));
    };
    let header_len = ((header.u8::<0>() & 0x0f) as usize) * 4;
    let length = header.u16::<2>();
    let contradicts = length != 0 && usize::from(length) < header_len;
    if header.u8::<0>() >> 4 != 4 || header_len < IPV4_LEN || contradicts {
        return Err(Packet::Aside(aside::BAD_IP_HEADER));
    }
    let fragment = header.u16::<6>();
    if fragment & 0x1fff != 0 {
        return Err(Packet::Aside(aside::FRAGMENT_LATER));
    }
    Ok(Ip {
        network,
        transport: network + header_len,
        protocol: header.u8::<9>(),
        length: u32::from(length),
        ipv6: false,
        first_fragment: fragment & 0x2000 != 0,
    })
}

#[inline(always)]
fn ipv6(bytes: Bytes, network: usize) -> Result<Ip, Packet> {
    let Some(header) = bytes.window::<IPV6_LEN>(network) else {
        return Err(Packet::Short(aside::BAD_IP_HEADER));
    };
    if header.u8::<0>() >> 4 != 6 {
        return Err(Packet::Aside(aside::BAD_IP_HEADER));
    }
    let length = match header.u16::<4>() {
        0 => 0,
        payload => u32::from(payload) + 40,
    };
    let ip = Ip {
        network,
        transport: network + IPV6_LEN,
        protocol: header.u8::<6>(),
        length,
        ipv6: true,
        first_fragment: false,
    };
    if is_extension(ip.protocol) { extensions(bytes, ip) } else { Ok(ip) }
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_FRAGMENT | IPPROTO_AH | IPPROTO_DSTOPTS
    )
}

/// Walks the chain of extension headers to what the packet carries.
#[inline(always)]
fn extensions(bytes: Bytes, mut ip: Ip) -> Result<Ip, Packet> {
    for _ in 0..MAX_EXTENSIONS {
        let Some(header) = bytes.window::<8>(ip.transport) else {
            return Err(Packet::Short(aside::BAD_IP_HEADER));
        };
        let units = header.u8::<1>() as usize;
        // RFC 4302, 2.2 counts AH in 4-byte units minus 2; RFC 8200, 4 the others in 8-byte units
        // minus 1, and gives fragment headers a fixed length.
        ip.transport += match ip.protocol {
            IPPROTO_FRAGMENT => 8,
            IPPROTO_AH => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        if ip.protocol == IPPROTO_FRAGMENT {
            let offset = header.u16::<2>();
            if offset & 0xfff8 != 0 {
                return Err(Packet::Aside(aside::FRAGMENT_LATER));
            }
            // An atomic fragment (RFC 6946) has offset 0 and no more fragments: it is whole.
            ip.first_fragment = offset & 1 != 0;
        }
        ip.protocol = header.u8::<0>();
        if !is_extension(ip.protocol) {
            return Ok(ip);
        }
    }
    Err(Packet::Aside(aside::EXTENSION_CHAIN))
}

#[inline(always)]
fn transport(bytes: Bytes, ip: Ip, watched: impl Fn(u16, u16) -> Option<u16>) -> Packet {
    match ip.protocol {
        IPPROTO_TCP => match bytes.window::<TCP_LEN>(ip.transport) {
            Some(header) => tcp_flow(header, ip, watched),
            None => Packet::Short(aside::SHORT_TRANSPORT),
        },
        IPPROTO_UDP => match bytes.window::<UDP_LEN>(ip.transport) {
            Some(header) => udp_flow(header, ip, watched),
            None => Packet::Short(aside::SHORT_TRANSPORT),
        },
        IPPROTO_ICMP if !ip.ipv6 => icmp_error(bytes, ip.transport),
        IPPROTO_ICMPV6 if ip.ipv6 => icmpv6_error(bytes, ip.transport),
        _ => Packet::Other,
    }
}

#[inline(always)]
fn tcp_flow(header: Window<TCP_LEN>, ip: Ip, watched: impl Fn(u16, u16) -> Option<u16>) -> Packet {
    let (source_port, destination_port) = (header.u16::<0>(), header.u16::<2>());
    let Some(port) = watched(source_port, destination_port) else {
        return Packet::Other;
    };
    let header_len = ((header.u8::<12>() >> 4) as usize) * 4;
    if header_len < TCP_LEN || ip.ends_before(ip.transport + header_len) {
        return Packet::Aside(aside::SHORT_TRANSPORT);
    }
    Packet::Flow(Headers {
        network: ip.network,
        payload: ip.transport + header_len,
        ipv6: ip.ipv6,
        udp: false,
        first_fragment: ip.first_fragment,
        port,
        source_port,
        destination_port,
        tcp_flags: header.u8::<13>(),
        length: ip.length,
    })
}

#[inline(always)]
fn udp_flow(header: Window<UDP_LEN>, ip: Ip, watched: impl Fn(u16, u16) -> Option<u16>) -> Packet {
    let (source_port, destination_port) = (header.u16::<0>(), header.u16::<2>());
    let Some(port) = watched(source_port, destination_port) else {
        return Packet::Other;
    };
    if ip.ends_before(ip.transport + UDP_LEN) {
        return Packet::Aside(aside::SHORT_TRANSPORT);
    }
    Packet::Flow(Headers {
        network: ip.network,
        payload: ip.transport + UDP_LEN,
        ipv6: ip.ipv6,
        udp: true,
        first_fragment: ip.first_fragment,
        port,
        source_port,
        destination_port,
        tcp_flags: 0,
        length: ip.length,
    })
}

/// The error types of ICMP, which quote a packet: RFC 792.
#[inline(always)]
fn icmp_error(bytes: Bytes, transport: usize) -> Packet {
    let Some(header) = bytes.window::<ICMP_LEN>(transport) else {
        return Packet::Short(aside::SHORT_TRANSPORT);
    };
    if !matches!(header.u8::<0>(), 3 | 4 | 5 | 11 | 12) {
        return Packet::Other;
    }
    let quoted = transport + ICMP_LEN;
    let Some(header) = bytes.window::<IPV4_LEN>(quoted) else {
        return Packet::Short(aside::SHORT_TRANSPORT);
    };
    let header_len = ((header.u8::<0>() & 0x0f) as usize) * 4;
    if header.u8::<0>() >> 4 != 4 || header_len < IPV4_LEN || header.u16::<6>() & 0x1fff != 0 {
        return Packet::Other;
    }
    quoted_ports(bytes.window::<4>(quoted + header_len), header.u8::<9>())
}

/// The error types of `ICMPv6`: RFC 4443, 2.1.
#[inline(always)]
fn icmpv6_error(bytes: Bytes, transport: usize) -> Packet {
    let Some(header) = bytes.window::<ICMP_LEN>(transport) else {
        return Packet::Short(aside::SHORT_TRANSPORT);
    };
    if !matches!(header.u8::<0>(), 1..=4) {
        return Packet::Other;
    }
    let quoted = transport + ICMP_LEN;
    let Some(header) = bytes.window::<IPV6_LEN>(quoted) else {
        return Packet::Short(aside::SHORT_TRANSPORT);
    };
    quoted_ports(bytes.window::<4>(quoted + IPV6_LEN), header.u8::<6>())
}

#[inline(always)]
fn quoted_ports(ports: Option<Window<4>>, protocol: u8) -> Packet {
    if protocol != IPPROTO_TCP && protocol != IPPROTO_UDP {
        return Packet::Other;
    }
    match ports {
        Some(ports) => {
            Packet::IcmpError { source_port: ports.u16::<0>(), destination_port: ports.u16::<2>() }
        }
        None => Packet::Short(aside::SHORT_TRANSPORT),
    }
}

#[cfg(test)]
mod tests;
