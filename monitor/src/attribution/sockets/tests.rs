//! What is known of sockets after hand-made records, a snapshot, and time.

mod limits;
mod tables;

use super::*;
use crate::host::netns::Mark;
use crate::host::sockets::State;
use tables::*;

#[test]
fn a_udp_socket_listens_once_it_is_bound() {
    let mut host = Host::new();

    host.record(&udp(action::BIND));

    assert_eq!(host.listeners(Transport::Udp, PORT), [COOKIE]);
    assert_eq!(
        host.sockets.get(COOKIE),
        Some(&Socket { listens: true, ..host.bound(Transport::Udp) })
    );
}

#[test]
fn a_tcp_socket_listens_once_it_was_told_to_and_not_when_it_is_bound() {
    let mut host = Host::new();

    host.record(&tcp(action::BIND));
    assert_eq!(host.sockets.get(COOKIE), Some(&host.bound(Transport::Tcp)));
    assert!(host.listeners(Transport::Tcp, PORT).is_empty());

    host.record(&tcp(action::LISTEN));
    assert_eq!(
        host.sockets.get(COOKIE),
        Some(&Socket { listens: true, ..host.bound(Transport::Tcp) })
    );
    assert_eq!(host.listeners(Transport::Tcp, PORT), [COOKIE]);
}

#[test]
fn somebody_listens_until_the_last_listener_is_released() {
    let mut host = Host::new();
    host.record(&tcp(action::BIND));
    host.record(&connection(COOKIE + 1, action::ESTABLISHED_PASSIVE));
    assert!(!host.sockets.anybody_listens());

    host.record(&tcp(action::LISTEN));
    assert!(host.sockets.anybody_listens());

    host.record(&tcp(action::RELEASE));
    assert!(!host.sockets.anybody_listens());
}

#[test]
fn a_listener_is_found_by_transport_and_port_only() {
    let mut host = Host::new();

    host.record(&udp(action::BIND));

    assert!(host.listeners(Transport::Tcp, PORT).is_empty());
    assert!(host.listeners(Transport::Udp, PORT + 1).is_empty());
}

#[test]
fn what_a_process_did_gives_its_role() {
    let table = [
        (action::BIND, Some(Role::Opener)),
        (action::LISTEN, Some(Role::Opener)),
        (action::CONNECT, Some(Role::Opener)),
        (action::SEND, Some(Role::User)),
        (action::RECEIVE, Some(Role::User)),
        (action::USE, Some(Role::User)),
        (action::RELEASE, Some(Role::Releaser)),
        (action::ESTABLISHED_ACTIVE, None),
        (action::ESTABLISHED_PASSIVE, None),
        (action::STATE, None),
    ];
    for (action, role) in table {
        let mut host = Host::new();

        host.record(&tcp(action));

        let expected: Vec<_> = role.map(|role| (role, Evidence::Exact, PID)).into_iter().collect();
        assert_eq!(host.owners(COOKIE), expected, "action {action}");
    }
}

#[test]
fn a_process_that_only_receives_changes_its_listener() {
    let mut host = Host::new();
    host.record(&udp(action::BIND));
    host.sockets.take_changed();

    host.record(&SocketRecord { tgid: PID + 1, ..udp(action::RECEIVE) });

    assert_eq!(host.sockets.take_changed(), [COOKIE]);
}

#[test]
fn a_record_from_outside_a_process_names_nobody() {
    let mut host = Host::new();

    host.record(&SocketRecord { in_process: 0, ..tcp(action::LISTEN) });
    host.record(&SocketRecord { tgid: 0, ..tcp(action::LISTEN) });

    assert!(host.owners(COOKIE).is_empty());
    assert_eq!(host.listeners(Transport::Tcp, PORT), [COOKIE]);
}

#[test]
fn the_same_act_again_is_no_second_owner() {
    let mut host = Host::new();

    host.record(&udp(action::SEND));
    host.record(&udp(action::SEND));
    host.record(&SocketRecord { tgid: PID + 1, ..udp(action::SEND) });

    let user = |pid| (Role::User, Evidence::Exact, pid);
    assert_eq!(host.owners(COOKIE), [user(PID), user(PID + 1)]);
}

#[test]
fn a_released_socket_is_closed_and_keeps_who_let_go_of_it() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));

    host.record(&SocketRecord { tgid: PID + 1, local: [0; 16], ..at(9, tcp(action::RELEASE)) });

    let socket = host.sockets.get(COOKIE).unwrap();
    assert_eq!((socket.closed_ns, socket.released), (Some(9), true));
    assert_eq!((socket.local, socket.listens), (Some(LOCAL), true));
    let expected =
        [(Role::Opener, Evidence::Exact, PID), (Role::Releaser, Evidence::Exact, PID + 1)];
    assert_eq!(host.owners(COOKIE), expected);
}

#[test]
fn only_the_state_closed_closes_and_it_does_not_release() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));

    for new_state in (0..=12).filter(|state| *state != TCP_CLOSE) {
        host.record(&SocketRecord { new_state, ..at(5, tcp(action::STATE)) });
        assert_eq!(host.sockets.get(COOKIE).unwrap().closed_ns, None, "state {new_state}");
    }

    host.record(&SocketRecord { new_state: TCP_CLOSE, ..at(9, tcp(action::STATE)) });
    let socket = host.sockets.get(COOKIE).unwrap();
    assert_eq!((socket.closed_ns, socket.released), (Some(9), false));
}

#[test]
fn a_closed_socket_that_listens_again_is_open() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));
    host.record(&SocketRecord { new_state: TCP_CLOSE, ..tcp(action::STATE) });

    host.record(&tcp(action::LISTEN));

    assert_eq!(host.sockets.get(COOKIE).unwrap().closed_ns, None);
    assert_eq!(host.listeners(Transport::Tcp, PORT), [COOKIE]);
}

#[test]
fn an_established_connection_is_found_by_its_ends() {
    for action in [action::ESTABLISHED_ACTIVE, action::ESTABLISHED_PASSIVE] {
        let mut host = Host::new();

        host.record(&connection(COOKIE, action));

        assert_eq!(host.with_ends(LOCAL, REMOTE), [COOKIE]);
        assert!(host.with_ends(REMOTE, LOCAL).is_empty());
        assert!(host.listeners(Transport::Tcp, PORT).is_empty());
    }
}

#[test]
fn a_connect_before_the_local_port_is_chosen_leaves_the_local_end_open() {
    let mut host = Host::new();
    let early =
        SocketRecord { local: [0; 16], local_port: 0, ..connection(COOKIE, action::CONNECT) };

    host.record(&early);
    let socket = host.sockets.get(COOKIE).unwrap();
    assert_eq!((socket.local, socket.remote), (None, Some(REMOTE)));

    host.record(&connection(COOKIE, action::CONNECT));
    assert_eq!(host.with_ends(LOCAL, REMOTE), [COOKIE]);
}

#[test]
fn an_unknown_transport_is_passed_over() {
    let mut host = Host::new();

    host.record(&SocketRecord { protocol: 132, ..tcp(action::BIND) });

    assert_eq!(host.sockets.get(COOKIE), None);
}

#[test]
fn what_the_hooks_told_stays_when_the_snapshot_sees_the_same_socket() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));
    let before = host.sockets.get(COOKIE).cloned().unwrap();

    host.sockets.found(&listening(COOKIE), &host.namespaces, 50);

    let netns = Some(Netns { inode: INODE, name: None });
    assert_eq!(host.sockets.get(COOKIE), Some(&Socket { netns, interface: 7, ..before }));
}

#[test]
fn a_socket_that_was_there_before_is_found_rather_than_opened() {
    let mut host = Host::new();
    host.namespaces.learn([(blue(), Mark::Cookie(NETNS))]);

    host.sockets.found(&listening(COOKIE), &host.namespaces, 50);

    let socket = host.sockets.get(COOKIE).unwrap();
    assert_eq!((socket.found, socket.since_ns, socket.listens), (true, 50, true));
    assert_eq!((socket.local, socket.netns.clone()), (Some(LOCAL), Some(blue())));
    assert_eq!(host.listeners(Transport::Tcp, PORT), [COOKIE]);
}

#[test]
fn a_connection_that_was_there_before_is_found_by_its_ends() {
    let mut host = Host::new();
    let there = host::sockets::Socket {
        state: State::Established,
        remote: Some(REMOTE),
        ..listening(COOKIE)
    };

    host.sockets.found(&there, &host.namespaces, 50);

    assert_eq!(host.with_ends(LOCAL, REMOTE), [COOKIE]);
    assert_eq!(host.sockets.all_listeners().count(), 0);
}

#[test]
fn the_holders_are_those_who_hold_it_now() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));
    let [first, second] = [PID + 1, PID + 2].map(|pid| host.processes.present(pid, 1));

    host.sockets.held_by(COOKIE, &[first]);
    host.sockets.held_by(COOKIE, &[second]);

    let expected =
        [(Role::Opener, Evidence::Exact, PID), (Role::Holder, Evidence::Observed, PID + 2)];
    assert_eq!(host.owners(COOKIE), expected);
}

#[test]
fn only_other_holders_than_before_are_a_change() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));
    let holder = host.processes.present(PID + 1, 1);
    host.sockets.held_by(COOKIE, &[holder]);
    host.sockets.take_changed();

    host.sockets.held_by(COOKIE, &[holder]);
    host.sockets.held_by(COOKIE + 1, &[holder]);
    assert!(host.sockets.take_changed().is_empty());

    host.sockets.held_by(COOKIE, &[]);
    assert_eq!(host.sockets.take_changed(), [COOKIE]);
}

#[test]
fn a_renamed_process_is_merged_with_what_it_was_known_as() {
    let mut host = Host::new();
    host.record(&udp(action::BIND));
    host.record(&SocketRecord { tgid: PID + 1, ..udp(action::BIND) });
    host.record(&SocketRecord { tgid: PID + 1, ..udp(action::SEND) });
    let [known, other] =
        [0, 1].map(|index| host.sockets.get(COOKIE).unwrap().owners[index].process);

    host.sockets.rename(other, known);

    let expected = [(Role::Opener, Evidence::Exact, PID), (Role::User, Evidence::Exact, PID)];
    assert_eq!(host.owners(COOKIE), expected);
}

#[test]
fn a_change_is_told_once_and_of_listeners_only() {
    let mut host = Host::new();

    host.record(&tcp(action::BIND));
    host.record(&connection(COOKIE + 1, action::ESTABLISHED_PASSIVE));
    assert!(host.sockets.take_changed().is_empty());

    host.record(&SocketRecord { cookie: COOKIE + 2, ..udp(action::BIND) });
    host.record(&tcp(action::LISTEN));
    host.record(&tcp(action::RELEASE));
    assert_eq!(host.sockets.take_changed(), [COOKIE, COOKIE + 2]);
    assert!(host.sockets.take_changed().is_empty());
}

#[test]
fn news_of_a_process_change_the_listeners_it_owns() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));
    host.record(&SocketRecord { tgid: PID + 1, cookie: COOKIE + 1, ..tcp(action::LISTEN) });
    host.record(&SocketRecord { cookie: COOKIE + 2, ..tcp(action::CONNECT) });
    host.sockets.take_changed();
    let process = host.sockets.get(COOKIE).unwrap().owners[0].process;

    host.sockets.process_changed(process);

    assert_eq!(host.sockets.take_changed(), [COOKIE]);
}

#[test]
fn a_listener_reported_as_closed_is_remembered_only_for_its_flows() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));
    host.record(&tcp(action::RELEASE));

    host.sockets.no_longer_listens(COOKIE);

    assert_eq!(host.sockets.all_listeners().count(), 0);
    assert_eq!(host.listeners(Transport::Tcp, PORT), [COOKIE]);
}
