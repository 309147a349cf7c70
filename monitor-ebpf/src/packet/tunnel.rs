//! Tunnels: where the packet inside begins.
//!
//! IP in IP, GRE, VXLAN and Geneve. What only looks like one is none: whoever sends anything at all to
//! UDP port 4789 has not sent a broken packet.

use super::source::Source;
use super::walk::{Next, Walk, Within};
use super::{ETH_P_IP, ETH_P_IPV6};
use crate::wire::aside;

/// IANA's port of VXLAN, RFC 7348, 8. What Linux used before, 8472, is not looked into.
pub(super) const VXLAN_PORT: u16 = 4789;
/// IANA's port of Geneve, RFC 8926, 3.3.
pub(super) const GENEVE_PORT: u16 = 6081;

/// Transparent Ethernet bridging: an Ethernet frame.
const ETH_P_TEB: u16 = 0x6558;

const VXLAN_LEN: usize = 8;
const GENEVE_LEN: usize = 8;
const GRE_LEN: usize = 4;

/// Behind a GRE header: RFC 2784, with key and sequence number as RFC 2890 adds them.
#[inline(always)]
pub(super) fn gre<S: Source>(source: &mut S, walk: &mut Walk) -> Next {
    let Some(header) = source.view::<GRE_LEN>(walk.offset) else {
        return walk.aside(aside::BAD_TUNNEL);
    };
    let (flags, protocol) = (header.u16::<0>(), header.u16::<2>());
    // Source routes (RFC 1701) are obsolete, version 1 is PPTP; Linux takes neither here.
    if flags & (GRE_ROUTING | GRE_VERSION) != 0 {
        return walk.other();
    }
    let options = (flags & (GRE_CHECKSUM | GRE_KEY | GRE_SEQUENCE)).count_ones() as usize;
    inner(walk, protocol, GRE_LEN + options * 4)
}

const GRE_CHECKSUM: u16 = 0x8000;
const GRE_ROUTING: u16 = 0x4000;
const GRE_KEY: u16 = 0x2000;
const GRE_SEQUENCE: u16 = 0x1000;
const GRE_VERSION: u16 = 0x0007;

/// Behind the header of VXLAN: RFC 7348, 5.
#[inline(always)]
pub(super) fn vxlan<S: Source>(source: &mut S, walk: &mut Walk) -> Next {
    match source.view::<VXLAN_LEN>(walk.offset) {
        // The flag that says that the network identifier is valid.
        Some(header) if header.u8::<0>() & 0x08 != 0 => inner(walk, ETH_P_TEB, VXLAN_LEN),
        _ => walk.other(),
    }
}

/// Behind the header of Geneve and its options: RFC 8926, 3.4.
#[inline(always)]
pub(super) fn geneve<S: Source>(source: &mut S, walk: &mut Walk) -> Next {
    let Some(header) = source.view::<GENEVE_LEN>(walk.offset) else {
        return walk.other();
    };
    let (first, protocol) = (header.u8::<0>(), header.u16::<2>());
    if first >> 6 != 0 {
        return walk.other();
    }
    inner(walk, protocol, GENEVE_LEN + ((first & 0x3f) as usize) * 4)
}

/// What an ethertype names comes `length` bytes on.
#[inline(always)]
const fn inner(walk: &mut Walk, ethertype: u16, length: usize) -> Next {
    let offset = walk.offset + length;
    match ethertype {
        ETH_P_IP => walk.enter(Within::Tunnel, Next::Ipv4, offset),
        ETH_P_IPV6 => walk.enter(Within::Tunnel, Next::Ipv6, offset),
        ETH_P_TEB => walk.enter(Within::Tunnel, Next::Ethernet, offset),
        _ => walk.other(),
    }
}
