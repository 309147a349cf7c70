//! Packets put together header by header, outermost first: `ethernet(0x0800, &ipv4(TCP, &tcp(5)))`.

extern crate std;

use std::vec;
use std::vec::Vec;

use crate::packet::{Headers, Packet};

pub(super) const SOURCE_PORT: u16 = 40_000;
pub(super) const DESTINATION_PORT: u16 = 3516;
pub(super) const FLAGS: u8 = 0x18;
pub(super) const PAYLOAD: &[u8] = b"hello";

pub(super) const HOP_BY_HOP: u8 = 0;
pub(super) const ICMP: u8 = 1;
pub(super) const IPIP: u8 = 4;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const IPV6: u8 = 41;
pub(super) const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const GRE: u8 = 47;
pub(super) const AUTHENTICATION: u8 = 51;
pub(super) const ICMPV6: u8 = 58;
pub(super) const DESTINATION: u8 = 60;

pub(super) const TCP_IN_IPV4: Headers = Headers {
    network: 14,
    payload: 54,
    ipv6: false,
    udp: false,
    port: DESTINATION_PORT,
    source_port: SOURCE_PORT,
    destination_port: DESTINATION_PORT,
    tcp_flags: FLAGS,
    length: 45,
};
pub(super) const UDP_IN_IPV4: Headers =
    Headers { payload: 42, udp: true, tcp_flags: 0, length: 33, ..TCP_IN_IPV4 };
pub(super) const TCP_IN_IPV6: Headers =
    Headers { payload: 74, ipv6: true, length: 65, ..TCP_IN_IPV4 };
pub(super) const UDP_IN_IPV6: Headers =
    Headers { payload: 62, udp: true, tcp_flags: 0, length: 53, ..TCP_IN_IPV6 };
pub(super) const QUOTED_PORTS: Packet =
    Packet::IcmpError { source_port: SOURCE_PORT, destination_port: DESTINATION_PORT };

pub(super) fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&[0x02; 12], &ethertype.to_be_bytes()[..], packet].concat()
}

pub(super) fn tag(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&[0x20, 0x07], &ethertype.to_be_bytes()[..], packet].concat()
}

/// What an IPv4 header says; lengths are right unless told otherwise.
#[derive(Clone, Copy)]
pub(super) struct Ipv4 {
    pub(super) version: u8,
    pub(super) words: u8,
    pub(super) length: Option<u16>,
    pub(super) fragment: u16,
    pub(super) protocol: u8,
}

/// The identification of every IPv4 and IPv6 datagram.
pub(super) const ID: u16 = 0xeeee;
pub(super) const ID_IPV6: u32 = 0xeeee_eeee;

impl Ipv4 {
    pub(super) const fn of(protocol: u8) -> Self {
        Self { version: 4, words: 5, length: None, fragment: 0, protocol }
    }

    pub(super) fn around(self, packet: &[u8]) -> Vec<u8> {
        let mut header = vec![0xee; usize::from(self.words) * 4];
        header.resize(header.len().max(20), 0xee);
        let length = u16::try_from(header.len() + packet.len()).unwrap();
        header[0] = self.version << 4 | self.words;
        header[2..4].copy_from_slice(&self.length.unwrap_or(length).to_be_bytes());
        header[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        header[9] = self.protocol;
        [&header, packet].concat()
    }
}

pub(super) fn ipv4(protocol: u8, packet: &[u8]) -> Vec<u8> {
    Ipv4::of(protocol).around(packet)
}

pub(super) fn ipv6(next: u8, packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
    [&[0x6e, 0, 0, 0], &length[..], &[next, 64], &[0xee; 32], packet].concat()
}

pub(super) fn extension(next: u8, units: u8, length: usize, packet: &[u8]) -> Vec<u8> {
    [&[next, units], &vec![0; length - 2][..], packet].concat()
}

pub(super) fn fragment(next: u8, offset: u16, packet: &[u8]) -> Vec<u8> {
    [&[next, 0xee], &offset.to_be_bytes()[..], &[0xee; 4], packet].concat()
}

pub(super) fn tcp(words: u8) -> Vec<u8> {
    let mut header = vec![0xee; usize::from(words) * 4];
    header[..2].copy_from_slice(&SOURCE_PORT.to_be_bytes());
    header[2..4].copy_from_slice(&DESTINATION_PORT.to_be_bytes());
    header[12..14].copy_from_slice(&[words << 4, FLAGS]);
    [&header, PAYLOAD].concat()
}

pub(super) fn udp() -> Vec<u8> {
    let ports = [SOURCE_PORT.to_be_bytes(), DESTINATION_PORT.to_be_bytes()].concat();
    [&ports, &[0, 13, 0, 0][..], PAYLOAD].concat()
}

pub(super) fn icmp(kind: u8, quoted: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat()
}

/// GRE with these flags in the first word, and a word for each option that they announce.
pub(super) fn gre(flags: u16, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let options = [0x8000, 0x2000, 0x1000].iter().filter(|option| flags & **option != 0).count();
    [&flags.to_be_bytes()[..], &ethertype.to_be_bytes(), &vec![0xee; options * 4], packet].concat()
}

/// UDP to this port, around anything.
pub(super) fn udp_to(port: u16, packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len() + 8).unwrap().to_be_bytes();
    [&[0xc3, 0x50], &port.to_be_bytes()[..], &length, &[0, 0], packet].concat()
}

pub(super) fn vxlan(frame: &[u8]) -> Vec<u8> {
    udp_to(4789, &[&[0x08, 0, 0, 0, 0, 0, 42, 0], frame].concat())
}

/// Geneve with so many words of options.
pub(super) fn geneve(words: u8, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let header = [&[words, 0], &ethertype.to_be_bytes()[..], &[0, 0, 42, 0]].concat();
    udp_to(6081, &[&header, &vec![0xee; usize::from(words) * 4][..], packet].concat())
}

/// Packets of every shape that has ports, and where the last header ends that must be there.
pub(super) fn packets_with_ports() -> [(Vec<u8>, usize); 15] {
    let chained = extension(FRAGMENT, 0, 8, &fragment(TCP, 1, &tcp(5)));
    let options = Ipv4 { words: 7, ..Ipv4::of(UDP) }.around(&udp());
    let inner = ethernet(0x8100, &tag(0x86dd, &ipv6(TCP, &tcp(5))));
    [
        (ethernet(0x0800, &ipv4(TCP, &tcp(8))), 54),
        (ethernet(0x0800, &options), 50),
        (ethernet(0x8100, &tag(0x0800, &ipv4(UDP, &udp()))), 46),
        (ethernet(0x88a8, &tag(0x8100, &tag(0x0800, &ipv4(TCP, &tcp(5))))), 62),
        (ethernet(0x86dd, &ipv6(UDP, &udp())), 62),
        (ethernet(0x86dd, &ipv6(HOP_BY_HOP, &chained)), 90),
        (ethernet(0x86dd, &ipv6(AUTHENTICATION, &extension(UDP, 4, 24, &udp()))), 86),
        (ethernet(0x0800, &ipv4(ICMP, &icmp(3, &ipv4(TCP, &tcp(5))))), 66),
        (ethernet(0x86dd, &ipv6(ICMPV6, &icmp(1, &ipv6(UDP, &udp())))), 106),
        (ethernet(0x0800, &ipv4(IPIP, &ipv4(UDP, &udp()))), 62),
        (ethernet(0x0800, &ipv4(IPV6, &ipv6(TCP, &tcp(5)))), 94),
        (ethernet(0x86dd, &ipv6(DESTINATION, &extension(IPIP, 0, 8, &ipv4(TCP, &tcp(5))))), 102),
        (ethernet(0x0800, &ipv4(GRE, &gre(0xb000, 0x6558, &inner))), 128),
        (ethernet(0x0800, &ipv4(UDP, &vxlan(&inner))), 128),
        (ethernet(0x86dd, &ipv6(UDP, &geneve(3, 0x0800, &ipv4(UDP, &udp())))), 110),
    ]
}
