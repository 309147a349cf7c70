//! What is reported of connections when only sockets are looked at.

use std::net::SocketAddr;

use super::scene::*;
use crate::endpoint::{Direction, Endpoint, Family, Transport};
use crate::host::sockets::{Socket, State};
use crate::owner::{Attribution, Evidence, Ownership, Role, Side};
use crate::report::{FlowChange, FlowReport, FlowRole};

#[test]
fn a_connection_to_a_port_somebody_listens_on_is_that_of_a_server() {
    let there = [listening(1, "0.0.0.0:3516"), connected(2, "10.0.0.2:3516", "10.0.0.1:40000")];

    let reports = report(&there, &[(2, PID)]);

    let [flow] = &reports[..] else { panic!("{reports:#?}") };
    assert_eq!(ends(flow), ("10.0.0.1:40000".to_owned(), "10.0.0.2:3516".to_owned()));
    assert_eq!((flow.role, flow.direction), (Some(FlowRole::Server), Direction::Ingress));
    assert_eq!((flow.state, flow.port), (Some("ESTAB"), PORT));
    assert_eq!(owners(flow), [(Side::Destination, Role::Holder, Evidence::Observed, PID)]);
}

#[test]
fn a_connection_nobody_listens_for_was_called_from_here() {
    let table = [
        ("10.0.0.2:40000", "10.0.0.1:3516", FlowRole::Client),
        ("10.0.0.2:3516", "10.0.0.1:40000", FlowRole::Ephemeral),
    ];
    for (local, remote, role) in table {
        let reports = report(&[connected(2, local, remote)], &[(2, PID)]);

        let [flow] = &reports[..] else { panic!("{reports:#?}") };
        assert_eq!(ends(flow), (local.to_owned(), remote.to_owned()));
        assert_eq!((flow.role, flow.direction), (Some(role), Direction::Egress));
        assert_eq!(flow.port, PORT);
        assert_eq!(owners(flow), [(Side::Source, Role::Holder, Evidence::Observed, PID)]);
    }
}

#[test]
fn a_connection_that_no_process_has_is_nobodys_and_not_the_listeners() {
    let listener = listening(1, "0.0.0.0:3516");
    let connection = connected(2, "10.0.0.2:3516", "10.0.0.1:40000");
    let table = [
        (State::TimeWait, Ownership::None, "TIME-WAIT: the connection is over"),
        (State::FinWait1, Ownership::None, "its process has closed it"),
        (State::Established, Ownership::Process, "not accepted yet"),
    ];
    for (state, ownership, reason) in table {
        let there = [listener.clone(), Socket { state, inode: 0, ..connection.clone() }];

        let reports = report(&there, &[(1, PID)]);

        let [flow] = &reports[..] else { panic!("{reports:#?}") };
        assert_eq!(flow.attribution.ownership, ownership, "{state:?}");
        assert!(flow.attribution.reason.starts_with(reason), "{}", flow.attribution.reason);
        assert_eq!(flow.role, Some(FlowRole::Server));
    }
}

#[test]
fn a_listener_in_another_namespace_makes_no_server() {
    let elsewhere = Socket { netns: 77, ..listening(1, "0.0.0.0:3516") };

    let reports = report(&[elsewhere, connected(2, "10.0.0.2:3516", "10.0.0.1:40000")], &[]);

    assert_eq!(reports[0].role, Some(FlowRole::Ephemeral));
}

#[test]
fn a_connection_within_the_host_is_one_and_has_both_ends() {
    let mut there = within("10.0.0.2", netns().inode);
    there.reverse();

    let reports = report(&there, &[(2, PID), (3, PID + 1)]);

    let [flow] = &reports[..] else { panic!("{reports:#?}") };
    assert_eq!(ends(flow), ("10.0.0.2:40000".to_owned(), "10.0.0.2:3516".to_owned()));
    assert_eq!((flow.role, flow.direction), (Some(FlowRole::Server), Direction::Ingress));
    let expected = [
        (Side::Destination, Role::Holder, Evidence::Observed, PID),
        (Side::Source, Role::Holder, Evidence::Observed, PID + 1),
    ];
    assert_eq!(owners(flow), expected);
}

#[test]
fn a_connection_within_the_host_is_owned_when_only_its_caller_is_known() {
    let reports = report(&within("10.0.0.2", netns().inode), &[(3, PID)]);

    let [flow] = &reports[..] else { panic!("{reports:#?}") };
    assert_eq!(flow.attribution.ownership, Ownership::Process);
    assert_eq!(owners(flow), [(Side::Source, Role::Holder, Evidence::Observed, PID)]);
}

#[test]
fn the_same_loopback_addresses_in_two_namespaces_are_two_connections() {
    let [here, there] = [netns().inode, 77].map(|inode| within("127.0.0.1", inode));
    let renamed = there.map(|socket| Socket { cookie: socket.cookie + 10, ..socket });

    let reports = report(&[here, renamed].concat(), &[]);

    let namespaces = reports.iter().filter_map(|flow| flow.netns.as_ref());
    assert!(namespaces.map(|netns| netns.inode).eq([77, netns().inode]));
}

#[test]
fn a_connection_of_the_kernels_says_of_each_end_why() {
    let there = within("10.0.0.2", netns().inode);
    let own = "the process has a descriptor of the socket; who opened it was before portwatch";
    let table = [
        (
            &[(2, "serves"), (3, "calls")][..],
            Ownership::Kernel,
            "serves; the client's end: calls".to_owned(),
        ),
        (&[(3, "calls")][..], Ownership::Process, format!("{own}; the client's end: calls")),
    ];
    for (kernels, ownership, reason) in table {
        let mut scene = Scene::new();
        scene.pipeline.sockets(&there, SECOND);
        if ownership == Ownership::Process {
            scene.pipeline.holders(&[2], &[(2, PID)], SECOND);
        }
        for (cookie, why) in kernels {
            scene.pipeline.known.sockets.is_kernels(*cookie, why);
        }
        scene.answer(SECOND);

        scene.pipeline.report_connections(&there, SECOND);

        let reports = flows(&scene.pipeline.take_reports());
        let [(_, flow)] = &reports[..] else { panic!("{reports:#?}") };
        let Attribution { ownership: found, reason: why, .. } = &flow.attribution;
        assert_eq!((*found, why), (ownership, &reason));
    }
}

#[test]
fn two_sockets_at_the_same_end_stay_apart() {
    let [listener, server, client] = within("10.0.0.2", netns().inode);
    let [listener, server, client] = [listener, server, client]
        .map(|socket| [socket.clone(), Socket { cookie: socket.cookie + 10, netns: 77, ..socket }]);

    assert_eq!(report(&[listener, server].concat(), &[]).len(), 2);
    assert_eq!(report(&client, &[]).len(), 2);
}

#[test]
fn three_sockets_with_the_same_ends_stay_apart() {
    let [listener, server, client] = within("10.0.0.2", netns().inode);
    let other = Socket { cookie: 4, netns: 77, ..client.clone() };

    let reports = report(&[listener, server, client, other], &[]);

    let roles: Vec<_> = reports.iter().filter_map(|flow| flow.role).collect();
    assert_eq!(roles, [FlowRole::Server, FlowRole::Client, FlowRole::Client]);
}

#[test]
fn connections_come_in_the_order_of_their_ends_and_listeners_are_none() {
    let there = [
        connected(2, "10.0.0.9:40000", "10.0.0.1:3516"),
        connected(3, "10.0.0.2:40001", "10.0.0.1:3516"),
        listening(4, "0.0.0.0:4000"),
        connected(5, "10.0.0.2:40000", "10.0.0.1:3516"),
    ];

    let reports = report(&there, &[]);

    let sources: Vec<String> = reports.iter().map(|flow| ends(flow).0).collect();
    assert_eq!(sources, ["10.0.0.2:40000", "10.0.0.2:40001", "10.0.0.9:40000"]);
}

/// The reports of what is there, given who holds it.
fn report(there: &[Socket], holders: &[(u64, u32)]) -> Vec<FlowReport> {
    let mut scene = Scene::new();
    let cookies: Vec<u64> = there.iter().map(|socket| socket.cookie).collect();
    scene.pipeline.sockets(there, SECOND);
    scene.pipeline.holders(&cookies, holders, SECOND);
    scene.answer(SECOND);
    scene.pipeline.report_connections(there, SECOND);
    let reports = scene.pipeline.take_reports();
    assert_eq!(flows(&reports).len(), reports.len());
    assert!(flows(&reports).iter().all(|(change, _)| *change == FlowChange::Updated));
    flows(&reports).into_iter().map(|(_, flow)| flow).collect()
}

/// A listener and both sockets of a connection from an address to itself.
fn within(ip: &str, netns: u64) -> [Socket; 3] {
    let (server, client) = (format!("{ip}:3516"), format!("{ip}:40000"));
    let listener = listening(1, "0.0.0.0:3516");
    let sockets = [listener, connected(2, &server, &client), connected(3, &client, &server)];
    sockets.map(|socket| Socket { netns, ..socket })
}

fn listening(cookie: u64, local: &str) -> Socket {
    Socket { state: State::Listen, remote: None, ..connected(cookie, local, local) }
}

/// A connected socket as `sock_diag` tells it.
fn connected(cookie: u64, local: &str, remote: &str) -> Socket {
    Socket {
        cookie,
        inode: cookie,
        uid: 990,
        transport: Transport::Tcp,
        state: State::Established,
        family: Family::Ipv4,
        local: endpoint(local),
        remote: Some(endpoint(remote)),
        interface: 0,
        netns: netns().inode,
        cgroup_id: None,
        unit: None,
    }
}

fn endpoint(text: &str) -> Endpoint {
    let address: SocketAddr = text.parse().unwrap();
    Endpoint::new(address.ip(), address.port())
}

fn ends(flow: &FlowReport) -> (String, String) {
    (flow.source.to_string(), flow.destination.to_string())
}

fn owners(flow: &FlowReport) -> Vec<(Side, Role, Evidence, u32)> {
    let owners = flow.attribution.owners.iter();
    let owners = owners.map(|owner| (owner.side, owner.role, owner.evidence, owner.process.pid));
    owners.map(|(side, role, evidence, pid)| (side.unwrap(), role, evidence, pid)).collect()
}
