//! Ethernet frames of the kinds that are measured.

/// A frame with its name in the report.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// The port that portwatch watches by default.
pub(crate) const WATCHED: u16 = 3516;
/// A port that it does not watch, and that nobody else uses.
pub(crate) const UNWATCHED: u16 = 3517;
const OTHER: u16 = 443;
const CLIENT: u16 = 40_000;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PUSH: u8 = 0x08;

/// Where the source address of an IPv4 packet lies in a frame.
pub(crate) const IPV4_SOURCE: i16 = 14 + 12;

/// TCP over IPv4 and IPv6, and UDP, to a port.
fn traffic(port: u16, names: [&'static str; 3]) -> [Frame; 3] {
    let [ipv4_tcp, ipv6_tcp, ipv4_udp] = names;
    [
        Frame { name: ipv4_tcp, bytes: ipv4(TCP, &tcp(port, PUSH | ACK, 64)) },
        Frame { name: ipv6_tcp, bytes: ipv6(TCP, &tcp(port, PUSH | ACK, 64)) },
        Frame { name: ipv4_udp, bytes: ipv4(UDP, &udp(port, 1400)) },
    ]
}

/// Packets that are counted in a flow.
pub(crate) fn hits() -> [Frame; 3] {
    traffic(
        WATCHED,
        ["known flow, IPv4 TCP", "known flow, IPv6 TCP", "known flow, IPv4 UDP 1400 B"],
    )
}

/// Packets to other ports.
pub(crate) fn misses() -> [Frame; 3] {
    traffic(OTHER, ["other port, IPv4 TCP", "other port, IPv6 TCP", "other port, IPv4 UDP 1400 B"])
}

/// A packet without an IP header.
pub(crate) fn arp() -> Frame {
    let mut bytes = ethernet(0x0806);
    bytes.resize(60, 0);
    Frame { name: "ARP", bytes }
}

/// A TCP packet without payload, which is never one of the first packets of a flow to be sampled.
pub(crate) fn bare_ack() -> Vec<u8> {
    ipv4(TCP, &tcp(WATCHED, ACK, 0))
}

/// The first packet of a connection.
pub(crate) fn syn() -> Vec<u8> {
    ipv4(TCP, &tcp(WATCHED, SYN, 0))
}

/// Hostile: begins and ends a connection at once, so that each such packet starts its flow again.
pub(crate) fn syn_fin() -> Vec<u8> {
    ipv4(TCP, &tcp(WATCHED, SYN | FIN, 0))
}

/// A datagram of 64 bytes to the watched port or another one that a host would deliver.
pub(crate) fn datagram(watched: bool) -> Vec<u8> {
    const IPV4: std::ops::Range<usize> = 14..34;
    const CHECKSUM: std::ops::Range<usize> = 24..26;
    let mut frame = ipv4(UDP, &udp(if watched { WATCHED } else { UNWATCHED }, 64));
    // RFC 1071: the one's complement of the one's complement sum. UDP goes without.
    let (words, _) = frame.get(IPV4).unwrap_or_default().as_chunks();
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    let [_, _, checksum @ ..] = (!(folded + (folded >> 16))).to_be_bytes();
    if let Some(field) = frame.get_mut(CHECKSUM) {
        field.copy_from_slice(&checksum);
    }
    frame
}

fn ethernet(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(0x0800);
    frame.extend([0x45, 0]);
    frame.extend(length(20, payload));
    // No identification, don't fragment, time to live, protocol, no checksum: nobody checks it here.
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend([10, 0, 0, 1]);
    frame.extend([10, 0, 0, 2]);
    frame.extend(payload);
    frame
}

fn ipv6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(0x86dd);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length(0, payload));
    frame.extend([protocol, 64]);
    for last in [1, 2] {
        frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    frame.extend(payload);
    frame
}

fn tcp(port: u16, flags: u8, payload: usize) -> Vec<u8> {
    let mut segment = Vec::from(CLIENT.to_be_bytes());
    segment.extend(port.to_be_bytes());
    // Sequence and acknowledgement number, a header of five words, flags, window, checksum, urgent.
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    segment.resize(20 + payload, b'.');
    segment
}

fn udp(port: u16, payload: usize) -> Vec<u8> {
    let mut datagram = Vec::from(CLIENT.to_be_bytes());
    datagram.extend(port.to_be_bytes());
    datagram.extend(length(8, &vec![0; payload]));
    datagram.extend([0, 0]);
    datagram.resize(8 + payload, b'.');
    datagram
}

/// A length field: `header` bytes and the payload.
fn length(header: usize, payload: &[u8]) -> [u8; 2] {
    u16::try_from(header + payload.len()).unwrap_or(u16::MAX).to_be_bytes()
}
