//! The packet sockets of a network namespace, with the classic programs that filter what they receive:
//! `packet_diag`, which `ss -0 --bpf` asks.

use std::io;

use netlink_packet_core::{DecodeError, NetlinkSerializable, NlasIterator};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink::Connection;
use crate::filter::Filter;

/// A packet socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PacketSocket {
    /// Its cookie.
    pub cookie: u64,
    /// Inode of its file.
    pub inode: u64,
    /// What it receives: an ethertype, or 3 for everything.
    pub protocol: u16,
    /// The interface it is bound to; 0: all.
    pub ifindex: u32,
    /// The program that filters it, where the kernel tells (to who has `CAP_NET_ADMIN`).
    pub filter: Option<Filter>,
}

/// Those of the calling thread's network namespace.
pub fn list_here() -> io::Result<Vec<PacketSocket>> {
    let mut connection = Connection::open(NETLINK_SOCK_DIAG)?;
    Ok(connection.dump(Request, LIMIT, |answer| parse(answer).map(Some))?.items)
}

/// `struct packet_diag_req` of `include/uapi/linux/packet_diag.h`.
struct Request;

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        20
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let family = u8::try_from(libc::AF_PACKET).unwrap_or_default();
        let head = [family, 0, 0, 0, 0, 0, 0, 0];
        let request = [&head[..], &PACKET_SHOW.to_ne_bytes(), &[0xff; 8]].concat();
        for (to, from) in buffer.iter_mut().zip(request) {
            *to = from;
        }
    }
}

/// `struct packet_diag_msg` and its attributes.
fn parse(answer: &[u8]) -> Result<PacketSocket, DecodeError> {
    let head = answer.first_chunk::<MESSAGE_BYTES>().ok_or("a packet socket is cut short")?;
    let [_family, _kind, n0, n1, i0, i1, i2, i3, cookie @ ..] = *head;
    let mut socket = PacketSocket {
        cookie: u64::from_ne_bytes(cookie),
        inode: u32::from_ne_bytes([i0, i1, i2, i3]).into(),
        protocol: u16::from_ne_bytes([n0, n1]),
        ifindex: 0,
        filter: None,
    };
    let attributes = answer.get(MESSAGE_BYTES..).unwrap_or_default();
    for attribute in NlasIterator::new(attributes).filter_map(Result::ok) {
        match attribute.kind() {
            PACKET_DIAG_INFO => {
                let index = attribute.value().first_chunk();
                socket.ifindex = index.map_or(0, |index| u32::from_ne_bytes(*index));
            }
            PACKET_DIAG_FILTER => socket.filter = Filter::parse(attribute.value()),
            _ => {}
        }
    }
    Ok(socket)
}

/// Packet sockets looked at in one namespace.
const LIMIT: usize = 1 << 14;

// include/uapi/linux/sock_diag.h and packet_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `PACKET_SHOW_INFO` and `PACKET_SHOW_FILTER`.
const PACKET_SHOW: u32 = 0x01 | 0x20;
const MESSAGE_BYTES: usize = 16;
const PACKET_DIAG_INFO: u16 = 0;
const PACKET_DIAG_FILTER: u16 = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Instruction;

    #[test]
    fn a_packet_socket_is_known_with_its_filter() {
        let mut answer = vec![17, 3];
        answer.extend(3_u16.to_ne_bytes());
        answer.extend(4711_u32.to_ne_bytes());
        answer.extend(99_u64.to_ne_bytes());
        answer.extend([28_u16.to_ne_bytes(), 0_u16.to_ne_bytes()].concat());
        answer.extend(2_u32.to_ne_bytes());
        answer.extend([0; 20]);
        answer.extend([12_u16.to_ne_bytes(), 7_u16.to_ne_bytes()].concat());
        answer.extend([6, 0, 0, 0, 1, 0, 0, 0]);

        let all = Instruction { code: 6, jump_true: 0, jump_false: 0, k: 1 };
        let expected = PacketSocket {
            cookie: 99,
            inode: 4711,
            protocol: 3,
            ifindex: 2,
            filter: Some(Filter { instructions: vec![all] }),
        };
        assert_eq!(parse(&answer).unwrap(), expected);
        for length in 0..answer.len() {
            drop(parse(&answer[..length]));
        }
    }
}
