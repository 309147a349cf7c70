//! Ends of flows that were once joined to the wrong socket.

use std::net::{IpAddr, Ipv6Addr};

use monitor_ebpf::wire::SocketRecord;

use super::DESTINATION;
use super::host::*;
use crate::endpoint::{Endpoint, Transport};
use crate::owner::{Evidence, Role};

#[test]
fn an_ipv4_listener_gets_ipv4_although_another_listens_on_all_of_ipv6() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    host.socket(&listen(LISTENER + 1, Endpoint::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT)));
    host.socket(&accept(CHILD));
    host.packet(TO_SERVER);

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(DESTINATION, Role::Opener, Evidence::Exact, SERVER_PID)]);
}

#[test]
fn a_socket_that_connects_elsewhere_leaves_its_former_ends() {
    let mut host = Host::new();
    host.socket(&connect(CLIENT_SOCKET));
    host.socket(&SocketRecord { remote_port: PORT + 1, ..connect(CLIENT_SOCKET) });

    let former = host.known.sockets.with_ends(Transport::Tcp, CLIENT, SERVER);

    assert_eq!(former.count(), 0);
}

#[test]
fn a_connected_udp_socket_gets_nothing_from_others() {
    let mut host = Host::new();
    host.socket(&bind_udp(LISTENER, ALL));
    host.socket(&SocketRecord { protocol: 17, local_port: 0, ..connect(LISTENER) });
    let from = Endpoint::new(CLIENT.ip, 50_000);
    host.packet(Packet { udp: true, from, ..TO_SERVER });

    assert!(owners(&host.of_flow(None)).is_empty());
}

#[test]
fn a_connection_accepted_within_the_jiffy_of_its_first_packet_is_exact() {
    let mut host = Host::new();
    host.socket(&listen(LISTENER, ALL));
    host.packet(TO_SERVER);
    host.socket(&at(START_NS + 50_000, accept(CHILD)));

    let answer = host.of_flow(None);

    assert_eq!(owners(&answer), [(DESTINATION, Role::Opener, Evidence::Exact, SERVER_PID)]);
}
