//! Reports that were once wrong, missing, or in no order.

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::FlowRecord;

use super::scene::*;
use super::*;
use crate::report::FlowChange;

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
        evicted_tcp_flags: u32::from(tcp::SYN | tcp::RST),
        ..announce(key, 2, SECOND + 2)
    });
    scene.read_table(&[(THERE, slot(key, 2, 1, SECOND + 2))], SECOND + 3);

    scene.pipeline.finish(2 * SECOND);

    let reports = flows(&scene.pipeline.take_reports());
    let ended = reports.iter().filter(|(change, _)| matches!(change, FlowChange::Ended(_)));
    let packets: Vec<u64> = ended.map(|(_, flow)| flow.source_packets).collect();
    assert_eq!(packets, [6, 1]);
}
