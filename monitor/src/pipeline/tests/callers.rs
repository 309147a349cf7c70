//! Who talks although no client rule expects it: found once, closed when it is over, many as a number.

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{FlowRecord, Slot, SocketRecord, action};

use super::listeners::news;
use super::scene::*;
use super::*;
use crate::report::{FindingKind, FindingReport, FindingState};

const RULES: &str = "[[client]]\nid = 'office'\nremote = '10.20.0.0/16'\n\
                     [[client]]\nid = 'ui'\nremote = '10.0.0.9'\nuser = 'badge'\n\
                     [[listener]]\nid = 'card'\nuser = 'cardbridge'";

#[test]
fn a_client_elsewhere_that_no_rule_expects_is_found_and_closed_when_it_is_over() {
    let mut scene = Scene::with_policy(RULES);
    let mut reports = talk(&mut scene, CLIENT, SECOND);
    reports.extend(talk(&mut scene, (CLIENT.0, CLIENT.1 + 1), 2 * SECOND));

    let [found] = &clients(&reports)[..] else { panic!("{reports:#?}") };
    assert_eq!(found.state, FindingState::Open);
    assert_eq!(
        found.finding.message,
        "10.0.0.1 talks to tcp 10.0.0.2:3516, and the nearest client rule is office, but remote: rule \
         says 10.20.0.0/16, is 10.0.0.1."
    );
    assert_eq!(found.finding.flow.as_ref().unwrap().source.ip.to_string(), "10.0.0.1");
    let over = scene.tick(100 * SECOND);
    let closed = [over, scene.tick(200 * SECOND)].concat();
    let [closed] = &clients(&closed)[..] else { panic!("{closed:#?}") };
    assert_eq!((closed.state, &closed.finding.id), (FindingState::Closed, &found.finding.id));
}

#[test]
fn a_client_that_a_rule_expects_is_none_and_without_client_rules_nobody_asks() {
    let mut scene = Scene::with_policy(RULES);
    let reports = talk(&mut scene, ([10, 20, 3, 4], 40_000), SECOND);
    assert!(clients(&reports).is_empty(), "{reports:#?}");

    let mut scene = Scene::with_policy(RULE);
    let reports = talk(&mut scene, CLIENT, SECOND);
    assert!(clients(&reports).is_empty(), "{reports:#?}");
}

#[test]
fn who_has_not_acknowledged_may_have_forged_its_address() {
    let mut scene = Scene::with_policy(RULES);

    let reports = talk_with(&mut scene, CLIENT, tcp::SYN, SECOND);

    assert!(clients(&reports).is_empty(), "{reports:#?}");
}

#[test]
fn a_process_of_this_host_is_judged_by_who_it_is_and_whom_it_calls() {
    let badge = Process { user: Some("badge".to_owned()), ..cardbridged(PID) };
    let table = [
        (badge.clone(), [10, 0, 0, 9], None),
        (cardbridged(PID), [10, 0, 0, 9], Some("user: rule says badge, is cardbridge")),
        (badge, [10, 0, 0, 8], Some("remote: rule says 10.20.0.0/16, is 10.0.0.8")),
    ];
    for (process, remote, difference) in table {
        let mut scene = Scene::with_policy(RULES);
        scene.processes.insert(PID, process);

        let reports = call(&mut scene, (remote, PORT), SECOND);

        let found = clients(&reports);
        assert_eq!(found.len(), usize::from(difference.is_some()), "{reports:#?}");
        if let (Some(difference), [found]) = (difference, &found[..]) {
            let nearest = found.finding.nearest.as_ref().unwrap();
            assert!(
                nearest.differences.iter().any(|it| it.to_string() == difference),
                "{found:#?}"
            );
            assert!(
                found.finding.message.starts_with("cardbridged (pid 4712, user "),
                "{found:#?}"
            );
        }
    }
}

#[test]
fn thousands_of_addresses_are_some_findings_and_a_number() {
    let mut scene = Scene::with_policy(RULES);
    let mut found: Vec<FindingReport> = Vec::new();
    for index in 0..200_u8 {
        let reports = talk(&mut scene, ([10, 30, 0, index], 40_000), SECOND + u64::from(index));
        found.extend(clients(&reports));
    }
    found.extend(clients(&scene.tick(30 * SECOND)));

    let opened = found.iter().filter(|it| it.state == FindingState::Open).count();
    assert_eq!(opened, 17);
    let last = found.iter().rfind(|it| it.finding.message.contains("addresses or more")).unwrap();
    assert!(last.finding.message.starts_with("144 addresses or more that no client rule expects"));
}

#[test]
fn another_policy_expects_who_is_there() {
    let mut scene = Scene::with_policy(RULES);
    let reports = talk(&mut scene, CLIENT, SECOND);
    assert_eq!(clients(&reports).len(), 1);

    scene.read_policy(Some("[[client]]\nid = 'all'\nremote = '10.0.0.0/8'"), 4 * SECOND);
    scene.read_table(&[there(CLIENT, 9, tcp::ACK, 5 * SECOND)], 5 * SECOND);
    let updated = scene.tick(20 * SECOND);
    let closed = [updated, scene.tick(30 * SECOND)].concat();

    let [closed] = &clients(&closed)[..] else { panic!("{closed:#?}") };
    assert_eq!(closed.state, FindingState::Closed);
    assert!(closed.finding.message.ends_with("and the client rule all expects it now."));
}

/// Somebody elsewhere connects to the server and is answered; what is reported.
fn talk(scene: &mut Scene, client: Address, now_ns: u64) -> Vec<Report> {
    talk_with(scene, client, tcp::SYN | tcp::ACK, now_ns)
}

/// The same, with these flags of the client's.
fn talk_with(scene: &mut Scene, client: Address, flags: u8, now_ns: u64) -> Vec<Report> {
    // One after the other they take the same slots.
    let generation = generation(client);
    let back = announce(key(SERVER, client, true), generation, now_ns);
    scene.ingest(&announce(key(client, SERVER, false), generation, now_ns));
    scene.ingest(&FlowRecord { slot: BACK, tcp_flags: tcp::SYN | tcp::ACK, ..back });
    let answer = (BACK, slot(key(SERVER, client, true), generation.into(), 2, now_ns));
    let mut reports =
        scene.read_table(&[there(client, 3, flags, now_ns), answer], now_ns + SECOND / 2);
    scene.answer(now_ns + SECOND / 2);
    reports.extend(scene.tick(now_ns + SECOND / 2));
    reports
}

/// A process of this host connects to a watched port elsewhere and is answered; what is reported.
fn call(scene: &mut Scene, remote: Address, now_ns: u64) -> Vec<Report> {
    let local: Address = (SERVER.0, 50_000);
    let socket = socket(action::CONNECT, now_ns);
    let ends = SocketRecord { local_port: local.1, remote: mapped(remote.0), ..socket };
    scene.ingest(&SocketRecord { remote_port: remote.1, ..ends });
    scene.answer(now_ns);
    let back = announce(key(remote, local, false), 1, now_ns);
    scene.ingest(&announce(key(local, remote, true), 1, now_ns));
    scene.ingest(&FlowRecord { slot: BACK, tcp_flags: tcp::SYN | tcp::ACK, ..back });
    let there = (THERE, slot(key(local, remote, true), 1, 3, now_ns));
    let answer = (BACK, slot(key(remote, local, false), 1, 2, now_ns));
    let mut reports = scene.read_table(&[there, answer], now_ns + SECOND / 2);
    reports.extend(scene.tick(now_ns + SECOND / 2));
    reports
}

fn there(client: Address, packets: u64, flags: u8, now_ns: u64) -> (u32, Slot) {
    let slot = slot(key(client, SERVER, false), generation(client).into(), packets, now_ns);
    (THERE, Slot { tcp_flags: tcp::SYN | flags, ..slot })
}

fn generation((ip, port): Address) -> u32 {
    1 + u32::from(ip[3]) + u32::from(port - 40_000)
}

fn clients(reports: &[Report]) -> Vec<FindingReport> {
    let is_client = |it: &FindingReport| it.finding.kind == FindingKind::UnknownClient;
    news(reports).into_iter().filter(is_client).collect()
}
