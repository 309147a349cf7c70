//! Who answers for the port from elsewhere, and what is found where nothing explains it.

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{FlowRecord, Slot, SocketRecord, action};

use super::listeners::findings;
use super::scene::*;
use super::*;
use crate::endpoint::{Endpoint, Transport};
use crate::explanation::{Cause, Explanation, Standing};
use crate::flow::FlowId;
use crate::host::conntrack::{Ends, Translated, Translator, Tuple};
use crate::host::nftables::{Action, Redirection, Rule};
use crate::host::serving::Place;
use crate::owner::Ownership;
use crate::report::{Finding, FindingKind, FlowReport, Severity};

const MOMENT: u64 = 10_000_000;
/// Of the socket that answers.
const ACCEPTED: u64 = 77;

#[test]
fn a_flow_that_is_sent_on_is_joined_to_who_serves_there_and_told_with_the_rule() {
    let mut scene = Scene::new();
    scene.explanation = explained_by(dnat());
    answered(&mut scene, 0);
    let (flow, tuple) = asked(&mut scene);
    assert_eq!(tuple.ends, Ends { source: end(CLIENT), destination: end(SERVER) });
    let place = Place::Here { netns: 77, pids: vec![PID] };
    tell(&mut scene, flow, Some((sent_on(tuple), Some(place))));

    let (report, findings) = outcome(&mut scene);

    assert_eq!(report.nat, Some((end(CLIENT), target())));
    assert_eq!(report.attribution.ownership, Ownership::OtherNamespace);
    assert_eq!(
        report.attribution.reason,
        "joined through conntrack: DNAT 10.0.0.2:3516 → 10.0.3.2:22, in network namespace 77"
    );
    assert_eq!(report.attribution.owners[0].process.pid, PID);
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!(
        finding.message,
        "tcp 10.0.0.2:3516 is answered by 10.0.3.2:22 in network namespace 77, where cardbridged \
         (pid 4712) serves: nft rule of table ip nat, chain pre, handle 4 redirects 3516."
    );
    assert_eq!(finding.evidence[1], "checked: rules");
}

#[test]
fn a_flow_that_the_load_balancer_sends_on_is_joined_in_its_name() {
    let mut scene = Scene::new();
    answered(&mut scene, 0);
    let (flow, tuple) = asked(&mut scene);
    let place = Place::Here { netns: 77, pids: vec![PID] };
    let there = Translated { by: Translator::Ipvs, ..sent_on(tuple) };
    tell(&mut scene, flow, Some((there, Some(place))));

    let (report, findings) = outcome(&mut scene);

    let joined = "joined through IPVS: DNAT 10.0.0.2:3516 → 10.0.3.2:22, in network namespace 77";
    assert_eq!(report.attribution.reason, joined);
    assert_eq!(report.attribution.owners[0].process.pid, PID);
    assert_eq!(findings[0].evidence[0], "IPVS: DNAT 10.0.0.2:3516 → 10.0.3.2:22");
}

#[test]
fn a_flow_that_is_sent_on_to_another_host_is_forwarded_there() {
    let mut scene = Scene::new();
    answered(&mut scene, 0);
    let (flow, tuple) = asked(&mut scene);
    tell(&mut scene, flow, Some((sent_on(tuple), Some(Place::Elsewhere))));

    let (report, findings) = outcome(&mut scene);

    assert_eq!(report.role, Some(crate::report::FlowRole::Forwarded));
    assert_eq!(report.attribution.ownership, Ownership::Forwarded);
    assert!(report.attribution.reason.contains("10.0.0.2:3516 → 10.0.3.2:22"));
    assert!(findings[0].message.contains("10.0.3.2:22, which is no address of this host"));
}

#[test]
fn what_docker_publishes_is_told_as_that_if_it_is_connected_to_there() {
    let there = target();
    let is_connected = |relays_to| {
        let (severity, evidence) = published(relays_to);
        (severity, evidence.iter().any(|line| line.contains("a published port of a container")))
    };

    assert_eq!(is_connected(Some(there)), (Severity::Low, true));
    assert_eq!(is_connected(Some(Endpoint { port: 23, ..there })), (Severity::Medium, false));
    assert_eq!(is_connected(None), (Severity::Medium, false));
}

/// What is found where a process says that it serves what is sent on.
fn published(relays_to: Option<Endpoint>) -> (Severity, Vec<String>) {
    let mut scene = Scene::new();
    let args = ["docker-proxy", "-container-ip", "10.0.3.2", "-container-port", "22"];
    let name = "docker-proxy".to_owned();
    let args = args.map(str::to_owned).to_vec();
    scene.processes.insert(PID, Process { name, args, relays_to, ..cardbridged(PID) });
    scene.ingest(&listen(SECOND / 2));
    scene.answer(SECOND / 2);
    scene.pipeline.take_reports();
    answered(&mut scene, 0);
    let (flow, tuple) = asked(&mut scene);
    tell(&mut scene, flow, Some((sent_on(tuple), Some(Place::Elsewhere))));

    let (_, findings) = outcome(&mut scene);

    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!(finding.kind, FindingKind::RedirectedPort);
    (finding.severity, finding.evidence.clone())
}

#[test]
fn an_answer_from_no_socket_is_found_unless_a_socket_is_there_after_all() {
    let nothing = found_without_socket(Explanation::default()).unwrap();
    let programs =
        found_without_socket(Explanation { has_programs: true, ..Explanation::default() }).unwrap();
    let rule = found_without_socket(explained_by(dnat())).unwrap();
    let socket = Explanation { has_socket: true, ..Explanation::default() };

    assert_eq!(
        nothing.message,
        "tcp 10.0.0.2:3516 is answered, but no socket that is known sends that, and nothing that \
         portwatch knows explains it."
    );
    assert_eq!(nothing.kind, FindingKind::AnswerWithoutSocket);
    assert_eq!(nothing.evidence[0], "3 packets came for it, 2 answers went out");
    assert!(programs.message.contains("programs of others are on the way"));
    assert_eq!(rule.kind, FindingKind::RedirectedPort);
    assert_eq!(found_without_socket(socket), None);
}

#[test]
fn a_socket_on_the_port_that_nobody_listened_on_is_odd_where_something_explains_it() {
    let tproxy = Redirection { action: Action::Tproxy { ip: None, port: Some(2222) }, ..dnat() };
    let table = [
        (explained_by(tproxy), false, true),
        (Explanation::default(), false, false),
        (explained_by(dnat()), false, false),
        (
            explained_by(Redirection { action: Action::Tproxy { ip: None, port: None }, ..dnat() }),
            true,
            false,
        ),
    ];
    for (explanation, is_listened_on, is_found) in table {
        let mut scene = Scene::new();
        scene.explanation = explanation;
        if is_listened_on {
            scene.ingest(&listen(SECOND / 2));
        }
        let accepted = socket(action::ESTABLISHED_PASSIVE, SECOND);
        let remote = SocketRecord { remote: mapped(CLIENT.0), remote_port: CLIENT.1, ..accepted };
        scene.ingest(&SocketRecord { cookie: ACCEPTED, ..remote });
        scene.ingest(&SocketRecord {
            cookie: ACCEPTED,
            action: action::USE,
            ..socket(action::USE, SECOND)
        });
        scene.answer(SECOND);
        scene.pipeline.take_reports();
        answered(&mut scene, ACCEPTED);

        let findings = odd(&waited(&mut scene));

        let is_odd = findings.iter().any(|it| it.message.contains("though nobody listens"));
        assert_eq!(is_odd, is_found, "{findings:#?}");
    }
}

#[test]
fn what_is_not_explained_in_time_is_found_without() {
    let mut scene = Scene::new();
    answered(&mut scene, 0);
    let (flow, _) = asked(&mut scene);
    tell(&mut scene, flow, None);
    scene.read_table(&[], 2 * SECOND);

    let early = findings(&scene.tick(3 * SECOND));
    let late = findings(&scene.tick(6 * SECOND));

    assert_eq!(early, []);
    assert!(late[0].evidence.contains(&"not checked in time: rules, programs, sockets".to_owned()));
}

#[test]
fn a_translation_is_asked_for_once_and_not_where_both_ends_are_as_expected() {
    let mut scene = Scene::new();
    answered(&mut scene, 0);
    let (flow, _) = asked(&mut scene);
    tell(&mut scene, flow, None);
    scene.read_table(&[], SECOND + 3 * MOMENT);
    let again = scene.requests();

    let mut with_socket = Scene::new();
    let accepted = socket(action::ESTABLISHED_PASSIVE, SECOND);
    with_socket.ingest(&SocketRecord { cookie: ACCEPTED, ..accepted });
    with_socket.answer(SECOND);
    answered(&mut with_socket, ACCEPTED);

    let translates =
        |requests: Vec<Request>| requests.iter().any(|it| matches!(it, Request::Translate { .. }));
    assert!(!translates(again));
    assert!(!translates(with_socket.requests()));
}

#[test]
fn a_rule_that_stands_is_a_finding_of_its_own() {
    let mut scene = Scene::new();
    let standing = Standing {
        netns: netns(),
        transport: Some(Transport::Tcp),
        port: Some(PORT),
        cause: Cause::Rule(dnat()),
    };

    scene.pipeline.apply(Input::Standing { found: vec![standing], now_ns: SECOND });

    let found = findings(&scene.pipeline.take_reports());
    assert_eq!(
        found[0].message,
        "3516/tcp is redirected to 10.0.3.2:22 by nft rule of table ip nat, chain pre, handle 4."
    );
}

/// The finding about an answer that no socket sends.
fn found_without_socket(explanation: Explanation) -> Option<Finding> {
    let mut scene = Scene::new();
    scene.explanation = explanation;
    answered(&mut scene, 0);
    let (flow, _) = asked(&mut scene);
    tell(&mut scene, flow, None);
    outcome(&mut scene).1.into_iter().next()
}

/// Three packets of a new connection, and two answers that carry this cookie.
fn answered(scene: &mut Scene, cookie: u64) {
    let (there, back) = (key(CLIENT, SERVER, false), key(SERVER, CLIENT, true));
    let flags = tcp::SYN | tcp::ACK;
    scene.ingest(&announce(there, 1, SECOND));
    let answer = announce(back, 1, SECOND);
    scene.ingest(&FlowRecord { slot: BACK, tcp_flags: flags, cookie, ..answer });
    let now_ns = SECOND + MOMENT;
    let slots = [
        (THERE, slot(there, 1, 3, now_ns)),
        (BACK, Slot { tcp_flags: flags, ..slot(back, 1, 2, now_ns) }),
    ];
    scene.read_table(&slots, now_ns);
}

/// What is asked of connection tracking.
fn asked(scene: &mut Scene) -> (FlowId, Tuple) {
    let mut requests = scene.requests().into_iter();
    let asked = requests.find_map(|request| match request {
        Request::Translate { flow, tuple, netns: inode } => {
            assert_eq!(inode, netns().inode);
            Some((flow, tuple))
        }
        _ => None,
    });
    asked.expect("a question")
}

fn tell(scene: &mut Scene, flow: FlowId, there: Option<(Translated, Option<Place>)>) {
    let now_ns = SECOND + 2 * MOMENT;
    scene.pipeline.apply(Input::Translated { flow, there, now_ns });
    scene.answer(now_ns);
}

/// What is reported once everything was waited for: the flow, and the findings.
fn outcome(scene: &mut Scene) -> (FlowReport, Vec<Finding>) {
    let reports = waited(scene);
    (flows(&reports).into_iter().next().expect("the flow").1, odd(&reports))
}

fn waited(scene: &mut Scene) -> Vec<Report> {
    let mut reports = scene.read_table(&[], 2 * SECOND);
    scene.answer(2 * SECOND);
    reports.extend(scene.tick(2 * SECOND));
    reports
}

/// The findings but those about listeners.
fn odd(reports: &[Report]) -> Vec<Finding> {
    let is_odd = |finding: &Finding| finding.kind != FindingKind::UnknownListener;
    findings(reports).into_iter().filter(is_odd).collect()
}

fn sent_on(tuple: Tuple) -> Translated {
    let ends = Ends { destination: target(), ..tuple.ends };
    Translated { ends, was_asked_before: true, by: Translator::Conntrack }
}

fn explained_by(redirection: Redirection) -> Explanation {
    Explanation {
        checked: vec!["checked: rules".to_owned()],
        causes: vec![Cause::Rule(redirection)],
        ..Explanation::default()
    }
}

fn dnat() -> Redirection {
    let rule = Rule {
        family: "ip".to_owned(),
        table: "nat".to_owned(),
        chain: "pre".to_owned(),
        handle: 4,
        text: "tcp dport 3516 dnat to 10.0.3.2:22".to_owned(),
    };
    let action = Action::Dnat { ip: Some([10, 0, 3, 2].into()), port: Some(22) };
    Redirection { rule, action, names_port: true, is_conditional: false, is_for_own_packets: false }
}

fn target() -> Endpoint {
    Endpoint::new([10, 0, 3, 2].into(), 22)
}

fn end((ip, port): Address) -> Endpoint {
    Endpoint::new(ip.into(), port)
}
