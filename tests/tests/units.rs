//! Units of a systemd that is the first process: what it opens, accepts and starts has their names.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use portwatch_tests::{Actor, Event, Portwatch, Run, Units, finish, program, property};
use serde_json::Value;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// The port of a service that systemd starts when somebody connects.
const ACTIVATED: u16 = 3516;
/// Whose connections systemd accepts, each for an instance of a service.
const ACCEPTED: u16 = 3517;
/// Which a service opens that has a slice of its own.
const OPENED: u16 = 3518;
const PORTS: &str = "3516-3518";

/// Names in which systemd escapes what others would be separators; the slice is inside `cards.slice`.
const READER: &str = r"card\x2dreader.service";
const SLICE: &str = r"cards-inner\x2dones.slice";
/// What the test itself is run by.
const TESTS: &str = "tests.service";

/// One watch over all three, since it takes longer to start in a guest than everything that follows.
#[test]
fn what_systemd_opens_accepts_and_starts_has_its_unit_and_who_serves_it() {
    let Some(units) = Units::make(&units()) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    let policy = directory.path().join("policy.toml");
    fs::write(&policy, rules()).expect("write a policy");
    let policy = policy.display().to_string();
    let args = ["watch", "--port", PORTS, "--policy", &policy];
    let portwatch = Portwatch::start(Command::new(program()), &args);

    for unit in ["cards.socket", "line.socket", READER] {
        units.start(unit);
    }
    for (port, unit) in [(ACTIVATED, "cards.socket"), (ACCEPTED, "line.socket")] {
        assert_waits_for_clients(&portwatch, port, unit);
    }
    let mut clients = [ACTIVATED, ACCEPTED, OPENED].map(Client::served_on);
    let scan = scan();
    let service = main_pid("cards.service");
    let instance = ["Id", "Slice"].map(|name| property("line@*.service", name));
    let (handler, reader) = (main_pid("line@*.service"), main_pid(READER));
    let names = [READER, SLICE].map(|unit| property(unit, "Id"));
    clients.iter_mut().for_each(Client::leave);
    let run = portwatch.stop();

    let [of_service, of_instance, of_reader] = clients.map(|client| client.address);
    assert_activated(&run, &scan, of_service, service);
    assert_accepted(&run, &scan, (of_instance, handler), &instance);
    assert_opened(&run, &scan, of_reader, reader);
    assert_eq!(names, [READER, SLICE], "what systemd calls them");
    assert_all_expected(&run);
    run.assert_sound();
}

/// What a slow machine tells of a listener before it knows everything is so no more in the end.
fn assert_all_expected(run: &Run) {
    let about_listeners = run.of("finding").filter(|it| !it.at("portwatch.listener").is_null());
    let states = about_listeners
        .map(|it| (it.text("portwatch.finding.id"), it.text("portwatch.finding.state")));
    let last: BTreeMap<&str, &str> = states.collect();
    assert!(last.values().all(|state| *state == "closed"), "{last:?}");
}

/// systemd holds what a process of the `.socket` unit has opened that is gone.
fn assert_waits_for_clients(portwatch: &Portwatch, port: u16, unit: &str) {
    let opened =
        portwatch.expect("a listener", |event| event.is_listener("listener-opened", port, netns()));
    assert_eq!(opened.text("portwatch.listener.unit"), unit);
    let owners = opened.owners();
    let opener = owners.iter().find(|owner| owner.role == "opener").expect("an opener");
    assert_eq!(opener.evidence, "exact");
    assert_place(opened.owner("opener", opener.pid), unit, "system.slice");
    // At once, or when the opener is seen to be gone and systemd was looked at.
    let held = portwatch.expect("that systemd waits there, as expected", |event| {
        event.at("portwatch.listener.port") == port
            && event.at("process.pid") == 1
            && event.text("portwatch.verdict") == "expected"
            && event.owner("opener", opener.pid)["exited"] == true
    });
    assert_eq!(held.text("portwatch.listener.unit"), unit);
    let holder = held.owner("holder", 1);
    assert_eq!((&holder["executable"], &holder["unit"]), (&SYSTEMD.into(), &"init.scope".into()));
}

/// Once somebody has connected, the service holds the socket too, and is the one to name.
fn assert_activated(run: &Run, scan: &[Event], client: SocketAddr, service: u32) {
    let found = found(scan, ACTIVATED);
    assert_eq!(found.text("portwatch.listener.unit"), "cards.socket");
    assert_eq!(found.number("process.pid"), u64::from(service), "{found}");
    assert_place(found.owner("holder", service), "cards.service", "system.slice");
    assert_eq!(found.owner("holder", 1)["unit"], "init.scope");
    let flow = run.flow_from(client);
    assert_served(run, flow, service, ["cards.service", "system.slice"]);
    assert_place(opener_of(flow), "cards.socket", "system.slice");
    let caller = flow.owners().into_iter().find(|it| (it.side, it.role) == ("source", "opener"));
    let caller = caller.expect("who called").pid;
    assert_place(flow.owner("opener", caller), TESTS, "system.slice");
}

/// systemd accepts, and keeps the connection as long as its instance runs, which is the one to name.
fn assert_accepted(
    run: &Run,
    scan: &[Event],
    (client, handler): (SocketAddr, u32),
    [instance, slice]: &[String; 2],
) {
    let found = found(scan, ACCEPTED);
    assert_eq!(found.text("portwatch.listener.unit"), "line.socket");
    assert_eq!(found.number("process.pid"), 1, "the instance has no part in it: {found}");
    let is_it = |it: &&Event| it.is("flow-updated") && it.endpoint("source") == Some(client);
    let connection = scan.iter().find(is_it).expect("the connection");
    assert_eq!(connection.number("process.pid"), u64::from(handler), "{connection}");
    assert_place(connection.owner("holder", handler), instance, slice);
    assert!(instance.starts_with("line@0-127.0.0.1:3517-"), "{instance}");
    let flow = run.flow_from(client);
    assert_served(run, flow, handler, [instance, slice]);
    assert_place(opener_of(flow), "line.socket", "system.slice");
}

/// The worker of a service has the unit and the slice of its parent.
fn assert_opened(run: &Run, scan: &[Event], client: SocketAddr, reader: u32) {
    let found = found(scan, OPENED);
    assert_eq!(found.text("portwatch.listener.unit"), READER);
    assert_eq!(found.number("process.pid"), u64::from(reader));
    let flow = run.flow_from(client);
    assert_place(opener_of(flow), READER, SLICE);
    assert_eq!(opener_of(flow)["pid"], reader);
    let cgroup = format!("/cards.slice/{SLICE}/{READER}");
    assert_eq!(opener_of(flow)["cgroup"], cgroup);
    if is_whole(run) {
        let worker = flow.at("process.pid");
        assert_ne!(worker, reader);
        let worker = worker.as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
        assert_served(run, flow, worker, [READER, SLICE]);
        assert_eq!(flow.owner("user", worker)["ancestors"][0]["pid"], reader);
    }
}

/// This process, which has this unit and slice, has served the connection.
fn assert_served(run: &Run, flow: &Event, pid: u32, [unit, slice]: [&str; 2]) {
    if is_whole(run) {
        flow.assert_owner("destination", "user", "exact", pid);
        assert_place(flow.owner("user", pid), unit, slice);
        assert_eq!(flow.number("process.pid"), u64::from(pid));
    }
}

#[track_caller]
fn assert_place(owner: &Value, unit: &str, slice: &str) {
    assert_eq!((&owner["unit"], &owner["slice"]), (&unit.into(), &slice.into()), "{owner}");
}

/// Does the kernel tell who reads and writes? Before Linux 6.3 it does not.
fn is_whole(run: &Run) -> bool {
    run.attached("pw_recv_length")
}

/// Who has opened the socket that the server of a flow listens on.
fn opener_of(flow: &Event) -> &Value {
    let owners = flow.list("portwatch.owners").iter();
    let mut openers = owners.filter(|it| it["side"] == "destination" && it["role"] == "opener");
    openers.next().unwrap_or_else(|| panic!("no opener: {flow}"))
}

/// The units, with their texts.
fn units() -> [(&'static str, String); 5] {
    let socket = |port, more| format!("[Socket]\nListenStream={}\n{more}", address(port));
    // The socket is its standard input.
    let service = |part| format!("[Service]\nExecStart=\"{ACTOR}\" {part}\nStandardInput=socket\n");
    let steps = format!("'listen tcp {}' hand-over join", address(OPENED));
    [
        ("cards.socket", socket(ACTIVATED, "")),
        ("cards.service", service("heir")),
        ("line.socket", socket(ACCEPTED, "Accept=yes\n")),
        ("line@.service", service("worker")),
        (READER, format!("[Service]\nSlice={SLICE}\nExecStart=\"{ACTOR}\" {steps}\n")),
    ]
}

/// What may listen, in the words of a policy.
fn rules() -> String {
    format!(
        "version = 1\n\
         [[listener]]\nid = 'sockets'\nport = [{ACTIVATED}, {ACCEPTED}]\nexe = ['{SYSTEMD}', '{ACTOR}']\n\
         [[listener]]\nid = 'reader'\nport = {OPENED}\nunit = '{READER}'\n"
    )
}

/// A client that was served and stays connected.
struct Client {
    actor: Option<Actor>,
    address: SocketAddr,
}

impl Client {
    fn served_on(port: u16) -> Self {
        let connect = format!("connect tcp {}", address(port));
        let mut actor = Actor::start(Command::new(ACTOR).args([&connect, "stay"]));
        let connected = actor.answer();
        let address = connected.rsplit(' ').next().and_then(|word| word.parse().ok());
        assert_eq!(actor.ask("roundtrips 3 100"), "exchanged 3");
        Self { actor: Some(actor), address: address.expect("an address") }
    }

    fn leave(&mut self) {
        self.actor.take().into_iter().for_each(Actor::leave);
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn main_pid(unit: &str) -> u32 {
    property(unit, "MainPID").parse().expect("a pid")
}

fn netns() -> u64 {
    fs::metadata("/proc/self/ns/net").expect("look at a network namespace").ino()
}

fn scan() -> Vec<Event> {
    let args = ["scan", "--port", PORTS, "--no-policy", "--format", "json"];
    let scan = finish(Command::new(program()).args(args));
    scan.stdout.lines().map(Event::parse).collect()
}

fn found(scan: &[Event], port: u16) -> &Event {
    let found = scan.iter().find(|it| it.is_listener("listener-found", port, netns()));
    found.unwrap_or_else(|| panic!("no listener on {port}"))
}
