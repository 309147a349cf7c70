//! Listeners, flows and samples.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use monitor_ebpf::wire::InterfaceId;

use crate::app::{Confidence, Http, Likeness, Measure, Protocol, Speaker, Tls};
use crate::endpoint::{Direction, Endpoint, Family, Interface, Netns, Transport};
use crate::owner::{
    Attribution, Container, Context, Evidence, Image, Integrity, Owner, Ownership, Package,
    Packaging, Process, Role, Side,
};
use crate::report::{
    FlowChange, FlowReport, FlowRole, InterfaceReport, ListenerReport, PlaceCount, SampleReport,
    Verdict,
};

use super::process::{attribution, owner, python, python_package};
use super::{START_NS, near_miss};

pub(in crate::output) fn listener() -> ListenerReport {
    ListenerReport {
        local: endpoint("0.0.0.0", 3516),
        transport: Transport::Tcp,
        family: Family::Ipv4,
        netns: Some(host_netns()),
        interface: None,
        cookie: 4_113,
        unit: Some("session-3.scope".to_owned()),
        attribution: attribution(vec![owner(None, Role::User, Evidence::Exact, python())]),
        verdict: Verdict::Unknown { nearest: Some(near_miss()) },
    }
}

pub(in crate::output) fn expected_listener() -> ListenerReport {
    let process = Process {
        pid: 812,
        name: "cardbridged".to_owned(),
        executable: Some("/usr/sbin/cardbridged".into()),
        uid: Some(998),
        unit: Some("cardbridged.service".to_owned()),
        slice: Some("kubepods-burstable.slice".to_owned()),
        container: Some(Container {
            id: "4f1d2b".to_owned(),
            runtime: Some("containerd".into()),
            pod_uid: Some("1a2b3c4d-0000-4aaa-8bbb-123456789abc".to_owned()),
            name: Some("card-bridge".to_owned()),
            image: Some(Image {
                name: "registry.example/cardbridge:1.4".to_owned(),
                id: Some("sha256:41d2".to_owned()),
                digests: vec!["registry.example/cardbridge@sha256:9f2c".to_owned()],
            }),
            pod_namespace: Some("badges".to_owned()),
            pod_name: Some("card-bridge-7d9f".to_owned()),
        }),
        on_host: Some(false),
        context: Context { inner_pid: Some(1), ..Context::default() },
        ..Process::default()
    };
    ListenerReport {
        local: endpoint("127.0.0.1", 3516),
        netns: Some(Netns { inode: 4_026_532_301, name: Some("blue".to_owned()) }),
        interface: Some("lo".to_owned()),
        cookie: 17,
        unit: Some("card-bridge.socket".to_owned()),
        attribution: attribution(vec![
            owner(None, Role::Holder, Evidence::Observed, process.clone()),
            Owner {
                exited: true,
                ..owner(None, Role::Opener, Evidence::Exact, Process { pid: 811, ..process })
            },
        ]),
        verdict: Verdict::Expected {
            rule: "card-bridge".to_owned(),
            reason: Some("smart-card bridge of the badge office".to_owned()),
        },
        ..listener()
    }
}

/// Every name is chosen by an attacker, and the executable is gone.
pub(in crate::output) fn hostile_listener() -> ListenerReport {
    let process = Process {
        pid: 666,
        name: "sh\u{1b}[2J\nok".to_owned(),
        executable: Some("/tmp/a b\u{202e}gpj".into()),
        deleted: true,
        world_writable: Some("/tmp".into()),
        args: vec!["sh".to_owned(), String::new(), "\u{9b}31m".to_owned()],
        user: Some("eve\u{7f}".to_owned()),
        missing: vec!["start time: gone before it could be read".to_owned()],
        ..Process::default()
    };
    ListenerReport {
        local: endpoint("::", 3516),
        transport: Transport::Udp,
        family: Family::Ipv6,
        attribution: attribution(vec![owner(None, Role::Opener, Evidence::Inferred, process)]),
        verdict: Verdict::Unknown { nearest: None },
        ..listener()
    }
}

pub(in crate::output) fn kernel_listener() -> ListenerReport {
    ListenerReport {
        local: endpoint("::1", 3516),
        transport: Transport::Udp,
        family: Family::Ipv6,
        attribution: Attribution {
            ownership: Ownership::Kernel,
            reason: "no process has a descriptor of this socket".to_owned(),
            owners: Vec::new(),
        },
        verdict: Verdict::Unknown { nearest: None },
        ..listener()
    }
}

pub(in crate::output) fn flow(change: FlowChange) -> FlowReport {
    let (sent, sent_bytes, received, received_bytes, last_ns) = match change {
        FlowChange::Started => (1, 60, 0, 0, 500_123_456),
        FlowChange::Updated => (8, 960, 6, 4_812, 5_499_000_001),
        FlowChange::Ended(_) => (12, 1_432, 9, 6_812, 7_249_999_999),
    };
    let mut interfaces = vec![place(Direction::Ingress, sent, sent_bytes)];
    if received > 0 {
        interfaces.push(place(Direction::Egress, received, received_bytes));
    }
    FlowReport {
        source: endpoint("10.0.0.2", 40_112),
        destination: endpoint("10.0.0.1", 3516),
        transport: Transport::Tcp,
        family: Family::Ipv4,
        port: 3516,
        direction: Direction::Ingress,
        role: Some(FlowRole::Server),
        source_packets: sent,
        source_bytes: sent_bytes,
        destination_packets: received,
        destination_bytes: received_bytes,
        start_unix_ns: START_NS + 500_123_456,
        last_unix_ns: START_NS + last_ns,
        tcp_flags: Some(if received > 0 { 0x1b } else { 0x02 }),
        state: (received > 0).then_some("ESTAB"),
        netns: Some(host_netns()),
        interfaces,
        community_id: "1:sSDF8JD7WKHHDZ5kKgM3QGvnXWo=".to_owned(),
        app: (received > 0).then(|| Arc::new(http())),
        nat: None,
        attribution: attribution(vec![owner(
            Some(Side::Destination),
            Role::User,
            Evidence::Exact,
            python(),
        )]),
    }
}

fn http() -> Likeness {
    Likeness {
        protocol: Protocol::Http,
        confidence: Some(Confidence::Certain),
        first_speaker: Some(Speaker::Source),
        version: Some("1.1".to_owned()),
        details: vec!["GET".to_owned(), "status 200".to_owned()],
        tls: None,
        http: Some(Http {
            method: Some("GET".to_owned()),
            version: Some("1.1".into()),
            status: Some(200),
        }),
        measure: None,
    }
}

/// With a name that an attacker chose.
fn tls() -> Likeness {
    Likeness {
        protocol: Protocol::Tls,
        version: Some("1.3".to_owned()),
        details: vec!["Encrypted Client Hello: the name may be a cover".to_owned()],
        tls: Some(Box::new(Tls {
            version: Some("1.3".into()),
            offered: Some("1.3".into()),
            server_name: Some("example.org\u{1b}[2J".to_owned()),
            alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
            next_protocol: Some("h2".to_owned()),
            ja3: Some("ada70206e40642a3e4461f35503241d5".to_owned()),
            ja4: Some("t13d1516h2_8daaf6152771_e5627efa2ab1".to_owned()),
            ech: true,
        })),
        http: None,
        ..http()
    }
}

fn opaque() -> Likeness {
    Likeness {
        protocol: Protocol::Opaque,
        confidence: None,
        version: None,
        details: Vec::new(),
        http: None,
        measure: Some(Measure { bytes: 300, entropy: 7.31, printable: 0.37 }),
        ..http()
    }
}

pub(in crate::output) fn refused_flow() -> FlowReport {
    FlowReport {
        source: endpoint("fe80::1", 5_000),
        destination: endpoint("fe80::2", 3516),
        family: Family::Ipv6,
        role: Some(FlowRole::Refused),
        app: Some(Arc::new(opaque())),
        state: None,
        netns: None,
        attribution: Attribution {
            ownership: Ownership::None,
            reason: "no socket in any namespace listens here".to_owned(),
            owners: Vec::new(),
        },
        ..flow(FlowChange::Started)
    }
}

/// As a scan reports it: no packet was counted, both ends are on this host.
/// Both ends have other names where the server is.
pub(in crate::output) fn translated_flow() -> FlowReport {
    let there = (endpoint("10.0.3.1", 1024), endpoint("10.0.3.2", 22));
    FlowReport { nat: Some(there), ..flow(FlowChange::Started) }
}

pub(in crate::output) fn loopback_connection() -> FlowReport {
    let curl = Process {
        pid: 5_123,
        name: "curl".to_owned(),
        executable: Some("/usr/bin/curl".into()),
        on_host: Some(true),
        packaging: Packaging::Package(Package {
            name: "curl".to_owned(),
            integrity: Integrity::Unverifiable("the package has no checksum of it".to_owned()),
            ..python_package()
        }),
        uid: Some(1_000),
        user: Some("alice".to_owned()),
        ..Process::default()
    };
    FlowReport {
        source: endpoint("127.0.0.1", 51_000),
        destination: endpoint("127.0.0.1", 3516),
        role: None,
        app: Some(Arc::new(tls())),
        source_packets: 0,
        source_bytes: 0,
        direction: Direction::Egress,
        tcp_flags: None,
        state: Some("ESTAB"),
        interfaces: Vec::new(),
        community_id: String::new(),
        nat: None,
        attribution: attribution(vec![
            owner(Some(Side::Source), Role::Holder, Evidence::Observed, curl),
            owner(Some(Side::Destination), Role::User, Evidence::Exact, python()),
        ]),
        ..flow(FlowChange::Started)
    }
}

pub(in crate::output) fn sample() -> SampleReport {
    SampleReport {
        netns: host_netns(),
        source: endpoint("10.0.0.2", 40_112),
        destination: endpoint("10.0.0.1", 3516),
        transport: Transport::Tcp,
        community_id: "1:sSDF8JD7WKHHDZ5kKgM3QGvnXWo=".to_owned(),
        interface: eth0().interface,
        direction: Direction::Ingress,
        length: 102,
        represents: 1,
        captured: 102,
        data: [
            b"\x45\0\0\x66\x1c\x46\x40\0\x40\x06\0\0\x0a\0\0\x02\x0a\0\0\x01".as_slice(),
            b"\x9c\xb0\x0d\xbc\0\0\0\x01\0\0\0\x01\x50\x18\xfa\xf0\0\0\0\0",
            b"GET / HTTP/1.1\r\nHost:\0\0\0\0\0\0\0\0\0\0\0\0\0\0\r\nUser-Agent:\0\0\0\0\0\0\0\0\0\0\0\0\r\n",
        ]
        .concat()
        .into(),
        blanked: 26,
        packet: Bytes::new(),
        near: None,
    }
}

pub(in crate::output) fn empty_sample() -> SampleReport {
    SampleReport {
        data: Bytes::new(),
        blanked: 0,
        direction: Direction::Egress,
        represents: 10,
        ..sample()
    }
}

pub(in crate::output) fn place(direction: Direction, packets: u64, bytes: u64) -> PlaceCount {
    let InterfaceReport { interface, netns, .. } = eth0();
    PlaceCount { interface, netns, direction, packets, bytes }
}

pub(in crate::output) fn eth0() -> InterfaceReport {
    InterfaceReport {
        interface: Interface { ifindex: 2, name: "eth0".to_owned() },
        netns: host_netns(),
        id: InterfaceId::new(0, 2),
        mode: "tcx".into(),
    }
}

pub(in crate::output) fn host_netns() -> Netns {
    Netns { inode: 4_026_531_840, name: None }
}

pub(in crate::output) fn endpoint(ip: &str, port: u16) -> Endpoint {
    Endpoint::new(ip.parse::<IpAddr>().unwrap(), port)
}
