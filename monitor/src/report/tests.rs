//! What counters say of losses, and of themselves when they contradict each other.

use super::*;

#[test]
fn counters_without_a_loss_have_none_to_tell() {
    assert!(balanced().losses().is_empty());
    assert!(Counters::default().losses().is_empty());
}

#[test]
fn every_loss_is_a_phrase_that_says_how_much_where_and_what_would_help() {
    let lossy = Counters {
        records: RecordCounts { ring_full: 3, undecodable: 2, ..RecordCounts::default() },
        overflow: vec![count(3516, Direction::Ingress, 4), count(4000, Direction::Egress, 5)],
        sinks: vec![sink("stdout", 6), sink("clickhouse", 0), sink("journal", 7)],
        ..balanced()
    };

    let expected = [
        "3 records found the ring buffer full (--ring-size)",
        "2 records could not be decoded",
        "9 packets counted but in no flow (--ring-size, --flow-table)",
        "6 reports not written to stdout",
        "7 reports not written to journal",
    ];
    assert_eq!(lossy.losses(), expected);
}

#[test]
fn one_that_is_lost_is_no_plural() {
    let lossy = Counters {
        records: RecordCounts { ring_full: 1, ..RecordCounts::default() },
        sinks: vec![sink("stdout", 1)],
        ..balanced()
    };

    let expected =
        ["1 record found the ring buffer full (--ring-size)", "1 report not written to stdout"];
    assert_eq!(lossy.losses(), expected);
}

#[test]
fn what_was_left_out_on_purpose_is_no_loss() {
    let counters = Counters {
        records: RecordCounts { seen: 9, filtered: 9, ..RecordCounts::default() },
        samples_suppressed: 9,
        fragments_later: 3,
        ..balanced()
    };

    assert!(counters.losses().is_empty());
}

#[test]
fn two_programs_that_are_wrong_do_not_make_a_right() {
    let program =
        |submitted, read| RecordCounts { seen: 2, submitted, read, ..RecordCounts::default() };
    let programs = BTreeMap::from([("pw_egress", program(2, 1)), ("pw_ingress", program(2, 3))]);
    let records = RecordCounts { seen: 4, submitted: 4, read: 4, ..RecordCounts::default() };

    let broken = Counters { records, programs, ..Counters::default() }.broken_equations();

    let expected = [
        "records of pw_egress: submitted 2 ≠ read 1",
        "records of pw_ingress: submitted 2 ≠ read 3",
    ];
    assert_eq!(broken, expected);
}

#[test]
fn balanced_counters_break_no_equation() {
    assert!(balanced().broken_equations().is_empty());
    assert!(Counters::default().broken_equations().is_empty());
}

#[test]
fn what_is_lost_and_counted_as_lost_breaks_no_equation() {
    let records = RecordCounts { seen: 12, ring_full: 3, undecodable: 1, ..balanced().records };
    let ports = vec![count(3516, Direction::Egress, 5)];
    let overflow = vec![count(3516, Direction::Egress, 2), count(3516, Direction::Ingress, 8)];

    let counters = Counters { ports, overflow, records, ..balanced() };

    assert!(counters.broken_equations().is_empty());
}

#[test]
fn a_record_without_a_fate_breaks_an_equation() {
    let records = RecordCounts { seen: 10, ..balanced().records };

    assert_eq!(
        Counters { records, ..balanced() }.broken_equations(),
        ["records of all programs: seen 10 ≠ filtered 2 + submitted 7 + ring full 0"]
    );
}

#[test]
fn a_record_that_was_not_read_once_breaks_an_equation() {
    let broken = |read| {
        let records = RecordCounts { read, ..balanced().records };
        Counters { records, ..balanced() }.broken_equations()
    };

    assert_eq!(broken(6), ["records of all programs: submitted 7 ≠ read 6"]);
    assert_eq!(broken(8), ["records of all programs: submitted 7 ≠ read 8"]);
}

#[test]
fn a_packet_or_a_byte_too_few_or_too_many_breaks_an_equation() {
    let table = [(11, 1200, "11 and 1200"), (13, 1200, "13 and 1200"), (12, 1201, "12 and 1201")];
    for (packets, bytes, total) in table {
        let row = PortCount { packets, bytes, ..count(3516, Direction::Ingress, 12) };
        let counters = Counters { ports: vec![row], ..balanced() };

        let broken = format!(
            "port 3516 ingress: flows and overflow have 12 packets and 1200 bytes, the total is \
             {total}"
        );
        assert_eq!(counters.broken_equations(), [broken]);
    }
}

#[test]
fn every_port_and_direction_must_add_up_by_itself() {
    let swapped = Counters {
        ports: vec![
            count(3516, Direction::Ingress, 3),
            count(3516, Direction::Egress, 12),
            count(4000, Direction::Ingress, 5),
        ],
        ..balanced()
    };

    let broken = swapped.broken_equations();

    let names: Vec<&str> = broken.iter().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["port 3516 ingress", "port 3516 egress"]);
}

/// Counters as they are after a run, all equations holding.
fn balanced() -> Counters {
    Counters {
        ports: vec![
            count(3516, Direction::Ingress, 12),
            count(3516, Direction::Egress, 3),
            count(4000, Direction::Ingress, 5),
        ],
        interfaces: vec![
            at(2, 3516, Direction::Ingress, 10),
            at(3, 3516, Direction::Ingress, 2),
            at(2, 3516, Direction::Egress, 3),
            at(2, 4000, Direction::Ingress, 5),
        ],
        records: RecordCounts {
            seen: 9,
            filtered: 2,
            submitted: 7,
            ring_full: 0,
            read: 7,
            undecodable: 0,
        },
        ..Counters::default()
    }
}

/// Packets of 100 bytes.
fn count(port: u16, direction: Direction, packets: u64) -> PortCount {
    let bytes = packets * 100;
    PortCount { port, direction, packets, bytes, wire_packets: None, wire_bytes: None }
}

fn at(ifindex: u32, port: u16, direction: Direction, packets: u64) -> InterfaceCount {
    let interface = Interface { ifindex, name: format!("eth{ifindex}") };
    let netns = Netns { inode: 1, name: None };
    let place = PlaceCount { interface, netns, direction, packets, bytes: packets * 100 };
    InterfaceCount { port, place }
}

fn sink(name: &str, lost: u64) -> SinkCount {
    SinkCount { name: name.to_owned(), delivered: 10, lost }
}
