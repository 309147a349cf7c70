//! What a report of a listener waits for, and what becomes of what is known later.

use monitor_ebpf::wire::action;

use super::scene::*;
use super::*;
use crate::host::netns::Mark;
use crate::owner::{Evidence, Packaging, Role};
use crate::report::{ListenerChange, ListenerReport};

#[test]
fn a_listener_waits_for_the_hash_of_what_it_runs() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    let [who] = scene.requests()[..] else { panic!("one process is to be looked up") };
    scene.identify(who, SECOND);

    assert!(scene.tick(SECOND).is_empty());
    assert!(scene.tick(SECOND + PATIENCE_NS - 1).is_empty());

    scene.answer(SECOND + PATIENCE_NS - 1);
    let reports = scene.tick(SECOND + PATIENCE_NS - 1);
    let (_, listener) = &listeners(&reports)[0];
    let process = &listener.attribution.owners[0].process;
    assert_eq!(process.sha256.as_deref(), Some(SHA256));
    assert_eq!(reports[0].time_unix_ns, scene.clock.unix_ns(SECOND));
}

#[test]
fn a_hash_that_comes_late_updates_the_listener() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    let [who] = scene.requests()[..] else { panic!("one process is to be looked up") };
    scene.identify(who, SECOND);
    scene.tick(SECOND);

    let early = scene.tick(SECOND + PATIENCE_NS);
    let hash = scene.requests();
    let [Request::Hash { key }, Request::Package { .. }] = hash[..] else { panic!("{hash:?}") };
    scene.pipeline.hashed(key, Ok(SHA256.to_owned()));
    scene.pipeline.packaged(key, Ok(Packaging::NoPackage));
    let late = scene.tick(SECOND + 2 * PATIENCE_NS);

    let opened = only(ListenerChange::Opened, &early);
    let updated = only(ListenerChange::Updated, &late);
    let hash = |report: &ListenerReport| report.attribution.owners[0].process.sha256.clone();
    assert_eq!((hash(&opened), hash(&updated)), (None, Some(SHA256.to_owned())));
    assert_eq!(late.len(), 1);
}

#[test]
fn a_listener_whose_process_turns_out_to_be_gone_is_updated() {
    let mut scene = Scene::new();
    let missing = vec!["exe: gone".to_owned()];
    scene.processes.insert(PID, Process { pid: PID, missing, ..Process::default() });
    scene.ingest(&listen(SECOND));
    scene.tick(SECOND);
    scene.tick(SECOND + PATIENCE_NS);

    scene.answer(2 * SECOND);
    scene.tick(2 * SECOND);
    let reports = scene.tick(2 * SECOND + PATIENCE_NS);

    let owner = &only(ListenerChange::Updated, &reports).attribution.owners[0];
    assert_eq!((owner.exited, owner.process.name.as_str()), (true, "cardbridged"));
    assert_eq!(owner.process.missing, ["exe: gone"]);
}

#[test]
fn a_process_that_turns_out_to_be_known_is_one_process() {
    let mut scene = Scene::with_policy(RULE);
    scene.ingest(&SocketRecord { protocol: 17, ..socket(action::BIND, SECOND) });
    scene.answer(SECOND);
    scene.tick(SECOND);

    // Long enough for the pid to have been given away.
    scene.ingest(&SocketRecord { protocol: 17, ..socket(action::SEND, 10 * SECOND) });
    scene.answer(10 * SECOND);
    let reports = scene.tick(10 * SECOND);

    let (_, listener) = &listeners(&reports)[0];
    let expected = [(Role::User, Evidence::Exact, PID), (Role::Opener, Evidence::Exact, PID)];
    assert_eq!(owners(listener), expected);
    let processes = listener.attribution.owners.iter().map(|owner| &owner.process);
    assert!(processes.is_sorted_by(|first, second| Arc::ptr_eq(first, second)));
    assert_eq!(scene.pipeline.alive().len(), 1);
}

#[test]
fn an_unknown_namespace_is_asked_for_and_waited_for() {
    let mut scene = Scene::with_policy(RULE);
    let blue = Netns { inode: 77, name: Some("blue".to_owned()) };
    scene.ingest(&SocketRecord { netns_cookie: 9, in_process: 0, ..listen(SECOND) });

    assert!(scene.tick(SECOND).is_empty());
    assert_eq!(scene.requests(), [Request::Namespaces]);
    scene.pipeline.namespaces(vec![(blue.clone(), Mark::Cookie(9))]);

    let reports = scene.tick(SECOND);
    assert_eq!(listeners(&reports)[0].1.netns, Some(blue));
    assert_eq!(scene.requests(), []);
}

#[test]
fn a_namespace_that_is_gone_is_not_asked_for_again() {
    let mut scene = Scene::with_policy(RULE);
    scene.ingest(&SocketRecord { netns_cookie: 9, in_process: 0, ..listen(SECOND) });
    assert!(scene.tick(SECOND).is_empty());
    scene.requests();

    scene.pipeline.namespaces(Vec::new());

    assert_eq!(scene.requests(), []);
    let reports = scene.tick(SECOND + PATIENCE_NS);
    assert_eq!(listeners(&reports)[0].1.netns, None);
}

#[test]
fn the_end_of_the_run_waits_for_nobody() {
    let mut scene = Scene::with_policy(RULE);
    scene.ingest(&listen(SECOND));

    scene.pipeline.finish(SECOND);

    let reports = scene.pipeline.take_reports();
    let listener = only(ListenerChange::Opened, &reports);
    assert_eq!(owners(&listener), [(Role::Opener, Evidence::Exact, PID)]);
}

/// A listener waits this long for its owners to be known.
const PATIENCE_NS: u64 = 500_000_000;
