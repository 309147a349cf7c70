//! The pipeline against hand-made records and answers: no kernel, no `/proc`, no clock.

mod scene;
mod strangers;
mod odd;
mod hidden;
mod portless;
mod listeners;
mod findings;
mod indicators;
mod waiting;
mod flows;
mod roles;
mod hearing;
mod callers;
mod connections;
mod samples;
mod coverage;
mod counters;
mod kernel;
mod regressions;

use monitor_ebpf::wire::{InterfaceId, SocketRecord};
use zerocopy::IntoBytes as _;

use super::*;
use crate::endpoint::Interface;
use scene::*;

#[test]
fn a_report_bears_the_time_it_is_about() {
    let mut scene = Scene::new();

    scene.pipeline.coverage(vec![coverage::gap("eth1", "why")], 7);

    assert_eq!(scene.pipeline.take_reports()[0].time_unix_ns, scene.clock.unix_ns(7));
}

#[test]
fn what_is_not_observed_is_a_finding() {
    let mut scene = Scene::new();

    scene.pipeline.coverage(vec![coverage::gap("eth1", "why")], SECOND);

    let [Body::Finding(finding)] = &bodies(scene.pipeline.take_reports())[..] else {
        panic!("one finding");
    };
    assert!(finding.finding.message.contains("interface eth1"), "{finding:?}");
    assert_eq!(finding.finding.evidence, ["why"]);
    assert_eq!(scene.pipeline.run_ended("done", None).findings, 1);
}

#[test]
fn an_interface_that_comes_or_goes_is_reported() {
    let mut scene = Scene::new();
    let eth1 = interface(3, "eth1");

    scene.pipeline.interface(InterfaceChange::Attached, eth1.clone(), SECOND);
    scene.pipeline.interface(InterfaceChange::Detached, eth1.clone(), 2 * SECOND);

    let expected = [
        Body::Interface(InterfaceChange::Attached, eth1.clone()),
        Body::Interface(InterfaceChange::Detached, eth1.clone()),
    ];
    assert_eq!(bodies(scene.pipeline.take_reports()), expected);
    let id = InterfaceId::new(0, 3).unwrap();
    assert_eq!(scene.pipeline.observed.at(id), (eth1.interface, netns()));
}

#[test]
fn the_end_of_the_run_says_how_much_was_seen() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    scene.ingest(&announce(key(CLIENT, SERVER, false), 1, SECOND));
    scene.ingest(&announce(key(([10, 0, 0, 9], 50_000), SERVER, false), 1, SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);
    scene.pipeline.holders(&[LISTENER], &[(LISTENER, PID + 1)], SECOND);
    scene.answer(SECOND);
    scene.pipeline.finish(SECOND);

    let ended = scene.pipeline.run_ended("interrupted", None);

    let expected = crate::report::RunEnded {
        reason: "interrupted".to_owned(),
        counters: None,
        listeners: 1,
        flows: 2,
        findings: 1,
        findings_open: 1,
        findings_unfollowed: 0,
        coverage_gaps: Vec::new(),
    };
    assert_eq!(ended, expected);
}

#[test]
fn a_pipeline_is_settled_when_nothing_is_being_looked_up() {
    let mut scene = Scene::new();
    assert!(scene.pipeline.is_settled());

    scene.ingest(&listen(SECOND));
    assert!(!scene.pipeline.is_settled());
    let [who] = scene.requests()[..] else { panic!("one process is to be looked up") };
    scene.identify(who, SECOND);
    assert!(!scene.pipeline.is_settled());
    scene.answer(SECOND);
    assert!(scene.pipeline.is_settled());
}

#[test]
fn a_pipeline_that_waits_to_ask_is_not_settled() {
    let mut scene = Scene::new();
    scene.ingest(&SocketRecord { netns_cookie: 9, in_process: 0, ..listen(SECOND) });

    scene.pipeline.take_up_requests();

    assert!(!scene.pipeline.is_settled());
    assert_eq!(scene.pipeline.take_requests(), [Request::Namespaces]);
    assert!(scene.pipeline.is_settled());
}

#[test]
fn the_same_records_answers_and_times_give_the_same_reports() {
    let clock = Clock::of_host();

    let (first, second) = (run(clock), run(clock));

    let difference = first.iter().zip(&second).find(|(first, second)| first != second);
    assert_eq!(difference, None);
    // Every listener is opened, every flow starts and ends, and there is one finding.
    assert_eq!((first.len(), second.len()), (61, 61));
}

/// A run with many listeners and flows.
fn run(clock: Clock) -> Vec<Report> {
    let mut scene = Scene::with(Settings { clock, ..settings() });
    for index in 0..20 {
        let cookie = LISTENER + u64::from(index);
        scene.ingest(&SocketRecord { cookie, ..listen(SECOND) });
        let client = ([10, 0, 0, 9], 50_000 + index);
        scene.ingest(&announce(key(client, SERVER, false), 1, SECOND));
    }
    scene.answer(SECOND);
    let mut reports = scene.tick(SECOND);
    scene.pipeline.finish(2 * SECOND);
    reports.extend(scene.pipeline.take_reports());
    reports
}

fn interface(ifindex: u32, name: &str) -> InterfaceReport {
    let interface = Interface { ifindex, name: name.to_owned() };
    InterfaceReport {
        interface,
        netns: netns(),
        id: InterfaceId::new(0, ifindex),
        mode: "tcx".into(),
    }
}
