//! A SYN as a raw socket shows it, and the answer of somebody who has no listener: RFC 9293, section 3.1.

use std::net::{Ipv4Addr, SocketAddrV4};

use monitor_ebpf::packet::tcp::{ACK, SYN, opens};

const HEADER: usize = 20;
const TCP: u8 = 6;

/// A connection attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Syn {
    /// Who wants to connect.
    pub(super) source: SocketAddrV4,
    /// Where to.
    pub(super) destination: SocketAddrV4,
    /// Its initial sequence number.
    pub(super) sequence: u32,
}

impl Syn {
    /// Reads an IPv4 packet as a raw socket gives it; `None` if it is anything else.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let words = usize::from(packet.first()? & 0x0f);
        let address = |at: usize| {
            let bytes = packet.get(at..)?.first_chunk::<4>()?;
            Some(Ipv4Addr::from(*bytes))
        };
        let tcp = packet.get(words.checked_mul(4)?..)?;
        let port = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
        let sequence = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
        opens(*tcp.get(13)?).then_some(())?;
        Some(Self {
            source: SocketAddrV4::new(address(12)?, port(0)?),
            destination: SocketAddrV4::new(address(16)?, port(2)?),
            sequence,
        })
    }
}

/// The segment that a listener would answer with; the kernel writes the IP header.
pub(super) fn syn_ack(syn: &Syn) -> Vec<u8> {
    let mut segment = Vec::with_capacity(HEADER);
    segment.extend(syn.destination.port().to_be_bytes());
    segment.extend(syn.source.port().to_be_bytes());
    segment.extend(1_u32.to_be_bytes());
    segment.extend(syn.sequence.wrapping_add(1).to_be_bytes());
    // Header of five words; a window of 64 KiB; no urgent data.
    segment.extend([5 << 4, SYN | ACK, 0xff, 0xff]);
    let mut rest = [0; 4];
    let sum = checksum(*syn.destination.ip(), *syn.source.ip(), &segment);
    if let Some(place) = rest.first_chunk_mut() {
        *place = sum.to_be_bytes();
    }
    segment.extend(rest);
    segment
}

/// The checksum over the pseudo header and a segment that has none yet: RFC 9293, section 3.1.
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let length = u16::try_from(HEADER).unwrap_or_default().to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &[0, TCP], &length].concat();
    let words = pseudo.chunks_exact(2).chain(segment.chunks_exact(2));
    let word = |pair: &[u8]| pair.first_chunk().map_or(0, |pair| u16::from_be_bytes(*pair));
    let sum = words.fold(0_u32, |sum, pair| sum + u32::from(word(pair)));
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 40_000);
    const PORT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 3516);

    #[test]
    fn a_syn_is_read_and_nothing_else_is() {
        let syn = packet(SYN);

        let expected = Syn { source: CLIENT, destination: PORT, sequence: 7 };
        assert_eq!(Syn::read(&syn), Some(expected));
        assert_eq!(Syn::read(&packet(SYN | ACK)), None);
        assert_eq!(Syn::read(&packet(ACK)), None);
        assert!((0..34).all(|length| Syn::read(&syn[..length]).is_none()));
    }

    #[test]
    fn the_answer_acknowledges_the_syn_and_its_checksum_holds() {
        let syn = Syn { source: CLIENT, destination: PORT, sequence: u32::MAX };

        let answer = syn_ack(&syn);

        assert_eq!(answer.len(), HEADER);
        assert_eq!(answer[..4], [0x0d, 0xbc, 0x9c, 0x40]);
        assert_eq!(answer[8..12], [0; 4]);
        assert_eq!(answer[13], SYN | ACK);
        // With its own checksum in it a right segment sums up to nothing.
        assert_eq!(checksum(*PORT.ip(), *CLIENT.ip(), &answer), 0);
    }

    fn packet(flags: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[12..16].copy_from_slice(&CLIENT.ip().octets());
        packet[16..20].copy_from_slice(&PORT.ip().octets());
        packet[20..22].copy_from_slice(&CLIENT.port().to_be_bytes());
        packet[22..24].copy_from_slice(&PORT.port().to_be_bytes());
        packet[27] = 7;
        packet[33] = flags;
        packet
    }
}
