//! Who owns a socket by itself: a listener, or one end of a connection.

use std::sync::Arc;

use monitor_ebpf::wire::SocketRecord;

use super::host::*;
use super::{DESTINATION, SOURCE};
use crate::attribution::Request;
use crate::endpoint::Endpoint;
use crate::owner::{Evidence, Ownership, Packaging, Process, Role, Side};

#[test]
fn the_owners_of_a_listener_are_those_the_kernel_named() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));

    let answer = host.of_socket(LISTENER);

    assert_eq!(owners(&answer), [(None, Role::Opener, Evidence::Exact, SERVER_PID)]);
    assert_eq!(answer.attribution.ownership, Ownership::Process);
}

#[test]
fn a_listener_nobody_holds_has_no_known_owner() {
    let mut host = Host::new();
    host.socket(&SocketRecord { in_process: 0, ..listen(LISTENER, ALL) });

    let answer = host.of_socket(LISTENER);

    assert!(owners(&answer).is_empty());
    assert_eq!(answer.attribution.ownership, Ownership::Unknown);
    assert!(answer.settled);
}

#[test]
fn a_listener_is_settled_once_its_owner_is_read_and_hashed() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    let [Request::Identify { key, pid, .. }] = host.known.processes.take_requests()[..] else {
        panic!("one process is to be looked up");
    };
    let process = Process { pid, start_ticks: Some(1), ..Process::default() };

    assert!(!host.of_socket(LISTENER).settled);
    host.known.processes.identified(key, Arc::new(process), 2);
    assert!(!host.of_socket(LISTENER).settled);
    host.known.processes.hashed(key, Ok("00".to_owned()));
    assert!(!host.of_socket(LISTENER).settled);
    host.known.processes.packaged(key, Ok(Packaging::NoPackage));
    assert!(host.of_socket(LISTENER).settled);
}

#[test]
fn a_listener_in_a_namespace_that_is_not_known_is_not_settled() {
    let mut host = Host::new();

    host.socket(&SocketRecord { netns_cookie: 99, in_process: 0, ..listen(LISTENER, ALL) });

    assert!(!host.of_socket(LISTENER).settled);
}

#[test]
fn an_owner_that_has_exited_is_said_to_have() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    let key = host.known.sockets.get(LISTENER).unwrap().owners[0].process;

    host.known.processes.exited(key);

    assert!(host.of_socket(LISTENER).attribution.owners[0].exited);
}

#[test]
fn the_owners_of_a_connection_are_at_its_side() {
    let mut host = Host::new();
    host.socket(&connect(CLIENT_SOCKET));
    let socket = host.known.sockets.get(CLIENT_SOCKET).unwrap();

    let answer = host.known.of_connection(socket, Side::Source);

    assert_eq!(owners(&answer), [(SOURCE, Role::Opener, Evidence::Exact, CLIENT_PID)]);
}

#[test]
fn a_connection_that_was_not_accepted_yet_belongs_to_those_who_listen() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    host.socket(&SocketRecord { netns_cookie: BLUE, tgid: 7, ..listen(LISTENER + 1, ALL) });
    host.socket(&listen(LISTENER + 2, Endpoint::new(CLIENT.ip, PORT)));
    host.socket(&accept(CHILD));
    let child = host.known.sockets.get(CHILD).unwrap();

    let answer = host.known.of_connection(child, Side::Destination);

    assert_eq!(owners(&answer), [(DESTINATION, Role::Opener, Evidence::Inferred, SERVER_PID)]);
}

#[test]
fn a_connection_that_is_closing_has_no_known_owner() {
    let mut host = Host::new();
    host.socket(&accept(CHILD));
    let child = host.known.sockets.get(CHILD).unwrap();

    let answer = host.known.of_connection(child, Side::Destination);

    assert!(owners(&answer).is_empty());
    assert_eq!(answer.attribution.ownership, Ownership::Unknown);
    let reason = "no process has a descriptor of it: it is closing, or the kernel's";
    assert_eq!(answer.attribution.reason, reason);
}

#[test]
fn a_connection_that_no_process_has_is_the_kernels_where_the_kernel_listens() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    host.known.sockets.is_kernels(LISTENER, "serves");
    host.socket(&accept(CHILD));
    let child = host.known.sockets.get(CHILD).unwrap();

    let answer = host.known.of_connection(child, Side::Destination);

    assert!(owners(&answer).is_empty());
    assert_eq!(answer.attribution.ownership, Ownership::Kernel);
    let reason = "no process has a descriptor of it; of who listens: serves";
    assert_eq!(answer.attribution.reason, reason);
}
