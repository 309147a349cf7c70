//! The TCP and UDP sockets of a network namespace on given ports, as the kernel lists them.
//!
//! Asked is `sock_diag`, which is exact and gives the socket cookie; where a kernel has no module
//! for it, `/proc/net`, which has neither cookies nor interfaces. What is missing then is said.

mod table;

use std::io;

use netlink_packet_core::{DecodeError, NlasIterator, Parseable as _};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use serde::{Deserialize, Serialize};

use super::netlink::Connection;
use super::netns::{self, Namespace};
use super::proc;
use crate::endpoint::{Endpoint, Family, Transport};

/// A TCP or UDP socket.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Socket {
    /// Socket cookie, unique on the host until reboot; 0 if it is not known.
    pub cookie: u64,
    /// Inode on sockfs, as in `socket:[INODE]`; 0 if no file belongs to it: `TIME_WAIT`, not yet
    /// accepted, or closed while data is on its way.
    pub inode: u64,
    /// User who made it.
    pub uid: u32,
    /// TCP or UDP.
    pub transport: Transport,
    /// State; a UDP socket is `Established` when connected, else `Close`.
    pub state: State,
    /// Family of the socket: a dual-stack IPv6 socket is `Ipv6`, whatever its addresses.
    pub family: Family,
    /// Local address and port; the unspecified address means all.
    pub local: Endpoint,
    /// The other side, where there is one.
    pub remote: Option<Endpoint>,
    /// Index of the interface it is bound to, 0 for none.
    pub interface: u32,
    /// Inode of its network namespace.
    pub netns: u64,
    /// Id of the cgroup in which it was made, in the v2 hierarchy (told from Linux 5.9 on).
    #[serde(default)]
    pub cgroup_id: Option<u64>,
    /// The systemd unit of that cgroup, where somebody has looked it up.
    #[serde(default)]
    pub unit: Option<String>,
}

impl Socket {
    /// Something may come to it from anybody: TCP that listens, or UDP that is not connected.
    pub fn is_listener(&self) -> bool {
        match self.transport {
            Transport::Tcp => self.state == State::Listen,
            Transport::Udp => self.remote.is_none(),
        }
    }

    /// Why no process has it, of one that was closed by the last that had.
    pub const fn unowned(&self) -> Option<&'static str> {
        if self.inode != 0 {
            return None;
        }
        match self.state {
            State::TimeWait => Some(
                "TIME-WAIT: the connection is over, and no process has it; the kernel keeps its \
                 addresses for a minute",
            ),
            State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck => Some(
                "its process has closed it, or is gone; the kernel sends what is left and waits for \
                 the other side",
            ),
            _ => None,
        }
    }
}

/// State of a socket, from `include/net/tcp_states.h`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum State {
    /// Connected.
    Established,
    /// SYN sent.
    SynSent,
    /// SYN received.
    SynRecv,
    /// Closed here, FIN sent.
    FinWait1,
    /// Closed here, FIN acknowledged.
    FinWait2,
    /// Over; waits for stray packets. Has no file and no owner.
    TimeWait,
    /// Neither connected nor listening: bound TCP (told from Linux 6.8 on), UDP.
    Close,
    /// Closed by the other side.
    CloseWait,
    /// Closed by the other side, then here.
    LastAck,
    /// Listens.
    Listen,
    /// Closed on both sides at once.
    Closing,
    /// A number this version does not know.
    Other(u8),
}

impl State {
    /// The word `ss` has for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTAB",
            Self::SynSent => "SYN-SENT",
            Self::SynRecv => "SYN-RECV",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Close => "UNCONN",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
            Self::Other(_) => "UNKNOWN",
        }
    }

    /// Of the kernel's number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            // TCP_NEW_SYN_RECV is a mini socket of the same meaning.
            3 | 12 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            // TCP_BOUND_INACTIVE only exists in requests; should it be answered, it is this.
            7 | 13 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            other => Self::Other(other),
        }
    }
}

/// What [`list`] found in one namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sockets {
    /// The sockets, each once where it has a cookie.
    pub found: Vec<Socket>,
    /// What could not be listed or is not known of the sockets, a sentence each.
    pub degraded: Vec<String>,
}

/// The TCP sockets of all states and UDP sockets of a namespace whose local or remote port is
/// wanted.
///
/// At most 262144 per transport and family; listeners come first in the kernel's order.
pub fn list(namespace: &Namespace, wanted: &(dyn Fn(u16) -> bool + Sync)) -> io::Result<Sockets> {
    netns::within(namespace, || list_here(namespace.netns.inode, wanted))
}

/// As [`list`], of the calling thread's network namespace, whose inode is `netns`.
pub fn list_here(netns: u64, wanted: &dyn Fn(u16) -> bool) -> Sockets {
    let mut sockets = Sockets::default();
    let mut connection = Connection::open(NETLINK_SOCK_DIAG);
    for (transport, family) in TABLES {
        let select = Select { transport, family, netns, wanted };
        let dumped = match &mut connection {
            Ok(connection) => select.dump(connection),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        match dumped {
            Ok((found, incomplete)) => {
                sockets.found.extend(found);
                sockets.degraded.extend(incomplete);
            }
            Err(error) => select.fall_back(&error, &mut sockets),
        }
    }
    // A socket may be told twice: the kernel's tables are walked while they change.
    sockets.found.sort_by_key(|socket| socket.cookie);
    sockets.found.dedup_by(|a, b| a.cookie != 0 && a.cookie == b.cookie);
    sockets
}

/// What `/proc/net` lists of the calling thread's network namespace, whose inode is `netns`: without
/// cookies and interfaces.
pub fn list_proc_here(netns: u64, wanted: &dyn Fn(u16) -> bool) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for (transport, family) in TABLES {
        match table::read(&Select { transport, family, netns, wanted }) {
            Ok(found) => sockets.extend(found),
            // Without IPv6 in the kernel there is no such table.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

/// One table of the kernel and what is wanted of it.
#[derive(Clone, Copy)]
struct Select<'a> {
    transport: Transport,
    family: Family,
    netns: u64,
    wanted: &'a dyn Fn(u16) -> bool,
}

impl Select<'_> {
    fn dump(&self, connection: &mut Connection) -> io::Result<(Vec<Socket>, Option<String>)> {
        let family = match self.family {
            Family::Ipv4 => AF_INET,
            Family::Ipv6 => AF_INET6,
        };
        let request = InetRequest {
            family,
            protocol: self.transport.iana_number(),
            extensions: ExtensionFlags::empty(),
            // Every bit: TCP_BOUND_INACTIVE (13) is one that the crate does not name.
            states: StateFlags::from_bits_retain(u32::MAX),
            socket_id: SocketId::new_v4(),
        };
        let request = SockDiagMessage::InetRequest(request);
        let dump = connection.dump(request, LIMIT, |payload| self.keep(payload))?;
        let torn = dump.is_torn.then(|| "they changed during each reading".to_owned());
        let why = dump.incomplete.or(torn);
        Ok((dump.items, why.map(|why| format!("{} may be missing: {why}", self.name()))))
    }

    /// The socket in an answer, if its port is wanted.
    fn keep(&self, payload: &[u8]) -> Result<Option<Socket>, DecodeError> {
        let header = InetResponseHeader::parse(payload)?;
        let id = header.socket_id;
        let local = Endpoint::new(id.source_address, id.source_port);
        let remote = Endpoint::new(id.destination_address, id.destination_port);
        Ok(self.socket(local, remote).map(|socket| Socket {
            cookie: u64::from_ne_bytes(id.cookie),
            inode: header.inode.into(),
            uid: header.uid,
            state: State::from_number(header.state),
            interface: id.interface_id,
            cgroup_id: cgroup_id(payload),
            ..socket
        }))
    }

    /// A socket of these addresses about which nothing else is known, if its port is wanted.
    fn socket(&self, local: Endpoint, remote: Endpoint) -> Option<Socket> {
        let has_remote = remote.port != 0 || !remote.ip.is_unspecified();
        let is_wanted = (self.wanted)(local.port) || has_remote && (self.wanted)(remote.port);
        if !is_wanted {
            return None;
        }
        Some(Socket {
            cookie: 0,
            inode: 0,
            uid: 0,
            transport: self.transport,
            state: State::Other(0),
            family: self.family,
            local: canonical(local),
            remote: has_remote.then(|| canonical(remote)),
            interface: 0,
            netns: self.netns,
            cgroup_id: None,
            unit: None,
        })
    }

    /// Reads the table from `/proc` instead and says what that means.
    fn fall_back(&self, why: &io::Error, sockets: &mut Sockets) {
        let name = self.name();
        let why = match why.raw_os_error() {
            Some(libc::ENOENT) => "this kernel has no sock_diag for them".to_owned(),
            _ => format!("sock_diag: {}", proc::words(why)),
        };
        match table::read(self) {
            Ok(found) => {
                sockets.found.extend(found);
                let lacking = "come from /proc, without cookies and interfaces";
                sockets.degraded.push(format!("{name} {lacking}: {why}"));
            }
            // Without IPv6 in the kernel there is no such table, and no such socket either.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => {
                let error = proc::words(&error);
                sockets.degraded.push(format!("{name} are not listed: {why}; /proc: {error}"));
            }
        }
    }

    fn name(&self) -> String {
        format!(
            "{} sockets of {} in namespace {}",
            self.transport.name(),
            self.family.name(),
            self.netns
        )
    }
}

/// The attribute behind the header that says in which cgroup the socket was made.
fn cgroup_id(payload: &[u8]) -> Option<u64> {
    let mut attributes = NlasIterator::new(payload.get(HEADER_BYTES..)?).filter_map(Result::ok);
    let attribute = attributes.find(|attribute| attribute.kind() == INET_DIAG_CGROUP_ID)?;
    Some(u64::from_ne_bytes(attribute.value().try_into().ok()?))
}

/// With IPv4-mapped addresses as IPv4, as everywhere.
fn canonical(endpoint: Endpoint) -> Endpoint {
    match endpoint.ip {
        std::net::IpAddr::V4(_) => endpoint,
        std::net::IpAddr::V6(ip) => Endpoint::from_mapped(ip.octets(), endpoint.port),
    }
}

const TABLES: [(Transport, Family); 4] = [
    (Transport::Tcp, Family::Ipv4),
    (Transport::Tcp, Family::Ipv6),
    (Transport::Udp, Family::Ipv4),
    (Transport::Udp, Family::Ipv6),
];

/// `sizeof(struct inet_diag_msg)` of `include/uapi/linux/inet_diag.h`, and an attribute from there.
const HEADER_BYTES: usize = 72;
const INET_DIAG_CGROUP_ID: u16 = 21;

/// Sockets kept of one table: some 30 MB, and more than one port has connections on sane hosts.
const LIMIT: usize = 1 << 18;

#[cfg(test)]
mod tests;
