//! Samples of packets: how many, what they stand for, and what they do not give away.

#![cfg(test)]

use portwatch_tests::{Lab, Run};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn samples_stay_within_their_budget_and_count_what_they_stand_for() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "--sample", "10"]);
    let address = lab.right.v4(PORT);
    let mut server = lab.right.actor(&[&format!("bind udp {address}"), "serve 5000"]);
    server.answer();

    lab.left.perform(&[&format!("connect udp {address}"), "roundtrips 5000 100"]);
    server.finish(1);
    let run = portwatch.stop();

    let stand_for = |count: u64| {
        run.of("packet-sampled")
            .filter(|it| it.number("portwatch.sample.represents") == count)
            .count()
    };
    let (head, tenths) = (stand_for(1), stand_for(10));
    let suppressed = run.counter("samples.suppressed");
    assert_eq!(run.of("packet-sampled").count(), head + tenths);
    assert_eq!(run.counter("samples.taken"), u64::try_from(head + tenths).unwrap());
    assert_eq!(run.counter("records.filtered"), suppressed);
    assert!(head > 0 && tenths > 0, "{head} {tenths}");
    // Of both directions every tenth is wanted, and a few at the beginning; each CPU counts for itself.
    let wanted = run.counter("samples.taken") + suppressed;
    let cpus = u64::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    assert!((1000 - 2 * cpus..=1000 + 32 * cpus).contains(&wanted), "{wanted}");
    let lengths = run.of("packet-sampled").map(|it| it.number("portwatch.sample.length"));
    assert!(lengths.eq(std::iter::repeat_n(128, head + tenths)));
    run.assert_sound();
}

#[test]
fn a_sample_shows_no_payload_unless_asked_to() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    // As Base64: 4 letters for 3 bytes.
    for (payload, letters) in [("none", 0), ("masked", HEADERS / 3 * 4), ("full", 128 / 3 * 4)] {
        let portwatch = lab.right.portwatch(&["watch", "--payload", payload]);

        lab.left.perform(&[&format!("sendto {} 300", lab.right.v4(PORT))]);
        let sample = portwatch.expect("a sample", |event| event.is("packet-sampled"));
        portwatch.stop().assert_sound();

        let data = sample.text("portwatch.sample.data");
        assert!((letters..letters + 8).contains(&data.len()), "{payload}: {data}");
        assert_eq!(sample.number("portwatch.sample.captured"), 128);
        assert_eq!(sample.number("portwatch.sample.length"), 328);
    }
}

#[test]
fn sampling_can_be_turned_off() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "--sample", "0"]);

    lab.left.perform(&[&format!("sendto {} 300", lab.right.v4(PORT))]);
    portwatch.expect("the flow", |event| event.is("flow-started"));
    let run: Run = portwatch.stop();

    assert_eq!(run.of("packet-sampled").count(), 0);
    assert_eq!(run.counter("samples.taken"), 0);
    run.assert_sound();
}

/// Of IPv4 and UDP.
const HEADERS: usize = 28;
