//! Every CPU has a flow table and a ring of its own: what is told of a conversation does not depend on which
//! of them saw which packet.

#![cfg(test)]

use std::thread::available_parallelism;

use monitor_ebpf::packet::tcp::{ACK, FIN, SYN};
use portwatch_tests::{Frame, Lab, frames_file, skip};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn connections_on_the_same_ports_are_told_apart_whichever_cpu_sees_them() {
    const CONNECTIONS: usize = 500;
    let Some(lab) = on_two_cpus() else { return };
    let (client, server) = (lab.left.v4(4000), lab.right.v4(PORT));
    let dismiss = format!("dismiss {}", CONNECTIONS + 1);
    let mut host = lab.right.actor(&[&format!("listen tcp {server}"), &dismiss]);
    host.answer();
    // A first packet that waits for the address of the neighbour is sent by whichever CPU learns it.
    lab.left.perform(&[&format!("revisit {server} from {} 1", lab.left.v4(4001))]);
    let portwatch = lab.right.portwatch(&["watch"]);

    lab.left.perform(&[&format!("revisit {server} from {client} {CONNECTIONS}")]);
    host.finish(1);
    lab.right.wait_for_silence();
    let run = portwatch.stop();

    run.assert_sound();
    assert_eq!(run.of("flow-ended").count(), CONNECTIONS);
    for flow in run.of("flow-ended") {
        // That the other side answered and closed it may be counted with one before or after it.
        assert_ne!(flow.number("source.packets"), 0, "{flow}");
        assert_ne!(flow.text("event.reason"), "lack of resources", "{flow}");
        assert_eq!(flow.number("destination.port"), u64::from(PORT), "{flow}");
    }
}

#[test]
fn a_connection_whose_end_another_cpu_saw_is_not_continued_by_the_next() {
    let Some(lab) = on_two_cpus() else { return };
    let sent_on = |cpu: usize, flags: &[u8]| {
        // From and to where nobody is.
        let segment = |flags: &u8| Frame::tcp(4000, PORT, b"").ipv4().ethernet().flagged(*flags);
        let segments: Vec<_> = flags.iter().map(segment).collect();
        let file = frames_file(&segments);
        let inject = format!("inject {} {}", Lab::DEVICE, file.path().display());
        lab.left.perform(&[&format!("pin {cpu}"), &inject]);
    };
    let portwatch = lab.right.portwatch(&["watch"]);

    for _ in 0..3 {
        sent_on(0, &[SYN, ACK]);
        sent_on(1, &[FIN | ACK]);
    }
    let run = portwatch.stop();

    run.assert_sound();
    let ended = run.of("flow-ended").map(|event| event.number("source.packets"));
    assert_eq!(ended.sum::<u64>(), 9);
    assert_eq!(run.of("flow-ended").count(), 3);
}

#[test]
fn who_asked_and_who_answered_is_known_of_every_datagram_of_a_flood() {
    const QUESTIONS: usize = 2_000;
    let Some(lab) = on_two_cpus() else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let address = lab.right.v4(PORT);
    let serve = format!("serve {QUESTIONS}");
    let mut server = lab.right.actor(&["pin 1", &format!("bind udp {address}"), &serve]);
    server.answer();
    server.answer();

    lab.left
        .perform(&["pin 0", &format!("ask {address} from {} {QUESTIONS}", lab.left.v4(10_000))]);
    server.finish(1);
    let run = portwatch.stop();

    run.assert_sound();
    assert_eq!(run.of("flow-ended").count(), QUESTIONS);
    for flow in run.of("flow-ended") {
        assert_eq!(flow.text("portwatch.flow.role"), "server", "{flow}");
        assert_eq!(flow.number("destination.port"), u64::from(PORT), "{flow}");
    }
}

fn on_two_cpus() -> Option<Lab> {
    if available_parallelism().map_or(1, usize::from) < 2 {
        skip("one CPU");
        return None;
    }
    Lab::two_hosts(ACTOR)
}
