//! What is remembered of sockets and namespaces, how much of it, and for how long.

use super::tables::*;
use super::*;
use crate::host::netns::Mark;

#[test]
fn a_thousand_connections_never_push_out_a_listener() {
    let mut host = Host::with_capacity(100);
    host.record(&tcp(action::LISTEN));

    for index in 1..=1000 {
        host.record(&at(1 + index, connection(COOKIE + index, action::ESTABLISHED_PASSIVE)));
    }

    assert!(host.sockets.by_cookie.len() <= 100);
    assert_eq!(host.listeners(Transport::Tcp, PORT), [COOKIE]);
    assert_eq!(host.sockets.all_listeners().count(), 1);
}

#[test]
fn a_thousand_invented_senders_are_forgotten_but_for_the_newest() {
    let mut host = Host::with_capacity(100);
    host.record(&udp(action::BIND));

    for remote_port in 1..=1000 {
        let receive = connection(COOKIE, action::RECEIVE);
        host.record(&SocketRecord { protocol: 17, remote_port, ..receive });
    }

    let heard = &host.sockets.heard;
    assert_eq!((heard.by_sender.len(), heard.oldest_first.len()), (100, 100));
    let sender = |port| Endpoint { port, ..REMOTE };
    let heard_from = |port| {
        let mut sockets = host.sockets.that_heard(Transport::Udp, PORT, sender(port));
        sockets.next().map(|socket| socket.cookie)
    };
    assert_eq!((heard_from(900), heard_from(901)), (None, Some(COOKIE)));
}

#[test]
fn closed_sockets_go_first_and_then_the_oldest() {
    let mut host = Host::with_capacity(4);
    for index in 0..4 {
        host.record(&at(index, connection(index, action::ESTABLISHED_PASSIVE)));
    }
    host.record(&connection(3, action::RELEASE));

    host.record(&at(4, connection(4, action::ESTABLISHED_PASSIVE)));

    let left: Vec<u64> = (0..=4).filter(|cookie| host.sockets.get(*cookie).is_some()).collect();
    assert_eq!(left, [1, 2, 4]);
    let indexed: Vec<u64> = host.sockets.by_ends.values().flatten().copied().collect();
    assert_eq!(indexed, left);
}

#[test]
fn only_open_sockets_count_as_forgotten() {
    let mut host = Host::with_capacity(4);
    for index in 0..4 {
        host.record(&connection(index, action::ESTABLISHED_PASSIVE));
    }
    host.record(&connection(3, action::RELEASE));

    host.record(&connection(4, action::ESTABLISHED_PASSIVE));

    assert_eq!(host.sockets.forgotten(), 1);
}

#[test]
fn a_closed_socket_is_forgotten_after_a_minute_and_not_before() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));
    host.record(&connection(COOKIE + 1, action::ESTABLISHED_PASSIVE));
    for cookie in [COOKIE, COOKIE + 1] {
        host.record(&SocketRecord { cookie, ..at(MINUTE, tcp(action::RELEASE)) });
    }

    host.sockets.expire(2 * MINUTE - 1);
    assert_eq!(host.sockets.by_cookie.len(), 2);

    host.sockets.expire(2 * MINUTE);
    assert!(host.sockets.by_cookie.is_empty());
    assert!(host.sockets.by_ends.is_empty() && host.sockets.listeners.is_empty());
}

#[test]
fn sockets_that_were_closed_but_never_released_are_told_when_they_are_forgotten() {
    let mut host = Host::new();
    let closed = |cookie| SocketRecord { cookie, new_state: TCP_CLOSE, ..tcp(action::STATE) };
    host.record(&closed(COOKIE));
    host.record(&closed(COOKIE + 1));
    host.record(&SocketRecord { cookie: COOKIE + 1, ..tcp(action::RELEASE) });
    host.record(&connection(COOKIE + 2, action::ESTABLISHED_PASSIVE));

    assert_eq!(host.sockets.expire(2 * MINUTE), [COOKIE]);
    assert!(host.sockets.expire(2 * MINUTE).is_empty());
}

#[test]
fn a_namespace_that_is_not_known_is_asked_for_once() {
    let mut host = Host::new();

    host.record(&tcp(action::BIND));

    assert!(host.namespaces.take_missing());
    assert!(!host.namespaces.take_missing());
}

#[test]
fn a_namespace_that_is_not_there_is_not_asked_for_again() {
    let mut host = Host::new();
    host.record(&tcp(action::BIND));

    host.namespaces.learn([(blue(), Mark::Cookie(NETNS + 1))]);

    assert!(!host.namespaces.take_missing());
}

#[test]
fn a_hook_that_cannot_tell_the_namespace_leaves_it_to_those_that_can() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));
    host.record(&SocketRecord { netns_cookie: 0, ..tcp(action::RELEASE) });

    host.namespaces.learn([(blue(), Mark::Cookie(NETNS))]);
    host.sockets.resolve(&mut host.namespaces);

    assert_eq!(host.sockets.get(COOKIE).unwrap().netns, Some(blue()));
}

#[test]
fn a_hook_that_cannot_tell_the_namespace_asks_for_none() {
    let mut host = Host::new();

    host.record(&SocketRecord { netns_cookie: 0, ..tcp(action::BIND) });
    host.sockets.resolve(&mut host.namespaces);

    assert!(!host.namespaces.take_missing());
}

#[test]
fn a_known_namespace_is_that_of_the_socket() {
    let mut host = Host::new();
    host.namespaces.learn([(blue(), Mark::Cookie(NETNS))]);

    host.record(&tcp(action::BIND));

    assert_eq!(host.sockets.get(COOKIE).unwrap().netns, Some(blue()));
    assert!(!host.namespaces.take_missing());
}

#[test]
fn a_namespace_learned_later_is_told_of_the_listeners_in_it() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));
    host.record(&SocketRecord { cookie: COOKIE + 3, netns_cookie: NETNS + 1, ..udp(action::BIND) });
    host.record(&connection(COOKIE + 1, action::ESTABLISHED_PASSIVE));
    host.record(&SocketRecord { cookie: COOKIE + 2, netns_cookie: 0, ..tcp(action::LISTEN) });
    host.sockets.take_changed();

    host.namespaces.learn([(blue(), Mark::Cookie(NETNS))]);
    host.sockets.resolve(&mut host.namespaces);

    let netns = |cookie| host.sockets.get(cookie).and_then(|socket| socket.netns.clone());
    let of_each = [COOKIE, COOKIE + 1, COOKIE + 2, COOKIE + 3].map(netns);
    assert_eq!(of_each, [Some(blue()), Some(blue()), None, None]);
    assert_eq!(host.sockets.take_changed(), [COOKIE]);
}

#[test]
fn a_known_namespace_stays_when_a_later_record_tells_another_cookie() {
    let mut host = Host::new();
    host.namespaces.learn([(blue(), Mark::Cookie(NETNS))]);
    host.record(&tcp(action::LISTEN));

    host.record(&SocketRecord { netns_cookie: NETNS + 1, ..tcp(action::RELEASE) });

    assert_eq!(host.sockets.get(COOKIE).unwrap().netns, Some(blue()));
}

const MINUTE: u64 = 60_000_000_000;

#[test]
fn a_witness_tells_the_cookie_of_its_namespace_and_is_no_socket() {
    let mut host = Host::new();
    host.record(&tcp(action::LISTEN));
    host.namespaces.learn([(blue(), Mark::Witness(WITNESS))]);
    host.sockets.take_changed();

    host.record(&SocketRecord { cookie: WITNESS, ..udp(action::CONNECT) });
    host.record(&SocketRecord { cookie: WITNESS, ..udp(action::RELEASE) });

    assert_eq!(host.sockets.get(COOKIE).unwrap().netns, Some(blue()));
    assert_eq!(host.sockets.take_changed(), [COOKIE]);
    assert_eq!(host.sockets.get(WITNESS), None);
}

#[test]
fn a_witness_that_told_before_it_was_known_as_one_is_heard_as_well() {
    let mut host = Host::new();
    host.record(&SocketRecord { cookie: WITNESS, ..udp(action::CONNECT) });
    host.record(&SocketRecord { cookie: WITNESS, ..udp(action::RELEASE) });
    host.record(&tcp(action::LISTEN));

    host.namespaces.learn([(blue(), Mark::Witness(WITNESS))]);
    host.sockets.resolve(&mut host.namespaces);

    assert_eq!(host.sockets.get(COOKIE).unwrap().netns, Some(blue()));
    assert_eq!(host.sockets.get(WITNESS), None);
    assert!(!host.namespaces.take_missing());
}

/// The cookie of a socket that portwatch made in a namespace.
const WITNESS: u64 = 4711;
