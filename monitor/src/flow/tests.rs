//! The flow table against hand-made records and credits.

use monitor_ebpf::wire::Place;
use proptest::prelude::*;

use super::*;
use crate::ledger::Tenure;
use crate::report::FlowRole;
use zerocopy::FromZeros as _;

const SECOND: u64 = 1_000_000_000;
const SYN_ACK: u8 = tcp::SYN | tcp::ACK;

#[test]
fn both_directions_are_one_flow_opened_by_the_sender_of_the_syn() {
    let mut table = table();

    table.announce(&record(&key(CLIENT, SERVER, 2, false), SECOND, tcp::SYN), &ports());
    table.announce(&record(&key(SERVER, CLIENT, 2, true), SECOND, SYN_ACK), &ports());
    table.credit(&credit(&key(CLIENT, SERVER, 2, false), 3, tcp::SYN), 2 * SECOND, &ports());
    table.credit(&credit(&key(SERVER, CLIENT, 2, true), 2, SYN_ACK), 2 * SECOND, &ports());

    let started = table.started(2 * SECOND, 0, |_| true);
    assert_eq!(started.len(), 1);
    let flow = &started[0];
    assert_eq!(flow.id.endpoint(flow.opener).port, 40000);
    assert_eq!(flow.port, 3516);
    assert_eq!(flow.sent_by(flow.opener), (3, 300));
    assert_eq!(flow.sent_by(flow.opener.other()), (2, 200));
    assert_eq!(flow.role(&ports(), false, 2 * SECOND), Some(FlowRole::Server));
    assert!(table.started(3 * SECOND, 0, |_| true).is_empty());
}

#[test]
fn a_packet_on_loopback_is_two_places_and_counts_once() {
    let mut table = table();
    let (out, back) = (key(CLIENT, SERVER, 1, true), key(CLIENT, SERVER, 1, false));
    table.announce(&record(&out, SECOND, 0), &ports());
    table.announce(&record(&back, SECOND + 1, 0), &ports());
    table.credit(&credit(&out, 5, 0), SECOND, &ports());
    table.credit(&credit(&back, 5, 0), SECOND, &ports());

    let flow = &table.started(SECOND, 0, |_| true)[0];

    assert_eq!(flow.places.len(), 2);
    assert_eq!(flow.sent_by(flow.opener), (5, 500));
    assert!(flow.is_local(End::Low) && flow.is_local(End::High));
}

#[test]
fn connections_on_the_same_ports_one_after_the_other_have_each_its_own_packets() {
    let mut table = table();
    let there = key(CLIENT, SERVER, 2, false);
    let tenure = |generation| Tenure { slot: 7, generation };
    let both = tcp::SYN | tcp::RST;

    // As the records of a slot tell it: what it held, then what it holds.
    for generation in 1..=3 {
        if generation > 1 {
            let held = Credit { tenure: tenure(generation - 1), ..credit(&there, 2, both) };
            table.credit(&held, SECOND, &ports());
        }
        let mut record = record(&there, SECOND + u64::from(generation), tcp::SYN);
        (record.slot, record.generation) = (7, u32::from(generation));
        record.sequence = u32::from(generation);
        table.announce(&record, &ports());
    }
    table.credit(&Credit { tenure: tenure(3), ..credit(&there, 2, both) }, SECOND, &ports());

    let changes = table.sweep(10 * SECOND);
    let ended: Vec<_> = changes
        .iter()
        .filter_map(|(change, flow)| match change {
            FlowChange::Ended(reason) => Some((*reason, flow.sent_by(flow.opener).0)),
            _ => None,
        })
        .collect();
    assert_eq!(ended, [(EndReason::EndOfFlow, 2); 3]);
}

#[test]
fn traffic_that_goes_through_is_forwarded() {
    let mut table = table();
    table.announce(&record(&key(CLIENT, SERVER, 2, false), SECOND, tcp::SYN), &ports());
    table.announce(&record(&key(CLIENT, SERVER, 3, true), SECOND + 1, tcp::SYN), &ports());

    let flow = &table.started(SECOND + 1, 0, |_| true)[0];

    assert_eq!(flow.role(&ports(), false, SECOND + 1), Some(FlowRole::Forwarded));
}

#[test]
fn a_syn_answered_by_a_reset_is_refused_and_over_after_a_second() {
    let mut table = table();
    table.announce(&record(&key(CLIENT, SERVER, 2, false), SECOND, tcp::SYN), &ports());
    table.announce(&record(&key(SERVER, CLIENT, 2, true), SECOND, tcp::RST | tcp::ACK), &ports());

    let changes = table.sweep(2 * SECOND);

    let kinds: Vec<FlowChange> = changes.iter().map(|(change, _)| *change).collect();
    assert_eq!(kinds, [FlowChange::Started, FlowChange::Ended(EndReason::EndOfFlow)]);
    assert_eq!(changes[1].1.role(&ports(), true, 2 * SECOND), Some(FlowRole::Refused));
    assert!(table.is_empty());
}

#[test]
fn a_connection_whose_end_is_announced_before_it_is_counted_is_not_over_yet() {
    let mut table = table();
    let (there, back) = (key(CLIENT, SERVER, 2, false), key(SERVER, CLIENT, 2, true));
    table.announce(&record(&there, SECOND, tcp::SYN), &ports());
    // Answered after it was sent again, and ended at once, on another CPU.
    for (key, flags) in [(there, tcp::FIN | tcp::ACK), (back, tcp::FIN | tcp::ACK)] {
        let record = FlowRecord { slot: 107, ..record(&key, 3 * SECOND, flags) };
        table.announce(&record, &ports());
    }

    let ended = |changes: Vec<(FlowChange, Flow)>| {
        changes.iter().filter(|(change, _)| matches!(change, FlowChange::Ended(_))).count()
    };
    assert_eq!(ended(table.sweep(3 * SECOND + 1)), 0);
    assert_eq!(ended(table.sweep(4 * SECOND)), 1);
}

#[test]
fn the_same_ports_again_are_a_flow_of_their_own() {
    let mut table = table();
    let (there, back) = (key(CLIENT, SERVER, 2, false), key(SERVER, CLIENT, 2, true));
    table.announce(&record(&there, SECOND, tcp::SYN), &ports());
    table.credit(&credit(&there, 4, tcp::SYN | tcp::FIN), SECOND, &ports());
    table.credit(&credit(&back, 3, SYN_ACK | tcp::FIN), SECOND, &ports());

    let again = FlowRecord { generation: 1, sequence: 1, ..record(&there, SECOND + 5, tcp::SYN) };
    table.announce(&again, &ports());
    table.credit(&credit(&there, 1, tcp::SYN | tcp::FIN), SECOND + 5, &ports());
    let tenure = Tenure::announced_by(&again);
    let of_again = Credit { tenure, ..credit(&there, 1, tcp::SYN) };
    table.credit(&of_again, SECOND + 5, &ports());
    table.credit(&credit(&back, 1, SYN_ACK | tcp::FIN), SECOND + 5, &ports());

    let ended: Vec<Flow> = table
        .finish()
        .into_iter()
        .filter(|(change, _)| matches!(change, FlowChange::Ended(_)))
        .map(|(_, flow)| flow)
        .collect();
    assert_eq!(ended.len(), 2);
    assert_eq!(ended[0].sent_by(ended[0].opener), (5, 500));
    assert_eq!(ended[0].sent_by(ended[0].opener.other()), (4, 400));
    assert_eq!(ended[1].sent_by(ended[1].opener), (1, 100));
    assert_eq!(ended[1].sent_by(ended[1].opener.other()), (0, 0));
}

#[test]
fn a_syn_on_another_cpu_raises_the_doubt_whether_the_known_connection_is_over() {
    let (there, back) = (key(CLIENT, SERVER, 2, false), key(SERVER, CLIENT, 2, true));
    let elsewhere = key(CLIENT, SERVER, 3, false);
    let taken = |key, slot, time_ns, flags| {
        let mut record = record(key, time_ns, flags);
        (record.slot, record.generation) = (slot, 1);
        record
    };
    let same = taken(&there, 107, SECOND + 2, tcp::SYN);
    let again = FlowRecord { sequence: 1, ..same };
    let tenure = |slot| Tenure { slot, generation: 1 };
    let known = || {
        let mut table = table();
        table.announce(&taken(&there, 7, SECOND, tcp::SYN), &ports());
        table.announce(&taken(&back, 9, SECOND + 1, SYN_ACK), &ports());
        table
    };

    let doubt = known().in_doubt(&again);
    let of_new_place = known().in_doubt(&taken(&elsewhere, 107, SECOND, tcp::SYN));
    let of_its_own = known().in_doubt(&taken(&there, 7, SECOND, tcp::SYN));
    let of_late_ack = known().in_doubt(&taken(&there, 107, SECOND + 2, tcp::ACK));
    let of_same = known().in_doubt(&same);
    let seen = |record: &FlowRecord, flags: u8, is_overtaken: bool| {
        let mut table = known();
        let credit = Credit { tenure: tenure(7), ..credit(&there, 2, flags) };
        table.credit(&credit, SECOND, &ports());
        if is_overtaken {
            table.overtaken(&FlowId::of(&there).0);
        }
        table.announce(record, &ports());
        table.seen()
    };

    let (flow, counted) = (FlowId::of(&there).0, [tenure(7), tenure(9)].into());
    assert_eq!(doubt, Some(Doubt { flow, counted }));
    assert_eq!([of_new_place, of_its_own, of_late_ack, of_same], [None, None, None, None]);
    // Nothing says that it is over; a FIN that the table has told; a later connection that it holds.
    let syn_and_fin = tcp::SYN | tcp::FIN;
    let told = [(tcp::SYN, false), (syn_and_fin, false), (tcp::SYN, true)];
    assert_eq!(told.map(|(flags, is_overtaken)| seen(&again, flags, is_overtaken)), [1, 2, 2]);
    assert_eq!(seen(&same, syn_and_fin, false), 1);
}

#[test]
fn who_opens_again_after_a_fin_has_a_flow_of_its_own_whatever_is_known_of_the_other_side() {
    let mut table = table();
    let there = key(CLIENT, SERVER, 2, false);
    table.announce(&record(&there, SECOND, tcp::SYN), &ports());
    table.announce(&record(&key(SERVER, CLIENT, 2, true), SECOND, SYN_ACK), &ports());
    table.credit(&credit(&there, 4, tcp::SYN | tcp::FIN), SECOND, &ports());

    let again = FlowRecord { generation: 1, sequence: 1, ..record(&there, SECOND + 5, tcp::SYN) };
    table.announce(&again, &ports());

    let changes = table.finish();
    let ended = changes.iter().filter(|(change, _)| matches!(change, FlowChange::Ended(_)));
    assert_eq!(ended.count(), 2);
}

#[test]
fn a_full_table_ends_the_flow_idle_longest() {
    let mut table = table();
    for index in 0..5_u16 {
        let client = ([10, 0, 0, 9], 50000 + index);
        let time = SECOND * u64::from(index + 1);
        table.announce(&record(&key(client, SERVER, 2, false), time, tcp::SYN), &ports());
    }

    let changes = table.sweep(5 * SECOND);

    let ended: Vec<u16> = changes
        .iter()
        .filter(|(change, _)| *change == FlowChange::Ended(EndReason::LackOfResources))
        .map(|(_, flow)| flow.id.endpoint(flow.opener).port)
        .collect();
    assert_eq!(ended, [50000]);
    assert_eq!(table.len(), 4);
}

#[test]
fn flows_that_had_to_make_room_are_told_in_the_order_in_which_they_began() {
    let mut table = table();
    let from = |port| key((CLIENT.0, port), SERVER, 2, false);
    let begin = |table: &mut FlowTable, port| {
        table.announce(&record(&from(port), SECOND + u64::from(port), 0), &ports());
    };
    (1..=3).for_each(|port| begin(&mut table, port));
    // As old as the third from now on.
    table.credit(&credit(&from(1), 1, 0), SECOND + 3, &ports());

    (4..=6).for_each(|port| begin(&mut table, port));

    let told = table.sweep(SECOND + 6);
    let told: Vec<u16> = told.iter().map(|(_, flow)| flow.id.low.port).collect();
    assert_eq!(told, [1, 1, 2, 2]);
}

#[test]
fn an_idle_flow_ends_at_its_timeout_and_not_before() {
    let mut table = table();
    table.announce(&record(&key(CLIENT, SERVER, 2, false), SECOND, 0), &ports());

    assert!(table.sweep(60 * SECOND).is_empty());

    let changes = table.sweep(61 * SECOND);
    assert_eq!(changes[1].0, FlowChange::Ended(EndReason::IdleTimeout));
}

#[test]
fn the_time_of_the_last_packet_comes_from_its_jiffies() {
    let mut table = table();
    let key = key(CLIENT, SERVER, 2, false);
    let mut start = record(&key, 10 * SECOND, tcp::SYN);
    start.jiffies = 0xffff_fff0;
    table.announce(&start, &ports());
    let late = Credit { last_jiffies: 0x10, ..credit(&key, 1, tcp::SYN) };

    table.credit(&late, 20 * SECOND, &ports());

    // 32 jiffies of 4 ms later, across the wrap of the lower half.
    assert_eq!(table.started(20 * SECOND, 0, |_| true)[0].last_ns, 10 * SECOND + 128_000_000);
}

#[test]
fn a_flood_displaces_its_own_flows_before_a_conversation() {
    let mut table = table();
    let conversation = key(CLIENT, SERVER, 2, false);
    table.credit(&credit(&conversation, LASTING_PACKETS, 0), SECOND, &ports());

    for port in 0..100 {
        let attacker = ([198, 18, 0, 1], 40_000 + port);
        table.credit(&credit(&key(attacker, SERVER, 2, false), 1, 0), 2 * SECOND, &ports());
    }

    let displaced = table.displaced();
    assert!(displaced.len() > 100, "{}", displaced.len());
    assert!(table.get(&FlowId::of(&conversation).0).is_some());
}

#[test]
fn what_had_to_make_room_is_kept_up_to_a_number_and_counted_beyond() {
    let mut table = table();
    let flows = u16::try_from(MAX_DISPLACED + 104).unwrap();

    for port in 0..flows {
        let attacker = ([198, 18, 0, 1], 10_000 + port);
        table.credit(&credit(&key(attacker, SERVER, 2, false), 1, 0), SECOND, &ports());
    }

    // Each would have had a start and an end; four are still there.
    assert_eq!(table.displaced().len(), 2 * MAX_DISPLACED);
    assert_eq!(table.take_unreported(), 2 * 100);
    assert_eq!(table.take_unreported(), 0);
}

#[test]
fn a_slot_that_no_table_has_takes_no_memory() {
    let mut table = table();
    let record = FlowRecord { slot: u32::MAX, ..record(&key(CLIENT, SERVER, 2, false), SECOND, 0) };

    table.announce(&record, &ports());

    assert_eq!(table.len(), 1);
    assert!(table.positions.is_empty());
}

#[test]
fn what_is_too_much_for_one_report_comes_with_the_next() {
    let mut table = FlowTable::new(Limits { capacity: 1 << 16, ..limits() });
    let flows = u16::try_from(CHANGES_PER_CALL + 10).unwrap();
    for port in 0..flows {
        let client = ([198, 18, 0, 1], 10_000 + port);
        table.credit(&credit(&key(client, SERVER, 2, false), 1, 0), SECOND, &ports());
    }

    let started = [0, 1, 2].map(|_| table.started(2 * SECOND, 0, |_| true).len());
    let ended = [0, 1, 2].map(|_| table.sweep(1000 * SECOND).len());

    assert_eq!(started, [CHANGES_PER_CALL, 10, 0]);
    assert_eq!(ended, [CHANGES_PER_CALL, 10, 0]);
}

#[test]
fn a_connection_that_was_over_before_it_was_announced_is_one() {
    let mut table = table();
    let (there, back) = (key(CLIENT, SERVER, 2, true), key(SERVER, CLIENT, 2, false));
    let closed = tcp::SYN | tcp::ACK | tcp::FIN;
    table.credit(&credit(&there, 5, closed), SECOND, &ports());
    table.credit(&credit(&back, 4, closed), SECOND, &ports());

    table.announce(&record(&there, SECOND, tcp::SYN), &ports());
    table.announce(&record(&back, SECOND, tcp::SYN | tcp::ACK), &ports());

    let flows = table.started(2 * SECOND, 0, |_| true);
    let counted: Vec<_> = flows.iter().map(|flow| flow.sent_by(flow.opener).0).collect();
    assert_eq!(counted, [5]);
}

type Address = ([u8; 4], u16);
proptest! {
    /// The model: a table that looks at all its conversations in every sweep.
    #[test]
    fn a_sweep_that_looks_at_nothing_would_have_found_nothing(
        steps in prop::collection::vec((0_u8..4, 0_u16..5, any::<u8>(), 0..5 * SECOND), 1..100),
    ) {
        let [mut table, mut model] = [table(), table()];
        let mut now_ns = SECOND;
        for (kind, port, flags, pause_ns) in steps {
            now_ns += pause_ns;
            let key = key((CLIENT.0, port), SERVER, 2, flags & 0x80 != 0);
            let flags = flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK);
            model.none_due_before_ns = 0;
            let [of_table, of_model] = [&mut table, &mut model].map(|table| match kind {
                0 => {
                    table.announce(&record(&key, now_ns, flags), &ports());
                    Vec::new()
                }
                1 => {
                    table.credit(&credit(&key, 1, flags), now_ns, &ports());
                    Vec::new()
                }
                2 => {
                    drop(table.started(now_ns, SECOND, |_| false));
                    Vec::new()
                }
                _ => table.sweep(now_ns),
            });
            prop_assert_eq!(of_table, of_model);
        }
    }
}

const CLIENT: Address = ([10, 0, 0, 1], 40000);
const SERVER: Address = ([10, 0, 0, 2], 3516);

fn table() -> FlowTable {
    FlowTable::new(limits())
}

const fn limits() -> Limits {
    Limits {
        capacity: 4,
        idle_timeout: Duration::from_mins(1),
        update_interval: Duration::from_secs(10),
        jiffy_ns: 4_000_000,
    }
}

/// The conversation of a client that has this port.
pub(super) fn conversation(port: u16) -> Flow {
    let mut table = table();
    let from = key((CLIENT.0, port), SERVER, 2, false);
    table.announce(&record(&from, SECOND, tcp::SYN), &ports());
    table.started(SECOND, 0, |_| true).remove(0)
}

fn ports() -> PortSet {
    "3516".parse().unwrap()
}

fn key(source: Address, destination: Address, ifindex: u32, egress: bool) -> FlowKey {
    let mapped = |ip: [u8; 4]| {
        let mut address = [0; 16];
        address[10..12].fill(0xff);
        address[12..].copy_from_slice(&ip);
        address
    };
    let place = ifindex << Place::INTERFACE_SHIFT | u32::from(egress);
    FlowKey::new((mapped(source.0), source.1), (mapped(destination.0), destination.1), place)
}

fn record(key: &FlowKey, ktime_ns: u64, tcp_flags: u8) -> FlowRecord {
    let mut record = FlowRecord::new_zeroed();
    record.header.ktime_ns = ktime_ns;
    record.key = *key;
    record.tcp_flags = tcp_flags;
    record
}

fn credit(key: &FlowKey, packets: u64, tcp_flags: u8) -> Credit {
    let tenure = Tenure { slot: 0, generation: 0 };
    Credit { key: *key, tenure, packets, bytes: packets * 100, last_jiffies: 0, tcp_flags }
}
