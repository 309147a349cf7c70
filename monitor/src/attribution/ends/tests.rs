//! Who is at the ends of a flow, given what the hooks told of sockets and where packets were seen.

mod host;
mod sockets;
mod regressions;

use std::net::{IpAddr, Ipv6Addr};

use monitor_ebpf::wire::{FlowRecord, SocketRecord, action};

use super::*;
use crate::attribution::Request;
use crate::endpoint::Transport;
use crate::owner::Role;
use host::*;

#[test]
fn a_flow_whose_sender_shows_its_socket_is_exact() {
    let mut host = Host::new();
    host.socket(&SocketRecord { local_port: 0, ..connect(CLIENT_SOCKET) });
    host.packet(Packet { cookie: CLIENT_SOCKET, egress: true, ..TO_SERVER });

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(SOURCE, Role::Opener, Evidence::Exact, CLIENT_PID)]);
}

#[test]
fn a_connected_socket_is_joined_by_its_ends_when_no_packet_shows_it() {
    let mut host = Host::new();
    host.socket(&connect(CLIENT_SOCKET));
    host.packet(Packet { egress: true, ..TO_SERVER });

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(SOURCE, Role::Opener, Evidence::Exact, CLIENT_PID)]);
}

#[test]
fn the_same_ends_in_two_namespaces_are_inferred() {
    let mut host = Host::new();
    host.socket(&connect(CLIENT_SOCKET));
    host.socket(&SocketRecord { netns_cookie: BLUE, tgid: 7, ..connect(CLIENT_SOCKET + 1) });
    host.packet(Packet { egress: true, ..TO_SERVER });

    let answer = host.of_flow(None);

    let inferred = |pid| (SOURCE, Role::Opener, Evidence::Inferred, pid);
    assert_eq!(owners(&answer), [inferred(CLIENT_PID), inferred(7)]);
}

#[test]
fn a_connection_before_the_flow_or_after_it_is_another_one() {
    let later = at(START_NS + 1_000_000_000, connect(CLIENT_SOCKET));
    let over = SocketRecord { action: action::RELEASE, tgid: 0, ..connect(CLIENT_SOCKET) };
    let table = [
        (connect(CLIENT_SOCKET), at(START_NS, over), true),
        (connect(CLIENT_SOCKET), at(START_NS - 1, over), false),
        (later, later, false),
    ];
    for (first, second, is_joined) in table {
        let mut host = Host::new();
        host.socket(&first);
        host.socket(&second);
        host.packet(Packet { egress: true, ..TO_SERVER });

        assert_eq!(!owners(&host.of_flow(None)).is_empty(), is_joined, "{second:?}");
    }
}

#[test]
fn a_socket_that_may_have_been_closed_before_the_flow_started_is_inferred() {
    let table = [
        (0, 0, Evidence::Exact),
        (FlowRecord::EARLY, 0, Evidence::Inferred),
        (FlowRecord::EARLY, JIFFY - 1, Evidence::Inferred),
        (FlowRecord::EARLY, JIFFY, Evidence::Exact),
    ];
    for (circumstances, later_ns, evidence) in table {
        let over = SocketRecord { action: action::RELEASE, tgid: 0, ..connect(CLIENT_SOCKET) };
        let mut host = Host::new();
        host.socket(&connect(CLIENT_SOCKET));
        host.socket(&at(START_NS + later_ns, over));
        host.packet(Packet { egress: true, circumstances, ..TO_SERVER });

        let answer = host.of_flow(None);

        let client = (SOURCE, Role::Opener, evidence, CLIENT_PID);
        assert_eq!(owners(&answer), [client], "{later_ns} ns after {circumstances}");
    }
}

#[test]
fn an_accepted_connection_belongs_exactly_to_those_who_listen() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    host.socket(&accept(CHILD));
    host.packet(TO_SERVER);

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(DESTINATION, Role::Opener, Evidence::Exact, SERVER_PID)]);
}

#[test]
fn an_accepted_connection_between_two_listeners_on_one_port_is_inferred() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    host.socket(&SocketRecord { tgid: SERVER_PID + 1, ..listen(LISTENER + 1, ALL) });
    host.socket(&accept(CHILD));
    host.packet(TO_SERVER);

    let answer = host.of_flow(None);

    let inferred = |pid| (DESTINATION, Role::Opener, Evidence::Inferred, pid);
    assert_eq!(owners(&answer), [inferred(SERVER_PID), inferred(SERVER_PID + 1)]);
}

#[test]
fn a_connection_that_no_process_has_any_more_is_nobodys_and_it_is_said_why() {
    let orphan = crate::host::sockets::Socket {
        cookie: CLIENT_SOCKET,
        inode: 0,
        uid: 0,
        transport: Transport::Tcp,
        state: crate::host::sockets::State::FinWait1,
        family: Family::Ipv4,
        local: CLIENT,
        remote: Some(SERVER),
        interface: 0,
        netns: 1001,
        cgroup_id: None,
        unit: None,
    };
    // It was there before, however long after a packet it is found.
    for found_ns in [START_NS, START_NS + 100 * JIFFY] {
        let mut host = Host::new();
        let Known { sockets, namespaces, .. } = &mut host.known;
        sockets.found(&orphan, namespaces, found_ns);
        host.packet(Packet { egress: true, ..TO_SERVER });

        let Answer { attribution, .. } = host.of_flow(Some(FlowRole::Client));

        assert_eq!((attribution.ownership, attribution.owners.len()), (Ownership::None, 0));
        let reason = attribution.reason;
        assert!(reason.starts_with("its process has closed it"), "{reason}");
    }
}

#[test]
fn of_several_listeners_on_one_port_the_one_of_the_server_has_accepted_the_connection() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    host.socket(&SocketRecord { tgid: SERVER_PID + 1, ..listen(LISTENER + 1, ALL) });
    host.socket(&accept(CHILD));
    let used = SocketRecord { action: action::USE, in_process: 1, ..accept(CHILD) };
    host.socket(&at(START_NS, SocketRecord { tgid: SERVER_PID + 1, ..used }));
    host.packet(TO_SERVER);

    let answer = host.of_flow(None);

    let expected = [
        (DESTINATION, Role::User, Evidence::Exact, SERVER_PID + 1),
        (DESTINATION, Role::Opener, Evidence::Inferred, SERVER_PID + 1),
    ];
    assert_eq!(owners(&answer), expected);
}

#[test]
fn a_connection_accepted_nobody_knows_where_is_inferred() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    host.socket(&SocketRecord { netns_cookie: 0, ..accept(CHILD) });
    host.packet(TO_SERVER);

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(DESTINATION, Role::Opener, Evidence::Inferred, SERVER_PID)]);
}

#[test]
fn whoever_is_seen_with_an_accepted_connection_stands_beside_those_who_listen() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    host.socket(&accept(CHILD));
    let release = SocketRecord { action: action::RELEASE, in_process: 1, ..accept(CHILD) };
    host.socket(&at(START_NS, SocketRecord { tgid: SERVER_PID + 1, ..release }));
    host.packet(TO_SERVER);

    let answer = host.of_flow(None);

    let expected = [
        (DESTINATION, Role::Opener, Evidence::Exact, SERVER_PID),
        (DESTINATION, Role::Releaser, Evidence::Exact, SERVER_PID + 1),
    ];
    assert_eq!(owners(&answer), expected);
}

#[test]
fn those_who_only_hold_or_close_the_listener_have_no_part_in_a_connection_that_somebody_serves() {
    for knows_opener in [true, false] {
        let mut host = Host::new();
        let in_process = u8::from(knows_opener);
        host.socket(&SocketRecord { in_process, ..listen(LISTENER, ALL) });
        let idle = host.known.processes.present(SERVER_PID + 2, START_NS);
        host.known.sockets.held_by(LISTENER, &[idle]);
        let release = SocketRecord { action: action::RELEASE, tgid: 7, in_process: 1, ..accept(0) };
        host.socket(&at(START_NS, SocketRecord { cookie: LISTENER, ..release }));
        host.socket(&accept(CHILD));
        let worker = SocketRecord { action: action::USE, tgid: SERVER_PID + 1, ..release };
        host.socket(&at(START_NS, SocketRecord { cookie: CHILD, ..worker }));
        host.packet(TO_SERVER);

        let owners = owners(&host.of_flow(None));

        let used = (DESTINATION, Role::User, Evidence::Exact, SERVER_PID + 1);
        let other = if knows_opener {
            (DESTINATION, Role::Opener, Evidence::Exact, SERVER_PID)
        } else {
            (DESTINATION, Role::Holder, Evidence::Observed, SERVER_PID + 2)
        };
        assert_eq!(owners, [used, other]);
    }
}

#[test]
fn the_socket_that_was_seen_to_receive_a_datagram_is_known_exactly_among_those_that_fit() {
    let mut host = Host::new();
    host.socket(&bind_udp(LISTENER, ALL));
    host.socket(&SocketRecord { tgid: SERVER_PID + 1, ..bind_udp(CHILD, ALL) });
    host.packet(Packet { udp: true, flags: 0, ..TO_SERVER });
    let both = [SERVER_PID, SERVER_PID + 1]
        .map(|pid| (DESTINATION, Role::Opener, Evidence::Inferred, pid));
    assert_eq!(owners(&host.of_flow(None)), both);

    host.socket(&receive(CHILD));

    let expected = [
        (DESTINATION, Role::User, Evidence::Exact, SERVER_PID + 2),
        (DESTINATION, Role::Opener, Evidence::Exact, SERVER_PID + 1),
    ];
    assert_eq!(owners(&host.of_flow(None)), expected);
}

#[test]
fn what_another_namespace_received_from_the_same_address_is_not_this_flow() {
    let mut host = Host::new();
    host.socket(&bind_udp(LISTENER, ALL));
    host.socket(&SocketRecord { netns_cookie: BLUE, ..bind_udp(CHILD, ALL) });
    host.socket(&receive(CHILD));
    host.packet(Packet { udp: true, flags: 0, ..TO_SERVER });

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(DESTINATION, Role::Opener, Evidence::Inferred, SERVER_PID)]);
}

#[test]
fn both_ends_on_this_host_are_named_the_server_first() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    host.socket(&connect(CLIENT_SOCKET));
    host.socket(&accept(CHILD));
    host.packet(Packet { cookie: CLIENT_SOCKET, egress: true, ..TO_SERVER });
    host.packet(TO_SERVER);

    let answer = host.of_flow(None);

    let expected = [
        (DESTINATION, Role::Opener, Evidence::Exact, SERVER_PID),
        (SOURCE, Role::Opener, Evidence::Exact, CLIENT_PID),
    ];
    assert_eq!(owners(&answer), expected);
}

#[test]
fn a_server_that_only_receives_datagrams_is_inferred() {
    let mut host = Host::new();
    host.socket(&bind_udp(LISTENER, ALL));
    host.packet(Packet { udp: true, ..TO_SERVER });

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(DESTINATION, Role::Opener, Evidence::Inferred, SERVER_PID)]);
}

#[test]
fn a_server_that_answers_a_datagram_from_its_socket_is_exact() {
    let mut host = Host::new();
    host.socket(&bind_udp(LISTENER, ALL));
    host.packet(Packet { udp: true, ..TO_SERVER });
    let back = Packet { from: SERVER, to: CLIENT, egress: true, flags: 0, ..TO_SERVER };
    host.packet(Packet { cookie: LISTENER, udp: true, ..back });

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(DESTINATION, Role::Opener, Evidence::Exact, SERVER_PID)]);
}

#[test]
fn a_listener_bound_to_the_very_address_wins_over_one_bound_to_all() {
    let mut host = Host::new();
    host.socket(&SocketRecord { tgid: 7, ..bind_udp(LISTENER, ALL) });
    host.socket(&bind_udp(LISTENER + 1, SERVER));
    host.packet(Packet { udp: true, ..TO_SERVER });

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(DESTINATION, Role::Opener, Evidence::Inferred, SERVER_PID)]);
}

#[test]
fn a_listener_gets_what_its_address_says() {
    let v6 = |ip| Endpoint::new(IpAddr::V6(ip), PORT);
    let table = [
        (ALL, SERVER, true),
        (SERVER, SERVER, true),
        (Endpoint::new(CLIENT.ip, PORT), SERVER, false),
        // A socket bound to `::` gets IPv4 too, unless it was told not to.
        (v6(Ipv6Addr::UNSPECIFIED), SERVER, true),
        (v6(Ipv6Addr::UNSPECIFIED), v6(Ipv6Addr::LOCALHOST), true),
        (v6(Ipv6Addr::LOCALHOST), v6(Ipv6Addr::LOCALHOST), true),
        (ALL, v6(Ipv6Addr::LOCALHOST), false),
    ];
    for (bound, to, gets) in table {
        let mut host = Host::new();
        host.socket(&bind_udp(LISTENER, bound));
        let from = Endpoint::new(to.ip, CLIENT.port);
        host.packet(Packet { udp: true, from, to, ..TO_SERVER });

        assert_eq!(!owners(&host.of_flow(None)).is_empty(), gets, "{bound} gets what is for {to}");
    }
}

#[test]
fn an_accepted_connection_belongs_to_the_listener_of_its_own_namespace() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, SERVER));
    host.socket(&SocketRecord { netns_cookie: BLUE, tgid: 7, ..listen(LISTENER + 1, ALL) });
    host.socket(&SocketRecord { netns_cookie: BLUE, ..accept(CHILD) });
    host.packet(TO_SERVER);

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(DESTINATION, Role::Opener, Evidence::Exact, 7)]);
}

#[test]
fn listeners_of_another_namespace_get_nothing_that_is_seen_here() {
    let mut host = Host::new();
    host.socket(&SocketRecord { netns_cookie: BLUE, ..bind_udp(LISTENER, ALL) });
    host.socket(&SocketRecord { netns_cookie: 0, ..bind_udp(LISTENER + 1, ALL) });
    host.packet(Packet { udp: true, ..TO_SERVER });

    assert!(owners(&host.of_flow(None)).is_empty());
}

#[test]
fn a_listener_here_gets_nothing_that_leaves_the_host() {
    let mut host = Host::new();
    host.socket(&bind_udp(LISTENER, ALL));
    host.packet(Packet { udp: true, egress: true, ..TO_SERVER });

    assert!(owners(&host.of_flow(None)).is_empty());
}

#[test]
fn a_socket_whose_cookie_is_not_known_did_not_send_what_has_none() {
    let mut host = Host::new();
    host.socket(&bind_udp(0, ALL));
    host.packet(Packet { udp: true, egress: true, ..TO_SERVER });

    assert!(owners(&host.of_flow(None)).is_empty());
}

#[test]
fn whoever_calls_from_the_port_of_a_listener_is_not_that_listener() {
    let mut host = Host::new();
    host.socket(&bind_udp(LISTENER, ALL));
    let from = Endpoint::new(CLIENT.ip, PORT);
    host.packet(Packet { udp: true, from, ..TO_SERVER });

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(DESTINATION, Role::Opener, Evidence::Inferred, SERVER_PID)]);
}

#[test]
fn a_listener_gets_only_what_came_before_it_was_closed() {
    for (closed_ns, gets) in [(START_NS - 1, false), (START_NS, true)] {
        let mut host = Host::new();
        host.socket(&bind_udp(LISTENER, ALL));
        let release = SocketRecord { action: action::RELEASE, ..bind_udp(LISTENER, ALL) };
        host.socket(&at(closed_ns, release));
        host.packet(Packet { udp: true, ..TO_SERVER });

        assert_eq!(!owners(&host.of_flow(None)).is_empty(), gets, "closed at {closed_ns}");
    }
}

#[test]
fn a_flow_is_the_kernels_by_its_servers_end_or_by_its_clients_where_no_process_serves() {
    let own = "the kernel named the process in the system call that opened or used the socket";
    let table = [
        (
            true,
            &[(CHILD, "serves"), (CLIENT_SOCKET, "calls")][..],
            Ownership::Kernel,
            "serves; the client's end: calls".to_owned(),
        ),
        (true, &[(CHILD, "serves")][..], Ownership::Kernel, "serves".to_owned()),
        (
            true,
            &[(CLIENT_SOCKET, "calls")][..],
            Ownership::Process,
            format!("{own}; the client's end: calls"),
        ),
        (false, &[(CLIENT_SOCKET, "calls")][..], Ownership::Kernel, "calls".to_owned()),
    ];
    for (is_served, kernels, ownership, reason) in table {
        let mut host = Host::new();
        host.socket(&SocketRecord { in_process: 0, ..connect(CLIENT_SOCKET) });
        if is_served {
            host.socket(&listen(LISTENER, ALL));
            host.socket(&accept(CHILD));
        }
        for (cookie, why) in kernels {
            host.known.sockets.is_kernels(*cookie, why);
        }
        host.packet(Packet { cookie: CLIENT_SOCKET, egress: true, ..TO_SERVER });
        host.packet(TO_SERVER);

        let attribution = host.of_flow(None).attribution;

        assert_eq!((attribution.ownership, attribution.reason), (ownership, reason));
    }
}

#[test]
fn a_flow_that_nobody_owns_says_why_by_its_role() {
    let table = [
        (Some(FlowRole::Forwarded), Ownership::Forwarded),
        (Some(FlowRole::Refused), Ownership::None),
        (Some(FlowRole::Unanswered), Ownership::Unknown),
        (Some(FlowRole::Server), Ownership::Unknown),
        (None, Ownership::Unknown),
    ];
    let mut host = Host::new();
    host.packet(TO_SERVER);
    for (role, ownership) in table {
        let answer = host.of_flow(role);

        assert_eq!(answer.attribution.ownership, ownership, "{role:?}");
        assert!(answer.settled && answer.attribution.owners.is_empty());
    }
}

#[test]
fn a_flow_is_settled_once_the_processes_at_both_ends_are() {
    let mut host = Host::new();
    host.socket(&connect(CLIENT_SOCKET));
    host.socket(&listen(LISTENER, ALL));
    host.socket(&accept(CHILD));
    host.packet(TO_SERVER);

    for request in host.known.processes.take_requests() {
        assert!(!host.of_flow(None).settled);
        let Request::Identify { key, .. } = request else { panic!("{request:?}") };
        host.known.processes.identified(key, Arc::default(), 2);
    }
    assert!(host.of_flow(None).settled);
}

const SOURCE: Option<Side> = Some(Side::Source);
const DESTINATION: Option<Side> = Some(Side::Destination);
