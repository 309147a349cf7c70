//! Tunnels: what is inside counts, one level deep, unless the packet itself is of a watched port.

extern crate std;

use super::frames::*;
use super::*;

#[test]
fn ip_in_ip_shows_the_inner_packet_of_either_family() {
    let table = [
        (ethernet(0x0800, &ipv4(IPIP, &ipv4(TCP, &tcp(5)))), moved(TCP_IN_IPV4, 20)),
        (ethernet(0x0800, &ipv4(IPV6, &ipv6(TCP, &tcp(5)))), moved(TCP_IN_IPV6, 20)),
        (ethernet(0x86dd, &ipv6(IPIP, &ipv4(UDP, &udp()))), moved(UDP_IN_IPV4, 40)),
        (ethernet(0x86dd, &ipv6(IPV6, &ipv6(UDP, &udp()))), moved(UDP_IN_IPV6, 40)),
        // RFC 2473, 4.1.1: a tunnel may limit further ones by an option.
        (
            ethernet(0x86dd, &ipv6(DESTINATION, &extension(IPV6, 0, 8, &ipv6(UDP, &udp())))),
            moved(UDP_IN_IPV6, 48),
        ),
    ];
    for (packet, expected) in table {
        assert_eq!(tunnelled(&packet), Packet::Flow(expected), "{packet:?}");
    }
}

#[test]
fn gre_is_as_long_as_its_flags_say() {
    for (flags, length) in [
        (0x0000, 4),
        (0x8000, 8),
        (0x2000, 8),
        (0x1000, 8),
        (0xa000, 12),
        (0x3000, 12),
        (0xb000, 16),
    ] {
        let packet = ethernet(0x0800, &ipv4(GRE, &gre(flags, 0x0800, &ipv4(TCP, &tcp(5)))));
        let expected = moved(TCP_IN_IPV4, 20 + length);
        assert_eq!(tunnelled(&packet), Packet::Flow(expected), "{flags:#x}");
    }
}

#[test]
fn gre_carries_ipv6_and_ethernet_frames_with_their_tags() {
    let ipv6_inside = gre(0, 0x86dd, &ipv6(UDP, &udp()));
    let frame = ethernet(0x8100, &tag(0x0800, &ipv4(UDP, &udp())));
    let frame_inside = gre(0, 0x6558, &frame);

    assert_eq!(
        tunnelled(&ethernet(0x0800, &ipv4(GRE, &ipv6_inside))),
        Packet::Flow(moved(UDP_IN_IPV6, 24))
    );
    assert_eq!(
        tunnelled(&ethernet(0x86dd, &ipv6(GRE, &frame_inside))),
        Packet::Flow(moved(UDP_IN_IPV4, 40 + 4 + 14 + 4))
    );
}

#[test]
fn vxlan_carries_an_ethernet_frame() {
    for (inner, headers) in [
        (ethernet(0x0800, &ipv4(TCP, &tcp(5))), TCP_IN_IPV4),
        (ethernet(0x86dd, &ipv6(UDP, &udp())), UDP_IN_IPV6),
    ] {
        let packet = ethernet(0x0800, &ipv4(UDP, &vxlan(&inner)));
        assert_eq!(tunnelled(&packet), Packet::Flow(moved(headers, 14 + 20 + 8 + 8)));
    }
}

#[test]
fn geneve_carries_frames_and_packets_behind_its_options() {
    let frame = ethernet(0x0800, &ipv4(TCP, &tcp(5)));
    for words in [0, 1, 63] {
        let options = usize::from(words) * 4;
        let table = [
            (geneve(words, 0x6558, &frame), moved(TCP_IN_IPV4, 36 + options + 14)),
            (geneve(words, 0x0800, &ipv4(TCP, &tcp(5))), moved(TCP_IN_IPV4, 36 + options)),
            (geneve(words, 0x86dd, &ipv6(UDP, &udp())), moved(UDP_IN_IPV6, 36 + options)),
        ];
        for (outer, expected) in table {
            let packet = ethernet(0x0800, &ipv4(UDP, &outer));
            assert_eq!(tunnelled(&packet), Packet::Flow(expected), "{words} words");
        }
    }
}

#[test]
fn a_watched_port_outside_wins() {
    let inner = ethernet(0x0800, &ipv4(TCP, &tcp(5)));
    let packet = ethernet(0x0800, &ipv4(UDP, &vxlan(&inner)));

    let seen = parse(&mut &packet[..], Link::Ethernet, |_, destination| Some(destination));

    let Packet::Flow(headers) = seen.packet() else { panic!("{seen:?}") };
    assert_eq!((headers.port, headers.network, seen.tunnelled), (4789, 14, false));
}

#[test]
fn a_tunnel_in_a_tunnel_is_not_looked_into() {
    let inner = ipv4(IPIP, &ipv4(TCP, &tcp(5)));
    for nested in [
        ipv4(IPIP, &inner),
        ipv4(GRE, &gre(0, 0x0800, &inner)),
        ipv4(UDP, &vxlan(&ethernet(0x0800, &inner))),
        ipv4(IPIP, &ipv4(UDP, &vxlan(&ethernet(0x0800, &ipv4(TCP, &tcp(5)))))),
        ipv4(IPIP, &ipv4(GRE, &gre(0, 0x0800, &ipv4(TCP, &tcp(5))))),
    ] {
        assert_eq!(parsed(&ethernet(0x0800, &nested)), Packet::Other, "{nested:?}");
    }
}

#[test]
fn what_only_resembles_a_tunnel_is_none_of_our_business() {
    let frame = ethernet(0x0800, &ipv4(TCP, &tcp(5)));
    let no_vni = udp_to(4789, &[&[0; 8], &frame[..]].concat());
    let other_version = udp_to(6081, &[&[0x40, 0, 0x65, 0x58, 0, 0, 0, 0], &frame[..]].concat());
    let other_content = geneve(0, 0x88cc, &frame);
    for transport in
        [no_vni, other_version, other_content, udp_to(4789, b"hello"), udp_to(6081, b"")]
    {
        assert_eq!(parsed(&ethernet(0x0800, &ipv4(UDP, &transport))), Packet::Other);
    }
    // PPTP, source routes, ERSPAN.
    for (flags, ethertype) in [(0x2001, 0x880b), (0x4000, 0x0800), (0x1000, 0x88be)] {
        let packet = ethernet(0x0800, &ipv4(GRE, &gre(flags, ethertype, &frame)));
        assert_eq!(parsed(&packet), Packet::Other, "{flags:#x}");
    }
}

#[test]
fn what_is_broken_in_a_tunnel_is_the_tunnels_fault() {
    let contradicting = Ipv4 { words: 4, ..Ipv4::of(TCP) }.around(&tcp(5));
    let cut = &ipv4(TCP, &tcp(5))[..30];
    for inner in [&contradicting[..], cut, &[]] {
        for packet in [
            ipv4(IPIP, inner),
            ipv4(GRE, &gre(0, 0x0800, inner)),
            ipv4(UDP, &vxlan(&ethernet(0x0800, inner))),
        ] {
            assert_eq!(parsed(&ethernet(0x0800, &packet)), Packet::Aside(aside::BAD_TUNNEL));
        }
    }
    assert_eq!(parsed(&ethernet(0x0800, &ipv4(GRE, &[0, 0]))), Packet::Aside(aside::BAD_TUNNEL));
}

#[test]
fn fragments_in_a_tunnel_are_those_of_the_inner_packet() {
    let first = Ipv4 { fragment: 0x2000, ..Ipv4::of(UDP) }.around(&udp());
    let seen = all_of(&ethernet(0x0800, &ipv4(IPIP, &first)));

    assert_eq!(seen.packet(), Packet::Flow(moved(UDP_IN_IPV4, 20)));
    assert_eq!((seen.part, seen.id, seen.protocol), (Part::First, u32::from(ID), UDP));
    assert_eq!((seen.headers.network, seen.tunnelled, seen.goes_on), (34, true, false));
}

#[test]
fn a_tunnel_that_is_fragmented_itself_shows_the_whole_inner_packet_in_its_first_fragment() {
    let outer = Ipv4 { fragment: 0x2000, ..Ipv4::of(IPIP) }.around(&ipv4(UDP, &udp()));
    let seen = all_of(&ethernet(0x0800, &outer));

    assert_eq!(seen.packet(), Packet::Flow(moved(UDP_IN_IPV4, 20)));
    assert_eq!((seen.part, seen.goes_on), (Part::Whole, true));
}

#[test]
fn an_icmp_error_in_a_tunnel_quotes_ports_too() {
    let error = ipv4(ICMP, &icmp(3, &ipv4(UDP, &udp())));

    assert_eq!(parsed(&ethernet(0x0800, &ipv4(IPIP, &error))), QUOTED_PORTS);
}

fn tunnelled(packet: &[u8]) -> Packet {
    let seen = all_of(packet);
    assert!(seen.tunnelled, "{seen:?}");
    seen.packet()
}
