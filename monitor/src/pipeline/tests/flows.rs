//! What is reported of flows: starts, updates, ends, and what was counted by then.

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{FlowKey, FlowRecord, Place, Slot, action};

use super::scene::*;
use super::*;
use crate::endpoint::{Direction, Transport};
use crate::owner::{Evidence, Ownership, Role, Side};
use crate::report::{EndReason, FlowChange, FlowReport, FlowRole, PlaceCount};

#[test]
fn a_flow_starts_with_what_the_first_reading_counted() {
    let mut scene = Scene::new();
    scene.pipeline.observe(&interface(2, "eth0"));
    scene.ingest(&opening(SECOND));
    scene.ingest(&answering(SECOND));

    let reports = scene.read_table(&[there(3, SECOND), back(2, SECOND)], SECOND + WAIT_NS);

    let [(FlowChange::Started, flow)] = &flows(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!(flow.source.to_string(), "10.0.0.1:40000");
    assert_eq!(flow.destination.to_string(), "10.0.0.2:3516");
    assert_eq!(
        (flow.transport, flow.port, flow.direction),
        (Transport::Tcp, PORT, Direction::Ingress)
    );
    assert_eq!((flow.source_packets, flow.source_bytes), (3, 300));
    assert_eq!((flow.destination_packets, flow.destination_bytes), (2, 200));
    assert_eq!((flow.role, flow.tcp_flags), (Some(FlowRole::Server), Some(tcp::SYN | tcp::ACK)));
    assert_eq!(flow.start_unix_ns, scene.clock.unix_ns(SECOND));
    assert_eq!(flow.community_id, "1:HuTo1MIh5/VoJq1m8KvhIcF1o20=");
    let expected = [place(Direction::Ingress, 3), place(Direction::Egress, 2)];
    assert_eq!(flow.interfaces, expected);
}

#[test]
fn a_flow_whose_processes_are_known_starts_at_once() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    scene.ingest(&accept());
    scene.answer(SECOND);
    scene.ingest(&opening(SECOND));

    let reports = scene.read_table(&[there(1, SECOND)], SECOND);

    let [(FlowChange::Started, flow)] = &flows(&reports)[..] else { panic!("{reports:#?}") };
    let [owner] = &flow.attribution.owners[..] else { panic!("{flow:#?}") };
    assert_eq!((owner.side, owner.role), (Some(Side::Destination), Role::Opener));
    assert_eq!((owner.evidence, owner.process.pid), (Evidence::Exact, PID));
}

#[test]
fn a_flow_waits_for_the_hash_of_what_its_process_runs() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    scene.ingest(&accept());
    let [who] = scene.requests()[..] else { panic!("one process is to be looked up") };
    scene.identify(who, SECOND);
    scene.ingest(&opening(SECOND));

    assert!(scene.read_table(&[there(1, SECOND)], SECOND).is_empty());

    scene.answer(SECOND);
    let reports = scene.read_table(&[], SECOND);
    let process = &flows(&reports)[0].1.attribution.owners[0].process;
    assert_eq!(process.sha256.as_deref(), Some(SHA256));
}

#[test]
fn a_flow_that_nobody_is_known_for_starts_after_a_moment() {
    let mut scene = Scene::new();
    scene.ingest(&opening(SECOND));

    assert!(scene.read_table(&[there(1, SECOND)], SECOND + WAIT_NS - 1).is_empty());

    let reports = scene.read_table(&[], SECOND + WAIT_NS);
    let [(FlowChange::Started, flow)] = &flows(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!(flow.attribution.ownership, Ownership::Unknown);
    assert_eq!(reports[0].time_unix_ns, scene.clock.unix_ns(SECOND));
}

#[test]
fn a_flow_starts_once() {
    let mut scene = Scene::new();
    scene.ingest(&opening(SECOND));
    scene.read_table(&[there(1, SECOND)], 2 * SECOND);

    scene.ingest(&answering(2 * SECOND));

    assert!(scene.read_table(&[back(1, 2 * SECOND)], 4 * SECOND).is_empty());
}

#[test]
fn an_active_flow_is_updated_every_interval_and_a_quiet_one_is_not() {
    let mut scene = Scene::new();
    scene.ingest(&opening(SECOND));
    scene.read_table(&[there(1, SECOND)], 2 * SECOND);

    scene.read_table(&[there(4, 3 * SECOND)], 3 * SECOND);
    assert!(scene.tick(11 * SECOND).is_empty());

    let reports = scene.tick(12 * SECOND);
    let [(FlowChange::Updated, flow)] = &flows(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!((flow.source_packets, flow.source_bytes), (4, 400));
    assert_eq!(flow.last_unix_ns, scene.clock.unix_ns(3 * SECOND));
    assert!(scene.tick(22 * SECOND).is_empty());
}

#[test]
fn an_idle_flow_ends_with_all_that_was_counted() {
    let mut scene = Scene::new();
    scene.ingest(&opening(SECOND));
    scene.read_table(&[there(1, SECOND)], 2 * SECOND);
    scene.read_table(&[there(7, 3 * SECOND)], 3 * SECOND);

    let reports = scene.tick(63 * SECOND);

    let [(FlowChange::Ended(EndReason::IdleTimeout), flow)] = &flows(&reports)[..] else {
        panic!("{reports:#?}");
    };
    assert_eq!((flow.source_packets, flow.source_bytes), (7, 700));
    assert_eq!((flow.destination_packets, flow.role), (0, Some(FlowRole::Unanswered)));
}

#[test]
fn a_flow_counts_what_its_slot_held_when_another_took_it() {
    let mut scene = Scene::new();
    scene.ingest(&opening(SECOND));
    scene.read_table(&[there(5, SECOND)], 2 * SECOND);
    let other = announce(key(([10, 0, 0, 9], 50_000), SERVER, false), 2, 3 * SECOND);
    scene.ingest(&evicting(other, there(9, 3 * SECOND).1));

    scene.pipeline.finish(4 * SECOND);

    let reports = scene.pipeline.take_reports();
    let packets: Vec<(u16, u64)> =
        ended(&reports).iter().map(|flow| (flow.source.port, flow.source_packets)).collect();
    assert_eq!(packets, [(40_000, 9), (50_000, 0)]);
}

#[test]
fn the_same_ports_again_are_another_flow() {
    let mut scene = Scene::new();
    let closed = Slot { tcp_flags: tcp::SYN | tcp::RST, ..there(5, SECOND).1 };
    scene.ingest(&opening(SECOND));
    scene.read_table(&[(THERE, closed)], SECOND + 1);
    let again = FlowRecord { generation: 2, ..opening(SECOND + 2) };
    scene.ingest(&evicting(again, Slot { count: closed.count + 1, bytes: 600, ..closed }));
    scene.read_table(&[(THERE, slot(opening(0).key, 2, 1, SECOND + 2))], SECOND + 3);

    scene.pipeline.finish(2 * SECOND);

    let reports = scene.pipeline.take_reports();
    let packets: Vec<u64> = ended(&reports).iter().map(|flow| flow.source_packets).collect();
    assert_eq!(packets, [6, 1]);
}

#[test]
fn everything_ends_at_the_end_also_what_has_not_started() {
    let mut scene = Scene::new();
    scene.ingest(&opening(SECOND));
    scene.read_table(&[there(1, SECOND)], 2 * SECOND);
    let late = announce(key(([10, 0, 0, 9], 50_000), SERVER, false), 1, 2 * SECOND);
    scene.ingest(&FlowRecord { slot: 7, ..late });

    scene.pipeline.finish(4 * SECOND);

    let reports = scene.pipeline.take_reports();
    let changes: Vec<(u16, FlowChange)> =
        flows(&reports).iter().map(|(change, flow)| (flow.source.port, *change)).collect();
    let ended = FlowChange::Ended(EndReason::ForcedEnd);
    assert_eq!(changes, [(40_000, ended), (50_000, FlowChange::Started), (50_000, ended)]);
    let times = [4, 2, 4].map(|seconds| scene.clock.unix_ns(seconds * SECOND));
    assert!(reports.iter().map(|report| report.time_unix_ns).eq(times));
    assert!(scene.tick(100 * SECOND).is_empty());
}

#[test]
fn a_datagram_without_an_answer_that_has_a_receiver_reached_a_server() {
    let bound = SocketRecord { protocol: 17, ..socket(action::BIND, SECOND) };
    let sender = SocketRecord { cookie: 99, protocol: 17, ..socket(action::SEND, SECOND) };
    for (record, role) in [(bound, FlowRole::Server), (sender, FlowRole::Unanswered)] {
        let mut scene = Scene::new();
        scene.ingest(&record);
        let datagram = FlowRecord { key: udp(opening(0).key), cookie: 99, ..opening(SECOND) };
        scene.ingest(&FlowRecord { tcp_flags: 0, ..datagram });

        scene.pipeline.finish(SECOND + 1);

        let reports = scene.pipeline.take_reports();
        assert_eq!((ended(&reports)[0].role, ended(&reports)[0].tcp_flags), (Some(role), None));
    }
}

#[test]
fn a_handshake_without_an_answer_reached_nobody_even_if_somebody_listens() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    scene.ingest(&opening(SECOND));

    scene.pipeline.finish(SECOND + 1);

    let reports = scene.pipeline.take_reports();
    assert_eq!(ended(&reports)[0].role, Some(FlowRole::Unanswered));
    assert_eq!(ended(&reports)[0].tcp_flags, Some(tcp::SYN));
}

#[test]
fn a_packet_seen_at_two_interfaces_counts_once_and_at_both() {
    let mut scene = Scene::new();
    let on_bridge = FlowKey { place: 3 << Place::INTERFACE_SHIFT, ..opening(0).key };
    scene.ingest(&opening(SECOND));
    scene.ingest(&FlowRecord { key: on_bridge, slot: BACK, ..opening(SECOND + 1) });

    let slots = [there(4, SECOND), (BACK, slot(on_bridge, 1, 4, SECOND))];
    let reports = scene.read_table(&slots, 2 * SECOND);

    let (_, flow) = &flows(&reports)[0];
    assert_eq!((flow.source_packets, flow.source_bytes), (4, 400));
    let seen = |count: &PlaceCount| (count.interface.name.clone(), count.packets);
    let seen: Vec<(String, u64)> = flow.interfaces.iter().map(seen).collect();
    assert_eq!(seen, [("if2".to_owned(), 4), ("if3".to_owned(), 4)]);
}

/// A flow's start waits this long for the names of its processes.
const WAIT_NS: u64 = 250_000_000;

/// The client's SYN comes in.
pub(super) fn opening(ktime_ns: u64) -> FlowRecord {
    announce(key(CLIENT, SERVER, false), 1, ktime_ns)
}

/// The server's SYN-ACK goes out.
pub(super) fn answering(ktime_ns: u64) -> FlowRecord {
    let record = announce(key(SERVER, CLIENT, true), 1, ktime_ns);
    FlowRecord { slot: BACK, tcp_flags: tcp::SYN | tcp::ACK, ..record }
}

/// The handshake is complete: the server's child socket, in nobody's context.
fn accept() -> SocketRecord {
    let (remote, remote_port) = (mapped(CLIENT.0), CLIENT.1);
    let child = socket(action::ESTABLISHED_PASSIVE, SECOND);
    SocketRecord { cookie: LISTENER + 1, remote, remote_port, in_process: 0, ..child }
}

/// What the client's slot holds after this many packets.
pub(super) fn there(packets: u64, now_ns: u64) -> (u32, Slot) {
    (THERE, slot(key(CLIENT, SERVER, false), 1, packets, now_ns))
}

/// What the server's slot holds after this many packets.
pub(super) fn back(packets: u64, now_ns: u64) -> (u32, Slot) {
    (BACK, slot(key(SERVER, CLIENT, true), 1, packets, now_ns))
}

/// The same record, handing over what the slot held.
fn evicting(record: FlowRecord, old: Slot) -> FlowRecord {
    FlowRecord {
        evicted_key: old.key,
        evicted_count: old.count,
        evicted_bytes: old.bytes,
        evicted_last_jiffies: old.last_jiffies,
        evicted_tcp_flags: old.tcp_flags,
        ..record
    }
}

fn udp(key: FlowKey) -> FlowKey {
    FlowKey { place: key.place | Place::UDP, ..key }
}

fn place(direction: Direction, packets: u64) -> PlaceCount {
    let interface = Interface { ifindex: 2, name: "eth0".to_owned() };
    PlaceCount { interface, netns: netns(), direction, packets, bytes: packets * 100 }
}

fn ended(reports: &[Report]) -> Vec<FlowReport> {
    let is_end = |change: FlowChange| matches!(change, FlowChange::Ended(_));
    flows(reports).into_iter().filter(|(change, _)| is_end(*change)).map(|(_, flow)| flow).collect()
}
