//! What an IP packet carries: TCP, UDP, an ICMP error, or another packet.

use super::source::Source;
use super::tunnel::{self, GENEVE_PORT, VXLAN_PORT};
use super::walk::{Next, Walk, Within};
use super::{
    ICMP_LEN, IPPROTO_GRE, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IPIP, IPPROTO_IPV6, IPPROTO_TCP,
    IPPROTO_UDP, Kind, Part, TCP_LEN, UDP_LEN,
};
use crate::wire::aside;

/// What is at the walk's offset, behind an IP header.
#[inline(always)]
pub(super) fn transport<S: Source>(
    source: &mut S,
    walk: &mut Walk,
    watched: impl Fn(u16, u16) -> Option<u16>,
) -> Next {
    if matches!(walk.parsed.part, Part::Later) {
        return later_fragment(walk);
    }
    let offset = walk.offset;
    match (walk.protocol, walk.within) {
        (IPPROTO_TCP | IPPROTO_UDP, Within::Quote) => quoted_ports(source, walk),
        (IPPROTO_TCP, _) => tcp(source, walk, watched),
        (IPPROTO_UDP, _) => udp(source, walk, watched),
        // No error is sent about an error (RFC 1122, 3.2.2; RFC 4443, 2.4).
        (_, Within::Quote) => walk.other(),
        (IPPROTO_ICMP, _) if !walk.parsed.headers.ipv6 => icmp(source, walk),
        (IPPROTO_ICMPV6, _) if walk.parsed.headers.ipv6 => icmp(source, walk),
        (IPPROTO_IPIP, Within::Nothing) => walk.enter(Within::Tunnel, Next::Ipv4, offset),
        (IPPROTO_IPV6, Within::Nothing) => walk.enter(Within::Tunnel, Next::Ipv6, offset),
        (IPPROTO_GRE, Within::Nothing) => tunnel::gre(source, walk),
        _ => walk.other(),
    }
}

/// Part of a datagram that may be TCP or UDP. In IPv6 what a later fragment says about that counts for
/// nothing (RFC 8200, 4.5).
#[inline(always)]
const fn later_fragment(walk: &mut Walk) -> Next {
    let protocol = walk.protocol;
    let may_have_ports =
        walk.parsed.headers.ipv6 || protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
    if !may_have_ports || matches!(walk.within, Within::Quote) {
        return walk.other();
    }
    if walk.ends_before(walk.offset) {
        return walk.aside(aside::BAD_IP_HEADER);
    }
    walk.parsed.kind = Kind::LaterFragment;
    walk.parsed.headers.payload = walk.offset;
    walk.parsed.headers.udp = protocol == IPPROTO_UDP;
    Next::Stop
}

#[inline(always)]
fn tcp<S: Source>(
    source: &mut S,
    walk: &mut Walk,
    watched: impl Fn(u16, u16) -> Option<u16>,
) -> Next {
    let Some(header) = source.view::<TCP_LEN>(walk.offset) else {
        return walk.aside(aside::SHORT_TRANSPORT);
    };
    let (source_port, destination_port) = (header.u16::<0>(), header.u16::<2>());
    let (words, flags) = (header.u8::<12>() >> 4, header.u8::<13>());
    let sequence = header.raw32::<4>();
    let Some(port) = watched(source_port, destination_port) else {
        return walk.other();
    };
    let header_len = (words as usize) * 4;
    let payload = walk.offset + header_len;
    if header_len < TCP_LEN || walk.ends_before(payload) {
        return walk.aside(aside::SHORT_TRANSPORT);
    }
    let headers = &mut walk.parsed.headers;
    (headers.source_port, headers.destination_port) = (source_port, destination_port);
    (headers.port, headers.tcp_flags) = (port, flags);
    (headers.payload, headers.udp) = (payload, false);
    walk.parsed.kind = Kind::Flow;
    source.note_sequence(sequence);
    Next::Stop
}

#[inline(always)]
fn udp<S: Source>(
    source: &mut S,
    walk: &mut Walk,
    watched: impl Fn(u16, u16) -> Option<u16>,
) -> Next {
    let Some(header) = source.view::<UDP_LEN>(walk.offset) else {
        return walk.aside(aside::SHORT_TRANSPORT);
    };
    let (source_port, destination_port) = (header.u16::<0>(), header.u16::<2>());
    walk.offset += UDP_LEN;
    let Some(port) = watched(source_port, destination_port) else {
        return match (destination_port, walk.within) {
            (VXLAN_PORT, Within::Nothing) => tunnel::vxlan(source, walk),
            (GENEVE_PORT, Within::Nothing) => tunnel::geneve(source, walk),
            _ => walk.other(),
        };
    };
    if walk.ends_before(walk.offset) {
        return walk.aside(aside::SHORT_TRANSPORT);
    }
    let headers = &mut walk.parsed.headers;
    (headers.source_port, headers.destination_port) = (source_port, destination_port);
    (headers.port, headers.tcp_flags) = (port, 0);
    (headers.payload, headers.udp) = (walk.offset, true);
    walk.parsed.kind = Kind::Flow;
    Next::Stop
}

/// The error types of ICMP (RFC 792) and `ICMPv6` (RFC 4443, 2.1) quote the packet they are about.
#[inline(always)]
fn icmp<S: Source>(source: &mut S, walk: &mut Walk) -> Next {
    let Some(header) = source.view::<ICMP_LEN>(walk.offset) else {
        return walk.aside(aside::SHORT_TRANSPORT);
    };
    let kind = header.u8::<0>();
    let quoted = walk.offset + ICMP_LEN;
    if walk.parsed.headers.ipv6 {
        match kind {
            1..=4 => walk.enter(Within::Quote, Next::Ipv6, quoted),
            _ => walk.other(),
        }
    } else {
        match kind {
            3 | 4 | 5 | 11 | 12 => walk.enter(Within::Quote, Next::Ipv4, quoted),
            _ => walk.other(),
        }
    }
}

/// An error must quote the first 8 bytes of a transport header: the ports, and little else.
#[inline(always)]
fn quoted_ports<S: Source>(source: &mut S, walk: &mut Walk) -> Next {
    let Some(ports) = source.view::<4>(walk.offset) else {
        return walk.aside(aside::BAD_QUOTE);
    };
    let (source_port, destination_port) = (ports.u16::<0>(), ports.u16::<2>());
    let headers = &mut walk.parsed.headers;
    (headers.source_port, headers.destination_port) = (source_port, destination_port);
    walk.parsed.kind = Kind::IcmpError;
    Next::Stop
}
