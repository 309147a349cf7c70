//! Flows name the processes at both ends, on the evidence that there is.

#![cfg(test)]

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use portwatch_tests::{Actor, Event, Host, Lab, Owner, Performed, Portwatch, finish, skip};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn both_ends_of_a_connection_between_hosts_are_known_exactly() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let mut server = listener(&lab.right);

    let client = exchange(&lab.left, &lab.right, &mut server);
    let flow = end_of_flow(&portwatch, &client);
    let run = portwatch.stop();

    assert_exact_ends(&flow, client.pid, server.pid());
    flow.assert_owner("source", "releaser", "exact", client.pid);
    flow.assert_owner("destination", "releaser", "exact", server.pid());
    assert_eq!(flow.text("portwatch.flow.role"), "server");
    assert_eq!(flow.text("network.direction"), "ingress");
    assert_eq!(flow.endpoint("destination"), Some(lab.right.v4(PORT)));
    run.assert_sound();
}

#[test]
fn both_ends_of_a_connection_are_known_exactly_on_the_side_of_the_client() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.left.portwatch(&["watch"]);
    let mut server = listener(&lab.right);

    let client = exchange(&lab.left, &lab.right, &mut server);
    let flow = end_of_flow(&portwatch, &client);
    let run = portwatch.stop();

    assert_exact_ends(&flow, client.pid, server.pid());
    assert_eq!(flow.text("portwatch.flow.role"), "client");
    assert_eq!(flow.text("network.direction"), "egress");
    run.assert_sound();
}

#[test]
fn both_ends_of_a_connection_on_loopback_are_known_exactly() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let portwatch = host.portwatch(&["watch"]);
    let mut server = listener(&host);

    let client = exchange(&host, &host, &mut server);
    let flow = end_of_flow(&portwatch, &client);
    let run = portwatch.stop();

    assert_exact_ends(&flow, client.pid, server.pid());
    assert_eq!(flow.text("portwatch.flow.role"), "server");
    run.assert_sound();
}

#[test]
fn both_ends_of_a_conversation_in_datagrams_are_known_exactly() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let families = [
        (lab.right.v4(PORT), lab.right.v4(PORT)),
        (lab.right.v6(PORT), lab.right.v6(PORT)),
        (lab.right.v4(PORT), mapped(lab.right.v4(PORT))),
    ];

    let conversations = families.map(|(bound, dialled)| {
        let mut server = lab.right.actor(&[&format!("bind udp {bound}"), "serve 10"]);
        server.answer();
        let connect = format!("connect udp {dialled}");
        (lab.left.perform(&[&connect, "roundtrips 10 100"]), server.finish(1))
    });
    let run = portwatch.stop();

    for (client, server) in conversations {
        let flow = run.flow_from(unmapped(client.address()));
        assert_exact_ends(flow, client.pid, server.pid);
        assert_eq!(flow.text("portwatch.flow.role"), "server");
    }
    run.assert_sound();
}

#[test]
fn both_ends_of_a_connection_are_known_exactly_whatever_the_family_of_their_sockets() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let families = [
        (lab.right.v6(PORT), lab.right.v6(PORT)),
        (any, lab.right.v4(PORT)),
        (any, mapped(lab.right.v4(PORT))),
    ];

    let ends = families.map(|(bound, dialled)| {
        let mut server = lab.right.actor(&[&format!("listen tcp {bound}"), "serve 1"]);
        server.answer();
        let client = lab.left.perform(&[&format!("connect tcp {dialled}"), "exchange 1000"]);
        let address = unmapped(client.address());
        portwatch.expect("the end of the flow", |event| event.is_flow("flow-ended", address));
        (client, server.finish(1))
    });
    let run = portwatch.stop();

    for (client, server) in ends {
        let flow = run.flow_from(unmapped(client.address()));
        assert_exact_ends(flow, client.pid, server.pid);
    }
    run.assert_sound();
}

#[test]
fn a_server_older_than_portwatch_is_known_as_the_holder_of_its_listener() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let mut server = listener(&lab.right);
    let portwatch = lab.right.portwatch(&["watch"]);

    let client = exchange(&lab.left, &lab.right, &mut server);
    let flow = end_of_flow(&portwatch, &client);
    let run = portwatch.stop();

    flow.assert_owner("source", "opener", "exact", client.pid);
    flow.assert_owner("destination", "holder", "observed", server.pid());
    assert_eq!(flow.number("process.pid"), u64::from(server.pid()));
    run.assert_sound();
}

#[test]
fn a_client_that_lives_for_a_moment_is_known_exactly() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let server = listener(&lab.right);

    // Exits without waiting for anything: a few milliseconds from its start to its end.
    let connect = format!("connect tcp {}", lab.right.v4(PORT));
    let client = lab.left.perform(&[&connect, "send 1 10"]);
    let flow = portwatch
        .expect("the start of the flow", |event| event.is_flow("flow-started", client.address()));
    server.leave();
    let run = portwatch.stop();

    flow.assert_owner("source", "opener", "exact", client.pid);
    let opener = run.flow_from(client.address()).owner("opener", client.pid);
    assert_eq!(opener["name"], "actor");
    assert!(opener.get("executable").is_none_or(|it| it == ACTOR), "{opener}");
    run.assert_sound();
}

#[test]
fn one_datagram_of_a_process_that_exits_at_once_is_known_exactly() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    // Each to a port of its own: two senders may get the same port, which would make one flow.
    let portwatch = lab.right.portwatch(&["watch", "--port", "3516-3518"]);
    let host = &lab.right;

    let senders = [host.v4(PORT), host.v6(PORT + 1), mapped(host.v4(PORT + 2))].map(|address| {
        let client = lab.left.perform(&[&format!("sendto {address} 100")]);
        let started = portwatch.expect("a flow of one datagram", |event| {
            event.is("flow-started") && event.at("destination.port") == address.port()
        });
        (client.pid, started)
    });
    let run = portwatch.stop();

    for (pid, started) in senders {
        let owners = started.owners();
        let sender = owners.iter().find(|owner| owner.pid == pid).expect("the sender");
        assert_eq!((sender.side, sender.evidence), ("source", "exact"), "{started}");
    }
    run.assert_sound();
}

#[test]
fn a_process_that_has_left_is_said_to_have_exited() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let _server = listener(&lab.right);
    let mut client = lab.left.actor(&[&format!("connect tcp {}", lab.right.v4(PORT)), "stay"]);
    let local = client.answer().rsplit(' ').next().and_then(|it| it.parse().ok());
    let started = |event: &Event| event.is("flow-started") && event.endpoint("source") == local;

    let before = portwatch.expect("the flow, with who opened it", started);
    let pid = client.pid();
    client.leave();
    let run = portwatch.stop();

    assert_eq!(before.owner("opener", pid)["exited"], false);
    let after = run.of("flow-ended").find(|flow| flow.endpoint("source") == local);
    assert_eq!(after.expect("the end of the flow").owner("opener", pid)["exited"], true);
    run.assert_sound();
}

#[test]
fn an_owner_is_described_down_to_what_it_runs() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let mut server = listener(&lab.right);

    let client = exchange(&lab.left, &lab.right, &mut server);
    let flow = end_of_flow(&portwatch, &client);
    portwatch.stop().assert_sound();

    let listen = format!("listen tcp {}", lab.right.v4(PORT));
    assert_eq!(flow.text("process.name"), "actor");
    assert_eq!(flow.text("process.executable"), ACTOR);
    assert_eq!(*flow.at("process.args"), Value::from(vec![ACTOR, &listen, "stay"]));
    assert_eq!(flow.text("process.hash.sha256"), sha256(ACTOR));
    assert_eq!((flow.text("process.user.id"), flow.text("process.user.name")), ("0", "root"));
    assert_eq!(flow.number("process.parent.pid"), u64::from(std::process::id()));
    assert!(!flow.text("process.entity_id").is_empty() && !flow.text("process.start").is_empty());
    let owner = flow.owner("opener", server.pid());
    assert_eq!(owner["ancestors"][0]["pid"], std::process::id());
    assert_eq!((&owner["sha256"], &owner["user"]), (&sha256(ACTOR).into(), &"root".into()));
}

#[test]
fn a_process_of_another_user_is_said_to_be_theirs() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let portwatch = host.portwatch(&["watch"]);
    let listen = format!("listen tcp {}", host.v4(PORT));
    let mut as_nobody = host.command("setpriv");
    as_nobody.args(["--reuid=65534", "--clear-groups", ACTOR, &listen, "stay"]);

    let mut server = Actor::start(&mut as_nobody);
    server.answer();
    let opened = portwatch
        .expect("the listener", |event| event.is_listener("listener-opened", PORT, host.netns()));
    portwatch.stop().assert_sound();

    let owner = opened.owner("opener", server.pid());
    assert_eq!(owner["user"], "nobody");
    assert_eq!(
        (opened.text("process.user.id"), opened.text("process.user.name")),
        ("65534", "nobody")
    );
}

#[test]
fn a_worker_that_inherits_a_connection_is_known_exactly() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let mut server = listener(&lab.right);

    let (client, worker) = exchange_with_worker(&lab, &mut server);
    let flow = end_of_flow(&portwatch, &client);
    portwatch.stop().assert_sound();

    let named = |owner: &Owner<'_>| {
        (owner.pid, owner.side, owner.evidence) == (worker, "destination", "exact")
    };
    assert!(flow.owners().iter().any(named), "{worker} is none of {:?}", flow.owners());
    flow.assert_owner("destination", "opener", "exact", server.pid());
}

#[test]
fn the_worker_that_serves_a_connection_is_its_user_and_the_process_to_name() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let mut server = listener(&lab.right);

    let (client, worker) = exchange_with_worker(&lab, &mut server);
    let flow = end_of_flow(&portwatch, &client);
    let run = portwatch.stop();
    run.assert_sound();

    if !run.attached("pw_recv_length") {
        return skip("this kernel has no tracepoint sock_recv_length");
    }
    flow.assert_owner("destination", "user", "exact", worker);
    flow.assert_owner("destination", "opener", "exact", server.pid());
    assert_eq!(flow.number("process.pid"), u64::from(worker));
}

#[test]
fn a_server_that_only_receives_datagrams_is_known_exactly() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);

    let conversations = [lab.right.v4(PORT), lab.right.v6(PORT)].map(|address| {
        let bind = format!("bind udp {address}");
        let mut server = lab.right.actor(&[&bind, "hear 1", "stay"]);
        server.answer();
        let client = lab.left.perform(&[&format!("sendto {address} 100")]);
        server.answer();
        let pid = server.pid();
        server.leave();
        (client.address().port(), address, pid)
    });
    let run = portwatch.stop();

    for (port, address, pid) in conversations {
        let is_it = |flow: &&Event| {
            flow.at("source.port") == port && flow.endpoint("destination") == Some(address)
        };
        let flow = run.of("flow-ended").find(is_it).expect("a flow of one datagram");
        flow.assert_owner("destination", "user", "exact", pid);
        flow.assert_owner("destination", "opener", "exact", pid);
    }
    run.assert_sound();
}

#[test]
fn a_client_that_got_the_watched_port_as_its_own_is_not_taken_for_a_server() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let narrow = "echo 3516 3516 > /proc/sys/net/ipv4/ip_local_port_range";
    let narrowed = finish(lab.left.command("sh").args(["-c", narrow]));
    let portwatch = lab.left.portwatch(&["watch"]);
    let address = lab.right.v4(9000);
    let mut server = lab.right.actor(&[&format!("listen tcp {address}"), "serve 1"]);
    server.answer();

    let client = lab.left.perform(&[&format!("connect tcp {address}"), "exchange 1000"]);
    server.finish(1);
    let flow = end_of_flow(&portwatch, &client);
    portwatch.stop().assert_sound();

    assert_eq!((narrowed.code, client.address()), (Some(0), lab.left.v4(PORT)));
    assert_eq!(flow.text("portwatch.flow.role"), "ephemeral");
    flow.assert_owner("source", "opener", "exact", client.pid);
}

#[test]
fn what_passes_through_is_forwarded() {
    let Some((lab, router)) = Lab::routed(ACTOR) else { return };
    let portwatch = router.portwatch(&["watch"]);
    let mut server = listener(&lab.right);

    let client = exchange(&lab.left, &lab.right, &mut server);
    let flow = end_of_flow(&portwatch, &client);
    portwatch.stop().assert_sound();

    assert_eq!(flow.text("portwatch.flow.role"), "forwarded");
    let places = flow.list("portwatch.flow.interfaces");
    let seen: Vec<_> = places.iter().map(|it| (&it["name"], &it["direction"])).collect();
    let expected =
        [("left0", "egress"), ("left0", "ingress"), ("right0", "egress"), ("right0", "ingress")]
            .map(|(name, direction)| (Value::from(name), Value::from(direction)));
    assert!(expected.iter().all(|(name, direction)| seen.contains(&(name, direction))), "{seen:?}");
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_connection_that_nobody_accepts_is_refused() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let connect = format!("connect tcp {}", lab.right.v4(PORT));

    let refused = finish(lab.left.command(ACTOR).arg(connect));
    let flow = portwatch.expect("a refused flow", |event| {
        event.is("flow-ended") && event.endpoint("destination") == Some(lab.right.v4(PORT))
    });
    portwatch.stop().assert_sound();

    assert_ne!(refused.code, Some(0));
    assert_eq!(flow.text("portwatch.flow.role"), "refused");
    assert_eq!(flow.text("event.reason"), "end of flow");
    assert!(flow.owners().iter().all(|owner| owner.side == "source"), "{flow}");
}

/// Listens on the port, and accepts when it is told to.
fn listener(host: &Host) -> Actor {
    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();
    server
}

/// A connection from one host to a server on another.
fn exchange(from: &Host, to: &Host, server: &mut Actor) -> Performed {
    server.tell("serve 1");
    let connect = format!("connect tcp {}", to.v4(PORT));
    let client = from.perform(&[&connect, "exchange 100000"]);
    server.answer();
    client
}

/// A connection to a server that leaves it to a process of its own, which is gone afterwards: its pid.
fn exchange_with_worker(lab: &Lab, server: &mut Actor) -> (Performed, u32) {
    server.tell("hand-over");
    let connect = format!("connect tcp {}", lab.right.v4(PORT));
    let client = lab.left.perform(&[&connect, "exchange 100000"]);
    let worker = last_number(&server.answer());
    server.ask("join");
    (client, worker)
}

fn end_of_flow(portwatch: &Portwatch, client: &Performed) -> Event {
    let address = client.address();
    portwatch.expect("the end of the flow", |event| event.is_flow("flow-ended", address))
}

#[track_caller]
fn assert_exact_ends(flow: &Event, client: u32, server: u32) {
    flow.assert_owner("source", "opener", "exact", client);
    flow.assert_owner("destination", "opener", "exact", server);
    assert_eq!(flow.text("portwatch.ownership"), "process");
    assert_eq!(flow.number("process.pid"), u64::from(server));
}

/// The IPv4 address as an IPv6 socket dials it.
fn mapped(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::from((ip, address.port()))
}

/// The address that is on the wire.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn sha256(path: &str) -> String {
    let hash = Sha256::digest(fs::read(path).unwrap());
    hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn last_number(answer: &str) -> u32 {
    answer.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default()
}
