//! Every shape of packet the parser tells apart, cut off at every byte, and bytes nobody should send.

extern crate std;

mod fragments;
mod frames;
mod tunnels;

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::{Glance, Headers, Link, Packet, Parsed, Part, glance, parse};
use crate::bytes::Bytes;
use crate::wire::aside;
use frames::*;

#[test]
fn a_tcp_packet_shows_its_ports_its_flags_and_where_its_payload_is() {
    let packet = ethernet(0x0800, &ipv4(TCP, &tcp(5)));

    assert_eq!(parsed(&packet), Packet::Flow(TCP_IN_IPV4));
}

#[test]
fn a_udp_packet_has_no_flags() {
    let packet = ethernet(0x0800, &ipv4(UDP, &udp()));

    assert_eq!(parsed(&packet), Packet::Flow(UDP_IN_IPV4));
}

#[test]
fn a_packet_without_a_watched_port_is_none_of_ours() {
    for packet in [ethernet(0x0800, &ipv4(TCP, &tcp(5))), ethernet(0x86dd, &ipv6(UDP, &udp()))] {
        let start = packet.as_ptr().expose_provenance();
        // SAFETY: `packet` lives until the parsers return.
        let bytes = unsafe { Bytes::new(start, start + packet.len()) };

        assert_eq!(parse(&mut &packet[..], Link::Ethernet, |_, _| None).packet(), Packet::Other);
        assert_eq!(glance(bytes, |_, _| None, |headers| headers), Glance::Other);
    }
}

#[test]
fn tcp_options_stand_before_the_payload() {
    for words in 5..=15 {
        let packet = ethernet(0x0800, &ipv4(TCP, &tcp(words)));

        let header = usize::from(words) * 4;
        let expected =
            Headers { payload: 34 + header, length: 25 + u32::from(words) * 4, ..TCP_IN_IPV4 };
        assert_eq!(parsed(&packet), Packet::Flow(expected), "{words} words");
    }
}

#[test]
fn ipv4_options_of_every_length_are_skipped() {
    for words in 6..=15 {
        let options = (usize::from(words) - 5) * 4;
        let packet = ethernet(0x0800, &Ipv4 { words, ..Ipv4::of(UDP) }.around(&udp()));

        let expected = Headers {
            payload: UDP_IN_IPV4.payload + options,
            length: UDP_IN_IPV4.length + u32::try_from(options).unwrap(),
            ..UDP_IN_IPV4
        };
        assert_eq!(parsed(&packet), Packet::Flow(expected), "{words} words");
    }
}

#[test]
fn one_vlan_tag_is_skipped() {
    for kind in [0x8100, 0x88a8] {
        let packet = ethernet(kind, &tag(0x0800, &ipv4(TCP, &tcp(5))));

        assert_eq!(parsed(&packet), Packet::Flow(moved(TCP_IN_IPV4, 4)), "{kind:#x}");
    }
}

#[test]
fn two_vlan_tags_are_skipped() {
    let packet = ethernet(0x88a8, &tag(0x8100, &tag(0x86dd, &ipv6(UDP, &udp()))));

    assert_eq!(parsed(&packet), Packet::Flow(moved(UDP_IN_IPV6, 8)));
}

#[test]
fn three_vlan_tags_are_too_many() {
    let packet = ethernet(0x88a8, &tag(0x8100, &tag(0x8100, &tag(0x0800, &ipv4(TCP, &tcp(5))))));

    assert_eq!(parsed(&packet), Packet::Aside(aside::VLAN_STACK));
}

#[test]
fn what_is_not_ip_is_none_of_our_business() {
    // ARP, LLDP, MPLS, PPPoE, and an IEEE 802.3 length.
    for ethertype in [0x0806, 0x88cc, 0x8847, 0x8864, 0x0026] {
        let inner = ipv4(TCP, &tcp(5));

        assert_eq!(parsed(&ethernet(ethertype, &inner)), Packet::Other, "{ethertype:#x}");
        assert_eq!(parsed(&ethernet(0x8100, &tag(ethertype, &inner))), Packet::Other);
        assert_eq!(parsed(&ethernet(0x88a8, &tag(0x8100, &tag(ethertype, &inner)))), Packet::Other);
    }
}

#[test]
fn a_device_without_link_headers_carries_both_families() {
    let table = [
        (ipv4(TCP, &tcp(5)), Packet::Flow(Headers { network: 0, payload: 40, ..TCP_IN_IPV4 })),
        (ipv6(UDP, &udp()), Packet::Flow(Headers { network: 0, payload: 48, ..UDP_IN_IPV6 })),
        (vec![0x50; 60], Packet::Other),
        (Vec::new(), Packet::Aside(aside::BAD_IP_HEADER)),
    ];
    for (packet, expected) in table {
        assert_eq!(parsed_on(Link::Bare, &packet), expected);
    }
}

#[test]
fn ipv6_carries_tcp_and_udp() {
    let (tcp, udp) = (ipv6(TCP, &tcp(5)), ipv6(UDP, &udp()));

    assert_eq!(parsed(&ethernet(0x86dd, &tcp)), Packet::Flow(TCP_IN_IPV6));
    assert_eq!(parsed(&ethernet(0x86dd, &udp)), Packet::Flow(UDP_IN_IPV6));
}

#[test]
fn extension_headers_are_skipped_by_their_own_units() {
    // What the length field says, and how many bytes that is: RFC 8200, 4.3, 4.4, 4.6; RFC 4302, 2.2.
    let table = [
        (HOP_BY_HOP, 0, 8),
        (HOP_BY_HOP, 5, 48),
        (ROUTING, 2, 24),
        (DESTINATION, 255, 2048),
        (AUTHENTICATION, 1, 12),
        (AUTHENTICATION, 4, 24),
    ];
    for (kind, units, length) in table {
        let extension = extension(UDP, units, length, &udp());
        let packet = ethernet(0x86dd, &ipv6(kind, &extension));

        let expected = longer(UDP_IN_IPV6, length);
        assert_eq!(parsed(&packet), Packet::Flow(expected), "kind {kind}, {units} units");
    }
}

#[test]
fn a_chain_of_six_extension_headers_is_followed_and_one_of_seven_is_not() {
    let chain = |length: usize| {
        let chained = |packet: Vec<u8>, index: usize| {
            let next = if index == 0 { TCP } else { DESTINATION };
            extension(next, 0, 8, &packet)
        };
        ethernet(0x86dd, &ipv6(DESTINATION, &(0..length).fold(tcp(5), chained)))
    };

    assert_eq!(parsed(&chain(6)), Packet::Flow(longer(TCP_IN_IPV6, 48)));
    assert_eq!(parsed(&chain(7)), Packet::Aside(aside::EXTENSION_CHAIN));
}

#[test]
fn other_transports_are_none_of_our_business() {
    // IGMP, ESP, "no next header", OSPF, SCTP, and the ICMP of the other family.
    for protocol in [2, 50, 59, 89, 132] {
        assert_eq!(parsed(&ethernet(0x0800, &ipv4(protocol, &tcp(5)))), Packet::Other);
        assert_eq!(parsed(&ethernet(0x86dd, &ipv6(protocol, &tcp(5)))), Packet::Other);
    }
    let (icmp, icmpv6) = (icmp(3, &ipv4(TCP, &tcp(5))), icmp(1, &ipv6(TCP, &tcp(5))));
    assert_eq!(parsed(&ethernet(0x0800, &ipv4(ICMPV6, &icmpv6))), Packet::Other);
    assert_eq!(parsed(&ethernet(0x86dd, &ipv6(ICMP, &icmp))), Packet::Other);
}

#[test]
fn an_icmp_error_names_the_ports_of_the_packet_it_quotes() {
    let with_options = Ipv4 { words: 8, ..Ipv4::of(UDP) }.around(&udp());
    for kind in [3, 4, 5, 11, 12] {
        for quoted in [ipv4(TCP, &tcp(5)), ipv4(UDP, &udp()), with_options.clone()] {
            let packet = ethernet(0x0800, &ipv4(ICMP, &icmp(kind, &quoted)));
            assert_eq!(parsed(&packet), QUOTED_PORTS, "type {kind}");
        }
    }
}

#[test]
fn an_icmpv6_error_names_the_ports_of_the_packet_it_quotes() {
    for kind in 1..=4 {
        for quoted in [ipv6(TCP, &tcp(5)), ipv6(UDP, &udp())] {
            let packet = ethernet(0x86dd, &ipv6(ICMPV6, &icmp(kind, &quoted)));
            assert_eq!(parsed(&packet), QUOTED_PORTS, "type {kind}");
        }
    }
}

#[test]
fn an_icmp_message_that_is_no_error_quotes_nothing() {
    // Echo and its reply, timestamp; echo and its reply, router and neighbour discovery.
    for kind in [0, 8, 13] {
        let packet = ethernet(0x0800, &ipv4(ICMP, &icmp(kind, &ipv4(TCP, &tcp(5)))));
        assert_eq!(parsed(&packet), Packet::Other, "type {kind}");
    }
    for kind in [0, 128, 129, 133, 136] {
        let packet = ethernet(0x86dd, &ipv6(ICMPV6, &icmp(kind, &ipv6(TCP, &tcp(5)))));
        assert_eq!(parsed(&packet), Packet::Other, "type {kind}");
    }
}

#[test]
fn an_icmp_error_about_a_packet_without_ports_is_none_of_our_business() {
    let later = Ipv4 { fragment: 1, ..Ipv4::of(TCP) }.around(&tcp(5));
    for quoted in [ipv4(ICMP, &icmp(8, &[])), ipv4(ICMP, &icmp(3, &ipv4(TCP, &tcp(5)))), later] {
        let packet = ethernet(0x0800, &ipv4(ICMP, &icmp(3, &quoted)));
        assert_eq!(parsed(&packet), Packet::Other, "{quoted:?}");
    }
    let later = ipv6(FRAGMENT, &fragment(TCP, 8, &tcp(5)));
    for quoted in [ipv6(ICMPV6, &icmp(128, &[])), later] {
        let packet = ethernet(0x86dd, &ipv6(ICMPV6, &icmp(1, &quoted)));
        assert_eq!(parsed(&packet), Packet::Other);
    }
}

#[test]
fn a_quoted_packet_may_have_extension_headers_and_be_a_first_fragment() {
    let quoted = ipv6(HOP_BY_HOP, &extension(FRAGMENT, 0, 8, &fragment(UDP, 1, &udp())));
    let packet = ethernet(0x86dd, &ipv6(ICMPV6, &icmp(2, &quoted)));

    assert_eq!(parsed(&packet), QUOTED_PORTS);
    assert_eq!(all_of(&packet).part, Part::Whole);
}

#[test]
fn an_icmp_error_that_quotes_what_is_no_packet_is_set_aside() {
    let too_short = Ipv4 { words: 4, ..Ipv4::of(TCP) }.around(&tcp(5));
    let not_ipv4 = Ipv4 { version: 6, ..Ipv4::of(TCP) }.around(&tcp(5));
    for quoted in [too_short, not_ipv4, ipv4(TCP, &[1, 2, 3]), Vec::new()] {
        let packet = ethernet(0x0800, &ipv4(ICMP, &icmp(3, &quoted)));
        assert_eq!(parsed(&packet), Packet::Aside(aside::BAD_QUOTE), "{quoted:?}");
    }
}

#[test]
fn an_ip_header_that_contradicts_itself_is_set_aside() {
    let bad = |ipv4: Ipv4| parsed(&ethernet(0x0800, &ipv4.around(&tcp(5))));
    let good = Ipv4::of(TCP);

    assert_eq!(bad(Ipv4 { version: 6, ..good }), Packet::Aside(aside::BAD_IP_HEADER));
    assert_eq!(bad(Ipv4 { words: 4, ..good }), Packet::Aside(aside::BAD_IP_HEADER));
    assert_eq!(bad(Ipv4 { length: Some(19), ..good }), Packet::Aside(aside::BAD_IP_HEADER));
    assert_eq!(
        bad(Ipv4 { words: 6, length: Some(23), ..good }),
        Packet::Aside(aside::BAD_IP_HEADER)
    );
    let not_ipv6 = ethernet(0x86dd, &ipv4(TCP, &tcp(30)));
    assert_eq!(parsed(&not_ipv6), Packet::Aside(aside::BAD_IP_HEADER));
}

#[test]
fn an_ip_header_without_anything_behind_it_does_not_contradict_itself() {
    for words in 5..=15 {
        let empty = Ipv4 { words, ..Ipv4::of(132) }.around(&[]);

        assert_eq!(parsed(&ethernet(0x0800, &empty)), Packet::Other, "{words} words");
    }
}

#[test]
fn a_packet_too_large_for_its_length_field_leaves_its_length_open() {
    let ipv4 = ethernet(0x0800, &Ipv4 { length: Some(0), ..Ipv4::of(TCP) }.around(&tcp(5)));
    let mut ipv6 = ethernet(0x86dd, &ipv6(TCP, &tcp(5)));
    ipv6[18..20].fill(0);

    assert_eq!(parsed(&ipv4), Packet::Flow(Headers { length: 0, ..TCP_IN_IPV4 }));
    assert_eq!(parsed(&ipv6), Packet::Flow(Headers { length: 0, ..TCP_IN_IPV6 }));
}

#[test]
fn a_packet_that_ends_within_its_headers_is_no_flow() {
    for (packet, headers) in packets_with_ports() {
        for length in 0..packet.len() {
            let cut = parsed(&packet[..length]);

            if length < headers {
                let is_other = cut == Packet::Other && may_be_other_udp(&packet);
                assert!(is_open(cut) || is_other, "{length} of {packet:?}: {cut:?}");
            } else {
                assert_eq!(cut, parsed(&packet), "{length} of {packet:?}");
            }
        }
    }
}

#[test]
fn the_header_that_is_cut_off_is_named() {
    let double_tagged = ethernet(0x88a8, &tag(0x8100, &tag(0x0800, &ipv4(TCP, &tcp(5)))));
    let ipv4 = ethernet(0x0800, &ipv4(UDP, &udp()));
    let ipv6 = ethernet(0x86dd, &ipv6(HOP_BY_HOP, &extension(UDP, 0, 8, &udp())));
    let table = [
        (&ipv4[..13], aside::SHORT_LINK_HEADER),
        (&double_tagged[..17], aside::SHORT_LINK_HEADER),
        (&double_tagged[..21], aside::SHORT_LINK_HEADER),
        (&ipv4[..33], aside::BAD_IP_HEADER),
        (&ipv6[..53], aside::BAD_IP_HEADER),
        (&ipv6[..61], aside::BAD_IP_HEADER),
        (&ipv4[..41], aside::SHORT_TRANSPORT),
        (&ipv6[..69], aside::SHORT_TRANSPORT),
    ];
    for (packet, reason) in table {
        assert_eq!(parsed(packet), Packet::Aside(reason), "{} bytes", packet.len());
    }
}

proptest! {
    #[test]
    fn bytes_behind_the_end_say_nothing(packet in any_packet(), tail in any::<[u8; 64]>()) {
        let mut longer = packet.clone();
        longer.extend(tail);

        for link in [Link::Ethernet, Link::Bare] {
            prop_assert_eq!(parsed_on(link, &longer[..packet.len()]), parsed_on(link, &packet));
        }
    }

    #[test]
    fn more_of_a_packet_only_answers_what_was_open(packet in any_packet(), end in any::<prop::sample::Index>()) {
        let start = &packet[..end.index(packet.len() + 1)];

        for link in [Link::Ethernet, Link::Bare] {
            let (before, after) = (parsed_on(link, start), parsed_on(link, &packet));
            let is_open = is_open(before) || before == Packet::Other;
            prop_assert!(is_open || before == after, "{:?}, {:?}", before, after);
        }
    }

    #[test]
    fn what_was_found_lies_in_the_packet(packet in any_packet()) {
        for link in [Link::Ethernet, Link::Bare] {
            let parsed = all_of_on(link, &packet);
            if let Packet::Flow(headers) | Packet::LaterFragment(headers) = parsed.packet() {
                let addresses = if headers.ipv6 { 40 } else { 20 };
                prop_assert!(headers.network + addresses <= headers.payload);
                prop_assert!(headers.length == 0 || headers.payload - headers.network <= headers.length as usize);
                prop_assert!(headers.network + addresses <= packet.len());
                prop_assert_eq!(headers.network, parsed.headers.network);
            }
            if let Packet::Flow(headers) = parsed.packet() {
                let fixed = if headers.udp { 8 } else { 20 };
                prop_assert!(headers.network + 20 + fixed <= packet.len());
                prop_assert!(headers.port == headers.destination_port);
            }
        }
    }
}

/// Is the answer that headers are missing or broken?
fn is_open(packet: Packet) -> bool {
    matches!(packet, Packet::Aside(_))
}

/// Without the header of its tunnel, a packet to the port of one is UDP like any other.
fn may_be_other_udp(packet: &[u8]) -> bool {
    [4789_u16, 6081].iter().any(|port| packet.windows(2).any(|word| word == port.to_be_bytes()))
}

fn parsed(packet: &[u8]) -> Packet {
    parsed_on(Link::Ethernet, packet)
}

fn parsed_on(link: Link, packet: &[u8]) -> Packet {
    all_of_on(link, packet).packet()
}

fn all_of(packet: &[u8]) -> Parsed {
    all_of_on(Link::Ethernet, packet)
}

fn all_of_on(link: Link, packet: &[u8]) -> Parsed {
    let watched =
        |_, destination| (destination != 4789 && destination != 6081).then_some(destination);
    let mut source = packet;
    let seen = parse(&mut source, link, watched);
    if link == Link::Ethernet {
        let start = packet.as_ptr().expose_provenance();
        // SAFETY: `packet` is borrowed until the parser returns.
        let bytes = unsafe { Bytes::new(start, start + packet.len()) };
        let glanced = glance(bytes, watched, |headers| headers).packet();
        assert!(glanced.is_none_or(|packet| packet == seen.packet()), "{glanced:?}, {seen:?}");
        assert!(glanced.is_none() || (seen.part == Part::Whole && !seen.tunnelled));
    }
    seen
}

/// The same headers behind `tags` bytes of VLAN tags.
fn moved(headers: Headers, tags: usize) -> Headers {
    Headers { network: headers.network + tags, payload: headers.payload + tags, ..headers }
}

/// The same headers with `more` bytes between the IP header and the transport header.
fn longer(headers: Headers, more: usize) -> Headers {
    let length = headers.length + u32::try_from(more).unwrap();
    Headers { payload: headers.payload + more, length, ..headers }
}

/// Noise, and packets of every shape with a few bytes changed.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let packets = packets_with_ports().map(|(packet, _)| packet).to_vec();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let changed = (prop::sample::select(packets), changes).prop_map(|(mut packet, changes)| {
        for (place, byte) in changes {
            *place.get_mut(&mut packet) = byte;
        }
        packet
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), changed]
}

#[test]
fn a_transport_header_behind_the_end_of_the_ip_packet_is_short() {
    let padded = |protocol, length, transport: &[u8]| {
        ethernet(0x0800, &Ipv4 { length: Some(length), ..Ipv4::of(protocol) }.around(transport))
    };

    assert_eq!(parsed(&padded(TCP, 39, &tcp(5))), Packet::Aside(aside::SHORT_TRANSPORT));
    assert_eq!(parsed(&padded(UDP, 27, &udp())), Packet::Aside(aside::SHORT_TRANSPORT));
}

#[test]
fn a_tcp_header_that_says_it_is_shorter_than_its_fixed_part_is_short() {
    let mut packet = ethernet(0x0800, &ipv4(TCP, &tcp(5)));
    packet[46] = 0x40;

    assert_eq!(parsed(&packet), Packet::Aside(aside::SHORT_TRANSPORT));
}
