//! Recordings written and read again, whole, damaged, and on files that do not take them.

use std::fs::File;
use std::io::{Cursor, Read as _};
use std::sync::Arc;
use std::time::Duration;

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{
    FlowKey, FlowRecord, Header as RecordHeader, SampleRecord, Slot, SocketRecord, WIRE_VERSION,
    action, kind, program,
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::*;
use crate::attribution::ProcessKey;
use crate::endpoint::Netns;
use crate::host::netns::Mark;
use crate::kernel::flow_table::Reading;
use crate::output::ecs::RunIdentity;
use crate::owner::{Packaging, Process};
use crate::pipeline::{Input, KernelCounts, Payload, Pipeline, Settings, Tap as _};
use crate::policy::Policy;
use crate::report::RunStarted;

const SECOND: u64 = 1_000_000_000;
const SECRET: &[u8] = b"\x00\x20\x00\x01\x041234";

#[test]
fn what_is_recorded_is_read_again() {
    let inputs = inputs();

    let recorded = record(Payload::Full, &inputs);

    let mut reader = Reader::new(&recorded[..]).unwrap();
    assert_eq!(*reader.header(), header(Payload::Full));
    for input in &inputs {
        let read = reader.read().unwrap();
        let is_sample = |input: &Input<'_>| matches!(input, Input::Record { bytes, .. } if bytes.ends_with(SECRET));
        if is_sample(input) {
            // With what came of listening to it.
            assert!(matches!(read, Next::Input(Input::Sample { .. })), "{read:?}");
        } else {
            assert_eq!(read, Next::Input(input.clone()));
        }
    }
    assert_eq!(reader.read(), Ok(Next::End));
    assert_eq!(reader.offset(), u64::try_from(recorded.len()).unwrap());
}

#[test]
fn a_header_gives_the_settings_that_it_was_made_of() {
    let settings = settings(Payload::None);

    let again = header(Payload::None).settings(None).unwrap();

    assert_eq!(Header::of(origin(), &again), Header::of(origin(), &settings));
}

#[test]
fn a_payload_that_the_run_does_not_show_is_not_recorded() {
    let holds = |payload| {
        let recorded = record(payload, &inputs());
        recorded.windows(SECRET.len()).any(|part| part == SECRET)
    };

    assert_eq!([Payload::None, Payload::Masked, Payload::Full].map(holds), [false, false, true]);
}

#[test]
fn a_recording_that_ends_anywhere_is_cut_off_there_and_good_before() {
    let recorded = record(Payload::Full, &inputs());
    let start = Reader::new(&recorded[..]).unwrap().offset();
    let start = usize::try_from(start).unwrap();

    for length in start..recorded.len() {
        let mut reader = Reader::new(&recorded[..length]).unwrap();
        let mut read = Vec::new();
        let why = loop {
            match reader.read().unwrap() {
                Next::Input(_) => read.push(reader.offset()),
                Next::CutOff(why) => break why,
                Next::End => panic!("it is not complete"),
            }
        };

        let offset = read.last().copied().unwrap_or(start as u64);
        assert_eq!(why, format!("it is cut off after byte {offset}"));
        assert!(offset <= length as u64, "{offset} {length}");
    }
}

#[test]
fn a_byte_that_was_changed_is_noticed_in_its_frame() {
    let recorded = record(Payload::Full, &inputs());
    let frames = offsets(&recorded);

    for changed in (frames[0]..recorded.len()).step_by(7) {
        let mut damaged = recorded.clone();
        damaged[changed] ^= 0x40;

        let frame = frames.iter().rfind(|frame| **frame <= changed).copied().unwrap();
        match drain(&damaged) {
            Err(fault) => assert_eq!(fault.offset, frame as u64, "{fault}"),
            // A length that became larger than the rest of the file.
            Ok(Some(why)) => assert_eq!(why, format!("it is cut off after byte {frame}")),
            Ok(None) => panic!("a change of byte {changed} goes unnoticed"),
        }
    }
}

#[test]
fn what_is_no_recording_is_refused_in_one_line() {
    let whole = record(Payload::Full, &[]);
    let mut text_mode = whole.clone();
    text_mode.splice(6..8, *b"\n");
    let mut other = MAGIC.to_vec();
    other.extend([9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xc0]);
    let mut huge = MAGIC.to_vec();
    huge.extend([1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]);

    let refused = |bytes: &[u8]| Reader::new(bytes).map(|_| ()).unwrap_err().to_string();

    for bytes in [&b""[..], b"\x89PW", b"#!/bin/sh\n", &text_mode] {
        assert_eq!(refused(bytes), "byte 0: not a recording of portwatch");
    }
    assert_eq!(refused(&MAGIC), "byte 8: there is no header");
    assert_eq!(refused(&other), "byte 8: no frame begins with 0x00000009");
    assert_eq!(refused(&huge), "byte 8: a frame of 2147483647 bytes; it has 1 to 4194304");
}

#[test]
fn nothing_follows_the_end_of_a_run() {
    let mut recorded = record(Payload::Full, &inputs());
    let length = recorded.len();
    recorded.push(0);

    let fault = drain(&recorded).unwrap_err();

    assert_eq!(
        fault,
        Fault { offset: length as u64, problem: "it goes on after its end".to_owned() }
    );
}

#[test]
fn a_disk_that_is_full_ends_the_recording_and_not_the_run() {
    let full = File::options().write(true).open("/dev/full").unwrap();

    assert!(Recorder::start(full, &header(Payload::Full)).is_err());

    let (reading, writing) = std::io::pipe().unwrap();
    let (mut recorder, recording) =
        Recorder::start(std::os::fd::OwnedFd::from(writing).into(), &header(Payload::Full))
            .unwrap();
    drop(reading);
    for input in inputs() {
        recorder.note(&input);
    }
    recording.close();
    assert!(recording.is_broken());
    assert_eq!((recording.count().delivered, recording.count().lost), (0, inputs().len() as u64));
}

#[test]
fn what_waited_to_be_handed_on_when_the_disk_failed_is_lost_once_the_run_has_ended() {
    let (reading, writing) = std::io::pipe().unwrap();
    let (mut recorder, recording) =
        Recorder::start(std::os::fd::OwnedFd::from(writing).into(), &header(Payload::Full))
            .unwrap();
    // More than a pipe takes, so that the thread that writes is still at it.
    recorder.note(&Input::Record { bytes: vec![0; 1 << 20].into(), now_ns: 1 });
    recorder.note(&Input::Record { bytes: vec![0; 1].into(), now_ns: 1 });

    drop(reading);
    while !recording.is_broken() {
        std::thread::yield_now();
    }
    recorder.note(&ended());
    recording.close();

    assert_eq!((recording.count().delivered, recording.count().lost), (0, 3));
}

#[test]
fn a_disk_that_is_too_slow_ends_the_recording_which_says_so() {
    let (mut reading, writing) = std::io::pipe().unwrap();
    let (mut recorder, recording) =
        Recorder::start(std::os::fd::OwnedFd::from(writing).into(), &header(Payload::Full))
            .unwrap();
    let flood = Input::Record { bytes: vec![0; 1 << 20].into(), now_ns: 1 };

    for _ in 0..80 {
        recorder.note(&flood);
    }
    assert!(recording.is_broken());
    recorder.note(&ended());
    let mut recorded = Vec::new();
    reading.read_to_end(&mut recorded).unwrap();
    recording.close();

    assert_eq!(
        drain(&recorded).unwrap().as_deref(),
        Some("the recording ends here: the disk is too slow for it")
    );
    let count = recording.count();
    assert_eq!(count.delivered + count.lost, 81);
    assert_eq!(count.delivered, offsets(&recorded).len() as u64 - 2);
}

#[test]
fn an_input_that_is_too_large_ends_the_recording() {
    let huge = Input::Record { bytes: vec![0; MAX_FRAME].into(), now_ns: 1 };

    let recorded = record(Payload::Full, &[tick(1), huge, tick(2), ended()]);

    let why = drain(&recorded).unwrap().unwrap();
    assert!(
        why.starts_with("the recording ends here: ") && why.ends_with(" in one frame"),
        "{why}"
    );
    assert_eq!(offsets(&recorded).len(), 3);
}

/// Why it is cut off, if it is.
fn drain(recorded: &[u8]) -> Result<Option<String>, Fault> {
    let mut reader = Reader::new(recorded)?;
    loop {
        match reader.read()? {
            Next::Input(_) => {}
            Next::End => return Ok(None),
            Next::CutOff(why) => return Ok(Some(why)),
        }
    }
}

/// Where each frame behind the header begins, and where the last ends.
fn offsets(recorded: &[u8]) -> Vec<usize> {
    let mut reader = Reader::new(recorded).unwrap();
    let mut offsets = vec![usize::try_from(reader.offset()).unwrap()];
    while matches!(reader.read(), Ok(Next::Input(_) | Next::CutOff(_))) {
        let offset = usize::try_from(reader.offset()).unwrap();
        if offsets.last() == Some(&offset) {
            break;
        }
        offsets.push(offset);
    }
    offsets
}

/// The file that these inputs make.
pub(crate) fn record(payload: Payload, inputs: &[Input<'_>]) -> Vec<u8> {
    let file = tempfile::tempfile().unwrap();
    let (recorder, recording) =
        Recorder::start(file.try_clone().unwrap(), &header(payload)).unwrap();
    let mut pipeline = Pipeline::new(settings(payload));
    pipeline.tap(Box::new(recorder));
    for input in inputs {
        pipeline.apply(input.clone());
    }
    drop(pipeline);
    recording.close();
    let mut recorded = Vec::new();
    let mut file = file;
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut recorded).unwrap();
    Cursor::new(recorded).into_inner()
}

/// The frame of an input, with a checksum that fits.
pub(crate) fn framed(content: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    frame::append(&mut framed, frame::Kind::Input, &()).unwrap();
    framed.truncate(frame::PREFIX);
    framed[4..8].copy_from_slice(&u32::try_from(content.len()).unwrap().to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&framed[..4]);
    hasher.update(content);
    framed[8..12].copy_from_slice(&hasher.finalize().to_le_bytes());
    framed.extend(content);
    framed
}

/// A short run: somebody listens, is called, and is gone.
pub(crate) fn inputs() -> Vec<Input<'static>> {
    let started = RunStarted {
        command: "watch".into(),
        ports: "3516".to_owned(),
        interfaces: Vec::new(),
        attached: vec![("pw_ingress@lo".to_owned(), "tcx".to_owned())],
        resumed: false,
        payload: None,
        policy: None,
        degraded: Vec::new(),
    };
    let process = Process {
        pid: 4712,
        start_ticks: Some(99),
        name: "cardbridged\x1b[2J".to_owned(),
        executable: Some("/usr/sbin/cardbridged".into()),
        ..Process::default()
    };
    let key: ProcessKey = serde_json::from_str("0").unwrap();
    let slot =
        Slot { count: 1 << Slot::PACKET_BITS | 3, bytes: 300, key: flow(), ..Slot::new_zeroed() };
    let readings = vec![Reading { slot: 1, content: slot }].into();
    vec![
        Input::Namespaces(vec![(netns(), Mark::Cookie(1))]),
        Input::Started { started, now_ns: SECOND },
        record_of(listen().as_bytes()),
        Input::Identified { key, process: Arc::new(process), now_ns: SECOND },
        Input::Hashed { key, hash: Ok("00".repeat(32)) },
        Input::Packaged { key, packaging: Ok(Packaging::NoPackage) },
        record_of(announce().as_bytes()),
        record_of(&sample()),
        Input::Readings { readings, now_ns: 2 * SECOND },
        Input::TableRead { now_ns: 2 * SECOND },
        tick(3),
        Input::Exited(vec![key]),
        Input::Behind(false),
        tick(5),
        Input::Counters { kernel: KernelCounts::default(), sinks: Vec::new(), now_ns: 6 * SECOND },
        Input::SocketsExpire { now_ns: 6 * SECOND },
        Input::Finish { now_ns: 7 * SECOND },
        Input::Finish { now_ns: 7 * SECOND },
        ended(),
    ]
}

fn tick(second: u64) -> Input<'static> {
    Input::Tick { now_ns: second * SECOND }
}

fn ended() -> Input<'static> {
    let counts = Some((KernelCounts::default(), Vec::new()));
    Input::Ended { reason: "interrupted".to_owned(), counts, now_ns: 8 * SECOND }
}

fn record_of(bytes: &[u8]) -> Input<'static> {
    Input::Record { bytes: bytes.to_vec().into(), now_ns: SECOND }
}

fn listen() -> SocketRecord {
    let mut record = SocketRecord::new_zeroed();
    record.header = record_header(kind::SOCKET, program::SOCK_OPS);
    (record.cookie, record.netns_cookie, record.family, record.protocol) = (10, 1, 4, 6);
    (record.tgid, record.in_process, record.action) = (4712, 1, action::LISTEN);
    (record.local, record.local_port) = (mapped([10, 0, 0, 2]), 3516);
    record
}

fn announce() -> FlowRecord {
    let mut record = FlowRecord::new_zeroed();
    record.header = record_header(kind::FLOW, program::INGRESS);
    (record.slot, record.generation, record.key) = (1, 1, flow());
    record.tcp_flags = tcp::SYN;
    record
}

fn sample() -> Vec<u8> {
    let mut record = SampleRecord::new_zeroed();
    record.header = record_header(kind::SAMPLE, program::INGRESS);
    (record.key, record.represents, record.payload_offset) = (flow(), 1, 40);
    let packet = [&[0x45; 40], SECRET].concat();
    record.captured = u32::try_from(packet.len()).unwrap();
    record.length = record.captured;
    [record.as_bytes(), &packet].concat()
}

fn flow() -> FlowKey {
    FlowKey::new((mapped([10, 0, 0, 1]), 40_000), (mapped([10, 0, 0, 2]), 3516), 2 << 3)
}

fn mapped(address: [u8; 4]) -> [u8; 16] {
    std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets()
}

fn record_header(kind: u16, program: u32) -> RecordHeader {
    RecordHeader { version: WIRE_VERSION, kind, program, ktime_ns: SECOND }
}

fn netns() -> Netns {
    Netns { inode: 4_026_531_840, name: None }
}

fn origin() -> Origin {
    let run = RunIdentity {
        host_name: "example".to_owned(),
        host_id: "0123456789abcdef0123456789abcdef".to_owned(),
        run_id: "b5c5c8de-6a4e-4ea5-9d3d-f1e9c3a4a001".to_owned(),
        version: "0.1.0".to_owned(),
    };
    Origin { run, kernel: "6.18.0".to_owned(), machine: "x86_64".to_owned(), boot_id: None }
}

fn settings(payload: Payload) -> Settings {
    let policy = "version = 1\n[[listener]]\nid = \"a\"\nport = 3516\nuser = \"cardbridge\"\n";
    Settings {
        ports: "3516".parse().unwrap(),
        policy: Policy::parse("p".as_ref(), policy).unwrap(),
        payload,
        snaplen: 128,
        interval: Duration::from_secs(10),
        idle_timeout: Duration::from_mins(1),
        slots: 8,
        jiffy_ns: 4_000_000,
        netns: netns(),
        clock: serde_json::from_str(r#"{"unix_minus_boot_ns":1800000000000000000}"#).unwrap(),
        names_ends: false,
    }
}

/// That of the recordings here.
pub(crate) fn header(payload: Payload) -> Header {
    Header::of(origin(), &settings(payload))
}
