//! IP headers: IPv4 with options, IPv6 with its chain of extension headers, and fragments of both.

use super::source::Source;
use super::walk::{Next, Walk};
use super::{
    IPPROTO_AH, IPPROTO_DSTOPTS, IPPROTO_FRAGMENT, IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPV4_LEN,
    IPV6_LEN, Part,
};
use crate::wire::aside;

/// Extension headers followed before a packet counts as [`aside::EXTENSION_CHAIN`]. RFC 8200, 4.1
/// names six kinds and recommends each at most once.
const MAX_EXTENSIONS: usize = 6;

#[inline(always)]
pub(super) fn ipv4<S: Source>(source: &mut S, walk: &mut Walk) -> Next {
    let Some(header) = source.view::<IPV4_LEN>(walk.offset) else {
        return walk.aside(aside::BAD_IP_HEADER);
    };
    let header_len = ((header.u8::<0>() & 0x0f) as usize) * 4;
    let length = header.u16::<2>();
    let contradicts = length != 0 && (length as usize) < header_len;
    if header.u8::<0>() >> 4 != 4 || header_len < IPV4_LEN || contradicts {
        return walk.aside(aside::BAD_IP_HEADER);
    }
    walk.protocol = header.u8::<9>();
    let parsed = &mut walk.parsed;
    parsed.headers.network = walk.offset;
    parsed.headers.ipv6 = false;
    parsed.headers.length = u32::from(length);
    // The flag "more fragments", and the offset in units of 8 bytes.
    let place = header.u16::<6>() & 0x3fff;
    parsed.part = match place {
        0 => Part::Whole,
        0x2000 => Part::First,
        _ => Part::Later,
    };
    parsed.id = u32::from(header.u16::<4>());
    parsed.protocol = walk.protocol;
    walk.offset += header_len;
    Next::Transport
}

#[inline(always)]
pub(super) fn ipv6<S: Source>(source: &mut S, walk: &mut Walk) -> Next {
    let Some(header) = source.view::<IPV6_LEN>(walk.offset) else {
        return walk.aside(aside::BAD_IP_HEADER);
    };
    if header.u8::<0>() >> 4 != 6 {
        return walk.aside(aside::BAD_IP_HEADER);
    }
    walk.protocol = header.u8::<6>();
    let parsed = &mut walk.parsed;
    parsed.headers.network = walk.offset;
    parsed.headers.ipv6 = true;
    parsed.headers.length = match header.u16::<4>() {
        0 => 0,
        payload => u32::from(payload) + 40,
    };
    parsed.part = Part::Whole;
    // RFC 8200, 4.5: the identification alone names the datagram, not the protocol.
    (parsed.id, parsed.protocol) = (0, 0);
    walk.offset += IPV6_LEN;
    if is_extension(walk.protocol) { extensions(source, walk) } else { Next::Transport }
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_FRAGMENT | IPPROTO_AH | IPPROTO_DSTOPTS
    )
}

/// Walks the chain of extension headers to what the packet carries, or to the end of what a later
/// fragment has of it.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "what is blurred is a byte")]
fn extensions<S: Source>(source: &mut S, walk: &mut Walk) -> Next {
    for _ in 0..MAX_EXTENSIONS {
        let Some(header) = source.view::<8>(walk.offset) else {
            return walk.aside(aside::BAD_IP_HEADER);
        };
        let next = header.u8::<0>();
        let units = header.u8::<1>() as usize;
        let (place, id) = (header.u16::<2>(), header.u32::<4>());
        // RFC 4302, 2.2 counts AH in 4-byte units minus 2; RFC 8200, 4 the others in 8-byte units
        // minus 1, and gives fragment headers a fixed length.
        let length = match walk.protocol {
            IPPROTO_FRAGMENT => 8,
            IPPROTO_AH => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        let is_fragment = walk.protocol == IPPROTO_FRAGMENT;
        walk.offset = source.blur(walk.offset + length);
        walk.protocol = source.blur(next as usize) as u8;
        // An atomic fragment (RFC 6946) has offset 0 and no more fragments: it is whole.
        if is_fragment && place & 0xfff9 != 0 {
            walk.parsed.id = id;
            if place & 0xfff8 != 0 {
                walk.parsed.part = Part::Later;
                return Next::Transport;
            }
            walk.parsed.part = Part::First;
        }
        if !is_extension(walk.protocol) {
            return Next::Transport;
        }
    }
    walk.aside(aside::EXTENSION_CHAIN)
}
