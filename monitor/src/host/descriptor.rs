//! What kind of socket a descriptor of a process is, by the tables of the namespace that process is in.
//!
//! `/proc/PID/net` shows those of the process, so no namespace has to be entered.

use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;

use super::holders::socket_inode;
use super::proc::Directory;
use crate::endpoint::SocketKind;

/// The kind of the socket behind a descriptor; `None` where the process or the descriptor is gone, or it is
/// of a kind that has no table.
pub fn kind_of(pid: u32, fd: u32) -> Option<SocketKind> {
    let process = Directory::open(pid).ok()?;
    let link = process.link(&format!("fd/{fd}")).ok()?;
    let inode = socket_inode(link.as_os_str().as_bytes())?;
    TABLES.iter().find_map(|table| {
        let file = BufReader::new(process.file(&format!("net/{}", table.name)).ok()?);
        // A line is at most some two hundred bytes long; what is longer is not of the kernel.
        let mut lines = file.lines().map_while(Result::ok).skip(1).take(MAX_LINES);
        lines.find_map(|line| table.kind(&line, inode))
    })
}

/// One of the kernel's tables of sockets.
struct Table {
    name: &'static str,
    /// Which word of a line is the inode.
    inode: usize,
    kind: fn(u16) -> SocketKind,
}

impl Table {
    /// The kind of a line's socket, if it has this inode.
    fn kind(&self, line: &str, inode: u64) -> Option<SocketKind> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.get(self.inode)?.parse() != Ok(inode) {
            return None;
        }
        // Behind the colon of the local address; a packet socket has none.
        let port = words.get(1).and_then(|local| local.rsplit_once(':'));
        let port = port.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        Some((self.kind)(port.unwrap_or_default()))
    }
}

/// `net/ipv4/tcp_ipv4.c`, `net/ipv4/udp.c`, `net/ipv4/raw.c` and their kin for IPv6 write lines alike;
/// `net/packet/af_packet.c` has its own.
const TABLES: [Table; 7] = [
    Table { name: "tcp", inode: 9, kind: SocketKind::Tcp },
    Table { name: "tcp6", inode: 9, kind: SocketKind::Tcp },
    Table { name: "udp", inode: 9, kind: SocketKind::Udp },
    Table { name: "udp6", inode: 9, kind: SocketKind::Udp },
    Table { name: "raw", inode: 9, kind: |_protocol| SocketKind::Raw },
    Table { name: "raw6", inode: 9, kind: |_protocol| SocketKind::Raw },
    Table { name: "packet", inode: 8, kind: |_nothing| SocketKind::Packet },
];

/// As many sockets as are looked at in one namespace.
const MAX_LINES: usize = 1 << 18;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::{AsRawFd as _, RawFd};

    use super::*;

    #[test]
    fn a_socket_is_known_with_its_port() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::]:0").unwrap();
        let ports = [tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port()];

        let kinds = [own(tcp.as_raw_fd()), own(udp.as_raw_fd())];

        assert_eq!(kinds, [Some(SocketKind::Tcp(ports[0])), Some(SocketKind::Udp(ports[1]))]);
    }

    #[test]
    fn what_is_no_socket_has_no_kind() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();

        assert_eq!(own(file.as_raw_fd()), None);
        assert_eq!(own(RawFd::MAX), None);
    }

    #[test]
    fn a_packet_socket_is_known_by_its_table() {
        let line = "ffff9a3c0b5d2000 3      3    0003   2     1 0      0      48213";
        let packet = TABLES.last().unwrap();

        assert_eq!(packet.kind(line, 48213), Some(SocketKind::Packet));
        assert_eq!(packet.kind(line, 4821), None);
    }

    fn own(fd: RawFd) -> Option<SocketKind> {
        kind_of(std::process::id(), fd.try_into().unwrap())
    }
}
