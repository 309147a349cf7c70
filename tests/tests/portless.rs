//! Who sees the port without being on it: packet sockets are listed with owner and filter, and whoever waits
//! for certain packets is found unless a package has installed it.

#![cfg(test)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use portwatch_tests::{Event, Host, Lab, finish, is_installed, skip};
use tempfile::TempDir;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

#[test]
fn a_capture_tool_of_a_package_is_listed_and_no_finding() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let Some(tcpdump) = Sniffer::start(&host, Path::new("tcpdump"), "port 3516") else { return };

    let events = scan(&host);

    if is_blind(&events) {
        return;
    }
    let socket = tcpdump.socket(&events).expect("the packet socket");
    if socket.text("package.name").is_empty() {
        return skip("no package database of this host knows tcpdump");
    }
    assert_eq!(socket.text("portwatch.portless.kind"), "packet");
    assert_eq!(socket.text("portwatch.portless.protocol"), "all");
    assert_eq!(socket.text("portwatch.portless.interface"), "lo");
    assert_eq!(socket.number("portwatch.portless.netns.inode"), host.netns());
    assert_eq!(socket.text("portwatch.portless.filter.reach"), "port");
    let first = &socket.list("portwatch.portless.filter.instructions")[0];
    assert!(first.as_str().is_some_and(|line| line.starts_with("(000) ld")), "{first}");
    assert!(tcpdump.finding(&events).is_none());
}

#[test]
fn whoever_waits_for_a_magic_packet_is_found() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let Some((_directory, program)) = magic_program() else { return };
    let Some(backdoor) = Sniffer::start(&host, &program, "udp[8:2]=0x7255") else { return };

    let events = scan(&host);

    if is_blind(&events) {
        return;
    }
    let socket = backdoor.socket(&events).expect("the packet socket");
    assert_eq!(socket.text("portwatch.portless.filter.reach"), "payload");
    assert_eq!(socket.list("portwatch.portless.filter.payload"), ["0x7255"]);
    let finding = backdoor.finding(&events).expect("a finding");
    assert_eq!(finding.text("portwatch.finding.kind"), "answer-without-socket");
    // Anybody can write to the directory of temporary files.
    assert_eq!(finding.number("event.severity"), 99);
    let line = "its filter compares the payload with 0x7255";
    assert!(finding.list("portwatch.finding.evidence").contains(&line.into()), "{finding}");
}

#[test]
fn who_cannot_see_the_port_is_not_listed() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let Some(dhcp) = Sniffer::start(&host, Path::new("tcpdump"), "udp port 67") else { return };

    assert!(dhcp.socket(&scan(&host)).is_none());
}

#[test]
fn whoever_begins_to_wait_during_a_watch_is_found_and_the_finding_closed_when_he_stops() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let Some((_directory, program)) = magic_program() else { return };
    let portwatch = host.portwatch(&["watch", "--interval", "1s"]);
    if is_blind(&[portwatch.expect("the start", |event| event.is("run-started"))]) {
        return;
    }
    let Some(backdoor) = Sniffer::start(&host, &program, "udp[8:2]=0x7255") else { return };
    let pid = backdoor.0.id();
    let is_its = move |event: &Event| {
        event.is_finding("answer-without-socket", "open")
            && event.text("message").contains(&format!("(pid {pid},"))
    };

    let finding = portwatch.expect("a finding", is_its);
    drop(backdoor);
    let id = finding.text("portwatch.finding.id").to_owned();
    portwatch.expect("that it is closed", move |event| {
        event.is_finding("answer-without-socket", "closed")
            && event.text("portwatch.finding.id") == id
    });
    let run = portwatch.stop();

    let line = "its filter compares the payload with 0x7255";
    assert!(finding.list("portwatch.finding.evidence").contains(&line.into()), "{finding}");
    let found = run.of("portless-found").filter(|it| it.at("process.pid") == pid);
    let filters: Vec<&str> = found.map(|it| it.text("portwatch.portless.filter.reach")).collect();
    // It may have been seen before it had a filter, but with one it is told once.
    assert_eq!(filters.iter().filter(|reach| **reach == "payload").count(), 1, "{filters:?}");
    run.assert_sound();
}

#[test]
fn a_port_that_can_be_bound_or_is_taken_by_who_is_known_is_no_finding() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(3516)), "stay"]);
    server.answer();

    let probed =
        host.finish_portwatch(&["scan", "-p", "3516,516", "--probe-bind", "--format", "json"]);

    let events: Vec<Event> = probed.stdout.lines().map(Event::parse).collect();
    let kinds: Vec<&str> =
        events.iter().map(|event| event.text("portwatch.finding.kind")).collect();
    assert!(!kinds.contains(&"view-mismatch"), "{kinds:?}");
    assert_eq!(probed.code, Some(1), "{}", probed.stderr);
}

/// A copy of tcpdump that no package has installed, in a directory of its own; `None`, noted as skipped,
/// without it.
fn magic_program() -> Option<(TempDir, PathBuf)> {
    if !is_installed("tcpdump") {
        return None;
    }
    let directory = tempfile::tempdir().expect("make a directory");
    let program = directory.path().join("kdmtmpflush");
    let found = finish(std::process::Command::new("sh").args(["-c", "command -v tcpdump"])).stdout;
    std::fs::copy(found.trim(), &program).expect("copy a program");
    Some((directory, program))
}

/// A process that captures, until it is dropped.
struct Sniffer(Child);

impl Sniffer {
    /// Starts to capture on loopback what a filter of tcpdump takes; `None`, noted as skipped, without it.
    fn start(host: &Host, program: &Path, filter: &str) -> Option<Self> {
        if !is_installed("tcpdump") {
            return None;
        }
        let mut command = host.command(program);
        command.args(["-i", "lo", "-Z", "root", "-U", "-w", "/dev/null", filter]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start to capture");
        let stderr = child.stderr.take().expect("take what it says");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("listening on")), "it does not listen");
        Some(Self(child))
    }

    fn socket<'a>(&self, events: &'a [Event]) -> Option<&'a Event> {
        let is_mine = |event: &&Event| event.at("process.pid") == self.0.id();
        events.iter().filter(|event| event.is("portless-found")).find(is_mine)
    }

    fn finding<'a>(&self, events: &'a [Event]) -> Option<&'a Event> {
        let pid = format!("(pid {},", self.0.id());
        events.iter().find(|event| event.is("finding") && event.text("message").contains(&pid))
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Does this kernel refuse the iterator over descriptors? Noted as skipped if so.
fn is_blind(events: &[Event]) -> bool {
    let started = events.first().expect("the first event");
    let mut degraded = started.list("portwatch.run.degraded").iter().filter_map(|it| it.as_str());
    let reason = degraded.find(|it| it.starts_with("what /proc and sock_diag say"));
    reason.inspect(|reason| skip(reason)).is_some()
}

fn scan(host: &Host) -> Vec<Event> {
    let scan = host.finish_portwatch(&["scan", "--format", "json"]);
    scan.stdout.lines().map(Event::parse).collect()
}
