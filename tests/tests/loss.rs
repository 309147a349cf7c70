//! What is lost under a flood is counted and said; what counts packets loses none.

#![cfg(test)]

use portwatch_tests::{Count, Event, Lab, Run};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
const FLOWS: u64 = 3000;

/// 20 bytes of IPv4, 8 of UDP and one.
const DATAGRAM: u64 = 29;

#[test]
fn records_lost_at_a_full_ring_are_counted_and_said() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "--ring-size", "4096", "--fail-on-loss"]);

    // Reads nothing meanwhile: the ring is sure to fill.
    portwatch.pause();
    flood(&lab);
    portwatch.resume();
    let run = portwatch.stop();

    assert!(run.counter("records.ring_full") > 0, "{}", run.ended());
    assert_eq!(run.counted(PORT, "ingress"), Count::of(FLOWS, DATAGRAM));
    let summary = summary(&run);
    let lost = format!("lost: {} records", run.counter("records.ring_full"));
    assert!(summary.replace('\u{a0}', "").contains(&lost), "{summary}");
    assert!(summary.contains("ring") && summary.contains("--ring-size"), "{summary}");
    assert_eq!(run.code, Some(4));
    run.assert_sound();
}

#[test]
fn a_flood_that_portwatch_keeps_reading_is_counted_exactly() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "--ring-size", "4096"]);

    flood(&lab);
    let run = portwatch.stop();

    assert_eq!(run.counted(PORT, "ingress"), Count::of(FLOWS, DATAGRAM));
    assert_eq!(run.code, Some(0));
    run.assert_sound();
}

#[test]
fn a_flow_table_that_is_too_small_counts_every_packet() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let small = ["watch", "--ring-size", "4096", "--flow-table", "64KiB", "--fail-on-loss"];
    let portwatch = lab.right.portwatch(&small);

    portwatch.pause();
    flood(&lab);
    portwatch.resume();
    let run = portwatch.stop();

    let overflow = run.ended().list("portwatch.counters.overflow");
    let overflow: Count = overflow.iter().map(Count::read).sum();
    assert!(overflow.packets > 0, "{}", run.ended());
    assert_eq!(run.counted(PORT, "ingress"), Count::of(FLOWS, DATAGRAM));
    assert_eq!(run.code, Some(4));
    run.assert_sound();
}

#[test]
fn a_flow_that_found_the_ring_full_is_announced_with_its_next_packet() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "-p", "3516-3517", "--ring-size", "4096"]);
    let address = lab.right.v4(PORT + 1);
    let mut receiver = lab.right.actor(&[&format!("bind udp {address}"), "stay"]);
    receiver.answer();
    let connect = format!("connect udp {address}");

    portwatch.pause();
    flood(&lab);
    let mut client = lab.left.actor(&[&connect, "send 1 100", "stay"]);
    let connected = client.answer();
    let local = connected.rsplit(' ').next().and_then(|address| address.parse().ok());
    // A sender of the flood may have the same port.
    let is_it = |flow: &Event| {
        flow.endpoint("source") == local && flow.endpoint("destination") == Some(address)
    };
    client.answer();
    portwatch.resume();
    // Known from the flow table; by then the ring has room.
    portwatch.expect("the flow", |event| event.is("flow-started") && is_it(event));
    client.tell("send 1 100");
    client.answer();
    let pid = client.pid();
    let run = portwatch.stop();

    let ended = run.of("flow-ended").find(|flow| is_it(flow)).expect("the end of the flow");
    let owners = ended.owners();
    let sender = owners.iter().find(|owner| owner.pid == pid).expect("the sender");
    // That this very socket sent it only a record says.
    assert_eq!((sender.side, sender.evidence), ("source", "exact"), "{ended}");
    assert_eq!(ended.number("source.packets"), 2);
    run.assert_sound();
}

#[test]
fn a_quiet_run_says_that_nothing_was_lost() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "--fail-on-loss"]);

    lab.left.perform(&[&format!("sendto {} 1", lab.right.v4(PORT))]);
    portwatch.expect("the datagram", |event| event.is("flow-started"));
    let run = portwatch.stop();

    let summary = summary(&run);
    assert!(summary.starts_with("portwatch: 3516/tcp+udp: 1 packets in"), "{summary}");
    assert!(summary.ends_with(", 0 lost"), "{summary}");
    assert_eq!(run.counted(PORT, "ingress"), Count::of(1, DATAGRAM));
    assert_eq!(run.code, Some(0));
    run.assert_sound();
}

/// Sends one datagram from each of [`FLOWS`] sockets to a listener that reads none of them.
fn flood(lab: &Lab) {
    let address = lab.right.v4(PORT);
    let mut receiver = lab.right.actor(&[&format!("bind udp {address}"), "stay"]);
    receiver.answer();
    lab.left.perform(&[&format!("spread {address} {FLOWS}")]);
}

/// The line that a run leaves behind.
fn summary(run: &Run) -> &str {
    run.stderr.last().map_or("", String::as_str)
}
