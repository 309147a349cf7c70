//! What flows look like, from samples on.

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{FlowRecord, SampleRecord, Slot, kind, program};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::flows::{answering, back, opening, there};
use super::scene::*;
use super::*;
use crate::app::{Confidence, Protocol, Speaker};
use crate::report::{FlowChange, FlowReport, SampleReport};

#[test]
fn a_flow_says_what_it_looks_like_once_it_has_spoken() {
    let mut scene = opened();
    let started = scene.read_table(&[there(1, SECOND)], 2 * SECOND);
    say(&mut scene, CLIENT, 1, b"GET / HTTP/1.1\r\n\r\n");
    say(&mut scene, SERVER, 1, b"HTTP/1.1 200 OK\r\n\r\n");

    let ended = finish(&mut scene);

    assert_eq!(flows(&started)[0].1.app, None);
    let flow = last(&ended);
    let app = flow.app.unwrap();
    assert!(app.is(Protocol::Http, Confidence::Certain));
    assert_eq!(app.first_speaker, Some(Speaker::Source));
}

#[test]
fn of_a_connection_that_was_there_before_nothing_is_certain() {
    let mut scene = Scene::new();
    scene.read_table(&[there(1, SECOND)], SECOND);
    say(&mut scene, CLIENT, 1, b"GET / HTTP/1.1\r\n\r\n");
    say(&mut scene, SERVER, 1, b"HTTP/1.1 200 OK\r\n\r\n");

    let app = last(&finish(&mut scene)).app.unwrap();

    assert_eq!((app.protocol, app.confidence), (Protocol::Http, Some(Confidence::Likely)));
    assert_eq!(app.first_speaker, None);
}

#[test]
fn the_same_ports_again_are_listened_to_anew() {
    let mut scene = opened();
    say(&mut scene, CLIENT, 1, b"GET / HTTP/1.1\r\n\r\n");
    let closed = [there(3, SECOND), back(3, SECOND)]
        .map(|(index, slot)| (index, Slot { tcp_flags: tcp::FIN, ..slot }));
    scene.read_table(&closed, SECOND);
    let again = FlowRecord { generation: 2, sequence: 1, ..opening(2 * SECOND) };
    scene.ingest(&again);
    say(&mut scene, SERVER, 1, b"SSH-2.0-OpenSSH_9.2\r\n");

    let reports = finish(&mut scene);

    let looks: Vec<Protocol> = flows(&reports)
        .into_iter()
        .filter(|(change, _)| matches!(change, FlowChange::Ended(_)))
        .map(|(_, flow)| flow.app.unwrap().protocol)
        .collect();
    assert_eq!(looks, [Protocol::Http, Protocol::Ssh]);
}

#[test]
fn what_is_looked_at_is_more_than_what_is_shown() {
    let mut scene = opened();
    let request = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 400], b"\r\n\r\n"].concat();

    let shown = say(&mut scene, CLIENT, 1, &request);

    assert_eq!(shown.captured, 128);
    assert_eq!(&shown.data[40..58], b"GET / HTTP/1.1\r\nX:");
    assert_eq!(&shown.data[58..], [0; 70]);
    assert_eq!(shown.blanked, 70);
    say(&mut scene, SERVER, 1, b"HTTP/1.1 200 OK\r\n\r\n");
    assert!(last(&finish(&mut scene)).app.unwrap().is(Protocol::Http, Confidence::Certain));
}

#[test]
fn what_is_blanked_is_counted() {
    let mut scene = opened();

    let shown = say(&mut scene, CLIENT, 1, b"GET /?pin=1234 HTTP/1.1\r\n\r\n");

    assert_eq!(&shown.data[40..], b"GET /?pin=\0\0\0\0 HTTP/1.1\r\n\r\n");
    assert_eq!(shown.blanked, 4);
}

#[test]
fn flows_that_are_too_many_make_room_and_are_counted() {
    let mut scene = Scene::new();
    let clients = (0..1100_u16).map(|number| ([10, 0, 0, 1], 20_000 + number));
    for (client, slot) in clients.zip(1..) {
        let mut record = opening(SECOND);
        (record.key, record.slot) = (key(client, SERVER, false), slot);
        scene.ingest(&record);
        say(&mut scene, client, 1, b"some words");
    }

    let counters = scene.pipeline.counters(&KernelCounts::default(), Vec::new());

    assert_eq!(counters.flows_given_up, 1100 - 1024);
}

/// A connection that has just been opened.
fn opened() -> Scene {
    let mut scene = Scene::new();
    scene.ingest(&opening(SECOND));
    scene.ingest(&answering(SECOND));
    scene
}

/// Samples a packet that one side sends; what is shown of it.
fn say(scene: &mut Scene, speaker: Address, sequence: u32, payload: &[u8]) -> SampleReport {
    let packet = crate::app::testing::tcp(sequence, 1, payload);
    let mut record = SampleRecord::new_zeroed();
    record.header = header(kind::SAMPLE, program::INGRESS, SECOND);
    let is_server = speaker == SERVER;
    record.key = if is_server { key(SERVER, CLIENT, true) } else { key(speaker, SERVER, false) };
    record.represents = 1;
    let length = u32::try_from(packet.len()).unwrap();
    let record = SampleRecord { length, captured: length, payload_offset: 40, ..record };
    scene.pipeline.apply(Input::Record {
        bytes: [record.as_bytes(), &packet].concat().into(),
        now_ns: SECOND,
    });
    let sample = scene.pipeline.take_reports().into_iter().find_map(|report| match report.body {
        Body::Sample(sample) => Some(*sample),
        _ => None,
    });
    sample.expect("a sample")
}

/// The flow as it was reported last.
fn last(reports: &[Report]) -> FlowReport {
    flows(reports).pop().expect("a flow").1
}

fn finish(scene: &mut Scene) -> Vec<Report> {
    scene.pipeline.finish(9 * SECOND);
    scene.pipeline.take_reports()
}
