//! Findings about executables: without a file, in a place where anybody can put one, replaced by an
//! upgrade. The processes are real, and so is the package.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use portwatch_tests::{Actor, Event, Host, Lab, finish, program, skip};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
/// Of an essential package: every Debian has it.
const PERL: &str = "/usr/bin/perl";

#[test]
fn a_listener_without_a_file_is_critical_and_a_finding_of_its_own() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&["memfd", &format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();

    let events = scan(&host);

    for kind in ["unknown-listener", "deleted-executable"] {
        let finding = finding(&host, &events, kind);
        assert_eq!(finding.number("event.severity"), 99, "{finding}");
        assert!(names(finding, "indicators").contains(&"memfd-executable"), "{finding}");
        let techniques = finding.list("threat.technique.id");
        assert!(techniques.contains(&"T1620".into()), "{finding}");
        let step = format!("portwatch policy explain {}", server.pid());
        assert!(names(finding, "next_steps").contains(&&*step), "{finding}");
    }
}

#[test]
fn a_client_without_a_file_is_found_and_closed_when_its_conversation_is_over() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let address = host.v4(PORT);
    let mut server = host.actor(&[&format!("listen tcp {address}"), "serve 1", "stay"]);
    server.answer();
    let portwatch = host.portwatch(&["watch"]);

    let connect = format!("connect tcp {address}");
    let mut client = host.actor(&["memfd", &connect, "roundtrips 1 10", "stay"]);
    client.answer();
    let open = portwatch.expect("a finding about the client", |event| {
        event.is_finding("deleted-executable", "open")
    });
    let pid = client.pid();
    client.leave();
    portwatch.expect("the end of the flow", |event| {
        event.is("flow-ended") && event.endpoint("destination") == Some(address)
    });
    let run = portwatch.stop();

    assert!(open.text("message").contains(&format!("(pid {pid}")), "{open}");
    assert_eq!(open.number("event.severity"), 99);
    assert_eq!(open.endpoint("destination"), Some(address));
    let closed = run.events.iter().find(|it| it.is_finding("deleted-executable", "closed"));
    assert_eq!(
        closed.expect("its end").text("portwatch.finding.id"),
        open.text("portwatch.finding.id")
    );
    run.assert_sound();
}

#[test]
fn a_program_where_anybody_can_put_files_is_told() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    let open = directory.path().join("open");
    fs::create_dir(&open).expect("make a directory");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).expect("open a directory");
    let copy = open.join("actor");
    fs::copy(ACTOR, &copy).expect("copy a program");
    let mut command = host.command(&copy);
    let listen = format!("listen tcp {}", host.v4(PORT));
    let mut server = Actor::start(command.args([&*listen, "stay"]));
    server.answer();

    let events = scan(&host);

    let finding = finding(&host, &events, "unknown-listener");
    assert!(names(finding, "indicators").contains(&"writable-executable"), "{finding}");
    assert_eq!(finding.number("event.severity"), 99);
    let writable = finding.owner("holder", server.pid())["world_writable"].clone();
    // The directory of all temporary ones may be the first of that kind.
    let writable = writable.as_str().expect("a path");
    assert!(open.starts_with(writable), "{writable}");
    assert!(finding.text("portwatch.finding.evidence.0").contains(writable), "{finding}");
}

#[test]
fn an_upgrade_without_a_restart_is_told_from_a_deletion() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    if !Path::new("/var/lib/dpkg/info/perl-base.md5sums").exists() || !Path::new(PERL).exists() {
        return skip("perl-base is not installed by dpkg");
    }
    let directory = tempfile::tempdir().expect("make a directory");
    // As dpkg does it: the new file gets another name first.
    let script = format!(
        "cd \"$0\" && mkdir up work && mount -t tmpfs none up && mkdir up/up up/work || exit 77
         mount -t overlay none -o lowerdir=/usr/bin,upperdir=up/up,workdir=up/work /usr/bin || exit 77
         mkfifo ready
         {PERL} -e 'use IO::Socket::INET; $s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1\", \
         LocalPort => {PORT}, Listen => 1) or die $!; $| = 1; print \"listens\\n\"; sleep' > ready &
         read line < ready
         cp {PERL} {PERL}.dpkg-new && mv {PERL}.dpkg-new {PERL}
         \"$1\" scan --format json
         code=$?
         kill $!
         exit $code"
    );
    let mut command = host.command("unshare");
    command.args(["--mount", "sh", "-c", &script]).arg(directory.path()).arg(program());
    let scan = finish(&mut command);
    if scan.code == Some(77) {
        return skip(&format!("no overlay can be mounted: {}", scan.stderr.trim()));
    }

    let events: Vec<Event> = scan.stdout.lines().map(Event::parse).collect();
    let finding = finding(&host, &events, "deleted-executable");
    assert_eq!(finding.number("event.severity"), 21, "{finding}");
    assert!(names(finding, "indicators").contains(&"replaced-executable"), "{finding}");
    assert!(finding.at("threat").is_null(), "{finding}");
    let message = finding.text("message");
    assert!(message.contains("replaced since by the one of package perl-base"), "{message}");
}

fn scan(host: &Host) -> Vec<Event> {
    let finished = host.finish_portwatch(&["scan", "--format", "json"]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    finished.stdout.lines().map(Event::parse).collect()
}

fn finding<'a>(host: &Host, events: &'a [Event], kind: &str) -> &'a Event {
    let is_it = |event: &&Event| {
        event.is_finding(kind, "open") && event.is_listener("finding", PORT, host.netns())
    };
    events.iter().find(is_it).unwrap_or_else(|| panic!("no finding of kind {kind}: {events:?}"))
}

/// The texts of a list of a finding.
fn names<'a>(finding: &'a Event, list: &str) -> Vec<&'a str> {
    let texts = finding.list(&format!("portwatch.finding.{list}"));
    texts.iter().filter_map(serde_json::Value::as_str).collect()
}
