//! What is expected on a host: learned, checked, explained, and read again while portwatch watches.

#![cfg(test)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use portwatch_tests::{Actor, Event, Finished, Host, Lab, Portwatch};
use serde_json::Value;
use tempfile::TempDir;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

#[test]
fn what_was_learned_is_expected_until_the_program_is_another() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let (directory, program) = program();
    let policy = directory.path().join("policy.toml").display().to_string();
    let port = own_port();
    let server = serve(&host, &program, port);

    let learned = policy_command(&host, &["learn", "-p", &port.to_string(), "-o", &policy]);
    let again = policy_command(&host, &["learn", "-p", &port.to_string(), "-o", &policy]);
    let checked = policy_command(&host, &["check", &policy]);
    let scan = ["scan", "--format", "json", "-p", &port.to_string(), "--policy", &policy];
    let expected = host.finish_portwatch(&scan);
    server.leave();
    append(&program, b"and more");
    let _other = serve(&host, &program, port);
    let changed = host.finish_portwatch(&scan);
    let explained = policy_command(
        &host,
        &["explain", "-p", &port.to_string(), "--policy", &policy, "--format", "json"],
    );

    assert_eq!(learned.code, Some(0), "{}", learned.stderr);
    assert_eq!(mode(&policy), 0o600);
    let text = fs::read_to_string(&policy).expect("read what was learned");
    for line in [format!("exe = \"{}\"", program.display()), format!("port = {port}")] {
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    }
    assert_eq!(again.code, Some(2), "it does not overwrite: {}", again.stderr);
    assert_eq!(again.stderr.lines().count(), 1, "{}", again.stderr);
    assert_eq!(
        (checked.code, expected.code, changed.code),
        (Some(0), Some(0), Some(1)),
        "{checked:?}"
    );
    let finding = finding(&changed, port);
    let differences = finding.list("portwatch.finding.differences");
    assert_eq!(differences.len(), 1, "{finding}");
    assert!(finding.text("portwatch.finding.differences.0").starts_with("sha256: rule says "));
    let differing = differing_keys(&explained);
    assert_eq!(differing, ["sha256"], "{}", explained.stdout);
}

#[test]
fn what_was_learned_by_watching_is_expected_too() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let port = own_port();
    let directory = tempfile::tempdir().expect("make a directory");
    let policy = directory.path().join("policy.toml").display().to_string();
    let ports = port.to_string();
    let mut learning = host.command(portwatch_tests::program());
    learning.args(["policy", "learn", "-p", &ports, "--for", "2s", "--clients", "-o", &policy]);

    let mut server = serve(&host, Path::new(ACTOR), port);
    let learning = std::thread::spawn(move || portwatch_tests::finish(&mut learning));
    server.tell("serve 1");
    host.perform(&[&format!("connect tcp {}", host.v4(port)), "exchange 100"]);
    server.answer();
    let learned = learning.join().expect("learn");

    assert_eq!(learned.code, Some(0), "{}", learned.stderr);
    let text = fs::read_to_string(&policy).expect("read what was learned");
    assert_eq!(text.matches("[[listener]]").count(), 1, "{text}");
    let scan = ["scan", "-p", &ports, "--policy", &policy];
    assert_eq!(host.finish_portwatch(&scan).code, Some(0), "{text}");
}

#[test]
fn a_hang_up_reads_the_policy_again_and_a_bad_one_changes_nothing() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let port = own_port();
    let (directory, policy) =
        policy(&format!("[[listener]]\nid = \"other\"\nport = {}\n", port - 1));
    let ports = port.to_string();
    let portwatch = host.portwatch(&["watch", "-p", &ports, "--policy", &policy]);
    let _server = serve(&host, Path::new(ACTOR), port);
    portwatch.expect("the finding", |event| is_finding(event, port));

    write(&policy, "[[listener]]\nid = \"it\"\nprot = 1\n");
    portwatch.hang_up();
    let refused = expect(&portwatch, "policy-refused");
    write(&policy, &format!("[[listener]]\nid = \"it\"\nport = {port}\nexe = \"{ACTOR}\"\n"));
    portwatch.hang_up();
    let reloaded = expect(&portwatch, "policy-reloaded");
    let updated = portwatch.expect("the new verdict", |event| {
        event.is_listener("listener-updated", port, host.netns())
            && event.text("portwatch.verdict") == "expected"
    });
    let run = portwatch.stop();

    let problem = format!("{policy}:5:1: unknown key `prot`; did you mean `port`?");
    assert_eq!(refused.text("error.message"), problem);
    assert_eq!(refused.text("event.outcome"), "failure");
    assert_eq!(reloaded.at("portwatch.policy.listener_rules"), 1);
    assert_eq!(updated.text("rule.id"), "it");
    assert_eq!(run.code, Some(0), "neither ended it");
    let told: Vec<_> = run.stderr.iter().filter(|line| line.contains(&policy)).collect();
    let [refusal, reload] = told[..] else { panic!("{:?}", run.stderr) };
    assert!(refusal.contains(&problem) && refusal.ends_with("stays in force"), "{refusal}");
    assert!(reload.ends_with("1 listener rule in force from now on"), "{reload}");
    let started = run.of("run-started").next().expect("find the first event");
    assert_eq!(started.text("portwatch.policy.file"), policy);
    drop(directory);
    run.assert_sound();
}

#[test]
fn who_talks_although_no_client_rule_expects_it_is_a_finding() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let port = own_port();
    let (_directory, policy) = policy(&format!(
        "[[listener]]\nid = \"it\"\nport = {port}\nexe = \"{ACTOR}\"\n\
         [[client]]\nid = \"ui\"\nremote = \"127.0.0.0/8\"\nexe = \"/usr/bin/badge-ui\"\n"
    ));
    let portwatch = host.portwatch(&["watch", "-p", &port.to_string(), "--policy", &policy]);

    let mut server = serve(&host, Path::new(ACTOR), port);
    server.tell("serve 1");
    let connect = format!("connect tcp {}", host.v4(port));
    let mut client = host.actor(&[&connect, "exchange 100", "stay"]);
    let connected = client.answer();
    client.answer();
    let finding = portwatch.expect("the finding", |event| {
        event.is("finding") && event.text("portwatch.finding.kind") == "unknown-client"
    });
    let pid = client.pid();
    client.leave();
    let run = portwatch.stop();

    let message = finding.text("message");
    let told = format!("actor (pid {pid}, user root");
    assert!(message.starts_with(&told), "{message}");
    let source = finding.endpoint("source").map(|source| source.to_string());
    assert_eq!(source.as_deref(), connected.split_whitespace().last());
    assert_eq!(finding.text("portwatch.finding.nearest_rule"), "ui");
    let difference = format!("exe: rule says /usr/bin/badge-ui, is {ACTOR}");
    assert_eq!(finding.text("portwatch.finding.differences.0"), difference);
    let opened = |it: &&Event| it.text("portwatch.finding.state") == "open";
    assert_eq!(run.of("finding").filter(opened).count(), 1);
    run.assert_sound();
}

#[test]
fn a_policy_or_directory_that_others_can_write_is_refused_by_every_command() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let (directory, policy) =
        policy("[[listener]]\nid = \"a\"\nport = 3516\nunit = \"x.service\"\n");
    for (path, mode) in [(Path::new(&policy), 0o666), (directory.path(), 0o777)] {
        let before = fs::metadata(path).expect("look at a file").permissions();
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("open it to others");
        for command in [
            &["scan", "--policy", &policy][..],
            &["policy", "check", &policy],
            &["policy", "explain", "--policy", &policy],
        ] {
            let refused =
                portwatch_tests::finish(host.command(portwatch_tests::program()).args(command));
            assert_eq!((refused.code, &*refused.stdout), (Some(2), ""), "{}", refused.stderr);
            assert!(refused.stderr.contains("can be written by others than root"), "{refused:?}");
        }
        fs::set_permissions(path, before).expect("close it again");
    }
}

#[test]
fn a_check_says_what_each_rule_matches_and_warns_with_a_place() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let port = own_port();
    let (_directory, policy) = policy(&format!(
        "[[listener]]\nid = \"stage\"\nport = {port}\nexe = \"{ACTOR}\"\nuser = \"root\"\n\n\
         [[listener]]\nid = \"idle\"\nport = {port}\nexe = \"/no/such/program\"\n"
    ));
    let server = serve(&host, Path::new(ACTOR), port);

    let text = policy_command(&host, &["check", &policy]);
    let json = policy_command(&host, &["check", &policy, "--format", "json"]);
    let bad = policy_command(&host, &["check", "/dev/null"]);

    assert_eq!(text.code, Some(1), "{}", text.stderr);
    let warning = format!("{policy}:12:7: warning: there is no file /no/such/program here");
    assert!(text.stdout.contains(&warning), "{}", text.stdout);
    let lines = documents(&json);
    let [stage, idle, summary] = &lines[..] else { panic!("{}", json.stdout) };
    assert_eq!(
        (&stage["rule"], &stage["matches"][0]["pid"]),
        (&"stage".into(), &server.pid().into())
    );
    assert_eq!((&idle["line"], &idle["warnings"][0]["line"]), (&9.into(), &12.into()));
    assert_eq!(
        (&summary["warnings"], &summary["unexpected"]),
        (&1.into(), &Value::Array(Vec::new()))
    );
    assert_eq!(bad.code, Some(2));
}

#[test]
fn an_explanation_of_nothing_says_what_there_is() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let port = own_port();
    let (_directory, policy) = policy("[[listener]]\nid = \"a\"\nuser = \"nobody\"\n");
    let server = serve(&host, Path::new(ACTOR), port);
    let ports = port.to_string();
    let explain = |subject: &str| {
        policy_command(&host, &["explain", subject, "-p", &ports, "--policy", &policy])
    };

    let of_pid = explain(&server.pid().to_string());
    let of_address = explain(&host.v4(port).to_string());
    let of_nothing = explain("1");

    for explained in [of_pid, of_address] {
        assert_eq!(explained.code, Some(0), "{}", explained.stderr);
        assert!(explained.stdout.contains("DIFFERS  rule says nobody, is root"), "{explained:?}");
    }
    assert_eq!((of_nothing.code, of_nothing.stderr.lines().count()), (Some(2), 1));
    assert!(of_nothing.stderr.contains(&format!("actor[{}]", server.pid())), "{of_nothing:?}");
}

fn expect(portwatch: &Portwatch, action: &str) -> Event {
    portwatch.expect(action, |event| event.is(action))
}

fn is_finding(event: &Event, port: u16) -> bool {
    event.is("finding") && event.at("portwatch.listener.port") == port
}

fn finding(scan: &Finished, port: u16) -> Event {
    let events = scan.stdout.lines().map(Event::parse);
    events.into_iter().find(|event| is_finding(event, port)).expect("a finding")
}

/// The keys that do not hold, of the only rule beside the only listener.
fn differing_keys(explained: &Finished) -> Vec<String> {
    let documents = documents(explained);
    let keys =
        documents.iter().flat_map(|it| it["rules"][0]["keys"].as_array().into_iter().flatten());
    let differing = keys.filter(|key| key["holds"] == false);
    differing.map(|key| key["key"].as_str().unwrap_or_default().to_owned()).collect()
}

fn documents(finished: &Finished) -> Vec<Value> {
    let document = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{finished:?}"));
    finished.stdout.lines().map(document).collect()
}

fn policy_command(host: &Host, args: &[&str]) -> Finished {
    portwatch_tests::finish(host.command(portwatch_tests::program()).arg("policy").args(args))
}

fn serve(host: &Host, program: &Path, port: u16) -> Actor {
    let mut command = host.command(program);
    let mut server =
        Actor::start(command.args([&*format!("listen tcp {}", host.v4(port)), "stay"]));
    server.answer();
    server
}

/// A program that no package has installed, in a directory that only root can write.
fn program() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("make a directory");
    let program = directory.path().join("bridge");
    fs::copy(ACTOR, &program).expect("copy a program");
    (directory, program)
}

fn append(program: &Path, more: &[u8]) {
    let mut bytes = fs::read(program).expect("read a program");
    bytes.extend_from_slice(more);
    fs::write(program, bytes).expect("modify a program");
}

fn policy(rules: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().expect("make a directory");
    let file = directory.path().join("policy.toml").display().to_string();
    write(&file, rules);
    (directory, file)
}

fn write(file: &str, rules: &str) {
    fs::write(file, format!("version = 1\n\n{rules}")).expect("write a policy");
}

fn mode(file: &str) -> u32 {
    fs::metadata(file).expect("look at a file").permissions().mode() & 0o7777
}

/// A port that nothing else on this host listens on, in any namespace: not in the ephemeral range.
fn own_port() -> u16 {
    u16::try_from(10_000 + std::process::id() % 20_000).unwrap_or(10_000)
}
