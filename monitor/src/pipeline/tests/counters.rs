//! What is counted, and that it adds up whatever order packets, readings and records come in.

use std::collections::BTreeMap;

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{Fates, FlowKey, PROGRAMS, Place, Total, aside, program};
use proptest::prelude::*;

use super::kernel::Kernel;
use super::scene::*;
use super::*;
use crate::endpoint::Direction;
use crate::kernel::tally::PortTotal;
use crate::report::{Counters, FlowChange, PortCount, RecordCounts, SinkCount};

#[test]
fn a_record_that_is_not_understood_is_counted_and_nothing_else() {
    let mut scene = Scene::new();
    let mut unknown = listen(SECOND);
    unknown.header.kind = 99;
    let mut foreign = listen(SECOND);
    foreign.header.version += 1;

    scene.ingest(&unknown);
    scene.ingest(&foreign);
    scene.read_record(&listen(SECOND).as_bytes()[..40], SECOND);

    let counters = scene.pipeline.counters(&KernelCounts::default(), Vec::new());
    let counts = RecordCounts { read: 3, undecodable: 3, ..RecordCounts::default() };
    assert_eq!(counters.records, counts);
    assert_eq!(counters.programs, BTreeMap::from([("pw_sock_ops", counts)]));
    assert!(scene.tick(SECOND).is_empty() && scene.requests().is_empty());
}

#[test]
fn a_record_that_does_not_even_name_its_program_is_counted() {
    let mut scene = Scene::new();
    let mut nobody = listen(SECOND);
    nobody.header.program = u32::try_from(PROGRAMS.len()).unwrap();

    scene.read_record(&[], SECOND);
    scene.read_record(&[0xff; 15], SECOND);
    scene.ingest(&nobody);

    let counters = scene.pipeline.counters(&KernelCounts::default(), Vec::new());
    assert_eq!((counters.records.read, counters.records.undecodable), (3, 2));
    assert!(counters.programs.is_empty());
}

#[test]
fn the_kernels_counts_are_passed_on_under_their_names() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    let mut fates = vec![Fates::default(); PROGRAMS.len()];
    fates[program::SOCK_OPS as usize] = Fates { seen: 3, filtered: 1, submitted: 1, ring_full: 1 };
    let aside = (1..=u64::from(aside::COUNT)).collect();
    let sinks = vec![SinkCount { name: "stdout".to_owned(), delivered: 5, lost: 1 }];

    let counters =
        scene.pipeline.counters(&KernelCounts { totals: Vec::new(), fates, aside }, sinks.clone());

    let records =
        RecordCounts { seen: 3, filtered: 1, submitted: 1, ring_full: 1, read: 1, undecodable: 0 };
    let unparsable = [
        ("bad-ip-header", 5),
        ("extension-header-chain", 7),
        ("icmp-quotation", 12),
        ("short-link-header", 4),
        ("short-transport-header", 6),
        ("tunnel-content", 11),
        ("vlan-stack", 8),
    ];
    let expected = Counters {
        fragments_first: 1,
        fragments_joined: 9,
        fragments_later: 2,
        icmp_errors: 3,
        tunnelled: 10,
        unparsable: BTreeMap::from(unparsable),
        records,
        programs: BTreeMap::from([("pw_sock_ops", records)]),
        samples_suppressed: 1,
        sinks,
        ..Counters::default()
    };
    assert_eq!(counters, expected);
}

#[test]
fn packets_without_a_flow_have_a_row_of_their_own() {
    let scene = Scene::new();
    let total = Total {
        packets: 10,
        bytes: 1000,
        more_wire_packets: 10,
        more_wire_bytes: 400,
        overflow_packets: 10,
        overflow_bytes: 1000,
        ..Total::default()
    };
    let row = |direction, total| PortTotal { port: PORT, direction, total };
    let followed = Total { packets: 5, bytes: 500, ..Total::default() };
    let totals = vec![row(Direction::Ingress, total), row(Direction::Egress, followed)];

    let counters =
        scene.pipeline.counters(&KernelCounts { totals, ..KernelCounts::default() }, Vec::new());

    let count = |direction, packets, wire: Option<(u64, u64)>| PortCount {
        port: PORT,
        direction,
        packets,
        bytes: packets * 100,
        wire_packets: wire.map(|wire| wire.0),
        wire_bytes: wire.map(|wire| wire.1),
    };
    let ports = [
        count(Direction::Ingress, 10, Some((20, 1400))),
        count(Direction::Egress, 5, Some((5, 500))),
    ];
    assert_eq!(counters.ports, ports);
    assert_eq!(counters.overflow, [count(Direction::Ingress, 10, None)]);
}

#[test]
fn counts_come_in_the_order_of_interfaces_ports_and_directions() {
    let mut scene = Scene::new();
    scene.pipeline.observe(&interface(2, "eth0"));
    let at = |key: FlowKey, ifindex: u32| FlowKey {
        place: ifindex << Place::INTERFACE_SHIFT | key.place & Place::EGRESS,
        ..key
    };
    let (there, back) = (key(CLIENT, SERVER, false), key(SERVER, CLIENT, true));
    let other = key(CLIENT, (SERVER.0, 4000), false);
    let keys = [at(there, 3), at(back, 2), at(other, 2), at(there, 2)];

    for (index, key) in (0..).zip(keys) {
        scene.read_table(&[(index, slot(key, 1, 1, SECOND))], SECOND);
    }

    let counters = scene.pipeline.counters(&KernelCounts::default(), Vec::new());
    let rows = counters
        .interfaces
        .iter()
        .map(|row| (row.place.interface.name.as_str(), row.port, row.place.direction));
    let expected = [
        ("eth0", 3516, Direction::Ingress),
        ("eth0", 3516, Direction::Egress),
        ("eth0", 4000, Direction::Ingress),
        ("if3", 3516, Direction::Ingress),
    ];
    assert!(rows.eq(expected), "{:#?}", counters.interfaces);
}

#[test]
fn a_slot_that_was_read_is_no_news_until_it_counts_on() {
    let mut scene = Scene::new();
    let content = slot(key(CLIENT, SERVER, false), 1, 5, SECOND);
    assert!(!scene.pipeline.is_current(THERE, content.count));

    scene.read_table(&[(THERE, content)], SECOND);

    assert!(scene.pipeline.is_current(THERE, content.count));
    assert!(!scene.pipeline.is_current(THERE, content.count + 1));
}

proptest! {
    #[test]
    fn flows_and_overflow_are_the_totals_whatever_happens(steps in steps()) {
        let (counters, reports) = run(&steps);

        prop_assert_eq!(counters.broken_equations(), Vec::<String>::new());
        prop_assert_eq!(ended_packets(&reports), interface_packets(&counters));
    }

    #[test]
    fn every_flow_starts_before_it_ends_and_ends_once(steps in steps()) {
        let (_, reports) = run(&steps);

        let mut open = BTreeMap::new();
        for (change, flow) in reports.iter().filter_map(flow) {
            let id = (flow.source.min(flow.destination), flow.source.max(flow.destination));
            let count = open.entry(id).or_insert(0);
            match change {
                FlowChange::Started => *count += 1,
                FlowChange::Updated => prop_assert!(*count > 0),
                FlowChange::Ended(_) => *count -= 1,
            }
            prop_assert!(*count >= 0, "{:?}", id);
        }
        prop_assert!(open.values().all(|count| *count == 0), "{:?}", open);
    }
}

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Packet { key: usize, length: u32, tcp_flags: u8 },
    ReadRing { records: usize },
    ReadTable,
    Tick { after_ns: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flags = prop::sample::select(vec![0, tcp::SYN, tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST]);
    let packet = (0..KEYS, 40_u32..1500, flags).prop_map(|(key, length, tcp_flags)| Step::Packet {
        key,
        length,
        tcp_flags,
    });
    let step = prop_oneof![
        12 => packet,
        3 => (1_usize..4).prop_map(|records| Step::ReadRing { records }),
        2 => Just(Step::ReadTable),
        1 => prop::sample::select(vec![0, SECOND, 11 * SECOND, 70 * SECOND])
            .prop_map(|after_ns| Step::Tick { after_ns }),
    ];
    prop::collection::vec(step, 0..200)
}

/// Runs the steps on both sides; the counters and all reports once nothing runs any more.
fn run(steps: &[Step]) -> (Counters, Vec<Report>) {
    let (mut kernel, mut scene) = (Kernel::new(), Scene::new());
    for step in steps {
        match *step {
            Step::Packet { key, length, tcp_flags } => {
                kernel.packet(keys()[key], length, tcp_flags);
            }
            Step::ReadRing { records } => read_ring(&mut kernel, &mut scene, records),
            Step::ReadTable => read_table(&kernel, &mut scene),
            Step::Tick { after_ns } => {
                kernel.pass(after_ns);
                scene.pipeline.tick(kernel.now_ns());
            }
        }
    }
    read_ring(&mut kernel, &mut scene, usize::MAX);
    read_table(&kernel, &mut scene);
    scene.pipeline.finish(kernel.now_ns());
    let counters = scene.pipeline.counters(&kernel.counts(), Vec::new());
    (counters, scene.pipeline.take_reports())
}

fn read_ring(kernel: &mut Kernel, scene: &mut Scene, records: usize) {
    let records = records.min(kernel.ring.len());
    for record in kernel.ring.drain(..records) {
        scene.read_record(record.as_bytes(), record.header.ktime_ns);
    }
}

fn read_table(kernel: &Kernel, scene: &mut Scene) {
    for (slot, content) in (0..).zip(kernel.slots) {
        if content.count != 0 && !scene.pipeline.is_current(slot, content.count) {
            scene.pipeline.reading(&Reading { slot, content }, kernel.now_ns());
        }
    }
    scene.pipeline.report_started_flows(kernel.now_ns());
}

/// Both directions of three flows, one of them between two watched ports.
const KEYS: usize = 6;

fn keys() -> [FlowKey; KEYS] {
    let other = ([10, 0, 0, 9], 50_000);
    let peer = ([10, 0, 0, 3], 4000);
    let both = |a, b| [key(a, b, false), key(b, a, true)];
    let pairs = [both(CLIENT, SERVER), both(other, peer), both(peer, SERVER)];
    pairs.concat().try_into().unwrap()
}

fn flow(report: &Report) -> Option<(FlowChange, &crate::report::FlowReport)> {
    match &report.body {
        Body::Flow(change, flow) => Some((*change, flow)),
        _ => None,
    }
}

/// Packets and bytes by port and direction, in the flows that ended.
fn ended_packets(reports: &[Report]) -> BTreeMap<(u16, Direction), (u64, u64)> {
    let mut packets: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for (change, flow) in reports.iter().filter_map(flow) {
        if matches!(change, FlowChange::Ended(_)) {
            for place in flow.interfaces.iter().filter(|place| place.packets > 0) {
                let sum = packets.entry((flow.port, place.direction)).or_default();
                *sum = (sum.0 + place.packets, sum.1 + place.bytes);
            }
        }
    }
    packets
}

/// The same as the counters have it.
fn interface_packets(counters: &Counters) -> BTreeMap<(u16, Direction), (u64, u64)> {
    let count = |count: &crate::report::InterfaceCount| {
        ((count.port, count.place.direction), (count.place.packets, count.place.bytes))
    };
    counters.interfaces.iter().map(count).collect()
}
