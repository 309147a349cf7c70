//! What is shown of sampled packets.

use monitor_ebpf::wire::{SampleRecord, kind, program};
use proptest::prelude::*;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::scene::*;
use super::*;
use crate::endpoint::{Direction, Transport};
use crate::report::SampleReport;

#[test]
fn a_sample_says_what_it_stands_for() {
    let mut scene = Scene::new();
    scene.pipeline.observe(&interface(2, "eth0"));
    let record = SampleRecord { represents: 100, ..sample(HEADERS, PAYLOAD) };

    let report = sampled(&mut scene, &record, &packet(HEADERS, PAYLOAD));

    assert_eq!(report.source.to_string(), "10.0.0.1:40000");
    assert_eq!(report.destination.to_string(), "10.0.0.2:3516");
    assert_eq!((report.transport, report.direction), (Transport::Tcp, Direction::Ingress));
    assert_eq!((report.interface.ifindex, report.interface.name.as_str()), (2, "eth0"));
    assert_eq!((report.length, report.represents, report.captured), (45, 100, 45));
    assert_eq!(report.community_id, "1:HuTo1MIh5/VoJq1m8KvhIcF1o20=");
}

#[test]
fn both_directions_of_a_flow_have_one_community_id() {
    let mut scene = Scene::new();
    let back = SampleRecord { key: key(SERVER, CLIENT, true), ..sample(HEADERS, PAYLOAD) };

    let there = sampled(&mut scene, &sample(HEADERS, PAYLOAD), &packet(HEADERS, PAYLOAD));
    let back = sampled(&mut scene, &back, &packet(HEADERS, PAYLOAD));

    assert_eq!(there.community_id, back.community_id);
    assert_eq!((there.direction, back.direction), (Direction::Ingress, Direction::Egress));
}

#[test]
fn payload_is_shown_as_far_as_was_asked_for() {
    let table = [
        (Payload::None, Vec::new()),
        (Payload::Masked, packet(HEADERS, 0)),
        (Payload::Full, packet(HEADERS, PAYLOAD)),
    ];
    for (payload, shown) in table {
        let mut scene = Scene::with(Settings { payload, ..settings() });

        let report = sampled(&mut scene, &sample(HEADERS, PAYLOAD), &packet(HEADERS, PAYLOAD));

        assert_eq!(report.data, shown, "{payload:?}");
        assert_eq!(report.captured, 45);
        // A capture has at least the headers.
        let captured = if shown.is_empty() { packet(HEADERS, 0) } else { shown };
        assert_eq!(report.packet, captured, "{payload:?}");
        assert_eq!(report.near, None);
    }
}

#[test]
fn no_more_is_shown_than_was_asked_for() {
    let settings = Settings { payload: Payload::Full, snaplen: 42, ..settings() };
    let mut scene = Scene::with(settings);

    let report = sampled(&mut scene, &sample(HEADERS, 900), &packet(HEADERS, 900));

    assert_eq!(report.data, packet(HEADERS, 2));
    assert_eq!((report.length, report.captured), (940, 42));
}

#[test]
fn a_sample_counts_and_is_dated_by_the_kernel() {
    let mut scene = Scene::new();
    let record = [sample(HEADERS, PAYLOAD).as_bytes(), &packet(HEADERS, PAYLOAD)].concat();

    scene.read_record(&record, 9 * SECOND);

    let reports = scene.pipeline.take_reports();
    assert_eq!(reports[0].time_unix_ns, scene.clock.unix_ns(SECOND));
    assert_eq!(scene.pipeline.counters(&KernelCounts::default(), Vec::new()).samples_taken, 1);
}

proptest! {
    #[test]
    fn masked_shows_the_headers_that_were_captured_and_no_byte_of_the_payload(
        headers in 0_usize..120,
        payload in 0_usize..120,
        snaplen in 0_usize..240,
        behind in 0_usize..32,
    ) {
        let mut scene = Scene::with(Settings { payload: Payload::Masked, ..settings() });
        let mut bytes = packet(headers, payload);
        bytes.truncate(snaplen);
        let captured = bytes.len();
        // The kernel reserves room for the whole snap length.
        bytes.extend(vec![SECRET; behind]);
        let captured = SampleRecord {
            captured: u32::try_from(captured).unwrap(),
            ..sample(headers, payload)
        };

        let report = sampled(&mut scene, &captured, &bytes);

        prop_assert_eq!(report.data, vec![HEADER; headers.min(snaplen)]);
    }
}

const HEADER: u8 = 0x11;
const SECRET: u8 = 0xaa;
const HEADERS: usize = 40;
const PAYLOAD: usize = 5;

/// The bytes of a packet whose headers and payload can be told apart.
fn packet(headers: usize, payload: usize) -> Vec<u8> {
    [vec![HEADER; headers], vec![SECRET; payload]].concat()
}

/// A sample of a whole packet with this much of headers and payload.
fn sample(headers: usize, payload: usize) -> SampleRecord {
    let mut record = SampleRecord::new_zeroed();
    record.header = header(kind::SAMPLE, program::INGRESS, SECOND);
    record.key = key(CLIENT, SERVER, false);
    record.represents = 1;
    let length = u32::try_from(headers + payload).unwrap();
    let payload_offset = u32::try_from(headers).unwrap();
    SampleRecord { length, captured: length, payload_offset, ..record }
}

fn sampled(scene: &mut Scene, record: &SampleRecord, data: &[u8]) -> SampleReport {
    scene.read_record(&[record.as_bytes(), data].concat(), SECOND);
    match bodies(scene.pipeline.take_reports()).pop() {
        Some(Body::Sample(sample)) => *sample,
        other => panic!("{other:?}"),
    }
}
