//! The tables a record goes into, and records of what a process does with one socket.

use std::net::{IpAddr, Ipv4Addr};

use monitor_ebpf::wire::{SocketRecord, kind};
use zerocopy::FromZeros as _;

use crate::attribution::{Namespaces, OwnerKey, Processes, Socket, Sockets};
use crate::endpoint::{Endpoint, Family, Netns, Transport};
use crate::host;
use crate::host::sockets::State;
use crate::owner::{Evidence, Role};

pub(super) const COOKIE: u64 = 100;
pub(super) const NETNS: u64 = 5;
pub(super) const INODE: u64 = 4_026_531_840;
pub(super) const PID: u32 = 4712;
pub(super) const PORT: u16 = 3516;
pub(super) const LOCAL: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), PORT);
pub(super) const REMOTE: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 40_000);

/// The tables a record goes into.
pub(super) struct Host {
    pub(super) sockets: Sockets,
    pub(super) processes: Processes,
    pub(super) namespaces: Namespaces,
}

impl Host {
    pub(super) fn new() -> Self {
        Self::with_capacity(1000)
    }

    pub(super) fn with_capacity(sockets: usize) -> Self {
        Self {
            sockets: Sockets::new(sockets),
            processes: Processes::new(1000),
            namespaces: Namespaces::default(),
        }
    }

    pub(super) fn record(&mut self, record: &SocketRecord) {
        self.sockets.record(record, &mut self.processes, &mut self.namespaces);
    }

    /// What the socket looks like after `bind`, but for the owner's key.
    pub(super) fn bound(&self, transport: Transport) -> Socket {
        Socket {
            cookie: COOKIE,
            transport,
            family: Family::Ipv4,
            netns_cookie: NETNS,
            netns: None,
            local: Some(LOCAL),
            remote: None,
            addressed: None,
            interface: 0,
            listens: false,
            found: false,
            since_ns: 1,
            closed_ns: None,
            released: false,
            unit: None,
            unowned: None,
            stranger: None,
            kernel: None,
            registrar: None,
            owners: self
                .sockets
                .get(COOKIE)
                .map(|socket| socket.owners.clone())
                .unwrap_or_default(),
        }
    }

    pub(super) fn owners(&self, cookie: u64) -> Vec<(Role, Evidence, u32)> {
        let owners = self.sockets.get(cookie).map(|socket| socket.owners.clone());
        let pid = |owner: &OwnerKey| self.processes.get(owner.process).unwrap().0.pid;
        let known = owners.unwrap_or_default();
        known.iter().map(|owner| (owner.role, owner.evidence, pid(owner))).collect()
    }

    pub(super) fn listeners(&self, transport: Transport, port: u16) -> Vec<u64> {
        self.sockets.listeners(transport, port).map(|socket| socket.cookie).collect()
    }

    pub(super) fn with_ends(&self, local: Endpoint, remote: Endpoint) -> Vec<u64> {
        let sockets = self.sockets.with_ends(Transport::Tcp, local, remote);
        sockets.map(|socket| socket.cookie).collect()
    }
}

pub(super) fn blue() -> Netns {
    Netns { inode: INODE, name: Some("blue".to_owned()) }
}

pub(super) fn tcp(action: u8) -> SocketRecord {
    SocketRecord { protocol: 6, ..record(action) }
}

pub(super) fn udp(action: u8) -> SocketRecord {
    SocketRecord { protocol: 17, ..record(action) }
}

pub(super) fn connection(cookie: u64, action: u8) -> SocketRecord {
    SocketRecord { cookie, remote: mapped(REMOTE), remote_port: REMOTE.port, ..tcp(action) }
}

pub(super) fn at(ktime_ns: u64, mut record: SocketRecord) -> SocketRecord {
    record.header.ktime_ns = ktime_ns;
    record
}

/// What a process does with the socket at [`LOCAL`].
fn record(action: u8) -> SocketRecord {
    let mut record = SocketRecord::new_zeroed();
    record.header.kind = kind::SOCKET;
    record.comm[..4].copy_from_slice(b"card");
    let (local, local_port) = (mapped(LOCAL), PORT);
    let task = SocketRecord { tgid: PID, tid: PID, uid: 990, in_process: 1, ..record };
    let socket = SocketRecord { cookie: COOKIE, netns_cookie: NETNS, family: 4, action, ..task };
    at(1, SocketRecord { local, local_port, ..socket })
}

fn mapped(endpoint: Endpoint) -> [u8; 16] {
    match endpoint.ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// A listener as `sock_diag` tells it.
pub(super) fn listening(cookie: u64) -> host::sockets::Socket {
    host::sockets::Socket {
        cookie,
        inode: 77,
        uid: 990,
        transport: Transport::Tcp,
        state: State::Listen,
        family: Family::Ipv4,
        local: LOCAL,
        remote: None,
        interface: 7,
        netns: INODE,
        cgroup_id: None,
        unit: None,
    }
}
