//! What is warned about, on a host of which only what every host has is asked.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use jiff::civil::date;

use super::*;
use crate::policy::Policy;

const TODAY: Date = date(2026, 11, 29);

#[test]
fn a_rule_that_does_what_it_looks_like_has_no_warning() {
    let lab = Lab::new();

    let rule =
        format!("port = 3516\nexe = '{}'\nuser = 'root'\nexpires = 2027-06-30", lab.program("a"));

    assert_eq!(warnings_of(&rule), Vec::<String>::new());
}

#[test]
fn a_rule_without_identity_or_program_is_told() {
    let table = [
        ("port = 3516", "4:1 anybody may listen there: it pins no `exe`"),
        ("port = 3516\nuser = 'root'", "any program of root may listen"),
    ];
    for (rule, message) in table {
        assert_warning(rule, message);
    }
    assert_eq!(warnings_of("port = 3516\nunit = '*'"), Vec::<String>::new());
}

#[test]
fn the_end_of_a_rule_is_told_before_and_after() {
    let table = [
        ("2026-11-28", "ended on 2026-11-28: the rule expects nothing any more"),
        ("2026-11-29", "ends in 0 days, on 2026-11-29"),
        ("2026-12-13", "ends in 14 days, on 2026-12-13"),
    ];
    for (day, message) in table {
        assert_warning(&format!("unit = '*'\nexpires = {day}"), &format!("7:11 {message}"));
    }
    assert_eq!(warnings_of("unit = '*'\nexpires = 2026-12-14"), Vec::<String>::new());
}

#[test]
fn what_is_not_there_never_matches() {
    let table = [
        ("unit = '*'\nport = 22", "7:8 is not among the ports looked at (3516)"),
        ("unit = '*'\naddress = '192.0.2.1'", "7:11 192.0.2.1 is no address of this host"),
        ("exe = '/no/such/program'", "6:7 there is no file /no/such/program here"),
        ("exe = '/no/such/*'", "no program on this host matches /no/such/*"),
        ("unit = '*'\nuser = 'no such user'", "7:8 there is no user no such user here"),
        ("unit = '*'\nuser = '0'", "never matches: user 0 is called root here"),
    ];
    for (rule, message) in table {
        assert_warning(rule, message);
    }
    assert_eq!(warnings_of("unit = '*'\naddress = ['127.0.0.1', '0.0.0.0']"), Vec::<String>::new());
    // What runs in a container is known by its contents, whatever there is here.
    let sha = "0".repeat(64);
    let of_a_container = format!("exe = '/no/such/program'\nsha256 = '{sha}'");
    assert_eq!(warnings_of(&of_a_container), Vec::<String>::new());
}

#[test]
fn a_glob_that_matches_more_than_it_looks_names_it() {
    let lab = Lab::new();
    for name in ["bash", "ssh", "other"] {
        lab.program(name);
    }
    let directory = lab.0.path().display();

    assert_warning(
        &format!("exe = '{directory}/*sh'"),
        &format!("matches more than it may look: 2 programs, {directory}/bash, {directory}/ssh"),
    );
    assert_eq!(warnings_of(&format!("exe = '{directory}/oth*'")), Vec::<String>::new());
}

#[test]
fn an_executable_that_is_a_link_or_that_others_can_write_is_told() {
    let lab = Lab::new();
    let program = lab.program("program");
    let link = lab.0.path().join("link");
    std::os::unix::fs::symlink(&program, &link).unwrap();
    assert_warning(
        &format!("exe = '{}'", link.display()),
        &format!("leads to {program}, which is what runs"),
    );

    fs::set_permissions(&program, Permissions::from_mode(0o777)).unwrap();
    assert_warning(&format!("exe = '{program}'"), "others than root can write");
}

#[test]
fn a_hash_of_other_contents_and_an_interpreter_are_told() {
    let lab = Lab::new();
    let program = lab.program("program");
    let sha = "0".repeat(64);
    assert_warning(
        &format!("exe = '{program}'\nsha256 = '{sha}'"),
        &format!(
            "is not that of {program} here, which is {}",
            executable::sha256_of(Path::new(&program)).unwrap()
        ),
    );

    let python = lab.program("python3.11");
    assert_warning(&format!("exe = '{python}'"), "runs whatever it is given");
}

#[test]
fn a_rule_behind_one_that_says_less_is_never_used() {
    let text = "version = 1\n[[listener]]\nid = 'wide'\nunit = '*'\n\
                [[listener]]\nid = 'narrow'\nunit = '*'\nport = 3516\n";
    let policy = Policy::parse(Path::new("p"), text).unwrap();
    let rules: Vec<_> = policy.rules().collect();

    let told = warnings(&rules[1], &rules[..1], &Seen::default(), &host());

    let message = "is never used: rule `wide` on line 2 expects all of it already".to_owned();
    assert_eq!(told, [Warning { line: 5, column: 1, message }]);
    assert_eq!(warnings(&rules[0], &[], &Seen::default(), &host()), []);
}

#[test]
fn a_unit_may_come_from_a_template() {
    assert_eq!(template("getty@tty1.service").as_deref(), Some("getty@.service"));
    assert_eq!(template("cron.service"), None);
}

/// A directory of programs.
struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn program(&self, name: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }
}

fn host() -> Host {
    Host::new(TODAY, Some("3516".parse().unwrap()))
}

/// The warnings of a rule whose keys begin on line 6, `LINE:COLUMN message` each.
fn warnings_of(rule: &str) -> Vec<String> {
    let text = format!("version = 1\n\n\n[[listener]]\nid = 'a'\n{rule}\n");
    let policy = Policy::parse(Path::new("p"), &text).unwrap();
    let rule = policy.rules().next().unwrap();
    let warnings = warnings(&rule, &[], &Seen::default(), &host());
    let told = |it: &Warning| format!("{}:{} {}", it.line, it.column, it.message);
    warnings.iter().map(told).collect()
}

#[track_caller]
fn assert_warning(rule: &str, message: &str) {
    match &*warnings_of(rule) {
        [warning] => assert!(warning.contains(message), "{rule}: {warning}"),
        warnings => panic!("{rule}: {warnings:#?}"),
    }
}
