//! Reports that were once wrong, missing, or in no order.

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{FlowKey, FlowRecord, Place, Slot, action};

use super::scene::*;
use super::*;
use crate::endpoint::{Endpoint, Family, Transport};
use crate::host::netns::Mark;
use crate::host::sockets::{Socket, State};
use crate::report::{FlowChange, FlowRole, ListenerChange};

#[test]
fn flows_that_end_in_one_sweep_end_in_the_same_order_each_time() {
    let clock = Clock::of_host();
    let run = || {
        let mut scene = Scene::with(Settings { clock, ..settings() });
        for index in 0..20 {
            let client = ([10, 0, 0, 9], 50_000 + index);
            scene.ingest(&announce(key(client, SERVER, false), 1, SECOND));
        }
        scene.tick(100 * SECOND)
    };

    let (first, second) = (run(), run());

    assert_eq!(first.iter().zip(&second).find(|(first, second)| first != second), None);
}

#[test]
fn ports_that_are_used_again_between_two_readings_are_two_flows() {
    let mut scene = Scene::new();
    let key = key(CLIENT, SERVER, false);
    let over = slot(key, 1, 6, SECOND);
    scene.ingest(&announce(key, 1, SECOND));
    scene.ingest(&FlowRecord {
        evicted_key: key,
        evicted_count: over.count,
        evicted_bytes: over.bytes,
        evicted_last_jiffies: over.last_jiffies,
        evicted_tcp_flags: tcp::SYN | tcp::RST,
        ..announce(key, 2, SECOND + 2)
    });
    scene.read_table(&[(THERE, slot(key, 2, 1, SECOND + 2))], SECOND + 3);

    scene.pipeline.finish(2 * SECOND);

    let reports = flows(&scene.pipeline.take_reports());
    let ended = reports.iter().filter(|(change, _)| matches!(change, FlowChange::Ended(_)));
    let packets: Vec<u64> = ended.map(|(_, flow)| flow.source_packets).collect();
    assert_eq!(packets, [6, 1]);
}

#[test]
fn a_udp_flow_that_resumes_keeps_its_roles_whatever_slot_is_read_first() {
    let mut scene = Scene::new();
    let udp = |key: FlowKey| FlowKey { place: key.place | Place::UDP, ..key };
    let (there, back) = (udp(key(CLIENT, SERVER, false)), udp(key(SERVER, CLIENT, true)));
    let slots = |packets, now_ns| {
        let content = |key| Slot { tcp_flags: 0, ..slot(key, 1, packets, now_ns) };
        [(BACK, content(back)), (THERE, content(there))]
    };
    scene.ingest(&FlowRecord { tcp_flags: 0, ..announce(there, 1, SECOND) });
    scene.ingest(&FlowRecord { tcp_flags: 0, slot: BACK, ..announce(back, 1, SECOND) });
    scene.read_table(&slots(1, SECOND), 2 * SECOND);
    scene.tick(70 * SECOND);

    let reports = scene.read_table(&slots(2, 71 * SECOND), 72 * SECOND);

    let (_, flow) = &flows(&reports)[0];
    assert_eq!((flow.role, flow.source.port), (Some(FlowRole::Server), CLIENT.1));
}

#[test]
fn a_udp_listener_that_connects_is_closed() {
    let mut scene = Scene::new();
    let udp = |action, ktime_ns| SocketRecord { protocol: 17, ..socket(action, ktime_ns) };
    scene.ingest(&udp(action::BIND, SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);

    let (remote, remote_port) = (mapped(CLIENT.0), PORT);
    scene.ingest(&SocketRecord { remote, remote_port, ..udp(action::CONNECT, 2 * SECOND) });
    scene.ingest(&udp(action::RELEASE, 3 * SECOND));
    scene.answer(3 * SECOND);

    only(ListenerChange::Closed, &scene.tick(3 * SECOND));
}

#[test]
fn a_listener_is_opened_when_it_listens_and_not_when_it_is_bound() {
    let mut scene = Scene::new();
    scene.ingest(&socket(action::BIND, SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);

    scene.ingest(&listen(100 * SECOND));
    scene.answer(100 * SECOND);

    let reports = scene.tick(100 * SECOND);
    assert_eq!(reports[0].time_unix_ns, scene.clock.unix_ns(100 * SECOND));
}

#[test]
fn a_name_that_comes_late_is_no_second_finding() {
    let mut scene = Scene::new();
    scene.ingest(&SocketRecord { comm: *b"worker-1\0\0\0\0\0\0\0\0", ..listen(SECOND) });
    scene.tick(SECOND);
    scene.tick(2 * SECOND);

    scene.answer(3 * SECOND);
    scene.tick(3 * SECOND);

    assert_eq!(scene.pipeline.findings(), 1);
}

#[test]
fn a_namespace_that_comes_late_is_no_second_finding() {
    let mut scene = Scene::new();
    scene.ingest(&SocketRecord { netns_cookie: 9, in_process: 0, ..listen(SECOND) });
    scene.tick(SECOND);
    scene.tick(2 * SECOND);

    scene.pipeline.namespaces(vec![(Netns { inode: 77, name: None }, Mark::Cookie(9))]);
    scene.tick(3 * SECOND);

    assert_eq!(scene.pipeline.findings(), 1);
}

#[test]
fn a_listener_on_another_address_makes_no_server() {
    let listener = Socket {
        cookie: 1,
        inode: 1,
        uid: 0,
        transport: Transport::Tcp,
        state: State::Listen,
        family: Family::Ipv4,
        local: Endpoint::new([127, 0, 0, 1].into(), PORT),
        remote: None,
        interface: 0,
        netns: netns().inode,
        cgroup_id: None,
        unit: None,
    };
    let (local, remote) = (Endpoint::new(SERVER.0.into(), PORT), Endpoint::new(CLIENT.0.into(), 1));
    let state = State::Established;
    let connection = Socket { cookie: 2, state, local, remote: Some(remote), ..listener.clone() };
    let mut scene = Scene::new();
    scene.pipeline.sockets(&[listener, connection.clone()], SECOND);

    scene.pipeline.report_connections(&[connection], SECOND);

    let reports = flows(&scene.pipeline.take_reports());
    assert_eq!(reports[0].1.role, Some(FlowRole::Ephemeral));
}
