//! Ports of containers that a process passes on: what `docker-proxy` says in its arguments is believed once it is
//! connected to there, and not before.

#![cfg(test)]

use std::fs;

use portwatch_tests::{Actor, Event, Lab, Portwatch};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
const INSIDE: u16 = 8080;

#[test]
fn a_docker_proxy_that_passes_on_what_comes_is_told_with_where_to() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let mut inside = lab.left.actor(&[&format!("listen tcp {}", lab.left.v4(INSIDE)), "stay"]);
    inside.answer();
    let directory = tempfile::tempdir().expect("make a directory");
    let portwatch = lab.right.portwatch(&["watch"]);
    let mut proxy = proxy(&lab, &directory);
    let before = expect_line(&portwatch, "its arguments say that it serves 10.35.16.1:8080");

    inside.tell("serve 1");
    proxy.tell(&format!("relay {}", lab.left.v4(INSIDE)));
    let mut client = lab.right.actor(&[&format!("connect tcp {}", lab.right.v4(PORT)), "stay"]);
    client.answer();
    let line = "it passes on what comes to 10.35.16.1:8080, as its arguments say and a connection";
    let confirmed = expect_line(&portwatch, line);
    client.ask("exchange 1000");
    inside.answer();
    proxy.answer();
    portwatch.stop().assert_sound();

    let unconfirmed = "no connection of it to there was seen";
    assert!(has_line(&before, unconfirmed), "{before}");
    assert!(!has_line(&confirmed, unconfirmed), "{confirmed}");
    assert_eq!(confirmed.text("portwatch.finding.id"), before.text("portwatch.finding.id"));
}

#[test]
fn a_docker_proxy_that_is_not_connected_to_where_it_says_is_not_believed() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    let portwatch = lab.right.portwatch(&["watch"]);
    let mut proxy = proxy(&lab, &directory);

    proxy.tell("serve 1");
    let mut client = lab.right.actor(&[&format!("connect tcp {}", lab.right.v4(PORT)), "stay"]);
    client.answer();
    let source = client.ask("exchange 1000");
    assert_eq!(source, "exchanged 1000");
    proxy.answer();
    let run = portwatch.stop();

    let findings: Vec<&Event> = run
        .of("finding")
        .filter(|it| it.text("portwatch.finding.kind") == "unknown-listener")
        .collect();
    assert!(!findings.is_empty());
    for finding in findings {
        assert!(has_line(finding, "no connection of it to there was seen"), "{finding}");
        assert!(!has_line(finding, "it passes on"), "{finding}");
    }
    run.assert_sound();
}

/// A process that calls itself `docker-proxy`, says that it serves a port of a container, and listens.
fn proxy(lab: &Lab, directory: &tempfile::TempDir) -> Actor {
    let program = directory.path().join("docker-proxy");
    fs::copy(ACTOR, &program).expect("copy a program");
    let inside = lab.left.v4(INSIDE);
    let (ip, port) = (inside.ip().to_string(), inside.port().to_string());
    let mut command = lab.right.command(&program);
    command.args(["-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", &PORT.to_string()]);
    command.args(["-container-ip", &ip, "-container-port", &port]);
    let mut proxy = Actor::start(command.args([&format!("listen tcp 0.0.0.0:{PORT}"), "stay"]));
    proxy.answer();
    proxy
}

fn expect_line(portwatch: &Portwatch, what: &'static str) -> Event {
    portwatch.expect("a finding about the listener", move |event| {
        event.is("finding") && has_line(event, what)
    })
}

fn has_line(finding: &Event, what: &str) -> bool {
    let evidence = finding.list("portwatch.finding.evidence");
    evidence.iter().any(|line| line.as_str().is_some_and(|line| line.contains(what)))
}
