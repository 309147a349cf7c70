//! Thousands of processes that are gone before anybody could look are named all the same.

#![cfg(test)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portwatch_tests::{Actor, Event, Lab, Owner, skip};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
const CONNECTIONS: usize = 2000;

#[test]
fn of_thousands_of_short_connections_both_processes_are_known_exactly() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "--fail-on-loss"]);
    let address = lab.right.v4(PORT);
    let mut server = lab.right.actor(&[&format!("listen tcp {address}"), "stay"]);
    server.answer();

    // Each connection has a client that exits at once, and a process that accepts it and lives for
    // two milliseconds.
    server.tell(&format!("mayflies {CONNECTIONS}"));
    let mut crowd = lab.left.actor(&[&format!("crowd {address} {CONNECTIONS}")]);
    let clients = roll(&mut crowd);
    let servers = roll(&mut server);
    let listener = server.pid();
    crowd.finish(1);
    server.answer();
    server.leave();
    let run = portwatch.stop();

    if !run.attached("pw_recv_length") {
        return skip("this kernel has no tracepoint sock_recv_length");
    }
    assert_eq!((clients.len(), servers.len()), (CONNECTIONS, CONNECTIONS));
    let flows: BTreeMap<SocketAddr, &Event> =
        run.of("flow-ended").filter_map(|flow| Some((flow.endpoint("source")?, flow))).collect();
    for (source, client) in clients {
        let flow = flows.get(&source).unwrap_or_else(|| panic!("no flow from {source}"));
        let worker = servers[&source];
        for (side, role, pid) in [
            ("source", "opener", client),
            ("destination", "opener", listener),
            ("destination", "user", worker),
        ] {
            flow.assert_owner(side, role, "exact", pid);
        }
        let others = |owner: &Owner<'_>| ![client, listener, worker].contains(&owner.pid);
        assert!(
            !flow.owners().iter().any(others),
            "{client}, {listener}, {worker}: {:?}",
            flow.owners()
        );
        assert_eq!(flow.owner("opener", client)["name"], "actor");
        assert_eq!(flow.number("process.pid"), u64::from(worker));
        assert_eq!(flow.text("process.user.name"), "root", "{flow}");
    }
    assert_eq!(run.code, Some(0));
    run.assert_sound();
}

/// Who met whom, as each of the processes of an actor says: peer of the listener, and pid.
fn roll(actor: &mut Actor) -> BTreeMap<SocketAddr, u32> {
    let line = |line: String| {
        let (pid, address) = line.split_once(' ').expect("a pid and an address");
        (address.parse().expect("an address"), pid.parse().expect("a pid"))
    };
    (0..CONNECTIONS).map(|_| line(actor.answer())).collect()
}
