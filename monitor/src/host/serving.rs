//! Who serves at an address, in whatever network namespace of this host that address is.
//!
//! Read are the tables in `/proc/PID/net` of one process of each namespace, so that none has to be entered. A
//! namespace without a process is not looked at.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::conntrack::Tuple;
use super::holders;
use super::proc::{self, Directory};
use crate::endpoint::{Endpoint, Transport};

/// Where an address is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Place {
    /// In the network namespace with this inode; these processes have the socket that serves there.
    Here {
        /// Inode of the namespace.
        netns: u64,
        /// Pids, none if nobody was found.
        pids: Vec<u32>,
    },
    /// In no namespace of this host that has a process.
    Elsewhere,
}

/// Finds where the destination of a connection is, and who serves it there.
pub fn find(tuple: Tuple) -> Place {
    let mut seen = BTreeSet::new();
    for pid in proc::pids().unwrap_or_default() {
        let Ok(process) = Directory::open(pid) else { continue };
        let Ok(netns) = process.inode("ns/net") else { continue };
        if !seen.insert(netns) || !has_address(&process, tuple.ends.destination.ip) {
            continue;
        }
        return Place::Here { netns, pids: first_held(sockets(&process, tuple), pids) };
    }
    Place::Elsewhere
}

/// Who holds the first of these sockets that somebody holds: a connection may be closed after the table was
/// read, and who listens there still does.
fn first_held(sockets: [BTreeSet<u64>; 2], held: impl Fn(&BTreeSet<u64>) -> Vec<u32>) -> Vec<u32> {
    let [connected, listening] = sockets;
    let holders = held(&connected);
    if holders.is_empty() { held(&listening) } else { holders }
}

/// The processes that hold one of these sockets.
fn pids(sockets: &BTreeSet<u64>) -> Vec<u32> {
    if sockets.is_empty() {
        return Vec::new();
    }
    let held = holders::find(sockets).map(|holders| holders.found).unwrap_or_default();
    let mut pids: Vec<u32> = held.into_iter().map(|holding| holding.pid).collect();
    pids.dedup();
    pids
}

/// Does a process, given by pid and start, have a connection to there?
pub fn is_connected((pid, start_ticks): (u32, u64), transport: Transport, to: Endpoint) -> bool {
    let Ok(process) = Directory::open(pid) else { return false };
    if process.stat().map(|stat| stat.starttime).ok() != Some(start_ticks) {
        return false;
    }
    let is_to = |line: &Line| line.inode != 0 && line.remote == to && line.is_connected;
    let connected: BTreeSet<u64> =
        lines(&process, transport).filter(is_to).map(|line| line.inode).collect();
    !connected.is_empty() && holders::has_one_of(pid, &connected)
}

/// Does the namespace of a process have this address itself?
fn has_address(process: &Directory, ip: IpAddr) -> bool {
    let table = match ip {
        IpAddr::V4(ip) if ip.is_loopback() => return false,
        IpAddr::V4(_) => "net/fib_trie",
        IpAddr::V6(_) => "net/if_inet6",
    };
    let Ok(file) = process.file(table) else { return false };
    let mut lines = BufReader::new(file).lines().map_while(Result::ok).take(MAX_LINES);
    match ip {
        IpAddr::V4(ip) => {
            // `|-- 10.0.0.1` and, a line below, `/32 host LOCAL`.
            let leaf = format!("|-- {ip}");
            let is_leaf = |line: &String| line.trim_start() == leaf;
            while lines.any(|line| is_leaf(&line)) {
                if lines.next().is_some_and(|line| line.contains("/32 host LOCAL")) {
                    return true;
                }
            }
            false
        }
        IpAddr::V6(ip) => {
            let digits = format!("{:032x}", u128::from(ip));
            lines.any(|line| line.starts_with(&digits))
        }
    }
}

/// Inodes of the sockets that have both ends of the connection, and of those that get what else is sent to its
/// destination.
fn sockets(process: &Directory, tuple: Tuple) -> [BTreeSet<u64>; 2] {
    let mut connected = BTreeSet::new();
    let mut listening = BTreeSet::new();
    for Line { local, remote, inode, .. } in lines(process, tuple.transport) {
        let (to, from) = (tuple.ends.destination, tuple.ends.source);
        // An accepted socket has a file only once somebody has accepted it.
        if inode == 0 || local.port != to.port {
            continue;
        }
        if (local, remote) == (to, from) {
            connected.insert(inode);
        } else if remote.port == 0 && (local.ip == to.ip || local.ip.is_unspecified()) {
            listening.insert(inode);
        }
    }
    [connected, listening]
}

/// The sockets of a transport in the namespace of a process.
fn lines(process: &Directory, transport: Transport) -> impl Iterator<Item = Line> {
    let tables = match transport {
        Transport::Tcp => ["net/tcp", "net/tcp6"],
        Transport::Udp => ["net/udp", "net/udp6"],
    };
    let files = tables.into_iter().filter_map(|table| process.file(table).ok());
    files.flat_map(|file| {
        let lines = BufReader::new(file).lines().map_while(Result::ok).skip(1).take(MAX_LINES);
        lines.filter_map(|line| Line::parse(&line))
    })
}

/// A line of a table of sockets.
#[derive(Debug, Eq, PartialEq)]
struct Line {
    local: Endpoint,
    remote: Endpoint,
    /// `TCP_ESTABLISHED`, which a connected UDP socket has as well.
    is_connected: bool,
    inode: u64,
}

impl Line {
    /// `0: 0100007F:0DBC 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 48213 …`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (local, remote) = (endpoint(words.nth(1)?)?, endpoint(words.next()?)?);
        let is_connected = words.next()? == "01";
        Some(Self { local, remote, is_connected, inode: words.nth(5)?.parse().ok()? })
    }
}

/// Words of the host's byte order, and a port.
fn endpoint(text: &str) -> Option<Endpoint> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |digits: &str| Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    if address.len() == 8 {
        return Some(Endpoint::new(word(address)?.into(), port));
    }
    let mut octets = [0; 16];
    for (index, to) in octets.chunks_exact_mut(4).enumerate() {
        let digits = address.get(index.checked_mul(8)?..)?.get(..8)?;
        to.copy_from_slice(&word(digits)?);
    }
    Some(Endpoint::from_mapped(octets, port))
}

/// Lines looked at in one table.
const MAX_LINES: usize = 1 << 18;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::host::conntrack::Ends;

    #[test]
    fn a_line_has_both_ends_and_the_inode() {
        let v4 = "0: 0100007F:0DBC 0200000A:C350 01 00000000:00000000 00:00000000 00000000 0 0 7 1";
        let v6 = "1: 0000000000000000FFFF00000100007F:0DBC 00000000000000000000000000000000:0000 0A \
                  00000000:00000000 00:00000000 00000000 0 0 9 1";

        let told = [v4, v6].map(|line| {
            let Line { local, remote, is_connected, inode } = Line::parse(line).unwrap();
            (local.to_string(), remote.to_string(), is_connected, inode)
        });

        assert_eq!(told[0], ("127.0.0.1:3516".to_owned(), "10.0.0.2:50000".to_owned(), true, 7));
        assert_eq!(told[1], ("127.0.0.1:3516".to_owned(), "[::]:0".to_owned(), false, 9));
        assert_eq!(Line::parse("  sl  local_address rem_address   st"), None);
    }

    #[test]
    fn who_accepted_a_connection_is_found_before_who_listens_and_whoever_gets_datagrams() {
        let own = Directory::open(std::process::id()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        let datagrams = UdpSocket::bind("0.0.0.0:0").unwrap();
        let end = |address: std::net::SocketAddr| Endpoint::new(address.ip(), address.port());
        let tuple = |transport, source, destination| Tuple {
            transport,
            ends: Ends { source: end(source), destination: end(destination) },
        };
        let to = listener.local_addr().unwrap();
        let other = "127.0.0.1:1".parse().unwrap();
        let datagrams_to =
            std::net::SocketAddr::from(([127, 0, 0, 1], datagrams.local_addr().unwrap().port()));

        let found = [
            sockets(&own, tuple(Transport::Tcp, from, to)),
            sockets(&own, tuple(Transport::Tcp, other, to)),
            sockets(&own, tuple(Transport::Udp, from, datagrams_to)),
        ];

        let inode = |fd: std::os::fd::BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        let [accepted, listener, datagrams] =
            [accepted.as_fd(), listener.as_fd(), datagrams.as_fd()]
                .map(|fd| BTreeSet::from([inode(fd)]));
        let none = BTreeSet::new;
        assert_eq!(found, [[accepted, listener.clone()], [none(), listener], [none(), datagrams]]);
        drop(client);
    }

    #[test]
    fn of_a_connection_that_is_closed_meanwhile_whoever_listens_is_told() {
        let [connected, listening] = [1, 2].map(|inode| BTreeSet::from([inode]));
        let held = |by: &'static [(u64, u32)]| {
            move |sockets: &BTreeSet<u64>| {
                let held = by.iter().filter(|(inode, _)| sockets.contains(inode));
                held.map(|(_, pid)| *pid).collect()
            }
        };
        let found = |by| first_held([connected.clone(), listening.clone()], held(by));

        assert_eq!(found(&[(1, 10), (2, 20)]), [10]);
        assert_eq!(found(&[(2, 20)]), [20]);
        assert_eq!(found(&[]), Vec::<u32>::new());
    }

    #[test]
    fn an_address_that_nobody_has_is_elsewhere() {
        let end = |text: &str| Endpoint::new(text.parse().unwrap(), 1);
        let ends = Ends { source: end("198.51.100.7"), destination: end("198.51.100.77") };

        assert_eq!(find(Tuple { transport: Transport::Tcp, ends }), Place::Elsewhere);
    }
}
