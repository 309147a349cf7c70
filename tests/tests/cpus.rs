//! Every CPU has a flow table and a ring of its own: what is told of a conversation does not depend on which
//! of them saw which packet.

#![cfg(test)]

use std::thread::available_parallelism;

use monitor_ebpf::packet::tcp::{ACK, FIN, SYN};
use portwatch_tests::{Frame, Lab, Run, frames_file, skip};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

/// Around a segment, as the kernel side tells them apart: what takes a glance, and what takes a second look.
const FRAMINGS: [fn(Frame) -> Frame; 3] = [
    |segment| segment.ipv4().ethernet(),
    |segment| segment.ipv6().ethernet(),
    |segment| segment.ipv4_with(0, 0, &[1; 4]).ethernet(),
];

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
    let portwatch = lab.right.portwatch(&["watch"]);

    for sequence in 0..3 {
        send_on(&lab, 0, &[(sequence, SYN), (sequence + 1, ACK)], FRAMINGS[0]);
        send_on(&lab, 1, &[(sequence + 1, FIN | ACK)], FRAMINGS[0]);
    }
    let run = portwatch.stop();

    run.assert_sound();
    // The slot of the other CPU counts on: whose FIN it was is not told, how many connections there were is.
    assert_eq!((packets(&run).len(), packets(&run).iter().sum()), (3, 9));
}

#[test]
fn a_syn_that_another_cpu_sees_begins_another_connection_unless_it_was_sent_again() {
    let Some(lab) = on_two_cpus() else { return };
    for framed in FRAMINGS {
        let told_of = |segments: &[(usize, u32, u8)]| {
            let portwatch = lab.right.portwatch(&["watch"]);
            // Everything is over when portwatch hears of any of it.
            portwatch.pause();
            for (cpu, sequence, flags) in segments {
                send_on(&lab, *cpu, &[(*sequence, *flags)], framed);
            }
            portwatch.resume();
            let run = portwatch.stop();
            run.assert_sound();
            packets(&run)
        };

        let again = told_of(&[(0, 7, SYN), (1, 7, SYN), (0, 8, ACK), (0, 8, FIN | ACK)]);
        let another = told_of(&[(0, 7, SYN), (0, 8, ACK), (0, 8, FIN | ACK), (1, 9, SYN)]);

        assert_eq!((again, another), (vec![4], vec![3, 1]));
    }
}

/// Packets of the client of each connection that has ended.
fn packets(run: &Run) -> Vec<u64> {
    run.of("flow-ended").map(|event| event.number("source.packets")).collect()
}

/// Lets a CPU see segments from and to where nobody is, of which these are the sequence numbers and flags.
fn send_on(lab: &Lab, cpu: usize, segments: &[(u32, u8)], framed: fn(Frame) -> Frame) {
    let segment = |(sequence, flags): &(u32, u8)| Frame::segment(4000, PORT, *sequence, *flags);
    let frames: Vec<Frame> = segments.iter().map(segment).map(framed).collect();
    let file = frames_file(&frames);
    let inject = format!("inject {} {}", Lab::DEVICE, file.path().display());
    lab.left.perform(&[&format!("pin {cpu}"), &inject]);
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
