//! Sockets that outlive their processes, while portwatch watches.

#![cfg(test)]

use portwatch_tests::{Actor, Event, Lab};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn of_a_connection_in_time_wait_a_watch_that_was_there_knows_who_had_it() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let mut server = listener(&lab, &[]);
    let portwatch = lab.left.portwatch(&["watch"]);

    server.tell("serve 1");
    // Whoever ends it first is left with the rest.
    let client = lab.left.perform(&[&connect(&lab), "exchange 1000"]);
    server.answer();
    let scan = lab.left.finish_portwatch(&["scan", "--format", "json"]);
    let run = portwatch.stop();

    let events: Vec<Event> = scan.stdout.lines().map(Event::parse).collect();
    let rest = events.iter().find(|event| event.is_flow("flow-updated", client.address()));
    let rest = rest.expect("what is left of the connection");
    assert_eq!(rest.text("portwatch.flow.state"), "TIME-WAIT");
    assert_eq!(rest.text("portwatch.ownership"), "none");
    let flow = run.flow_from(client.address());
    flow.assert_owner("source", "opener", "exact", client.pid);
    assert_eq!(flow.owner("opener", client.pid)["exited"], true);
    assert_eq!(flow.text("event.reason"), "end of flow");
    run.assert_sound();
}

#[test]
fn of_a_connection_that_its_process_leaves_unsent_the_one_who_had_it_is_known() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let server = listener(&lab, &[]);
    let portwatch = lab.left.portwatch(&["watch", "--interval", "1s"]);

    let client = lab.left.perform(&[&connect(&lab), "fill"]);
    let source = client.address();
    let updated =
        portwatch.expect("that it goes on", |event| event.is_flow("flow-updated", source));
    let run = portwatch.stop();
    drop(server);

    for flow in [&updated, run.flow_from(source)] {
        flow.assert_owner("source", "opener", "exact", client.pid);
        flow.assert_owner("source", "releaser", "exact", client.pid);
        assert_eq!(flow.owner("opener", client.pid)["exited"], true);
    }
    run.assert_sound();
}

#[test]
fn of_a_connection_that_was_left_unsent_before_the_watch_it_is_said_that_nobody_has_that_end() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let server = listener(&lab, &[]);
    let client = lab.left.perform(&[&connect(&lab), "fill"]);
    let source = client.address();

    let portwatch = lab.left.portwatch(&["watch"]);
    // The kernel goes on asking whether the other side takes more.
    let is_it = |event: &Event| {
        event.is("flow-started")
            && [event.endpoint("source"), event.endpoint("destination")].contains(&Some(source))
    };
    let flow = portwatch.expect("what is left of the connection", is_it);
    let run = portwatch.stop();

    // The other side is on this host as well, and was not accepted.
    assert!(flow.owners().iter().all(|owner| owner.pid == server.pid()), "{flow}");
    let reason = flow.text("portwatch.ownership_reason");
    assert!(reason.contains("its process has closed it"), "{reason}");
    run.assert_sound();
}

fn connect(lab: &Lab) -> String {
    format!("connect tcp {}", lab.right.v4(PORT))
}

fn listener(lab: &Lab, steps: &[&str]) -> Actor {
    let listen = format!("listen tcp {}", lab.right.v4(PORT));
    let steps: Vec<&str> =
        [&*listen].into_iter().chain(steps.iter().copied()).chain(["stay"]).collect();
    let mut server = lab.right.actor(&steps);
    server.answer();
    server
}
