//! Listeners are found, opened and closed, in every namespace, and judged by the policy.

#![cfg(test)]

use std::fs;
use std::path::Path;

use portwatch_tests::{Event, Finished, Host, Lab, Run};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn a_listener_older_than_portwatch_is_found_and_flagged() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();

    let portwatch = host.portwatch(&["watch"]);
    let found = expect_listener(&portwatch, "listener-found", PORT, &host);
    let finding = expect_listener(&portwatch, "finding", PORT, &host);
    let run = portwatch.stop();

    assert_unknown_listener(&found, &finding, server.pid());
    found.assert_owner("", "holder", "observed", server.pid());
    assert_eq!(found.text("portwatch.listener.transport"), "tcp");
    assert_eq!(found.text("portwatch.listener.ip"), "127.0.0.1");
    assert_eq!(run.code, Some(0));
    run.assert_sound();
}

#[test]
fn a_listener_inside_another_namespace_is_found_and_flagged() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let mut server = lab.left.actor(&[&format!("listen tcp [::]:{PORT}"), "stay"]);
    server.answer();

    let portwatch = lab.right.portwatch(&["watch"]);
    let found = expect_listener(&portwatch, "listener-found", PORT, &lab.left);
    let finding = expect_listener(&portwatch, "finding", PORT, &lab.left);
    portwatch.stop().assert_sound();

    assert_unknown_listener(&found, &finding, server.pid());
    assert_eq!(found.text("portwatch.listener.netns.name"), lab.left.name());
    assert_eq!(found.text("portwatch.listener.family"), "ipv6");
}

#[test]
fn scan_finds_listeners_in_every_namespace() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let bind = format!("bind udp 0.0.0.0:{PORT}");
    let servers = [&lab.left, &lab.right].map(|host| {
        let mut server = host.actor(&[&bind, "stay"]);
        server.answer();
        server
    });

    let scan = lab.right.finish_portwatch(&["scan", "--format", "json"]);

    let events = events_of(&scan);
    for (host, server) in [&lab.left, &lab.right].into_iter().zip(&servers) {
        let [found, finding] = ["listener-found", "finding"].map(|action| {
            let listener = |event: &&Event| event.is_listener(action, PORT, host.netns());
            events.iter().find(listener).expect(action)
        });
        assert_unknown_listener(found, finding, server.pid());
        assert_eq!(found.text("portwatch.listener.netns.name"), host.name());
        assert_eq!(found.text("portwatch.listener.transport"), "udp");
    }
    assert_eq!(scan.code, Some(1), "{}", scan.stderr);
}

#[test]
fn scan_shows_a_connection_once_with_the_processes_at_both_ends() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let address = lab.right.v4(PORT);
    let mut server = lab.right.actor(&[&format!("listen tcp {address}"), "stay"]);
    server.answer();
    server.tell("serve 1");
    let connect = format!("connect tcp {address}");
    let mut client = lab.left.actor(&[&connect, "roundtrips 1 10", "stay"]);
    let local = client.answer().rsplit(' ').next().and_then(|it| it.parse().ok());
    client.answer();

    let scan = lab.right.finish_portwatch(&["scan", "--format", "json"]);

    let events = events_of(&scan);
    let ends = (local, Some(address));
    let is_connection =
        |event: &&Event| (event.endpoint("source"), event.endpoint("destination")) == ends;
    let flows: Vec<_> = events.iter().filter(is_connection).collect();
    let owners: Vec<_> = flows.iter().map(|flow| flow.owners()).collect();
    assert_eq!(flows.len(), 1, "with both ends on this host there is one flow: {owners:?}");
    flows[0].assert_owner("source", "holder", "observed", client.pid());
    flows[0].assert_owner("destination", "holder", "observed", server.pid());
    assert_eq!(flows[0].number("process.pid"), u64::from(server.pid()));
}

#[test]
fn a_listener_opened_and_closed_under_watch_is_reported_with_who_did_it() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);

    // In another namespace than portwatch.
    let mut server = lab.left.actor(&[&format!("listen tcp 0.0.0.0:{PORT}"), "stay"]);
    server.answer();
    let opened = expect_listener(&portwatch, "listener-opened", PORT, &lab.left);
    let finding = expect_listener(&portwatch, "finding", PORT, &lab.left);
    server.ask("close");
    let closed = expect_listener(&portwatch, "listener-closed", PORT, &lab.left);
    let run = portwatch.stop();

    assert_unknown_listener(&opened, &finding, server.pid());
    opened.assert_owner("", "opener", "exact", server.pid());
    closed.assert_owner("", "releaser", "exact", server.pid());
    assert_eq!(closed.owner("releaser", server.pid())["exited"], false);
    assert_eq!(count(&run, "listener-opened", &lab.left), 1);
    assert_eq!(count(&run, "listener-closed", &lab.left), 1);
    let told: Vec<_> = told(&run, &lab.left);
    assert_eq!(told.iter().map(|it| it.0).collect::<Vec<_>>(), ["open", "closed"]);
    assert_eq!(told[0].1, told[1].1, "one finding, of one id");
    assert_eq!(run.ended().number("portwatch.run.findings"), 1);
    assert_eq!(run.ended().number("portwatch.run.findings_open"), 0);
    run.assert_sound();
}

#[test]
fn a_service_that_restarts_keeps_its_finding() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let portwatch = host.portwatch(&["watch"]);
    let steps = [&*format!("listen tcp {}", host.v4(PORT)), "stay"];

    let mut first = host.actor(&steps);
    first.answer();
    expect_listener(&portwatch, "finding", PORT, &host);
    first.leave();
    expect_listener(&portwatch, "listener-closed", PORT, &host);
    let mut second = host.actor(&steps);
    second.answer();
    portwatch.expect("the listener again", |event| {
        event.is_listener("listener-opened", PORT, host.netns())
            && event.number("process.pid") == u64::from(second.pid())
    });
    let run = portwatch.stop();

    let told = told(&run, &host);
    assert_eq!(told.iter().map(|it| it.0).collect::<Vec<_>>(), ["open", "updated"]);
    let updated = run.events.iter().find(|it| it.is_finding("unknown-listener", "updated"));
    let updated = updated.expect("the update");
    assert_eq!(updated.number("process.pid"), u64::from(second.pid()));
    assert_eq!(updated.number("portwatch.finding.occurrences"), 2);
    assert_eq!(run.ended().number("portwatch.run.findings"), 1);
    assert_eq!(run.ended().number("portwatch.run.findings_open"), 1);
}

#[test]
fn a_bound_datagram_socket_is_a_listener_like_any_other() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let portwatch = host.portwatch(&["watch"]);

    let mut server = host.actor(&[&format!("bind udp [::1]:{PORT}"), "stay"]);
    server.answer();
    let opened = expect_listener(&portwatch, "listener-opened", PORT, &host);
    server.ask("close");
    let closed = expect_listener(&portwatch, "listener-closed", PORT, &host);
    let run = portwatch.stop();

    opened.assert_owner("", "opener", "exact", server.pid());
    closed.assert_owner("", "releaser", "exact", server.pid());
    assert_eq!(opened.text("portwatch.listener.transport"), "udp");
    assert_eq!(opened.text("portwatch.listener.ip"), "::1");
    assert_eq!(told(&run, &host).len(), 2);
    run.assert_sound();
}

#[test]
fn a_listener_whose_opener_exits_belongs_to_who_still_holds_it() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let portwatch = host.portwatch(&["watch"]);
    let address = host.v4(PORT);

    let opener = host.perform(&[&format!("listen tcp {address}"), "bequeath"]);
    let heir = opener.answers[1].rsplit(' ').next().and_then(|it| it.parse().ok());
    let heir: u32 = heir.expect("the pid of the heir");
    let updated = portwatch.expect("that the opener has exited", |event| {
        // Before it is told for the first time, if it was that quick.
        ["listener-opened", "listener-updated"]
            .iter()
            .any(|change| event.is_listener(change, PORT, host.netns()))
            && event.owner("opener", opener.pid)["exited"] == true
            && event.owners().iter().any(|owner| owner.role == "holder" && owner.pid == heir)
    });
    host.perform(&[&format!("connect tcp {address}"), "exchange 1000"]);
    let closed = expect_listener(&portwatch, "listener-closed", PORT, &host);
    portwatch.stop().assert_sound();

    updated.assert_owner("", "holder", "observed", heir);
    closed.assert_owner("", "releaser", "exact", heir);
    closed.assert_owner("", "opener", "exact", opener.pid);
}

#[test]
fn a_listener_that_the_policy_expects_is_no_finding() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let directory = policy(&format!(
        "[[listener]]\nid = \"stage\"\nreason = \"plays a part\"\nexe = \"{ACTOR}\"\nuser = \"root\"\n\
         port = {PORT}\ntransport = \"tcp\"\naddress = \"127.0.0.0/8\"\n"
    ));
    let file = policy_file(directory.path());
    let portwatch = host.portwatch(&["watch", "--fail-on-finding", "--policy", &file]);

    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();
    let opened = expect_listener(&portwatch, "listener-opened", PORT, &host);
    let run = portwatch.stop();

    assert_eq!(opened.text("portwatch.verdict"), "expected");
    assert_eq!(opened.text("rule.id"), "stage");
    assert_eq!(count(&run, "finding", &host), 0);
    run.assert_sound();
}

#[test]
fn a_listener_that_misses_a_rule_is_told_what_differs() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let directory = policy(&format!(
        "[[listener]]\nid = \"stage\"\nreason = \"plays a part\"\nexe = \"{ACTOR}\"\n\
         sha256 = \"{}\"\n",
        "0".repeat(64)
    ));
    let file = policy_file(directory.path());
    let portwatch = host.portwatch(&["watch", "--fail-on-finding", "--policy", &file]);

    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();
    let finding = expect_listener(&portwatch, "finding", PORT, &host);
    let run = portwatch.stop();

    assert_eq!(finding.text("portwatch.verdict"), "unknown");
    assert_eq!(finding.text("portwatch.finding.nearest_rule"), "stage");
    let differences = finding.list("portwatch.finding.differences");
    assert_eq!(differences.len(), 1, "{finding}");
    assert!(finding.text("portwatch.finding.differences.0").contains("sha256"), "{finding}");
    assert_eq!(run.code, Some(1));
    run.assert_sound();
}

#[test]
fn scan_succeeds_once_every_listener_is_expected() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let port = own_port();
    let directory =
        policy(&format!("[[listener]]\nid = \"stage\"\nreason = \"a part\"\nexe = \"{ACTOR}\"\n"));
    let file = policy_file(directory.path());
    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(port)), "stay"]);
    server.answer();
    let ports = port.to_string();
    let scan = ["scan", "--format", "json", "-p", &ports];

    let unjudged = host.finish_portwatch(&scan);
    let judged = host.finish_portwatch(&[&scan[..], &["--policy", &file]].concat());
    server.ask("close");
    let empty = host.finish_portwatch(&scan);

    let expected = events_of(&judged);
    let found = expected.iter().find(|it| it.is_listener("listener-found", port, host.netns()));
    assert_eq!([unjudged.code, judged.code, empty.code], [Some(1), Some(0), Some(0)]);
    assert_eq!(found.expect("the listener").text("rule.id"), "stage");
    assert!(!expected.iter().any(|event| event.is("finding")));
    assert_eq!(events_of(&empty).len(), 2, "{}", empty.stdout);
}

fn expect_listener(
    portwatch: &portwatch_tests::Portwatch,
    action: &str,
    port: u16,
    host: &Host,
) -> Event {
    let netns = host.netns();
    portwatch.expect(action, |event| event.is_listener(action, port, netns))
}

/// A listener and the finding about it agree, and the finding can be understood.
#[track_caller]
fn assert_unknown_listener(listener: &Event, finding: &Event, pid: u32) {
    assert_eq!(listener.text("portwatch.verdict"), "unknown");
    assert_eq!(listener.number("process.pid"), u64::from(pid));
    assert_eq!(finding.text("portwatch.finding.kind"), "unknown-listener");
    assert_eq!(finding.text("event.kind"), "alert");
    assert_eq!(finding.number("process.pid"), u64::from(pid));
    assert!(!finding.text("rule.id").is_empty());
    let message = finding.text("message");
    let told = ["actor", &pid.to_string(), &PORT.to_string()];
    assert!(told.iter().all(|word| message.contains(word)), "{message}");
}

/// How often something was said of the listener of a host.
fn count(run: &Run, action: &str, host: &Host) -> usize {
    let netns = host.netns();
    run.events.iter().filter(|event| event.is_listener(action, PORT, netns)).count()
}

/// State and id of what was told of findings about the listener of a host.
fn told<'a>(run: &'a Run, host: &Host) -> Vec<(&'a str, &'a str)> {
    let netns = host.netns();
    let of_listener = run.events.iter().filter(|event| event.is_listener("finding", PORT, netns));
    let told = |event: &'a Event| {
        (event.text("portwatch.finding.state"), event.text("portwatch.finding.id"))
    };
    of_listener.map(told).collect()
}

fn events_of(scan: &Finished) -> Vec<Event> {
    let events: Vec<_> = scan.stdout.lines().map(Event::parse).collect();
    assert!(events.first().is_some_and(|first| first.is("run-started")), "{scan:?}");
    assert!(events.last().is_some_and(|last| last.is("run-ended")), "{scan:?}");
    events
}

/// A directory with a policy of these rules.
fn policy(rules: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("make a directory");
    let text = format!("version = 1\n\n{rules}");
    fs::write(directory.path().join("policy.toml"), text).expect("write a policy");
    directory
}

fn policy_file(directory: &Path) -> String {
    directory.join("policy.toml").display().to_string()
}

/// A port that nothing else on this host listens on, in any namespace: not in the ephemeral range.
fn own_port() -> u16 {
    u16::try_from(10_000 + std::process::id() % 20_000).unwrap_or(10_000)
}
