//! What is reported of listeners, when, and what is a finding.

use std::path::Path;

use monitor_ebpf::wire::action;

use super::scene::*;
use super::*;
use crate::endpoint::{Endpoint, Family, Transport};
use crate::host::sockets::State;
use crate::owner::{Evidence, Ownership, Role};
use crate::pipeline::listeners::PATIENCE_NS;
use crate::report::{
    Finding, FindingKind, FindingReport, FindingState, ListenerChange, ListenerReport,
    PolicyChange, Severity, Verdict,
};

#[test]
fn a_listener_nobody_expects_is_opened_and_one_finding() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);

    let reports = scene.tick(SECOND);

    let listener = only(ListenerChange::Opened, &reports);
    assert_eq!(listener.local.to_string(), "10.0.0.2:3516");
    assert_eq!((listener.transport, listener.family), (Transport::Tcp, Family::Ipv4));
    assert_eq!((listener.cookie, &listener.netns), (LISTENER, &Some(netns())));
    assert_eq!(listener.verdict, Verdict::Unknown { nearest: None });
    assert_eq!(owners(&listener), [(Role::Opener, Evidence::Exact, PID)]);
    let [finding] = &findings(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!((finding.kind, finding.severity), (FindingKind::UnknownListener, Severity::High));
    assert_eq!(finding.listener.as_deref(), Some(&listener));
    assert_eq!(
        finding.message,
        "cardbridged (pid 4712, user cardbridge) listens on tcp 10.0.0.2:3516, and no policy rule \
         expects it."
    );
}

#[test]
fn a_listener_that_a_rule_expects_is_no_finding() {
    let mut scene = Scene::with_policy(RULE);
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);

    let reports = scene.tick(SECOND);

    let listener = only(ListenerChange::Opened, &reports);
    let expected = Verdict::Expected { rule: "card".to_owned(), reason: None };
    assert_eq!(listener.verdict, expected);
    assert_eq!((reports.len(), scene.pipeline.findings()), (1, 0));
}

#[test]
fn a_finding_names_the_nearest_rule_and_what_differs() {
    let mut scene = Scene::with_policy(RULE);
    let process = Process { user: Some("mallory".to_owned()), ..cardbridged(PID) };
    scene.processes.insert(PID, process);
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);

    let reports = scene.tick(SECOND);

    let [finding] = &findings(&reports)[..] else { panic!("{reports:#?}") };
    let nearest = finding.nearest.as_ref().unwrap();
    assert_eq!(nearest.rule, "card");
    assert_eq!(nearest.differences[0].to_string(), "user: rule says cardbridge, is mallory");
    assert!(nearest.is_change && nearest.differences.len() == 1);
}

#[test]
fn who_has_a_listener_whose_opener_is_gone_is_looked_for_before_it_is_judged() {
    let mut scene = Scene::with_policy("[[listener]]\nid = 'init'\nexe = '/sbin/init'");
    scene.processes.insert(PID, ended(PID));
    let init = Process { executable: Some("/sbin/init".into()), ..cardbridged(1) };
    scene.processes.insert(1, init);
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);

    let before = scene.tick(SECOND);
    let abandoned = scene.pipeline.abandoned_listeners();
    scene.pipeline.holders(&[LISTENER], &[(LISTENER, 1)], SECOND);
    scene.answer(SECOND);
    let reports = scene.tick(SECOND);

    assert_eq!((before, abandoned), (Vec::new(), vec![LISTENER]));
    let listener = only(ListenerChange::Opened, &reports);
    let expected = [(Role::Holder, Evidence::Observed, 1), (Role::Opener, Evidence::Exact, PID)];
    assert_eq!(owners(&listener), expected);
    assert_eq!(listener.verdict, Verdict::Expected { rule: "init".to_owned(), reason: None });
    assert_eq!(scene.pipeline.findings(), 0);
}

#[test]
fn a_listener_that_nobody_has_is_looked_for_once_and_reported() {
    let mut scene = Scene::new();
    scene.processes.insert(PID, ended(PID));
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);

    scene.pipeline.holders(&[LISTENER], &[], SECOND);
    let reports = scene.tick(SECOND);

    let listener = only(ListenerChange::Opened, &reports);
    assert_eq!(owners(&listener), [(Role::Opener, Evidence::Exact, PID)]);
    assert!(listener.attribution.owners[0].exited);
    assert!(scene.pipeline.abandoned_listeners().is_empty());
}

#[test]
fn of_those_who_hold_a_listener_init_is_not_the_one_to_name() {
    let mut scene = Scene::new();
    scene.pipeline.sockets(&[there()], SECOND);
    let init = Process { executable: Some("/sbin/init".into()), ..cardbridged(1) };
    scene.processes.insert(1, init);
    scene.pipeline.holders(&[LISTENER], &[(LISTENER, 1)], SECOND);
    scene.answer(SECOND);
    let waiting = scene.tick(SECOND);

    scene.pipeline.holders(&[LISTENER], &[(LISTENER, 1), (LISTENER, PID)], MINUTE);
    scene.answer(MINUTE);
    let served = scene.tick(MINUTE);

    let named = |listener: ListenerReport| listener.attribution.principal().unwrap().process.pid;
    assert_eq!(named(only(ListenerChange::Found, &waiting)), 1);
    assert_eq!(named(only(ListenerChange::Updated, &served)), PID);
    let [before, now] = [news(&waiting), news(&served)];
    let [before, now] = [&before[..], &now[..]].map(|news| match news {
        [finding] => (finding.state, finding.finding.id.clone()),
        _ => panic!("{news:#?}"),
    });
    assert_eq!(before, (FindingState::Open, now.1.clone()));
    assert_eq!(now.0, FindingState::Updated, "what init has is one finding");
}

const MINUTE: u64 = 60 * SECOND;

/// A process that ended while `/proc` was read.
fn ended(pid: u32) -> Process {
    let missing = vec!["exe: gone".to_owned()];
    Process { executable: None, missing, ..cardbridged(pid) }
}

#[test]
fn a_listener_whose_rule_has_expired_is_a_finding_of_its_own_kind() {
    let mut scene = Scene::with_policy(&format!("{RULE}\nexpires = 2001-01-01"));
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);

    let reports = scene.tick(SECOND);

    let [finding] = &findings(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!(finding.kind, FindingKind::ExpiredRule);
    assert!(finding.message.ends_with("and the rule card that expected it has expired."));
}

#[test]
fn a_policy_that_is_read_again_judges_what_is_open() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);

    scene.read_policy(Some(RULE), 2 * SECOND);
    let reports = scene.tick(2 * SECOND);

    let listener = only(ListenerChange::Updated, &reports);
    assert!(matches!(listener.verdict, Verdict::Expected { .. }));
    assert!(matches!(&reports[0].body, Body::Policy(PolicyChange::Reloaded(_))));
    assert!(findings(&reports).iter().all(|it| it.kind != FindingKind::UnknownListener));

    scene.read_policy(Some("[[listener]]\nid = 'other'\nport = 22"), 3 * SECOND);
    let reports = scene.tick(3 * SECOND);
    let listener = only(ListenerChange::Updated, &reports);
    assert!(matches!(listener.verdict, Verdict::Unknown { .. }));
}

#[test]
fn a_policy_that_was_refused_changes_nothing() {
    let mut scene = Scene::with_policy(RULE);
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);

    scene.read_policy(None, 2 * SECOND);
    let reports = scene.tick(2 * SECOND);

    let [Report { body: Body::Policy(PolicyChange::Refused { .. }), .. }] = &reports[..] else {
        panic!("{reports:#?}")
    };
}

#[test]
fn a_rule_that_ends_while_portwatch_watches_expects_no_more() {
    let clock = Clock::of_host();
    let today = clock.date(SECOND);
    let mut scene = Scene::with_policy_at(clock, &format!("{RULE}\nexpires = {today}"));
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);

    let tomorrow = SECOND + 86_400 * SECOND;
    let reports = scene.tick(tomorrow);

    let listener = only(ListenerChange::Updated, &reports);
    assert!(matches!(listener.verdict, Verdict::Unknown { .. }));
    assert_eq!(findings(&reports)[0].kind, FindingKind::ExpiredRule);
}

#[test]
fn the_severity_follows_from_how_far_the_listener_can_be_reached_and_what_it_runs() {
    let deleted = Process { deleted: true, ..cardbridged(PID) };
    let table = [
        ([10, 0, 0, 2], cardbridged(PID), Severity::High),
        ([127, 0, 0, 1], cardbridged(PID), Severity::Medium),
        ([127, 0, 0, 1], deleted, Severity::Critical),
    ];
    for (local, process, severity) in table {
        let mut scene = Scene::new();
        scene.processes.insert(PID, process);
        scene.ingest(&SocketRecord { local: mapped(local), ..listen(SECOND) });
        scene.answer(SECOND);

        let reports = scene.tick(SECOND);

        assert_eq!(findings(&reports)[0].severity, severity, "{local:?}");
    }
}

#[test]
fn the_same_listener_updated_is_no_second_finding() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);

    scene.pipeline.holders(&[LISTENER], &[(LISTENER, PID + 1)], 2 * SECOND);
    scene.answer(2 * SECOND);
    let reports = scene.tick(2 * SECOND);

    let listener = only(ListenerChange::Updated, &reports);
    let expected =
        [(Role::Opener, Evidence::Exact, PID), (Role::Holder, Evidence::Observed, PID + 1)];
    assert_eq!(owners(&listener), expected);
    assert_eq!((reports.len(), scene.pipeline.findings()), (1, 1));
}

#[test]
fn an_expected_listener_that_somebody_else_gets_hold_of_is_a_finding() {
    let mut scene = Scene::with_policy(RULE);
    scene.processes.insert(PID + 1, Process { user: None, uid: Some(0), ..cardbridged(PID + 1) });
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);

    scene.pipeline.holders(&[LISTENER], &[(LISTENER, PID + 1)], 2 * SECOND);
    scene.answer(2 * SECOND);
    let reports = scene.tick(2 * SECOND);

    let [finding] = &findings(&reports)[..] else { panic!("{reports:#?}") };
    let nearest = finding.nearest.as_ref().unwrap();
    assert_eq!(nearest.differences[0].to_string(), "user: rule says cardbridge, is 0 (pid 4713)");
}

#[test]
fn a_listener_about_which_nothing_is_news_is_not_reported_again() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);

    scene.ingest(&listen(2 * SECOND));

    assert!(scene.tick(2 * SECOND).is_empty());
}

#[test]
fn a_listener_that_was_there_is_found_with_its_holders() {
    let mut scene = Scene::new();
    scene.pipeline.observe(&interface(2, "eth0"));
    scene.pipeline.sockets(&[there()], SECOND);
    scene.pipeline.holders(&[LISTENER], &[(LISTENER, PID), (LISTENER + 1, 7)], SECOND);
    scene.answer(SECOND);

    let reports = scene.tick(SECOND);

    let listener = only(ListenerChange::Found, &reports);
    assert_eq!(owners(&listener), [(Role::Holder, Evidence::Observed, PID)]);
    assert_eq!(listener.interface.as_deref(), Some("eth0"));
}

#[test]
fn a_listener_nobody_holds_is_reported_and_a_finding() {
    let mut scene = Scene::new();
    scene.pipeline.sockets(&[there()], SECOND);

    let reports = scene.tick(SECOND);

    let (_, listener) = &listeners(&reports)[0];
    assert_eq!(listener.attribution.ownership, Ownership::Unknown);
    assert_eq!(
        findings(&reports)[0].message,
        "Something no process can be named for listens on tcp 0.0.0.0:3516 on all addresses, and \
         no policy rule expects it."
    );
}

#[test]
fn a_released_listener_is_closed_by_its_releaser() {
    let mut scene = Scene::with_policy(RULE);
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);

    scene.ingest(&SocketRecord { local: [0; 16], ..socket(action::RELEASE, 2 * SECOND) });
    scene.answer(3 * SECOND);
    let reports = scene.tick(3 * SECOND);

    let closed = only(ListenerChange::Closed, &reports);
    let expected = [(Role::Opener, Evidence::Exact, PID), (Role::Releaser, Evidence::Exact, PID)];
    assert_eq!(owners(&closed), expected);
    assert_eq!(reports[0].time_unix_ns, scene.clock.unix_ns(2 * SECOND));
    assert_eq!(scene.pipeline.known.sockets.all_listeners().count(), 0);
    assert!(scene.tick(4 * SECOND).is_empty());
}

#[test]
fn who_holds_a_connection_is_no_news_of_a_listener() {
    let mut scene = Scene::new();
    let remote = Some(Endpoint::new(CLIENT.0.into(), CLIENT.1));
    let connection = host::sockets::Socket { state: State::Established, remote, ..there() };
    scene.pipeline.sockets(&[connection], SECOND);
    scene.pipeline.holders(&[LISTENER], &[(LISTENER, PID)], SECOND);
    scene.answer(SECOND);

    assert!(scene.tick(SECOND).is_empty());
}

#[test]
fn a_process_that_becomes_another_program_holds_its_listener_as_that() {
    let rule = "[[listener]]\nid = 'card'\nport = 3516\nexe = '/usr/sbin/cardbridged'";
    let mut scene = Scene::with_policy(rule);
    scene.ingest(&listen(SECOND));
    scene.pipeline.holders(&[LISTENER], &[(LISTENER, PID)], SECOND);
    scene.answer(SECOND);
    scene.tick(SECOND);
    let [(key, before)] = &scene.pipeline.owners_of_listeners()[..] else { panic!("one owner") };
    let other = Process { executable: Some("/tmp/other".into()), ..(**before).clone() };

    let processes = vec![(*key, Arc::new(other))];
    scene.pipeline.apply(Input::Changed { processes, now_ns: 2 * SECOND });
    scene.answer(2 * SECOND);
    let reports = scene.tick(2 * SECOND);

    let listener = only(ListenerChange::Updated, &reports);
    let owners: Vec<_> = listener
        .attribution
        .owners
        .iter()
        .map(|it| (it.role, it.replaced, it.process.executable.as_deref()))
        .collect();
    let [former, other] = ["/usr/sbin/cardbridged", "/tmp/other"].map(|it| Some(Path::new(it)));
    assert_eq!(owners, [(Role::Holder, false, other), (Role::Opener, true, former)]);
    let expects_former = matches!(listener.verdict, Verdict::Expected { .. });
    assert!(!expects_former, "the rule expects the former program");
    assert_eq!(findings(&reports).len(), 1);
}

#[test]
fn a_listener_that_is_closed_is_not_asked_about() {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND));
    scene.ingest(&SocketRecord { cookie: LISTENER + 1, ..listen(SECOND) });

    scene.ingest(&socket(action::RELEASE, 2 * SECOND));

    assert_eq!(scene.pipeline.open_listeners(), [LISTENER + 1]);
}

#[test]
fn a_listener_gone_before_anything_was_known_is_opened_and_closed() {
    let mut scene = Scene::with_policy(RULE);
    scene.ingest(&listen(SECOND));
    scene.ingest(&socket(action::RELEASE, SECOND + 1));
    scene.answer(SECOND + 2);

    let reports = scene.tick(SECOND + 2);

    let changes: Vec<ListenerChange> = listeners(&reports).iter().map(|it| it.0).collect();
    assert_eq!(changes, [ListenerChange::Opened, ListenerChange::Closed]);
}

#[test]
fn a_bound_udp_socket_is_a_listener_and_a_bound_tcp_socket_is_not() {
    for (protocol, is_listener) in [(17, true), (6, false)] {
        let mut scene = Scene::with_policy(RULE);
        scene.ingest(&SocketRecord { protocol, ..socket(action::BIND, SECOND) });
        scene.answer(SECOND);

        assert_eq!(!scene.tick(SECOND).is_empty(), is_listener, "protocol {protocol}");
    }
}

#[test]
fn an_owner_that_exits_is_an_update() {
    let mut scene = Scene::with_policy(RULE);
    scene.ingest(&listen(SECOND));
    scene.answer(SECOND);
    scene.tick(SECOND);
    let [(key, PID, _)] = scene.pipeline.alive()[..] else { panic!("one process is alive") };

    scene.pipeline.exited(key);
    scene.tick(2 * SECOND);
    let reports = scene.tick(2 * SECOND + PATIENCE_NS);

    let listener = only(ListenerChange::Updated, &reports);
    assert!(listener.attribution.owners[0].exited);
    assert!(scene.pipeline.alive().is_empty());
}

/// What is found for the first time or again.
pub(super) fn findings(reports: &[Report]) -> Vec<Finding> {
    let open =
        |report: FindingReport| (report.state == FindingState::Open).then_some(report.finding);
    news(reports).into_iter().filter_map(open).collect()
}

/// All that is told of findings.
pub(super) fn news(reports: &[Report]) -> Vec<FindingReport> {
    let finding = |report: &Report| match &report.body {
        Body::Finding(finding) => Some((**finding).clone()),
        _ => None,
    };
    reports.iter().filter_map(finding).collect()
}

/// The listener as `sock_diag` tells it, bound to all addresses and one interface.
fn there() -> host::sockets::Socket {
    host::sockets::Socket {
        cookie: LISTENER,
        inode: 77,
        uid: 990,
        transport: Transport::Tcp,
        state: State::Listen,
        family: Family::Ipv4,
        local: Endpoint::new([0, 0, 0, 0].into(), PORT),
        remote: None,
        interface: 2,
        netns: netns().inode,
        cgroup_id: None,
        unit: None,
    }
}
