//! Fragments: which part a packet is, and of which datagram.

extern crate std;

use super::frames::*;
use super::*;

#[test]
fn only_the_first_fragment_of_ipv4_has_ports() {
    let rest = Headers { port: 0, source_port: 0, destination_port: 0, payload: 34, ..UDP_IN_IPV4 };
    let flow = Packet::Flow(UDP_IN_IPV4);
    let table = [
        (0x2000, flow, Part::First),
        // "Don't fragment", and the bit that is always 0: whole.
        (0x4000, flow, Part::Whole),
        (0x8000, flow, Part::Whole),
        (0x2001, Packet::LaterFragment(rest), Part::Later),
        (0x1000, Packet::LaterFragment(rest), Part::Later),
    ];
    for (field, packet, part) in table {
        let seen =
            all_of(&ethernet(0x0800, &Ipv4 { fragment: field, ..Ipv4::of(UDP) }.around(&udp())));
        assert_eq!((seen.packet(), seen.part), (packet, part), "{field:#x}");
    }
}

#[test]
fn a_fragment_header_tells_first_later_and_atomic_fragments_apart() {
    let whole = longer(UDP_IN_IPV6, 8);
    let rest = Headers { port: 0, source_port: 0, destination_port: 0, payload: 62, ..whole };
    let table = [
        (0x0001, Packet::Flow(whole), Part::First),
        // RFC 6946: neither an offset nor more to come.
        (0x0000, Packet::Flow(whole), Part::Whole),
        // The two reserved bits say nothing.
        (0x0006, Packet::Flow(whole), Part::Whole),
        (0x0008, Packet::LaterFragment(rest), Part::Later),
        (0x8001, Packet::LaterFragment(rest), Part::Later),
    ];
    for (field, packet, part) in table {
        let seen = all_of(&ethernet(0x86dd, &ipv6(FRAGMENT, &fragment(UDP, field, &udp()))));
        assert_eq!((seen.packet(), seen.part), (packet, part), "{field:#x}");
    }
}

#[test]
fn a_fragment_header_may_stand_anywhere_in_the_chain() {
    let fragmented = fragment(DESTINATION, 1, &extension(UDP, 0, 8, &udp()));
    let packet = ethernet(0x86dd, &ipv6(HOP_BY_HOP, &extension(FRAGMENT, 0, 8, &fragmented)));

    let seen = all_of(&packet);

    assert_eq!(seen.packet(), Packet::Flow(longer(UDP_IN_IPV6, 24)));
    assert_eq!((seen.part, seen.id, seen.protocol), (Part::First, ID_IPV6, 0));
}

#[test]
fn what_a_later_fragment_of_ipv6_says_it_carries_counts_for_nothing() {
    for next in [TCP, DESTINATION, ICMPV6, 59] {
        let packet = ethernet(0x86dd, &ipv6(FRAGMENT, &fragment(next, 8, &udp())));

        assert!(matches!(parsed(&packet), Packet::LaterFragment(_)), "{next}");
    }
}

#[test]
fn a_later_fragment_of_what_has_no_ports_is_none_of_our_business() {
    for protocol in [ICMP, GRE, IPIP, 50] {
        let later = Ipv4 { fragment: 1, ..Ipv4::of(protocol) }.around(&udp());
        assert_eq!(parsed(&ethernet(0x0800, &later)), Packet::Other, "{protocol}");
    }
}

#[test]
fn a_first_fragment_of_another_port_says_which_datagram_it_begins() {
    let first = Ipv4 { fragment: 0x2000, ..Ipv4::of(UDP) }.around(&udp());

    let seen = parse(&mut &ethernet(0x0800, &first)[..], Link::Ethernet, |_, _| None);

    assert_eq!(seen.packet(), Packet::Other);
    assert_eq!((seen.headers.network, seen.headers.ipv6), (14, false));
    assert_eq!((seen.part, seen.id, seen.protocol), (Part::First, u32::from(ID), UDP));
}

#[test]
fn a_first_fragment_too_small_for_its_transport_header_is_no_flow() {
    let first = Ipv4 { fragment: 0x2000, ..Ipv4::of(TCP) }.around(&tcp(5)[..8]);

    assert_eq!(parsed(&ethernet(0x0800, &first)), Packet::Aside(aside::SHORT_TRANSPORT));
}
