//! One made-up run and some rarer reports: what the golden files and docs/events.md are made of.
//!
//! `UPDATE=1 cargo test -p monitor --lib output::` rewrites the files; `git diff` then shows what
//! changed for users.

mod finding;
mod hidden;
pub(super) mod network;
mod process;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::endpoint::Direction;
use crate::report::{
    Body, CheckOutcome, CheckPart, CheckReport, Counters, EndReason, FlowChange, InterfaceChange,
    InterfaceCount, ListenerChange, PolicyChange, PolicyReport, PortCount, RecordCounts, Report,
    RunEnded, RunStarted, SinkCount,
};

use self::finding::{closed, coverage_gap, expired_rule, finding, near_miss, updated};
use self::hidden::{hidden_owner, portless, xdp};
use self::network::{
    empty_sample, eth0, expected_listener, flow, hostile_listener, kernel_listener, listener,
    loopback_connection, place, refused_flow, sample, translated_flow,
};

/// 2026-11-23 13:03:07 UTC.
pub(super) const START_NS: i64 = 1_795_438_987_000_000_000;

/// A run in which an unknown listener is found, talked to and closed.
pub(super) fn run() -> Vec<Report> {
    let flow = |change| Body::Flow(change, Box::new(flow(change)));
    let listener = |change| Body::Listener(change, Box::new(listener()));
    dated([
        (100_000_000, Body::RunStarted(run_started())),
        (100_200_001, Body::Interface(InterfaceChange::Attached, eth0())),
        (312_000_000, listener(ListenerChange::Found)),
        (312_000_500, Body::Finding(Box::new(finding()))),
        (500_123_456, flow(FlowChange::Started)),
        (500_987_654, Body::Sample(Box::new(sample()))),
        (5_500_000_000, flow(FlowChange::Updated)),
        (6_000_000_000, Body::Finding(Box::new(updated()))),
        (7_250_000_000, flow(FlowChange::Ended(EndReason::EndOfFlow))),
        (8_000_000_000, listener(ListenerChange::Closed)),
        (10_000_000_000, Body::Counters(Box::new(counters()))),
        (12_000_000_000, Body::Finding(Box::new(closed()))),
        (12_000_000_000, Body::RunEnded(Box::new(run_ended()))),
    ])
}

/// Reports in which much is unknown, odd or hostile.
pub(super) fn rarities() -> Vec<Report> {
    dated([
        (0, Body::Listener(ListenerChange::Opened, Box::new(expected_listener()))),
        (1_000_000, Body::Listener(ListenerChange::Updated, Box::new(hostile_listener()))),
        (2_000_000, Body::Listener(ListenerChange::Found, Box::new(kernel_listener()))),
        (
            3_000_000,
            Body::Flow(FlowChange::Ended(EndReason::IdleTimeout), Box::new(refused_flow())),
        ),
        (4_000_000, Body::Flow(FlowChange::Updated, Box::new(loopback_connection()))),
        (5_000_000, Body::Finding(Box::new(coverage_gap()))),
        (6_000_000, Body::Finding(Box::new(expired_rule()))),
        (6_100_000, Body::Finding(Box::new(hidden_owner()))),
        (6_200_000, Body::Portless(Box::new(portless()))),
        (6_300_000, Body::Portless(Box::new(xdp()))),
        (7_000_000, Body::Sample(Box::new(empty_sample()))),
        (8_000_000, Body::Interface(InterfaceChange::Detached, eth0())),
        (8_500_000, Body::Policy(PolicyChange::Reloaded(policy()))),
        (8_700_000, Body::Policy(refused_policy())),
        (9_000_000, Body::Flow(FlowChange::Started, Box::new(translated_flow()))),
        (10_000_000, Body::RunEnded(Box::new(scan_ended()))),
    ])
}

pub(super) fn policy() -> PolicyReport {
    PolicyReport {
        file: "/etc/portwatch/policy.toml".to_owned(),
        is_default: true,
        listener_rules: 2,
        client_rules: 1,
    }
}

fn refused_policy() -> PolicyChange {
    let problem = "/etc/portwatch/policy.toml:4:1: unknown key `sha265`; did you mean `sha256`?";
    PolicyChange::Refused { stays: Some(policy()), problem: problem.to_owned() }
}

/// What `doctor` says of a host that misses something.
pub(super) fn doctor() -> Vec<Report> {
    let check = |check| Body::Check(Box::new(check));
    dated([
        (0, check(host_check())),
        (1_000_000, check(missed())),
        (2_000_000, Body::RunEnded(Box::new(doctor_ended()))),
    ])
}

fn host_check() -> CheckReport {
    CheckReport {
        part: CheckPart::Host,
        name: "readers",
        subject: "who serves what another process opened".to_owned(),
        outcome: CheckOutcome::Degraded,
        expected: String::new(),
        seen: "known only by who holds it: no BTF on this kernel".to_owned(),
        evidence: Vec::new(),
    }
}

fn missed() -> CheckReport {
    CheckReport {
        part: CheckPart::SelfTest,
        name: "worker",
        subject: "a worker that serves a connection its parent accepted".to_owned(),
        outcome: CheckOutcome::Missed,
        expected: "pid 4243 named for the destination of the flow 127.0.0.1:40000 > port 23511"
            .to_owned(),
        seen: "seen, but the process is not named".to_owned(),
        evidence: vec!["flow-ended: pid 4242 opener (exact)".to_owned()],
    }
}

fn doctor_ended() -> RunEnded {
    RunEnded {
        reason: "not all seen".to_owned(),
        findings: 1,
        coverage_gaps: vec![
            "worker (a worker that serves a connection its parent accepted) missed: \
             seen, but the process is not named"
                .to_owned(),
        ],
        ..scan_ended()
    }
}

/// What a scan finds.
pub(super) fn scan() -> Vec<Report> {
    let found = |report| Body::Listener(ListenerChange::Found, Box::new(report));
    dated([
        (0, Body::RunStarted(RunStarted { command: "scan".into(), ..run_started() })),
        (0, found(listener())),
        (0, found(expected_listener())),
        (0, found(hostile_listener())),
        (0, found(kernel_listener())),
        (0, Body::Flow(FlowChange::Updated, Box::new(loopback_connection()))),
        (0, Body::Portless(Box::new(portless()))),
        (0, Body::Finding(Box::new(finding()))),
        (0, Body::RunEnded(Box::new(scan_ended()))),
    ])
}

/// Compares with a golden file, or writes it.
pub(super) fn assert_golden(name: &str, actual: &str) {
    assert_file(&format!("src/output/golden/{name}"), actual);
}

/// As [`assert_golden`], for a file anywhere in the package.
pub(super) fn assert_file(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, actual).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(actual == golden, "{name} is stale; UPDATE=1 rewrites it. Now:\n{actual}");
}

fn dated(bodies: impl IntoIterator<Item = (i64, Body)>) -> Vec<Report> {
    let report = |(after_ns, body)| Report { time_unix_ns: START_NS + after_ns, body };
    bodies.into_iter().map(report).collect()
}

pub(super) fn run_started() -> RunStarted {
    RunStarted {
        command: "watch".into(),
        ports: "3516".to_owned(),
        interfaces: vec![eth0()],
        attached: [("pw_ingress", "tcx"), ("pw_egress", "tcx"), ("pw_post_bind4", "cgroup")]
            .map(|(program, mode)| (program.to_owned(), mode.to_owned()))
            .to_vec(),
        resumed: false,
        payload: Some("masked".into()),
        policy: Some(policy()),
        degraded: vec![
            "who reads and writes a socket is not seen: no BTF on this kernel".to_owned(),
        ],
    }
}

pub(super) fn run_ended() -> RunEnded {
    RunEnded {
        reason: "interrupted".to_owned(),
        counters: Some(counters()),
        listeners: 1,
        flows: 1,
        findings: 1,
        findings_open: 0,
        findings_unfollowed: 0,
        coverage_gaps: Vec::new(),
    }
}

fn scan_ended() -> RunEnded {
    RunEnded {
        reason: "done".to_owned(),
        counters: None,
        listeners: 4,
        flows: 1,
        findings: 1,
        findings_open: 1,
        findings_unfollowed: 3,
        coverage_gaps: vec![coverage_gap().finding.message],
    }
}

pub(super) fn counters() -> Counters {
    let port = |direction, packets, bytes, wire_packets| PortCount {
        port: 3516,
        direction,
        packets,
        bytes,
        wire_packets: Some(wire_packets),
        wire_bytes: Some(bytes + (wire_packets - packets) * 52),
    };
    let records = RecordCounts {
        seen: 44,
        filtered: 4,
        submitted: 40,
        ring_full: 0,
        read: 40,
        undecodable: 0,
    };
    Counters {
        ports: vec![port(Direction::Ingress, 13, 1_492, 13), port(Direction::Egress, 9, 6_812, 12)],
        earlier: Vec::new(),
        overflow: vec![PortCount {
            wire_packets: None,
            wire_bytes: None,
            ..port(Direction::Ingress, 1, 60, 1)
        }],
        interfaces: vec![
            InterfaceCount { port: 3516, place: place(Direction::Ingress, 12, 1_432) },
            InterfaceCount { port: 3516, place: place(Direction::Egress, 9, 6_812) },
        ],
        fragments_first: 1,
        fragments_joined: 4,
        fragments_later: 2,
        icmp_errors: 3,
        tunnelled: 5,
        unparsable: BTreeMap::from([("truncated", 1)]),
        records,
        programs: BTreeMap::from([("pw_ingress", records)]),
        samples_taken: 8,
        samples_suppressed: 2,
        flows_given_up: 1,
        sinks: vec![SinkCount { name: "stdout".to_owned(), delivered: 9, lost: 0 }],
    }
}
