//! What this host is said to be to a flow that begins with a packet from the watched port: somebody's client only
//! where something tells of one.

use monitor_ebpf::wire::{FlowKey, FlowRecord, Place, Slot, SocketRecord, action};

use super::scene::*;
use super::*;
use crate::endpoint::Direction;
use crate::kernel::chain::{Gap, GapKind};
use crate::owner::Ownership;
use crate::report::{FlowChange, FlowReport, FlowRole};

/// The cookie of who asks, and of who sends.
const ASKER: u64 = 91;
const SENDER: u64 = 92;

/// Nanoseconds.
const JIFFY: u64 = 4_000_000;

#[test]
fn who_has_a_socket_that_sends_from_the_watched_port_is_a_client() {
    let by_chance = udp_socket(SENDER, action::SEND);
    let connected = udp_socket(SENDER, action::CONNECT);

    for sockets in [&[][..], &[by_chance], &[udp_socket(SENDER, action::BIND), connected]] {
        let flow = told(sockets, SENDER, true);

        let role = (flow.source.port, flow.role);
        assert_eq!(role, (PORT, Some(FlowRole::Ephemeral)), "{sockets:?}");
    }
}

#[test]
fn who_has_a_socket_on_the_port_that_anybody_may_write_to_may_ask_or_answer() {
    let bound = udp_socket(SENDER, action::BIND);
    let closed = SocketRecord { action: action::RELEASE, ..bound };

    for is_gone in [false, true] {
        let mut scene = Scene::new();
        scene.ingest(&bound);
        if is_gone {
            scene.ingest(&closed);
            scene.pipeline.known.sockets.no_longer_listens(SENDER);
        }

        let flow = answer_of(&mut scene, SENDER, true);

        assert_eq!((flow.source.port, flow.role), (PORT, None), "{is_gone}");
        assert_eq!(flow.attribution.ownership, Ownership::Process);
        let reason = flow.attribution.reason;
        assert!(reason.ends_with("it may ask, or answer what was not seen"), "{reason}");
    }
}

#[test]
fn what_no_socket_sends_is_nobodys_call_and_nobodys_answer() {
    let elsewhere =
        SocketRecord { local: mapped([127, 0, 0, 1]), ..udp_socket(SENDER, action::BIND) };
    let closed = SocketRecord { action: action::RELEASE, ..udp_socket(SENDER, action::BIND) };

    for sockets in [&[][..], &[elsewhere], &[udp_socket(SENDER, action::BIND), closed]] {
        let flow = told(sockets, 0, true);

        assert_eq!(flow.role, None, "{sockets:?}");
        assert_eq!(flow.attribution.ownership, Ownership::Unknown);
        assert_eq!(
            flow.attribution.reason,
            "packets leave from the port, and neither a socket was seen that sends them nor what \
             they may answer"
        );
    }
}

#[test]
fn what_keeps_the_questions_from_portwatch_is_said_with_the_answers() {
    let table = [
        (GapKind::Behind(Direction::Ingress), 2, "and can keep packets from portwatch."),
        (GapKind::Removed(Direction::Ingress), 2, "somebody has removed portwatch's program."),
        (GapKind::Xdp, 2, "an XDP program comes first and can drop or redirect them."),
        (GapKind::Behind(Direction::Egress), 2, "nor what they may answer"),
        (GapKind::Behind(Direction::Ingress), 3, "nor what they may answer"),
    ];
    for (kind, ifindex, end) in table {
        let mut scene = Scene::new();
        let interface = Interface { ifindex, name: "eth0".to_owned() };
        let gap = Gap { interface, netns: netns(), kind, evidence: Vec::new() };
        scene.pipeline.coverage(vec![gap], SECOND / 2);

        let flow = answer_of(&mut scene, 0, true);

        let reason = flow.attribution.reason;
        assert!(reason.ends_with(end), "{kind:?} at {ifindex}: {reason}");
    }
}

#[test]
fn packets_that_come_back_turned_round_are_not_of_who_asked() {
    let connected = udp_socket(ASKER, action::CONNECT);
    let addressing = udp_socket(ASKER, action::SEND);
    for asks in [connected, addressing] {
        let asker = SocketRecord { local_port: 0, ..asks };
        let asker = SocketRecord { remote: mapped(SERVER.0), remote_port: PORT, ..asker };

        let flow = told(&[asker], ASKER, true);

        assert_eq!((flow.role, flow.attribution.owners.len()), (None, 0), "{asker:?}");
    }
}

#[test]
fn who_serves_the_port_is_not_taken_for_who_asked_itself() {
    let bound = udp_socket(SENDER, action::BIND);
    let to_itself = SocketRecord { action: action::SEND, ..bound };
    let to_itself = SocketRecord { remote: bound.local, remote_port: PORT, ..to_itself };

    let flow = told(&[bound, to_itself], SENDER, true);

    assert_eq!((flow.role, flow.attribution.owners.len()), (None, 2));
}

#[test]
fn another_host_has_the_watched_port_as_its_own_if_it_is_answered() {
    let unanswered = told(&[], 0, false);
    let answered = answered(0, 0);

    assert_eq!((unanswered.role, answered.role), (None, Some(FlowRole::Ephemeral)));
    let reason = unanswered.attribution.reason;
    assert!(reason.starts_with("packets come from the port of another host, "), "{reason}");
}

#[test]
fn which_end_asked_is_left_open_where_the_time_does_not_tell() {
    let table = [
        (0, 1, Some(FlowRole::Ephemeral)),
        (FlowRecord::EARLY, JIFFY - 1, None),
        (FlowRecord::EARLY, JIFFY, Some(FlowRole::Ephemeral)),
    ];
    for (circumstances, later_ns, role) in table {
        let flow = answered(circumstances, later_ns);

        assert_eq!(flow.role, role, "{later_ns} ns after {circumstances}");
        let reason = flow.attribution.reason;
        assert_eq!(reason.contains("which end asked is not known"), role.is_none(), "{reason}");
    }
}

/// What is told of a datagram that comes from the watched port of another host, and one back so much later.
fn answered(circumstances: u16, later_ns: u64) -> FlowReport {
    let mut scene = Scene::new();
    scene.ingest(&FlowRecord { circumstances, ..datagram(0, false) });
    let back = announce(udp(CLIENT, SERVER, true), 1, SECOND + later_ns);
    scene.ingest(&FlowRecord { slot: BACK, tcp_flags: 0, ..back });
    let now_ns = SECOND + later_ns + 1;
    let counted = [(THERE, SERVER, CLIENT, false), (BACK, CLIENT, SERVER, true)];
    let counted = counted.map(|(slot_of, from, to, egress)| {
        (slot_of, Slot { tcp_flags: 0, ..slot(udp(from, to, egress), 1, 1, now_ns) })
    });
    scene.read_table(&counted, now_ns);
    end_of(&mut scene)
}

/// What is told of a datagram from the watched port, to another, given what was heard of sockets.
fn told(sockets: &[SocketRecord], cookie: u64, leaves: bool) -> FlowReport {
    let mut scene = Scene::new();
    for record in sockets {
        scene.ingest(record);
    }
    answer_of(&mut scene, cookie, leaves)
}

fn answer_of(scene: &mut Scene, cookie: u64, leaves: bool) -> FlowReport {
    scene.ingest(&datagram(cookie, leaves));
    let now_ns = SECOND + 1;
    let held = Slot { tcp_flags: 0, ..slot(udp(SERVER, CLIENT, leaves), 1, 1, now_ns) };
    scene.read_table(&[(THERE, held)], now_ns);
    end_of(scene)
}

fn end_of(scene: &mut Scene) -> FlowReport {
    scene.answer(SECOND + 2);
    scene.pipeline.finish(SECOND + 3);
    let reports = flows(&scene.pipeline.take_reports());
    let is_end = |change: &FlowChange| matches!(change, FlowChange::Ended(_));
    let mut ends = reports.into_iter().filter(|(change, _)| is_end(change));
    ends.next().expect("the end of a flow").1
}

/// A datagram from the watched port, the first packet of its flow.
fn datagram(cookie: u64, leaves: bool) -> FlowRecord {
    let record = announce(udp(SERVER, CLIENT, leaves), 1, SECOND);
    FlowRecord { cookie, tcp_flags: 0, ..record }
}

fn udp(from: Address, to: Address, egress: bool) -> FlowKey {
    let key = key(from, to, egress);
    FlowKey { place: key.place | Place::UDP, ..key }
}

/// Something happens to a UDP socket on the watched port before the first packet.
fn udp_socket(cookie: u64, action: u8) -> SocketRecord {
    SocketRecord { cookie, protocol: 17, ..socket(action, SECOND / 2) }
}
