//! What rules expect, and what is said to differ.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::civil::date;
use proptest::prelude::*;

use super::*;
use crate::endpoint::{Endpoint, Transport};
use crate::owner::{
    Attribution, Container, Evidence, Image, Integrity, Owner, Ownership, Package, PackageFormat,
    Packaging, Process, Role,
};

const SHA: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn a_listener_is_expected_when_every_key_holds() {
    let listener = Listener::of([opener(cardbridged())]);

    assert_eq!(
        judge(&full_rule(), &listener),
        Judgement {
            verdict: Verdict::Expected {
                rule: "card-bridge".to_owned(),
                reason: Some("SEC-112".to_owned()),
            },
            expired: None,
        }
    );
}

#[test]
fn each_key_that_differs_is_a_sentence_of_its_own() {
    let process = Process {
        executable: Some("/usr/bin/python3.11".into()),
        deleted: true,
        sha256: None,
        packaging: Packaging::Unknown,
        user: Some("root".to_owned()),
        unit: None,
        ..cardbridged()
    };
    let listener = Listener {
        local: endpoint("0.0.0.0", 8000),
        transport: Transport::Udp,
        ..Listener::of([opener(process)])
    };

    assert_eq!(
        differences(&full_rule(), &listener),
        [
            "port: rule says 3516,4000-4010, is 8000",
            "transport: rule says tcp, is udp",
            "address: rule says 127.0.0.1 or ::1, is 0.0.0.0 (all addresses)",
            "exe: rule says /usr/sbin/cardbridged, is /usr/bin/python3.11 (deleted)",
            "sha256: rule says SHA, is not readable",
            "user: rule says cardbridge, is root",
            "unit: rule says cardbridged.service or badge-*.service, is none",
            "package: rule says cardbridge, is not known",
        ]
    );
}

#[test]
fn an_address_must_be_the_one_or_inside_the_network() {
    let table = [
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "127.0.0.2", false),
        ("127.0.0.1", "0.0.0.0", false),
        ("127.0.0.0/8", "127.9.9.9", true),
        ("127.0.0.0/8", "0.0.0.0", false),
        ("0.0.0.0", "0.0.0.0", true),
        ("0.0.0.0", "127.0.0.1", false),
        ("0.0.0.0/0", "0.0.0.0", true),
        ("0.0.0.0/0", "10.0.0.1", true),
        ("0.0.0.0/0", "::", false),
        ("0.0.0.0/8", "0.0.0.0", false),
        ("::", "::", true),
        ("::", "0.0.0.0", false),
        ("::", "::1", false),
        ("::/0", "::", true),
        ("::/0", "::1", true),
        ("::/0", "10.0.0.1", false),
        ("::/8", "::", false),
        ("::1", "::1", true),
        ("fe80::/10", "fe80::1", true),
    ];
    for (pin, bound, expected) in table {
        let listener =
            Listener { local: endpoint(bound, 3516), ..Listener::of([opener(cardbridged())]) };
        assert_eq!(
            is_expected(&format!("address = '{pin}'"), &listener),
            expected,
            "{pin}, {bound}"
        );
        assert!(is_expected("port = 3516", &listener), "without an address key");
    }
}

#[test]
fn a_star_does_not_cross_a_directory() {
    let table = [
        ("/usr/sbin/cardbridged", true),
        ("/usr/*/cardbridged", true),
        ("/usr/**", true),
        ("/**/cardbridged", true),
        ("/usr/*", false),
        ("/usr/s?in/card{bridged,reader}", true),
        ("/usr?sbin?cardbridged", false),
        ("/usr/sbin/cardbridge", false),
        ("/USR/sbin/cardbridged", false),
    ];
    let listener = Listener::of([opener(cardbridged())]);
    for (glob, expected) in table {
        assert_eq!(is_expected(&format!("exe = '{glob}'"), &listener), expected, "{glob}");
    }
}

#[test]
fn a_deleted_or_memfd_executable_matches_no_glob() {
    let table = [
        (Some("/usr/sbin/cardbridged"), true),
        (Some("/memfd:cardbridged"), true),
        (Some("/memfd:cardbridged"), false),
        (Some("(unreachable)/usr/sbin/cardbridged"), false),
        (None, true),
        (None, false),
    ];
    for (executable, deleted) in table {
        let executable = executable.map(PathBuf::from);
        let process = Process { executable, deleted, ..cardbridged() };
        let listener = Listener::of([opener(process)]);
        assert!(!is_expected("exe = '/**'", &listener), "{listener:?}");
    }
}

#[test]
fn a_path_of_another_mount_namespace_counts_only_with_the_contents() {
    let exe = "exe = '/usr/sbin/*'";
    let with_contents = format!("{exe}\nsha256 = '{SHA}'");
    let table = [
        (Some(false), " of another mount namespace, not this host's"),
        (None, ", which may not be this host's"),
    ];
    for (on_host, doubt) in table {
        let listener = Listener::of([opener(Process { on_host, ..cardbridged() })]);
        let difference = format!("exe: rule says /usr/sbin/*, is /usr/sbin/cardbridged{doubt}");
        assert_eq!(differences(exe, &listener), [difference]);
        assert!(is_expected(&with_contents, &listener), "{on_host:?}");
    }
    let other = Process { on_host: Some(false), sha256: Some("0".repeat(64)), ..cardbridged() };
    assert!(!is_expected(&with_contents, &Listener::of([opener(other)])));
}

#[test]
fn an_unexpected_holder_beside_an_expected_one_does_not_pass() {
    let intruder = Process {
        executable: Some("/tmp/nc".into()),
        on_host: Some(true),
        ..process_of(666, "mallory")
    };
    for role in [Role::Opener, Role::User, Role::Holder] {
        let listener = Listener::of([opener(cardbridged()), owner(role, intruder.clone())]);
        assert_eq!(
            differences("user = 'cardbridge'\nexe = '/usr/sbin/*'", &listener),
            [
                "exe: rule says /usr/sbin/*, is /tmp/nc (pid 666)",
                "user: rule says cardbridge, is mallory (pid 666)",
            ]
        );
    }
}

#[test]
fn owners_that_are_gone_or_let_go_do_not_count() {
    let root = process_of(1, "root");
    let gone = Owner { exited: true, ..opener(root.clone()) };
    let released = owner(Role::Releaser, root);

    let listener = Listener::of([gone.clone(), released, owner(Role::Holder, cardbridged())]);
    assert!(is_expected("user = 'cardbridge'", &listener));

    let listener = Listener::of([gone]);
    assert_eq!(
        differences("user = 'root'", &listener),
        ["user: rule says root, is not known: its owners have exited"]
    );
}

#[test]
fn an_owner_that_is_not_known_matches_no_key_about_owners() {
    let unknown = Listener { attribution: Attribution::unknown("no"), ..Listener::of([]) };
    let kernel = Attribution { ownership: Ownership::Kernel, ..Attribution::unknown("wireguard") };
    let kernel = Listener { attribution: kernel, ..Listener::of([]) };

    assert!(is_expected("port = 3516", &unknown));
    assert_eq!(
        differences(&format!("sha256 = '{SHA}'\nunit = '*'"), &unknown),
        [
            "sha256: rule says SHA, is not known: nobody is seen to own it",
            "unit: rule says *, is not known: nobody is seen to own it",
        ]
    );
    assert_eq!(
        differences("user = 'root'", &kernel),
        ["user: rule says root, is not known: the kernel owns it"]
    );
}

#[test]
fn what_could_not_be_read_does_not_match() {
    let blank = Process { pid: 7, ..Process::default() };
    let rule = format!("exe = '/**'\nsha256 = '{SHA}'\nuser = 'a'\nunit = '*'");

    assert_eq!(
        differences(&rule, &Listener::of([opener(blank.clone())])),
        [
            "exe: rule says /**, is not readable",
            "sha256: rule says SHA, is not readable",
            "user: rule says a, is not readable",
            "unit: rule says *, is not readable",
        ]
    );
    assert_eq!(
        differences(&rule, &Listener::of([opener(cardbridged()), opener(blank)])),
        [
            "exe: rule says /**, is not readable (pid 7)",
            "sha256: rule says SHA, is not readable (pid 7)",
            "user: rule says a, is cardbridge (pid 12), not readable (pid 7)",
            "unit: rule says *, is not readable (pid 7)",
        ]
    );
}

#[test]
fn a_user_without_a_name_is_its_number() {
    let process = Process { user: None, uid: Some(100_033), ..cardbridged() };
    let listener = Listener::of([opener(process)]);

    assert!(is_expected("user = '100033'", &listener));
    assert_eq!(
        differences("user = 'cardbridge'", &listener),
        ["user: rule says cardbridge, is 100033"]
    );
}

#[test]
fn a_unit_whose_name_is_escaped_can_be_pasted() {
    let process = Process { unit: Some(r"my\x2dcard.service".to_owned()), ..cardbridged() };
    let listener = Listener::of([opener(process)]);

    assert!(is_expected(r"unit = 'my\x2dcard.service'", &listener));
    assert!(!is_expected("unit = 'my-card.service'", &listener));
}

#[test]
fn many_values_and_owners_are_named_by_three() {
    let processes = (1..=5).map(|pid| process_of(pid, &pid.to_string()));
    let listener = Listener::of(processes.map(opener));

    assert_eq!(
        differences("user = ['a', 'b', 'c', 'd']", &listener),
        ["user: rule says a or b or c or 1 more, is 1 (pid 1), 2 (pid 2), 3 (pid 3) and 2 more"]
    );
}

#[test]
fn a_rule_holds_through_its_last_day() {
    let listener = Listener::of([opener(cardbridged())]);
    let policy = policy("[[listener]]\nid = 'a'\nport = 3516\nexpires = 2027-06-30");

    let last_day = policy.judge(&listener.view(), date(2027, 6, 30));
    let next_day = policy.judge(&listener.view(), date(2027, 7, 1));

    let expected = Verdict::Expected { rule: "a".to_owned(), reason: None };
    assert_eq!(last_day, Judgement { verdict: expected, expired: None });
    assert_eq!(
        next_day,
        Judgement {
            verdict: unknown("a", &[(RuleKey::Expires, "2027-06-30", "2027-07-01")]),
            expired: Some("a".to_owned()),
        }
    );
}

#[test]
fn an_expired_rule_is_not_told_of_when_another_expects_the_listener() {
    let listener = Listener::of([opener(cardbridged())]);
    let policy = policy(
        "[[listener]]\nid = 'old'\nport = 3516\nexpires = 2000-01-01\n\
         [[listener]]\nid = 'new'\nport = 3516",
    );

    let verdict = Verdict::Expected { rule: "new".to_owned(), reason: None };
    assert_eq!(policy.judge(&listener.view(), TODAY), Judgement { verdict, expired: None });
}

#[test]
fn the_nearest_rule_has_the_fewest_differences_and_stands_first() {
    let listener = Listener::of([opener(cardbridged())]);
    let policy = policy(
        "[[listener]]\nid = 'two'\nport = 1\nuser = 'x'\n\
         [[listener]]\nid = 'one'\nport = 2\n\
         [[listener]]\nid = 'also-one'\nport = 3\n",
    );

    assert_eq!(
        policy.judge(&listener.view(), TODAY),
        Judgement { verdict: unknown("one", &[(RuleKey::Port, "2", "3516")]), expired: None }
    );
}

#[test]
fn without_rules_nothing_is_expected_and_nothing_near() {
    let listener = Listener::of([opener(cardbridged())]);

    assert_eq!(
        Policy::default().judge(&listener.view(), TODAY),
        Judgement { verdict: Verdict::Unknown { nearest: None }, expired: None }
    );
}

#[test]
fn a_package_holds_only_while_its_file_is_intact() {
    let table = [
        (packaged("cardbridge", Integrity::Unmodified), None),
        (packaged("netcat", Integrity::Unmodified), Some("netcat")),
        (
            packaged("cardbridge", Integrity::Modified),
            Some("cardbridge, but the file was modified"),
        ),
        (
            packaged("cardbridge", Integrity::Unverifiable("no checksum".to_owned())),
            Some("cardbridge, but whether the file is intact is open: no checksum"),
        ),
        (Packaging::NoPackage, Some("none")),
        (Packaging::Unknown, Some("not known")),
    ];
    for (packaging, actual) in table {
        let listener = Listener::of([opener(Process { packaging, ..cardbridged() })]);
        let rule = "package = ['cardbridge', 'cardbridge-core']";
        let Some(actual) = actual else {
            assert!(is_expected(rule, &listener));
            continue;
        };
        let difference = format!("package: rule says cardbridge or cardbridge-core, is {actual}");
        assert_eq!(differences(rule, &listener), [difference]);
    }
}

#[test]
fn an_image_is_known_by_each_of_its_names() {
    let digest = format!("registry.example/web@sha256:{SHA}");
    let image = Image {
        name: "registry.example/web:1.4".to_owned(),
        id: Some(format!("sha256:{}", "1".repeat(64))),
        digests: vec![digest.clone()],
    };
    let in_container = |image| {
        let container = Some(Container { id: "c".to_owned(), image, ..Container::default() });
        Listener::of([opener(Process { container, ..cardbridged() })])
    };
    let known = in_container(Some(image.clone()));
    for name in [&image.name, &digest, &image.id.clone().unwrap()] {
        assert!(is_expected(&format!("container_image = '{name}'"), &known), "{name}");
    }
    let table = [
        (known, format!("registry.example/web:1.4 ({})", digest.replace(SHA, "SHA"))),
        (in_container(None), "not known".to_owned()),
        (Listener::of([opener(cardbridged())]), "none".to_owned()),
    ];
    for (listener, actual) in table {
        assert_eq!(
            differences("container_image = 'other'", &listener),
            [format!("container_image: rule says other, is {actual}")]
        );
    }
}

#[test]
fn a_miss_by_nothing_but_identity_is_a_change() {
    let changed = Process { sha256: Some("0".repeat(64)), ..cardbridged() };
    let unread = Process { sha256: None, ..cardbridged() };
    let table = [
        ("port = 3516\nsha256 = 'SHA'", changed.clone(), true),
        ("address = '127.0.0.1'\nuser = 'x'\nunit = 'y'", changed.clone(), true),
        // Not about a port or an address, but about somebody who is there.
        ("user = 'cardbridge'\nsha256 = 'SHA'", changed.clone(), true),
        ("user = 'x'\nsha256 = 'SHA'", changed.clone(), false),
        ("port = 22\nsha256 = 'SHA'", changed.clone(), false),
        ("transport = 'udp'\nport = 3516\nsha256 = 'SHA'", changed.clone(), false),
        ("port = 3516\nsha256 = 'SHA'\nexpires = 2026-08-31", changed, false),
        // Perhaps it is the one.
        ("port = 3516\nsha256 = 'SHA'", unread, false),
        ("port = 22", cardbridged(), false),
    ];
    for (rule, process, is_change) in table {
        let listener = Listener::of([opener(process)]);
        let verdict = judge(&rule.replace("SHA", SHA), &listener).verdict;
        let Verdict::Unknown { nearest: Some(nearest) } = verdict else { panic!("{rule}") };
        assert_eq!(nearest.is_change, is_change, "{rule}");
    }
}

#[test]
fn a_rule_that_another_took_the_place_of_is_nearer_than_one_for_another_port() {
    let listener = Listener::of([opener(cardbridged())]);
    let policy = policy(
        "[[listener]]\nid = 'elsewhere'\nport = 1\nuser = 'cardbridge'\n\
         [[listener]]\nid = 'here'\nport = 3516\nuser = 'x'\nunit = 'y'\n",
    );

    let verdict = policy.judge(&listener.view(), TODAY).verdict;

    let Verdict::Unknown { nearest: Some(nearest) } = verdict else { panic!("{verdict:?}") };
    assert_eq!((&*nearest.rule, nearest.is_change), ("here", true));
    let difference = Difference {
        key: RuleKey::User,
        expected: "x".to_owned(),
        actual: "cardbridge".to_owned(),
        is_known: true,
    };
    assert_eq!(nearest.differences[0], difference);
}

#[test]
fn an_explanation_has_every_rule_and_every_key_that_was_given() {
    let listener = Listener::of([opener(cardbridged())]);
    let policy = policy(
        "[[listener]]\nid = 'old'\nport = 3516\nexpires = 2026-08-31\n\
         [[listener]]\nid = 'other'\nport = 3516\nuser = ['root', 'www']\n\
         [[listener]]\nid = 'it'\nport = 3516\nuser = 'cardbridge'\n",
    );

    let answers = policy.explain(&listener.view(), TODAY);

    let told: Vec<_> = answers.iter().map(|it| (&*it.rule, it.line, it.expects())).collect();
    assert_eq!(told, [("old", 2, false), ("other", 6, false), ("it", 10, true)]);
    assert_eq!(answers[0].expired, Some(date(2026, 8, 31)));
    let keys: Vec<_> = answers[1]
        .keys
        .iter()
        .map(|it| (it.difference.key.name(), it.holds, it.difference.to_string()))
        .collect();
    let expected = [
        ("port", true, "port: rule says 3516, is 3516".to_owned()),
        ("user", false, "user: rule says root or www, is cardbridge".to_owned()),
    ];
    assert_eq!(keys, expected);
}

proptest! {
    #[test]
    fn a_listener_is_expected_only_if_all_its_owners_are(
        names in proptest::collection::vec("[ab]", 1..5),
    ) {
        let owners = names.iter().map(|name| opener(process_of(7, name)));

        let expected = is_expected("user = 'a'", &Listener::of(owners));

        prop_assert_eq!(expected, names.iter().all(|name| name == "a"));
    }
}

const TODAY: Date = date(2026, 9, 1);

#[derive(Debug)]
struct Listener {
    local: Endpoint,
    transport: Transport,
    attribution: Attribution,
}

impl Listener {
    fn of(owners: impl IntoIterator<Item = Owner>) -> Self {
        Self {
            local: endpoint("127.0.0.1", 3516),
            transport: Transport::Tcp,
            attribution: Attribution {
                ownership: Ownership::Process,
                reason: String::new(),
                owners: owners.into_iter().collect(),
            },
        }
    }

    fn view(&self) -> ListenerView<'_> {
        let &Self { local, transport, ref attribution } = self;
        ListenerView { local, transport, attribution }
    }
}

fn cardbridged() -> Process {
    Process {
        pid: 12,
        executable: Some("/usr/sbin/cardbridged".into()),
        on_host: Some(true),
        sha256: Some(SHA.to_owned()),
        packaging: packaged("cardbridge", Integrity::Unmodified),
        uid: Some(990),
        user: Some("cardbridge".to_owned()),
        cgroup: Some("/system.slice/cardbridged.service".to_owned()),
        unit: Some("cardbridged.service".to_owned()),
        ..Process::default()
    }
}

fn process_of(pid: u32, user: &str) -> Process {
    Process { pid, user: Some(user.to_owned()), ..Process::default() }
}

fn opener(process: Process) -> Owner {
    owner(Role::Opener, process)
}

fn owner(role: Role, process: Process) -> Owner {
    let process = Arc::new(process);
    Owner {
        side: None,
        role,
        evidence: Evidence::Observed,
        exited: false,
        replaced: false,
        process,
    }
}

fn endpoint(ip: &str, port: u16) -> Endpoint {
    Endpoint::new(ip.parse().unwrap(), port)
}

fn full_rule() -> String {
    format!(
        "reason = 'SEC-112'\nport = [3516, '4000-4010']\ntransport = 'tcp'\n\
         address = ['127.0.0.1', '::1']\nexe = '/usr/sbin/cardbridged'\nsha256 = '{SHA}'\n\
         user = 'cardbridge'\nunit = ['cardbridged.service', 'badge-*.service']\n\
         package = 'cardbridge'"
    )
}

fn policy(rules: &str) -> Policy {
    Policy::parse(Path::new("p"), &format!("version = 1\n{rules}")).unwrap()
}

/// Judges by a policy of one rule.
fn judge(rule: &str, listener: &Listener) -> Judgement {
    let rules = format!("[[listener]]\nid = 'card-bridge'\n{rule}");
    policy(&rules).judge(&listener.view(), TODAY)
}

fn is_expected(rule: &str, listener: &Listener) -> bool {
    matches!(judge(rule, listener).verdict, Verdict::Expected { .. })
}

fn differences(rule: &str, listener: &Listener) -> Vec<String> {
    match judge(rule, listener).verdict {
        Verdict::Unknown { nearest: Some(nearest) } => {
            let sentences = nearest.differences.iter().map(ToString::to_string);
            // Nobody reads 64 digits.
            sentences.map(|it| it.replace(SHA, "SHA")).collect()
        }
        verdict => panic!("{verdict:?}"),
    }
}

/// A near miss that is no change: rule, and what differs for sure.
fn unknown(rule: &str, differences: &[(RuleKey, &str, &str)]) -> Verdict {
    let difference = |&(key, expected, actual): &(RuleKey, &str, &str)| Difference {
        key,
        expected: expected.to_owned(),
        actual: actual.to_owned(),
        is_known: true,
    };
    let differences = differences.iter().map(difference).collect();
    let nearest = NearMiss { rule: rule.to_owned(), is_change: false, differences };
    Verdict::Unknown { nearest: Some(nearest) }
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
