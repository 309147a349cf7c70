//! Who sends from the watched port without being on it.

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::FlowRecord;

use super::listeners::findings;
use super::scene::*;
use super::*;
use crate::endpoint::SocketKind;
use crate::kernel::holders::Holder;
use crate::owner::{Evidence, Role};
use crate::report::{Finding, FindingKind, Severity};

const STRANGER: u64 = 77;
const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 9], 50_000);

#[test]
fn a_port_that_a_socket_on_another_one_answers_is_redirected() {
    let finding = found(SocketKind::Tcp(2222)).expect("a finding");

    assert_eq!(finding.kind, FindingKind::RedirectedPort);
    assert_eq!(
        finding.message,
        "tcp 10.0.0.2:3516 is answered by cardbridged (pid 4712), whose socket is on port 2222: a \
         rule or program redirects 3516."
    );
}

#[test]
fn a_port_that_a_raw_or_packet_socket_answers_has_no_listener() {
    for kind in [SocketKind::Raw, SocketKind::Packet] {
        let finding = found(kind).expect("a finding");

        assert_eq!(
            (finding.kind, finding.severity),
            (FindingKind::AnswerWithoutSocket, Severity::Critical)
        );
    }
}

#[test]
fn a_socket_on_the_port_that_no_hook_told_of_is_no_finding() {
    assert_eq!(found(SocketKind::Tcp(PORT)), None);
}

#[test]
fn a_socket_that_nobody_holds_is_the_kernels_and_asked_for_once() {
    let mut scene = Scene::new();
    answered(&mut scene);

    let asked = [(); 2].map(|()| scene.pipeline.take_strangers());
    scene.pipeline.strangers_held(&[STRANGER], &[], SECOND);

    assert_eq!(asked, [vec![STRANGER], vec![]]);
    assert!(scene.requests().is_empty());
    scene.pipeline.recognised(STRANGER, Some(SocketKind::Packet), SECOND);
    assert!(findings(&scene.tick(3 * SECOND)).is_empty());
}

#[test]
fn a_client_that_makes_its_packets_by_hand_is_named_and_no_finding() {
    let mut scene = Scene::new();
    scene.ingest(&FlowRecord { cookie: STRANGER, ..opening() });
    scene.pipeline.report_started_flows(2 * SECOND);
    held(&mut scene, SocketKind::Packet);

    let reports = scene.tick(100 * SECOND);

    assert!(findings(&reports).is_empty());
    let all = flows(&reports);
    let (_, flow) = all.last().expect("the end of the flow");
    let owners: Vec<_> = flow.attribution.owners.iter().map(|it| (it.role, it.evidence)).collect();
    assert_eq!(owners, [(Role::Holder, Evidence::Observed)]);
    assert_eq!(flow.attribution.reason, "the packets carry the cookie of a packet socket");
}

/// The finding about a port that is answered by a socket of this kind.
fn found(kind: SocketKind) -> Option<Finding> {
    let mut scene = Scene::new();
    answered(&mut scene);
    held(&mut scene, kind);
    let mut reports = scene.tick(3 * SECOND);
    scene.answer(3 * SECOND);
    reports.extend(scene.tick(3 * SECOND));
    let found = findings(&reports);
    assert!(findings(&scene.tick(4 * SECOND)).is_empty());
    found.into_iter().next()
}

/// A connection whose answer carries the stranger's cookie.
fn answered(scene: &mut Scene) {
    scene.ingest(&opening());
    let back = announce(key(SERVER, CLIENT, true), 1, SECOND);
    let tcp_flags = tcp::SYN | tcp::ACK;
    scene.ingest(&FlowRecord { cookie: STRANGER, slot: BACK, tcp_flags, ..back });
    scene.pipeline.report_started_flows(2 * SECOND);
    scene.pipeline.take_reports();
}

fn opening() -> FlowRecord {
    announce(key(CLIENT, SERVER, false), 1, SECOND)
}

/// The server holds the stranger, which is of this kind.
fn held(scene: &mut Scene, kind: SocketKind) {
    let cookies = scene.pipeline.take_strangers();
    assert_eq!(cookies, [STRANGER]);
    let holder = Holder { cookie: STRANGER, tgid: PID, fd: 3 };
    scene.pipeline.strangers_held(&cookies, &[holder], 2 * SECOND);
    for request in scene.requests() {
        match request {
            Request::Recognise { cookie, pid: PID, fd: 3 } => {
                scene.pipeline.recognised(cookie, Some(kind), 2 * SECOND);
            }
            other => scene.identify(other, 2 * SECOND),
        }
    }
    scene.answer(2 * SECOND);
}
