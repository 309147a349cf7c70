//! A host made of records: sockets as the hooks tell of them, and one flow made of packets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{FlowKey, FlowRecord, Place, SocketRecord, action};
use zerocopy::FromZeros as _;

use crate::attribution::{Answer, Known, Namespaces, Processes, Sockets, Translations};
use crate::endpoint::{Endpoint, Netns};
use crate::flow::{FlowId, FlowTable, Limits};
use crate::host::netns::Mark;
use crate::owner::{Evidence, Role, Side};
use crate::report::FlowRole;

pub(super) const PORT: u16 = 3516;
pub(super) const CLIENT: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 40_000);
pub(super) const SERVER: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), PORT);
pub(super) const ALL: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);

pub(super) const LISTENER: u64 = 10;
pub(super) const CHILD: u64 = 20;
pub(super) const CLIENT_SOCKET: u64 = 30;

pub(super) const SERVER_PID: u32 = 500;
pub(super) const CLIENT_PID: u32 = 600;

/// The cookie of the namespace packets are seen in, and that of another one.
pub(super) const HERE: u64 = 1;
pub(super) const BLUE: u64 = 2;

pub(super) const START_NS: u64 = 1_000;
pub(super) const JIFFY: u64 = 4_000_000;

/// A packet that opens the flow, as it comes in.
pub(super) const TO_SERVER: Packet = Packet {
    from: CLIENT,
    to: SERVER,
    udp: false,
    egress: false,
    cookie: 0,
    flags: tcp::SYN,
    circumstances: 0,
};

/// A packet as the TC programs announce it.
#[derive(Clone, Copy)]
pub(super) struct Packet {
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    pub(super) udp: bool,
    pub(super) egress: bool,
    pub(super) cookie: u64,
    pub(super) flags: u8,
    /// [`FlowRecord::circumstances`].
    pub(super) circumstances: u16,
}

pub(super) struct Host {
    pub(super) known: Known,
    flows: FlowTable,
    flow: Option<FlowId>,
}

impl Host {
    pub(super) fn new() -> Self {
        let mut namespaces = Namespaces::default();
        let netns = |inode| Netns { inode, name: None };
        namespaces.learn([(netns(1001), Mark::Cookie(HERE)), (netns(1002), Mark::Cookie(BLUE))]);
        let limits = Limits {
            capacity: 4,
            idle_timeout: Duration::from_mins(1),
            update_interval: Duration::from_secs(10),
            jiffy_ns: JIFFY,
        };
        Self {
            known: Known {
                processes: Processes::new(100),
                sockets: Sockets::new(100),
                namespaces,
                observed: HashMap::from([(0, 1001)]),
                translations: Translations::default(),
            },
            flows: FlowTable::new(limits),
            flow: None,
        }
    }

    /// Something happens to a socket.
    pub(super) fn socket(&mut self, record: &SocketRecord) {
        let Known { processes, sockets, namespaces, .. } = &mut self.known;
        sockets.record(record, processes, namespaces);
    }

    /// A packet of the flow is seen.
    pub(super) fn packet(&mut self, packet: Packet) {
        let mut record = FlowRecord::new_zeroed();
        record.header.ktime_ns = START_NS;
        record.cookie = packet.cookie;
        (record.tcp_flags, record.circumstances) = (packet.flags, packet.circumstances);
        record.key = FlowKey::new(
            (mapped(packet.from), packet.from.port),
            (mapped(packet.to), packet.to.port),
            place(packet),
        );
        self.flows.announce(&record, &"3516".parse().unwrap());
        self.flow = Some(FlowId::of(&record.key).0);
    }

    pub(super) fn of_socket(&self, cookie: u64) -> Answer {
        self.known.of_socket(self.known.sockets.get(cookie).unwrap())
    }

    pub(super) fn of_flow(&self, role: Option<FlowRole>) -> Answer {
        self.known.of_flow(self.flows.get(&self.flow.unwrap()).unwrap(), role)
    }
}

/// Each owner, without what is known of the process but its pid.
pub(super) fn owners(answer: &Answer) -> Vec<(Option<Side>, Role, Evidence, u32)> {
    let owners = answer.attribution.owners.iter();
    owners.map(|owner| (owner.side, owner.role, owner.evidence, owner.process.pid)).collect()
}

/// A server listens for TCP.
pub(super) fn listen(cookie: u64, local: Endpoint) -> SocketRecord {
    SocketRecord {
        action: action::LISTEN,
        tgid: SERVER_PID,
        in_process: 1,
        ..tcp_socket(cookie, local)
    }
}

/// A server binds a UDP socket.
pub(super) fn bind_udp(cookie: u64, local: Endpoint) -> SocketRecord {
    SocketRecord { action: action::BIND, protocol: 17, ..listen(cookie, local) }
}

/// A client connects to the server.
pub(super) fn connect(cookie: u64) -> SocketRecord {
    let (remote, remote_port) = (mapped(SERVER), SERVER.port);
    let socket = SocketRecord { remote, remote_port, ..tcp_socket(cookie, CLIENT) };
    SocketRecord { action: action::CONNECT, tgid: CLIENT_PID, in_process: 1, ..socket }
}

/// The kernel completes a handshake with the client, in nobody's context.
pub(super) fn accept(cookie: u64) -> SocketRecord {
    let (remote, remote_port) = (mapped(CLIENT), CLIENT.port);
    let socket = SocketRecord { remote, remote_port, ..tcp_socket(cookie, SERVER) };
    SocketRecord { action: action::ESTABLISHED_PASSIVE, ..socket }
}

/// A worker of the server receives a datagram from the client.
pub(super) fn receive(cookie: u64) -> SocketRecord {
    let (remote, remote_port) = (mapped(CLIENT), CLIENT.port);
    let socket = SocketRecord { remote, remote_port, netns_cookie: 0, ..bind_udp(cookie, ALL) };
    SocketRecord { action: action::RECEIVE, tgid: SERVER_PID + 2, local: [0; 16], ..socket }
}

/// The same record, written at another time.
pub(super) const fn at(ktime_ns: u64, mut record: SocketRecord) -> SocketRecord {
    record.header.ktime_ns = ktime_ns;
    record
}

fn tcp_socket(cookie: u64, local: Endpoint) -> SocketRecord {
    let mut record = SocketRecord::new_zeroed();
    record.header.ktime_ns = 1;
    let (address, local_port) = (mapped(local), local.port);
    let family = if local.ip.is_ipv6() { 6 } else { 4 };
    let socket = SocketRecord { cookie, netns_cookie: HERE, family, protocol: 6, ..record };
    SocketRecord { local: address, local_port, ..socket }
}

fn mapped(endpoint: Endpoint) -> [u8; 16] {
    match endpoint.ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// At interface 2.
fn place(packet: Packet) -> u32 {
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    2 << Place::INTERFACE_SHIFT
        | flag(packet.egress, Place::EGRESS)
        | flag(packet.udp, Place::UDP)
        | flag(packet.to.ip.is_ipv6(), Place::IPV6)
}
