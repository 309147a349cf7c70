//! What makes a finding worse, one circumstance at a time; and executables that are gone.

use std::path::PathBuf;

use super::listeners::{findings, news};
use super::scene::*;
use super::*;
use crate::app::{Confidence, Likeness, Protocol};
use crate::endpoint::{Direction, Endpoint};
use crate::owner::{
    Ancestor, Container, Context, Integrity, Login, Package, PackageFormat, Side, Terminal,
};
use crate::report::{
    Finding, FindingKind, FindingState, FlowReport, FlowRole, ListenerReport, Severity,
};

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

#[test]
fn each_indicator_is_named_and_has_its_weight() {
    let day_ns = -86_400 * 1_000_000_000;
    let table: [(&str, Process, Severity); 9] = [
        ("memfd-executable", gone("/memfd:x", Packaging::Unknown), Severity::Critical),
        ("deleted-executable", gone("/usr/bin/x", Packaging::Unknown), Severity::Critical),
        ("replaced-executable", gone("/usr/bin/x", replaced()), Severity::Medium),
        ("modified-executable", packaged(Integrity::Modified), Severity::Critical),
        (
            "writable-executable",
            Process { world_writable: Some("/tmp".into()), ..innocent() },
            Severity::Critical,
        ),
        ("foreign-path", Process { on_host: Some(false), ..innocent() }, Severity::High),
        ("no-package", Process { packaging: Packaging::NoPackage, ..innocent() }, Severity::Medium),
        ("orphan", orphan(), Severity::Medium),
        ("host-network-container", contained(netns().inode), Severity::Medium),
    ];
    for (name, process, severity) in table {
        let start_unix_ns = Some(day_ns);

        let finding = unknown(LOOPBACK, Process { start_unix_ns, ..process });

        assert_eq!(names(&finding), [name]);
        assert_eq!(finding.severity, severity, "{name}");
    }
}

#[test]
fn what_is_harmless_or_not_known_is_no_indicator() {
    let service = Process { unit: Some("x.service".to_owned()), ..orphan() };
    let of_shell = Process { ancestors: vec![ancestor(7), ancestor(1)], ..orphan() };
    let daemon = Process { context: Context::default(), unit: None, ..orphan() };
    let table = [
        innocent(),
        packaged(Integrity::Unmodified),
        packaged(Integrity::Unverifiable("why".to_owned())),
        Process { on_host: None, executable: None, ..innocent() },
        Process { on_host: Some(false), ..contained(7) },
        service,
        of_shell,
        daemon,
    ];
    for process in table {
        let finding = unknown(LOOPBACK, process.clone());

        assert_eq!(names(&finding), [""; 0], "{process:?}");
        assert_eq!(finding.severity, Severity::Medium);
    }
}

#[test]
fn a_process_is_new_for_ten_minutes_before_it_is_found() {
    let minute = 60 * 1_000_000_000;
    for (age_ns, is_new) in [(0, true), (10 * minute - 1, true), (10 * minute, false), (-1, false)]
    {
        let mut scene = Scene::new();
        let start_unix_ns = Some(scene.clock.unix_ns(SECOND) - age_ns);
        scene.processes.insert(PID, Process { start_unix_ns, ..innocent() });

        let finding = found(&mut scene, LOOPBACK);

        assert_eq!(names(&finding) == ["recent-start"], is_new, "{age_ns} ns");
    }
}

#[test]
fn two_hints_are_one_level_and_never_the_last() {
    let hints = Process { packaging: Packaging::NoPackage, ..orphan() };
    for (local, severity) in [(LOOPBACK, Severity::High), ([10, 0, 0, 2], Severity::High)] {
        let finding = unknown(local, hints.clone());

        assert_eq!(names(&finding), ["no-package", "orphan"]);
        assert_eq!(finding.severity, severity);
    }
}

#[test]
fn what_is_bound_to_all_addresses_where_the_policy_says_loopback_is_told() {
    let table = [
        ("'127.0.0.1'", [0; 4], true),
        ("['127.0.0.0/8', '::1']", [0; 4], true),
        ("['127.0.0.1', '10.0.0.1']", [0; 4], false),
        ("'127.0.0.1'", [10, 0, 0, 2], false),
    ];
    for (address, local, is_told) in table {
        let rule = format!("[[listener]]\nid = 'card'\nuser = 'cardbridge'\naddress = {address}");
        let mut scene = Scene::with_policy(&rule);
        scene.processes.insert(PID, innocent());

        let finding = found(&mut scene, local);

        assert_eq!(names(&finding) == ["all-addresses"], is_told, "{address} {local:?}");
        assert_eq!(finding.kind, FindingKind::UnknownListener);
        assert_eq!(finding.severity == Severity::Critical, is_told);
    }
}

#[test]
fn somebody_else_than_the_rule_expects_is_a_changed_listener() {
    let mut scene = Scene::with_policy(RULE);
    let user = Some("mallory".to_owned());
    scene.processes.insert(PID, Process { user, ..innocent() });

    let finding = found(&mut scene, LOOPBACK);

    assert_eq!((finding.kind, finding.severity), (FindingKind::ChangedListener, Severity::High));
    assert_eq!(
        finding.message,
        "cardbridged (pid 4712, user mallory) listens on tcp 127.0.0.1:3516, and the rule card \
         expects somebody else there: user: rule says cardbridge, is mallory."
    );
}

#[test]
fn an_indicator_about_another_process_than_the_first_names_it() {
    let mut scene = Scene::new();
    scene.processes.insert(PID, innocent());
    let holder = gone("/usr/bin/x", Packaging::Unknown);
    scene.processes.insert(PID + 1, Process { pid: PID + 1, ..holder });
    scene.ingest(&listen(SECOND));
    scene.pipeline.holders(&[LISTENER], &[(LISTENER, PID + 1)], SECOND);
    settle(&mut scene);

    let found = findings(&scene.tick(SECOND));

    let sentences: Vec<_> = found[0].indicators.iter().map(|it| it.sentence.as_str()).collect();
    assert_eq!(sentences, ["cardbridged (pid 4713): the file it runs has been deleted"]);
}

#[test]
fn a_deleted_executable_is_a_finding_also_where_a_rule_expects_its_listener() {
    let table = [
        ("/memfd:x", Packaging::Unknown, Severity::Critical, "T1620"),
        ("/usr/bin/x", Packaging::Unknown, Severity::High, "T1070"),
        ("/usr/bin/x", replaced(), Severity::Low, ""),
    ];
    for (path, packaging, severity, technique) in table {
        let mut scene = Scene::with_policy(RULE);
        scene.processes.insert(PID, gone(path, packaging));

        let finding = found(&mut scene, LOOPBACK);

        assert_eq!((finding.kind, finding.severity), (FindingKind::DeletedExecutable, severity));
        let techniques: Vec<_> = finding.techniques.iter().map(|it| it.technique.0).collect();
        assert_eq!(techniques.concat(), technique);
        assert!(
            finding.message.starts_with("cardbridged (pid 4712, user cardbridge) listens on tcp"),
            "{finding:?}"
        );
    }
}

#[test]
fn an_upgrade_without_a_restart_is_told_as_one() {
    let mut scene = Scene::with_policy(RULE);
    scene.processes.insert(PID, gone("/usr/bin/x", replaced()));

    let finding = found(&mut scene, LOOPBACK);

    assert!(
        finding.message.ends_with(
            "and the file it runs has been replaced since by the one of package cardbridge 2.0, as \
             an upgrade does: it was not restarted."
        ),
        "{finding:?}"
    );
}

#[test]
fn a_client_that_runs_a_deleted_file_is_one_finding_until_its_last_conversation_is_over() {
    let mut scene = Scene::new();
    scene.processes.insert(PID, gone("/memfd:x", Packaging::Unknown));
    let from = |port| (CLIENT.0, port);
    let mut told = Vec::new();
    for (port, cookie) in [(40_000, 77), (40_001, 78)] {
        connect(&mut scene, from(port), cookie);
        let opening = announce(key(from(port), SERVER, true), 1, SECOND);
        scene.ingest(&FlowRecord { cookie, ..opening });
        settle(&mut scene);
        scene.pipeline.report_started_flows(SECOND);
        told.extend(news(&scene.pipeline.take_reports()));
    }

    scene.pipeline.finish(2 * SECOND);
    told.extend(news(&scene.pipeline.take_reports()));

    let states: Vec<_> = told.iter().map(|it| (it.state, it.finding.severity)).collect();
    assert_eq!(
        states,
        [(FindingState::Open, Severity::Critical), (FindingState::Closed, Severity::Critical)]
    );
    let opened = &told[0].finding;
    assert_eq!(opened.kind, FindingKind::DeletedExecutable);
    assert_eq!(
        opened.message,
        "cardbridged (pid 4712, user cardbridge) has opened tcp 10.0.0.1:40000 > 10.0.0.2:3516, and \
         what it runs never was a file: it is in memory only (memfd)."
    );
    assert!(opened.flow.is_some());
    assert_eq!(scene.pipeline.findings(), 1);
}

#[test]
fn a_listener_that_serves_a_shell_or_a_proxy_is_worse() {
    let table = [
        (Protocol::Shell, Some(Confidence::Likely), "speaks-shell", Severity::Critical),
        (Protocol::Socks, Some(Confidence::Certain), "speaks-proxy", Severity::High),
        (Protocol::Shell, Some(Confidence::Possible), "", Severity::Medium),
        (Protocol::Http, Some(Confidence::Certain), "", Severity::Medium),
    ];
    for (protocol, confidence, name, severity) in table {
        let mut scene = Scene::new();
        scene.processes.insert(PID, innocent());
        let before = found(&mut scene, LOOPBACK);
        let listener = before.listener.expect("the listener");
        let app = Likeness {
            protocol,
            confidence,
            first_speaker: None,
            version: None,
            details: Vec::new(),
            tls: None,
            http: None,
            measure: None,
        };

        scene.pipeline.hear_of(&conversation(&listener, app), 2 * SECOND);
        scene.pipeline.finish(3 * SECOND);

        let told = news(&scene.pipeline.take_reports());
        let last = told.last().map(|it| &it.finding);
        assert_eq!(last.map_or_else(Vec::new, names).concat(), name, "{protocol:?}");
        assert_eq!(last.map_or(Severity::Medium, |it| it.severity), severity, "{protocol:?}");
    }
}

/// A conversation that the owners of a listener serve.
fn conversation(listener: &ListenerReport, app: Likeness) -> FlowReport {
    let mut attribution = listener.attribution.clone();
    for owner in &mut attribution.owners {
        owner.side = Some(Side::Destination);
    }
    FlowReport {
        source: Endpoint::new(listener.local.ip, 40_000),
        destination: listener.local,
        transport: listener.transport,
        family: listener.family,
        port: listener.local.port,
        direction: Direction::Ingress,
        role: Some(FlowRole::Server),
        source_packets: 1,
        source_bytes: 60,
        destination_packets: 1,
        destination_bytes: 60,
        start_unix_ns: 0,
        last_unix_ns: 0,
        tcp_flags: None,
        state: None,
        netns: listener.netns.clone(),
        interfaces: Vec::new(),
        community_id: String::new(),
        app: Some(Arc::new(app)),
        nat: None,
        attribution,
    }
}

/// The finding about a listener of this process, without a policy.
fn unknown(local: [u8; 4], process: Process) -> Finding {
    let mut scene = Scene::new();
    scene.processes.insert(PID, process);
    found(&mut scene, local)
}

/// The first finding about a listener there.
fn found(scene: &mut Scene, local: [u8; 4]) -> Finding {
    scene.ingest(&SocketRecord { local: mapped(local), ..listen(SECOND) });
    settle(scene);
    let reports = scene.tick(SECOND);
    findings(&reports).into_iter().next().unwrap_or_else(|| panic!("{reports:#?}"))
}

/// Answers what is asked, with what is known of the package and the container already.
fn settle(scene: &mut Scene) {
    loop {
        let requests = scene.requests();
        if requests.is_empty() {
            return;
        }
        for request in requests {
            match request {
                Request::Identify { .. } => scene.identify(request, SECOND),
                Request::Hash { key } => scene.pipeline.hashed(key, Ok(SHA256.to_owned())),
                Request::Package { key } => {
                    let process = scene.pipeline.process(key).expect("the process");
                    scene.pipeline.packaged(key, Ok(process.packaging.clone()));
                }
                Request::Container { key } => {
                    let process = scene.pipeline.process(key).expect("the process");
                    let container = process.container.clone().expect("its container");
                    scene.pipeline.contained(key, Ok(container), None);
                }
                Request::Recognise { .. }
                | Request::Namespaces
                | Request::Relay { .. }
                | Request::Translate { .. }
                | Request::Explain { .. } => panic!("{request:?}"),
            }
        }
    }
}

fn connect(scene: &mut Scene, local: Address, cookie: u64) {
    let connect = socket(monitor_ebpf::wire::action::CONNECT, SECOND);
    let (ip, port) = (mapped(local.0), local.1);
    let ends = SocketRecord { local: ip, local_port: port, remote: mapped(SERVER.0), ..connect };
    scene.ingest(&SocketRecord { cookie, remote_port: SERVER.1, ..ends });
}

fn names(finding: &Finding) -> Vec<&str> {
    finding.indicators.iter().map(|indicator| indicator.name).collect()
}

/// Nothing about it makes anything worse.
fn innocent() -> Process {
    cardbridged(PID)
}

fn gone(path: &str, packaging: Packaging) -> Process {
    let executable = Some(PathBuf::from(path));
    Process { executable, deleted: true, on_host: Some(false), packaging, ..innocent() }
}

fn packaged(integrity: Integrity) -> Process {
    Process { packaging: Packaging::Package(package(integrity)), ..innocent() }
}

fn replaced() -> Packaging {
    Packaging::Replaced(package(Integrity::Unmodified))
}

fn package(integrity: Integrity) -> Package {
    Package {
        format: PackageFormat::Dpkg,
        name: "cardbridge".to_owned(),
        version: Some("2.0".to_owned()),
        architecture: None,
        integrity,
    }
}

fn orphan() -> Process {
    let login = Some(Login { uid: 1000, user: Some("alice".to_owned()), session: Some(3) });
    let terminal = Some(Terminal { major: 136, minor: 1 });
    Process {
        ancestors: vec![ancestor(1)],
        unit: Some("session-3.scope".to_owned()),
        context: Context { terminal, login, ..Context::default() },
        ..innocent()
    }
}

fn ancestor(pid: u32) -> Ancestor {
    Ancestor { pid, ..Ancestor::default() }
}

fn contained(netns: u64) -> Process {
    let container = Container { id: "4f1d2b".to_owned(), ..Container::default() };
    Process { container: Some(container), netns: Some(netns), ..innocent() }
}
