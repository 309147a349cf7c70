//! What is said of interfaces: nothing that is not known by interface.

use super::*;
use crate::pcap::statistics::Tally;
use crate::report::PortCount;

#[test]
fn what_was_counted_was_written_or_not_sampled_or_lost() {
    let mut tally = started();
    write(&mut tally, 2, 10);
    tally.lost((1, 2), 3);
    tally.count(&counters(&[(2, 100), (3, 7)], 0), 9);
    // After the counters were read: not among what they say.
    write(&mut tally, 2, 5);

    let all = all(&tally);

    let [(first, of_first), (second, of_second)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((*first, *second), (2, 3));
    let expected = Statistics {
        start_unix_ns: 1,
        time_unix_ns: 9,
        counted: Some(100),
        lost: Some(3),
        unsampled: Some(87),
        written: 10,
        comment: None,
    };
    assert_eq!(of_first, &expected);
    let (counted, unsampled) = (Some(7), Some(7));
    assert_eq!(
        of_second,
        &Statistics { counted, unsampled, lost: Some(0), written: 0, ..expected }
    );
}

#[test]
fn what_the_full_ring_lost_of_one_interface_is_known_and_of_several_is_not() {
    let mut alone = started();
    alone.count(&counters(&[(2, 100)], 40), 9);
    let mut several = started();
    several.count(&counters(&[(2, 100), (3, 7)], 40), 9);

    let said = |tally: &Tally| {
        all(tally).into_iter().map(|(_, it)| (it.lost, it.comment.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(said(&alone), [(Some(40), true)]);
    assert_eq!(said(&several), [(None, true), (None, true)]);
}

#[test]
fn before_counters_were_read_only_what_was_written_is_known() {
    let mut tally = started();
    write(&mut tally, 2, 4);

    let all = all(&tally);

    let [(2, statistics)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((statistics.counted, statistics.lost, statistics.written), (None, None, 4));
}

#[test]
fn packets_at_interfaces_that_are_not_known_are_told_in_words() {
    let mut tally = started();
    let overflow = PortCount {
        port: 3516,
        direction: Direction::Ingress,
        packets: 12,
        bytes: 1,
        wire_packets: None,
        wire_bytes: None,
    };
    tally.count(&Counters { overflow: vec![overflow], ..counters(&[(2, 1)], 0) }, 9);

    let comment = all(&tally)[0].1.comment.clone().unwrap_or_default();
    assert!(comment.starts_with("12 packets more"), "{comment}");
}

fn started() -> Tally {
    let mut tally = Tally::default();
    tally.start(1);
    tally
}

fn write(tally: &mut Tally, ifindex: u32, packets: u64) {
    (0..packets).for_each(|_| tally.wrote(&netns(), &interface(ifindex), 5));
}

fn counters(interfaces: &[(u32, u64)], ring_full: u64) -> Counters {
    let count = |&(ifindex, packets): &(u32, u64)| InterfaceCount {
        port: 3516,
        place: PlaceCount {
            interface: interface(ifindex),
            netns: netns(),
            direction: Direction::Ingress,
            packets,
            bytes: packets,
        },
    };
    Counters {
        interfaces: interfaces.iter().map(count).collect(),
        records: RecordCounts { ring_full, ..RecordCounts::default() },
        ..Counters::default()
    }
}

fn all(tally: &Tally) -> Vec<(u32, Statistics)> {
    tally.all().map(|(_, interface, statistics)| (interface.ifindex, statistics)).collect()
}
