//! What is learned, what is not, and that what was learned is expected.

use std::path::PathBuf;

use jiff::civil::date;
use proptest::prelude::*;

use super::*;
use crate::endpoint::{Direction, Endpoint, Family};
use crate::owner::{
    Ancestor, Attribution, Evidence, Integrity, Ownership, Package, PackageFormat, Packaging,
};
use crate::policy::{ListenerView, Policy};
use crate::report::{FlowRole, Verdict};

const SHA: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn a_rule_pins_unit_package_and_executable_of_what_a_package_has_installed() {
    let draft = learn([listener(1, "127.0.0.1", [cardbridged()])]);

    let expected = r#"# Learned on web1 on 2026-11-29, from one look at port 3516.
# Review every rule: it says what was there, not what should be. Then try it:
#
#     portwatch policy check FILE

version = 1

# Seen 2026-11-29 02:03:04 UTC: cardbridged[812], started by systemd[1]: cardbridged -d
[[listener]]
id = "cardbridged-3516"
reason = "learned 2026-11-29, to be reviewed"
expires = 2027-02-27
port = 3516
transport = "tcp"
address = "127.0.0.1"
exe = "/usr/sbin/cardbridged"
user = "cardbridge"
unit = "cardbridged.service"
package = "cardbridge"
"#;
    assert_eq!(draft, expected);
}

#[test]
fn what_no_package_has_installed_is_pinned_by_its_contents() {
    for packaging in [Packaging::NoPackage, Packaging::Unknown] {
        let process = Process { packaging, unit: None, ..cardbridged() };

        let draft = learn([listener(1, "::1", [process])]);

        assert!(draft.contains(&format!("exe = \"/usr/sbin/cardbridged\"\nsha256 = \"{SHA}\"\n")));
        assert!(!draft.contains("package =") && !draft.contains("unit ="), "{draft}");
    }
}

#[test]
fn a_unit_whose_name_will_be_another_tomorrow_is_not_pinned() {
    for unit in ["session-3.scope", "run-u77.service", "docker-0123.scope"] {
        let process = Process { unit: Some(unit.to_owned()), ..cardbridged() };
        assert!(!learn([listener(1, "::1", [process])]).contains("unit ="), "{unit}");
    }
}

#[test]
fn the_same_on_several_addresses_is_one_rule() {
    let draft = learn([
        listener(1, "0.0.0.0", [cardbridged()]),
        listener(2, "::", [Process { pid: 9, ..cardbridged() }]),
    ]);

    assert_eq!(draft.matches("[[listener]]").count(), 1);
    assert!(draft.contains("address = [\"0.0.0.0\", \"::\"]\n"), "{draft}");
}

#[test]
fn all_who_own_it_are_in_the_rule() {
    let worker = Process { pid: 9, user: Some("www-data".to_owned()), ..cardbridged() };

    let draft = learn([listener(1, "::", [cardbridged(), worker])]);

    assert!(draft.contains("user = [\"cardbridge\", \"www-data\"]\n"), "{draft}");
}

#[test]
fn what_anybody_could_replace_is_not_learned_and_said() {
    let memfd = Process { executable: Some("/memfd:x".into()), ..cardbridged() };
    let modified = packaged("cardbridge", Integrity::Modified);
    let unread = Process { sha256: None, packaging: Packaging::NoPackage, ..cardbridged() };
    let table = [
        (Process { deleted: true, ..cardbridged() }, "what it runs was deleted"),
        (memfd, "what it runs never had a name"),
        (Process { executable: None, ..cardbridged() }, "what it runs could not be read"),
        (
            Process { packaging: modified, ..cardbridged() },
            "is not as the package cardbridge installed it",
        ),
        (unread, "no package vouches for what it runs"),
        (
            Process { executable: Some("/srv/open/x".into()), ..cardbridged() },
            "everybody can write it",
        ),
        (Process { user: None, uid: None, ..cardbridged() }, "its user could not be read"),
    ];
    for (process, why) in table {
        let draft = learn([listener(1, "::", [process])]);
        assert!(!draft.contains("[[listener]]"), "{draft}");
        assert!(draft.contains("# Not learned:\n#   tcp [::]:3516 cardbridged[812]: "), "{draft}");
        assert!(draft.contains(why), "{draft}");
    }
    let draft = learn([listener(1, "::", [])]);
    assert!(draft.contains("#   tcp [::]:3516: nobody is seen to own it"), "{draft}");
}

#[test]
fn a_program_that_runs_anything_is_to_be_reviewed() {
    let table = [
        ("/usr/bin/python3.11", true),
        ("/usr/bin/nc.openbsd", true),
        ("/usr/bin/pythonic", false),
    ];
    for (path, expected) in table {
        let process = Process { executable: Some(path.into()), ..cardbridged() };
        let draft = learn([listener(1, "::", [process])]);
        assert_eq!(draft.contains("# Review: "), expected, "{draft}");
    }
}

#[test]
fn nothing_seen_is_still_a_policy() {
    let draft = learn([]);

    assert!(draft.ends_with("version = 1\n\n# Nothing to expect was seen.\n"), "{draft}");
    assert!(Policy::parse(Path::new("p"), &draft).is_ok());
}

#[test]
fn who_talks_is_learned_on_demand() {
    let here = flow("10.0.0.9", FlowRole::Client, [cardbridged()]);
    let there = flow("10.0.0.7", FlowRole::Server, []);
    let reports = [here.clone(), there];
    assert!(!learn(reports.clone()).contains("[[client]]"));

    let draft = draft_of(Settings { with_clients: true, ..settings() }, reports);

    assert!(draft.contains("id = \"others-3516-client\""), "{draft}");
    assert!(draft.contains("remote = \"10.0.0.7\"\n"), "{draft}");
    let policy = Policy::parse(Path::new("p"), &draft).unwrap();
    let Body::Flow(_, flow) = &here.body else { panic!("a flow") };
    let judgement = policy.judge_client(&ClientView::of(flow).unwrap(), TODAY);
    assert!(matches!(judgement.verdict, Verdict::Expected { .. }), "{draft}");
}

#[test]
fn a_listener_that_has_closed_and_one_that_changed_are_learned_too() {
    let Report { time_unix_ns, body } = listener(1, "::", [cardbridged()]);
    let Body::Listener(_, report) = body else { panic!("a listener") };
    let closed = Report { time_unix_ns, body: Body::Listener(ListenerChange::Closed, report) };
    let later = Process { pid: 9, user: Some("later".to_owned()), ..cardbridged() };

    let draft = learn([listener(1, "::", [cardbridged()]), listener(1, "::", [later]), closed]);

    assert!(draft.contains("user = [\"cardbridge\", \"later\"]\n"), "{draft}");
}

proptest! {
    #[test]
    fn what_was_learned_is_expected_whatever_it_is_called(
        path in "(/[^/\0]{1,12}){1,3}",
        user in "[^\0]{1,12}",
        unit in "[^/\0]{1,12}\\.service",
        packaged_by in proptest::option::of("[a-z0-9][a-z0-9+.-]{1,8}"),
    ) {
        prop_assume!(!path.starts_with("/memfd:") && !path.starts_with("/srv/open"));
        // The path of a file has no such parts when the kernel tells it.
        prop_assume!(path.split('/').all(|part| part != "." && part != ".."));
        let packaging = packaged_by
            .map_or(Packaging::NoPackage, |name| packaged(&name, Integrity::Unmodified));
        let process = Process {
            executable: Some(PathBuf::from(path)),
            user: Some(user),
            unit: Some(unit),
            packaging,
            ..cardbridged()
        };
        let seen = listener(1, "10.0.0.1", [process]);

        let draft = learn([seen.clone()]);

        let policy = Policy::parse(Path::new("p"), &draft);
        prop_assert!(policy.is_ok(), "{policy:?}\n{draft}");
        let Body::Listener(_, report) = &seen.body else { panic!("a listener") };
        let verdict = policy.unwrap().judge(&ListenerView::from(&**report), TODAY).verdict;
        prop_assert!(matches!(verdict, Verdict::Expected { .. }), "{verdict:?}\n{draft}");
    }
}

const TODAY: Date = date(2026, 11, 29);
/// 2026-11-29 02:03:04 UTC.
const NOW_NS: i64 = 1_795_917_784_000_000_000;

fn learn(reports: impl IntoIterator<Item = Report>) -> String {
    draft_of(settings(), reports)
}

fn draft_of(settings: Settings, reports: impl IntoIterator<Item = Report>) -> String {
    let mut draft = Draft::new(settings);
    for report in reports {
        draft.take(&report);
    }
    draft.render()
}

fn settings() -> Settings {
    Settings {
        host: "web1".to_owned(),
        ports: "3516".to_owned(),
        how: "one look".to_owned(),
        today: TODAY,
        with_clients: false,
        exposed: |path, _| {
            path.starts_with("/srv/open").then(|| "everybody can write it".to_owned())
        },
    }
}

fn listener<const N: usize>(cookie: u64, ip: &str, processes: [Process; N]) -> Report {
    let local = Endpoint::new(ip.parse().unwrap(), 3516);
    let report = ListenerReport {
        local,
        transport: Transport::Tcp,
        family: local.family(),
        netns: None,
        interface: None,
        unit: None,
        cookie,
        attribution: attribution(None, processes),
        verdict: Verdict::Unknown { nearest: None },
    };
    let body = Body::Listener(ListenerChange::Found, Box::new(report));
    Report { time_unix_ns: NOW_NS, body }
}

fn flow<const N: usize>(other: &str, role: FlowRole, clients: [Process; N]) -> Report {
    let (here, there): (Endpoint, Endpoint) = match role {
        FlowRole::Client => (endpoint("10.0.0.1", 40_000), endpoint(other, 3516)),
        _ => (endpoint(other, 40_000), endpoint("10.0.0.1", 3516)),
    };
    let report = FlowReport {
        source: here,
        destination: there,
        transport: Transport::Tcp,
        family: Family::Ipv4,
        port: 3516,
        direction: Direction::Egress,
        role: Some(role),
        source_packets: 1,
        source_bytes: 60,
        destination_packets: 1,
        destination_bytes: 60,
        start_unix_ns: NOW_NS,
        last_unix_ns: NOW_NS,
        tcp_flags: None,
        state: None,
        netns: None,
        interfaces: Vec::new(),
        community_id: String::new(),
        app: None,
        nat: None,
        attribution: attribution(Some(Side::Source), clients),
    };
    Report { time_unix_ns: NOW_NS, body: Body::Flow(FlowChange::Updated, Box::new(report)) }
}

fn endpoint(ip: &str, port: u16) -> Endpoint {
    Endpoint::new(ip.parse().unwrap(), port)
}

fn attribution<const N: usize>(side: Option<Side>, processes: [Process; N]) -> Attribution {
    let owner = |process| Owner {
        side,
        role: Role::Opener,
        evidence: Evidence::Exact,
        exited: false,
        replaced: false,
        process: Arc::new(process),
    };
    let owners = processes.into_iter().map(owner).collect();
    Attribution { ownership: Ownership::Process, reason: String::new(), owners }
}

fn cardbridged() -> Process {
    Process {
        pid: 812,
        name: "cardbridged".to_owned(),
        executable: Some("/usr/sbin/cardbridged".into()),
        on_host: Some(true),
        sha256: Some(SHA.to_owned()),
        packaging: packaged("cardbridge", Integrity::Unmodified),
        args: ["cardbridged", "-d"].map(str::to_owned).to_vec(),
        uid: Some(990),
        user: Some("cardbridge".to_owned()),
        unit: Some("cardbridged.service".to_owned()),
        ancestors: vec![Ancestor { pid: 1, name: "systemd".to_owned(), ..Ancestor::default() }],
        ..Process::default()
    }
}

fn packaged(name: &str, integrity: Integrity) -> Packaging {
    Packaging::Package(Package {
        format: PackageFormat::Dpkg,
        name: name.to_owned(),
        version: None,
        architecture: None,
        integrity,
    })
}
