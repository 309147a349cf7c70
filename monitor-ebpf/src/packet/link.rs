//! Link headers: Ethernet, and the VLAN tags behind it.

use super::source::Source;
use super::walk::{Next, Walk};
use super::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, ETHERNET_LEN, VLAN_LEN};
use crate::wire::aside;

/// Offloaded VLAN tags are in `skb->vlan_tci` and not in the bytes: nothing to skip for those.
#[inline(always)]
pub(super) fn ethernet<S: Source>(source: &mut S, walk: &mut Walk) -> Next {
    let Some(header) = source.view::<ETHERNET_LEN>(walk.offset) else {
        return walk.aside(aside::SHORT_LINK_HEADER);
    };
    let mut ethertype = header.u16::<12>();
    walk.offset += ETHERNET_LEN;
    // One or two tags: 802.1Q, or 802.1ad around it.
    for _ in 0..2 {
        if is_tag(ethertype) {
            let Some(tag) = source.view::<VLAN_LEN>(walk.offset) else {
                return walk.aside(aside::SHORT_LINK_HEADER);
            };
            ethertype = tag.u16::<2>();
            walk.offset += VLAN_LEN;
        }
    }
    match ethertype {
        ETH_P_IP => Next::Ipv4,
        ETH_P_IPV6 => Next::Ipv6,
        _ if is_tag(ethertype) => walk.aside(aside::VLAN_STACK),
        _ => walk.other(),
    }
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETH_P_8021Q | ETH_P_8021AD)
}

/// Without link header, the first four bits tell the version of IP.
#[inline(always)]
pub(super) fn bare<S: Source>(source: &mut S, walk: &mut Walk) -> Next {
    let Some(first) = source.view::<1>(walk.offset) else {
        return walk.aside(aside::BAD_IP_HEADER);
    };
    match first.u8::<0>() >> 4 {
        4 => Next::Ipv4,
        6 => Next::Ipv6,
        _ => walk.other(),
    }
}
