//! The life of a finding: one for the same thing, told again only when that is news, closed when it is
//! so no more.

use monitor_ebpf::wire::action;

use super::listeners::{findings, news};
use super::scene::*;
use super::*;
use crate::owner::{Integrity, Package, PackageFormat};
use crate::report::{Finding, FindingKind, FindingReport, FindingState, Severity};

#[test]
fn a_finding_is_closed_once_its_listener_has_been_gone_for_a_while() {
    let mut scene = Scene::new();
    opened(&mut scene, LISTENER, PID, SECOND);
    closed(&mut scene, LISTENER, 2 * SECOND);

    assert!(news(&scene.tick(6 * SECOND)).is_empty());
    let reports = scene.tick(7 * SECOND);

    let [closed] = &news(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!((closed.state, closed.occurrences), (FindingState::Closed, 1));
    assert_eq!(
        closed.finding.message,
        "The listener on tcp 10.0.0.2:3516 is gone. It was the one of cardbridged (pid 4712, user \
         cardbridge)."
    );
    assert_eq!(closed.first_seen_unix_ns, scene.clock.unix_ns(SECOND));
    assert_eq!(closed.last_seen_unix_ns, scene.clock.unix_ns(2 * SECOND));
    assert_eq!(reports[0].time_unix_ns, scene.clock.unix_ns(7 * SECOND));
    let ended = scene.pipeline.run_ended("done", None);
    assert_eq!((ended.findings, ended.findings_open), (1, 0));
}

#[test]
fn a_finding_whose_listener_is_gone_is_closed_by_the_end_of_the_run() {
    let mut scene = Scene::new();
    opened(&mut scene, LISTENER, PID, SECOND);
    closed(&mut scene, LISTENER, 2 * SECOND);

    scene.pipeline.finish(3 * SECOND);

    let reports = scene.pipeline.take_reports();
    let states: Vec<_> = news(&reports).iter().map(|it| it.state).collect();
    assert_eq!(states, [FindingState::Closed]);
}

#[test]
fn a_listener_that_restarts_keeps_its_finding_and_tells_who_it_is_now() {
    let mut scene = Scene::new();
    let first = opened(&mut scene, LISTENER, PID, SECOND);
    closed(&mut scene, LISTENER, 12 * SECOND);

    scene.ingest(&SocketRecord { cookie: LISTENER + 1, tgid: PID + 1, ..listen(13 * SECOND) });
    scene.answer(13 * SECOND);
    let reports = scene.tick(13 * SECOND);

    let [updated] = &news(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!((updated.state, updated.occurrences), (FindingState::Updated, 2));
    assert_eq!(updated.finding.id, first.finding.id);
    assert!(updated.finding.message.contains("(pid 4713,"), "{updated:?}");
    assert_eq!(updated.changes, [format!("it was: {}", first.finding.message)]);
    assert!(news(&scene.tick(60 * SECOND)).is_empty());
    assert_eq!(scene.pipeline.findings(), 1);
}

#[test]
fn a_finding_that_comes_back_after_it_was_closed_is_open_again_and_the_same() {
    let mut scene = Scene::new();
    let first = opened(&mut scene, LISTENER, PID, SECOND);
    closed(&mut scene, LISTENER, 2 * SECOND);
    scene.tick(10 * SECOND);

    let again = opened(&mut scene, LISTENER + 1, PID, 60 * SECOND);

    assert_eq!((again.state, again.occurrences), (FindingState::Open, 2));
    assert_eq!(again.finding.id, first.finding.id);
    assert_eq!(again.first_seen_unix_ns, first.first_seen_unix_ns);
    assert_eq!(scene.pipeline.findings(), 1);
}

#[test]
fn a_service_that_crashes_again_and_again_is_no_flood() {
    let mut scene = Scene::new();
    let mut told = Vec::new();
    for index in 0..600 {
        let now_ns = SECOND + u64::from(index) * SECOND / 10;
        let cookie = LISTENER + u64::from(index);
        scene.ingest(&SocketRecord { cookie, tgid: PID + index, ..listen(now_ns) });
        scene.answer(now_ns);
        told.extend(news(&scene.tick(now_ns)));
        scene.ingest(&SocketRecord { cookie, ..socket(action::RELEASE, now_ns + 1) });
        scene.answer(now_ns + 1);
        told.extend(news(&scene.tick(now_ns + 1)));
    }

    let states: Vec<FindingState> = told.iter().map(|it| it.state).collect();
    // Open, and one update in ten seconds of a minute.
    assert_eq!(states.len(), 6, "{states:?}");
    assert!(told[5].occurrences > 400, "{:?}", told[5]);
    assert_eq!(scene.pipeline.findings(), 1);
}

#[test]
fn several_sockets_of_one_program_on_one_address_are_one_finding_until_the_last_is_gone() {
    let mut scene = Scene::new();
    opened(&mut scene, LISTENER, PID, SECOND);
    scene.ingest(&SocketRecord { cookie: LISTENER + 1, tgid: PID + 1, ..listen(2 * SECOND) });
    scene.answer(2 * SECOND);
    assert!(news(&scene.tick(20 * SECOND)).is_empty());

    scene.ingest(&socket(action::RELEASE, 30 * SECOND));
    scene.answer(30 * SECOND);
    let heir = scene.tick(30 * SECOND);
    closed(&mut scene, LISTENER + 1, 50 * SECOND);
    let last = scene.tick(60 * SECOND);

    // The one that is left speaks from now on.
    let [[updated], [closed]] = [&news(&heir)[..], &news(&last)[..]] else { panic!("{heir:#?}") };
    assert_eq!((updated.state, closed.state), (FindingState::Updated, FindingState::Closed));
    assert!(updated.finding.message.contains("(pid 4713,"), "{updated:?}");
    assert!(closed.finding.message.contains("(pid 4713,"), "{closed:?}");
}

#[test]
fn what_makes_it_worse_is_told_at_once() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    let [who] = scene.requests()[..] else { panic!("one process is to be looked up") };
    scene.identify(who, SECOND);
    let [key, ..] = scene.pipeline.alive()[..] else { panic!("one process is alive") };
    scene.tick(SECOND);
    let first = news(&scene.tick(SECOND + 600_000_000));

    scene.pipeline.packaged(key.0, Ok(Packaging::Package(modified())));
    scene.tick(2 * SECOND);
    let reports = scene.tick(3 * SECOND);

    assert_eq!(first[0].finding.severity, Severity::High);
    let [updated] = &news(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!(updated.state, FindingState::Updated);
    assert_eq!(updated.finding.severity, Severity::Critical);
    assert_eq!(
        updated.changes,
        [
            "severity: high → critical",
            "new: package: cardbridge  (deb); the file is NOT as it was installed",
            "new: what it runs is not what package cardbridge installed",
        ]
    );
}

#[test]
fn what_makes_it_no_worse_is_told_later_and_together() {
    let mut scene = Scene::new();
    opened(&mut scene, LISTENER, PID, SECOND);
    scene.processes.insert(PID + 1, Process { name: "sh".to_owned(), ..cardbridged(PID + 1) });

    scene.pipeline.holders(&[LISTENER], &[(LISTENER, PID + 1)], 2 * SECOND);
    scene.answer(2 * SECOND);

    assert!(news(&scene.tick(2 * SECOND)).is_empty());
    assert!(news(&scene.tick(10 * SECOND)).is_empty());
    let reports = scene.tick(11 * SECOND);
    let [updated] = &news(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!(updated.state, FindingState::Updated);
    assert_eq!(updated.changes.len(), 1, "{:?}", updated.changes);
    assert!(updated.changes[0].starts_with("new: programs that had to do with it: cardbridged"));
}

#[test]
fn another_process_of_the_same_program_is_no_news_and_time_that_passes_neither() {
    let mut scene = Scene::new();
    let start_unix_ns = Some(scene.clock.unix_ns(0));
    for pid in [PID, PID + 1] {
        scene.processes.insert(pid, Process { start_unix_ns, ..cardbridged(pid) });
    }
    let first = opened(&mut scene, LISTENER, PID, SECOND);

    scene.pipeline.holders(&[LISTENER], &[(LISTENER, PID + 1)], 3_600 * SECOND);
    scene.answer(3_600 * SECOND);
    let reports = scene.tick(3_600 * SECOND);

    assert!(first.finding.evidence.contains(&"running for 1 s when this was found".to_owned()));
    assert!(news(&reports).is_empty(), "{reports:#?}");
}

#[test]
fn a_finding_that_a_rule_has_come_to_expect_is_closed_and_says_by_which() {
    let mut scene = Scene::with_policy("[[listener]]\nid = 'card'\nuser = 'cardbridge'");
    scene.processes.insert(PID, Process { user: Some("root".to_owned()), ..cardbridged(PID) });
    opened(&mut scene, LISTENER, PID, SECOND);

    // Handed to the one it is for, and closed by the other.
    scene.pipeline.holders(&[LISTENER], &[(LISTENER, PID + 1)], 2 * SECOND);
    let (key, ..) = scene.pipeline.alive()[0];
    scene.pipeline.exited(key);
    scene.answer(2 * SECOND);
    scene.tick(2 * SECOND);
    let reports = scene.tick(8 * SECOND);

    let [closed] = &news(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!(closed.state, FindingState::Closed);
    assert_eq!(
        closed.finding.message,
        "cardbridged (pid 4713, user cardbridge) listens on tcp 10.0.0.2:3516, and the rule card \
         expects it now."
    );
}

#[test]
fn a_name_that_becomes_known_later_makes_no_second_finding() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    scene.tick(SECOND);
    let nameless = scene.tick(2 * SECOND);

    scene.answer(3 * SECOND);
    let reports = [scene.tick(3 * SECOND), scene.tick(20 * SECOND)].concat();

    assert_eq!(findings(&nameless).len(), 1);
    let [updated] = &news(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!(updated.state, FindingState::Updated);
    assert_eq!(updated.finding.id, findings(&nameless)[0].id);
}

#[test]
fn findings_beyond_the_bound_are_told_and_counted() {
    let mut scene = Scene::new();
    let kind = FindingKind::UnknownListener;
    for number in 0..16_386_u64 {
        let finding = Finding::new(kind, &number.to_string(), Severity::Low, String::new());
        let ground = crate::pipeline::findings::Ground::Listener(number);
        scene.pipeline.find(finding, ground, SECOND);
    }

    assert_eq!(findings(&scene.pipeline.take_reports()).len(), 16_386);
    let ended = scene.pipeline.run_ended("done", None);
    assert_eq!((ended.findings, ended.findings_open), (16_386, 16_384));
    assert_eq!(ended.findings_unfollowed, 2);
}

fn opened(scene: &mut Scene, cookie: u64, pid: u32, now_ns: u64) -> FindingReport {
    scene.ingest(&SocketRecord { cookie, tgid: pid, ..listen(now_ns) });
    scene.answer(now_ns);
    let reports = scene.tick(now_ns);
    news(&reports).into_iter().next().unwrap_or_else(|| panic!("{reports:#?}"))
}

fn closed(scene: &mut Scene, cookie: u64, now_ns: u64) {
    scene.ingest(&SocketRecord { cookie, ..socket(action::RELEASE, now_ns) });
    scene.answer(now_ns);
    assert!(news(&scene.tick(now_ns)).is_empty());
}

fn modified() -> Package {
    Package {
        format: PackageFormat::Dpkg,
        name: "cardbridge".to_owned(),
        version: None,
        architecture: None,
        integrity: Integrity::Modified,
    }
}
