//! A network namespace: its sockets, its interfaces and where they lead, its rules.

use std::io;
use std::path::Path;

use netlink_packet_core::{NetlinkDeserializable as _, NetlinkHeader};
use netlink_packet_route::RouteNetlinkMessage as Route;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use serde_json::json;

use super::super::netlink::Connection;
use super::super::netns::{self, Namespace};
use super::super::packet_sockets;
use super::super::sockets::{self, Socket};
use super::{Artifact, Content, Lines, Sink, TABLE_BYTES, read_path, rules, words};
use crate::endpoint::Endpoint;

/// Tells of a network namespace, all that it has to do with whichever port.
pub fn of_namespace(namespace: &Namespace, tell: &mut Sink<'_>) -> io::Result<()> {
    netns::within(namespace, || here(namespace.netns.inode, tell))
}

fn here(netns: u64, tell: &mut Sink<'_>) {
    let mut told = tell(sockets(netns)) && tell(packet_sockets());
    for (name, request, answer) in requests() {
        told = told && tell(dump(name, request, answer));
    }
    for (name, source, content) in rules::here() {
        let content = content.map_err(|error| words(&error));
        told = told && tell(Artifact { name, source: source.to_owned(), content });
    }
    for name in PROC_NET {
        let source = format!("/proc/thread-self/net/{name}");
        match read_path(Path::new(&source), TABLE_BYTES) {
            // A protocol that this kernel does not have, or has not loaded.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            content => {
                let content = content.map_err(|error| words(&error));
                told = told && tell(Artifact { name, source, content });
            }
        }
    }
}

fn sockets(netns: u64) -> Artifact {
    let sockets = sockets::list_here(netns, &|_port| true);
    let mut lines = Lines::default();
    for socket in &sockets.found {
        let Socket { cookie, inode, uid, transport, state, family, .. } = socket;
        lines.push(&json!({
            "transport": transport.name(),
            "family": family.name(),
            "state": state.name(),
            "local": socket.local.to_string(),
            "remote": socket.remote.as_ref().map(Endpoint::to_string),
            "inode": inode,
            "cookie": cookie,
            "uid": uid,
            "ifindex": socket.interface,
            "cgroup_id": socket.cgroup_id,
        }));
    }
    lines.lack(sockets.degraded);
    of_lines("sockets.ndjson", "sock_diag: TCP and UDP", Ok(lines.into_content()))
}

fn packet_sockets() -> Artifact {
    let content = packet_sockets::list_here().map(|sockets| {
        let mut lines = Lines::default();
        for socket in sockets {
            lines.push(&json!({
                "cookie": socket.cookie,
                "inode": socket.inode,
                "protocol": socket.protocol,
                "ifindex": socket.ifindex,
                "filter": socket.filter.map(|filter| filter.lines(FILTER_LINES)),
            }));
        }
        lines.into_content()
    });
    of_lines("packet-sockets.ndjson", "packet_diag", content)
}

/// Each message as it is, and in the words of the crate that reads it.
fn dump(name: &'static str, request: Route, answer: u16) -> Artifact {
    let header = || {
        let mut header = NetlinkHeader::default();
        header.message_type = answer;
        header
    };
    let content = Connection::open(NETLINK_ROUTE).and_then(|mut connection| {
        let mut lines = Lines::default();
        let keep = |payload: &[u8]| {
            let message = Route::deserialize(&header(), payload);
            let message = message.map(|message| format!("{message:?}"));
            Ok(Some(json!({ "message": message.ok(), "bytes": rules::base64(payload) })))
        };
        let dump = connection.dump(request, MESSAGES, keep)?;
        dump.items.iter().for_each(|message| lines.push(message));
        let torn = dump.is_torn.then(|| "it changed during each reading".to_owned());
        lines.lack(dump.incomplete.into_iter().chain(torn));
        Ok(lines.into_content())
    });
    of_lines(name, "rtnetlink", content)
}

fn requests() -> [(&'static str, Route, u16); 5] {
    [
        ("links.ndjson", Route::GetLink(LinkMessage::default()), RTM_NEWLINK),
        ("addresses.ndjson", Route::GetAddress(AddressMessage::default()), RTM_NEWADDR),
        ("routes.ndjson", Route::GetRoute(RouteMessage::default()), RTM_NEWROUTE),
        ("neighbours.ndjson", Route::GetNeighbour(NeighbourMessage::default()), RTM_NEWNEIGH),
        ("rules.ndjson", Route::GetRule(RuleMessage::default()), RTM_NEWRULE),
    ]
}

fn of_lines(name: &'static str, source: &str, content: io::Result<Content>) -> Artifact {
    let content = content.map_err(|error| words(&error));
    Artifact { name, source: source.to_owned(), content }
}

/// What `/proc/net` has of sockets, connections and addresses, as text.
const PROC_NET: [&str; 25] = [
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "udplite",
    "udplite6",
    "raw",
    "raw6",
    "icmp",
    "icmp6",
    "unix",
    "packet",
    "netlink",
    "sockstat",
    "sockstat6",
    "dev",
    "route",
    "ipv6_route",
    "if_inet6",
    "arp",
    "fib_trie",
    "igmp",
    "igmp6",
    "nf_conntrack",
    "ip_vs",
];
/// Messages kept of a dump: more routes than a router of the Internet has.
const MESSAGES: usize = 1 << 20;
/// Instructions that a classic program can have.
const FILTER_LINES: usize = 4096;

// include/uapi/linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const RTM_NEWRULE: u16 = 32;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_namespace_is_told_with_its_sockets_links_and_tables() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut told = BTreeMap::new();

        of_namespace(&netns::own().unwrap(), &mut |artifact| {
            told.insert(artifact.name, artifact.content).is_none()
        })
        .unwrap();

        let text = |name: &str| String::from_utf8(told[name].clone().unwrap().bytes).unwrap();
        assert!(text("sockets.ndjson").contains(&format!(r#""local":"{address}""#)));
        assert!(text("links.ndjson").contains(r#"IfName(\"lo\")"#));
        assert!(text("rules.ndjson").contains(r#""bytes":""#));
        assert!(text("tcp").starts_with("  sl  local_address"));
    }
}
