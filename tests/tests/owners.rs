//! However a process came by a socket, it is named, and nobody else: one watch over many ports, a
//! situation on each.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use portwatch_tests::{Actor, Cgroup, Event, Host, Lab, Run, finish, skip};
use tempfile::TempDir;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const RING: &str = env!("CARGO_BIN_EXE_ring");
const PORT: u16 = 3516;

/// A connection that was served.
struct Scene {
    what: &'static str,
    client: SocketAddr,
    /// Who opened the listener, on which evidence it is the one of this connection.
    opener: (u32, &'static str),
    server: u32,
}

#[test]
fn whoever_serves_a_connection_is_its_user_however_he_came_by_it() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "--port", "3516-3519,3522"]);
    let directory = directory();

    let mut scenes = vec![
        in_a_thread(&lab, PORT),
        given(&lab, PORT + 1, "connection", &directory.path().join("connection")),
        given(&lab, PORT + 2, "listener", &directory.path().join("listener")),
        inherited_twice(&lab, PORT + 3),
    ];
    scenes.extend(on_a_shared_port(&lab, PORT + 6));
    let run = portwatch.stop();

    if !run.attached("pw_recv_length") {
        return skip("this kernel has no tracepoint sock_recv_length");
    }
    for scene in &scenes {
        assert_scene(&run, scene);
    }
    let shared = run.of("listener-opened").filter(|it| it.at("portwatch.listener.port") == 3522);
    assert_eq!(shared.count(), 2, "each socket of a shared port is a listener");
    run.assert_sound();
}

#[test]
fn whoever_serves_a_connection_through_a_ring_is_its_user_even_without_a_descriptor() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "--port", "3516-3517"]);

    let mut scenes = Vec::new();
    for (kind, port) in [("fds", PORT), ("direct", PORT + 1)] {
        let address = lab.right.v4(port).to_string();
        let probe = finish(lab.right.command(RING).args([&address, "nothing"]));
        if probe.stderr.contains("make a ring") {
            return skip(&format!("no io_uring: {}", probe.stderr.trim()));
        }
        let mut server = Actor::start(lab.right.command(RING).args([&address, kind]));
        server.answer();
        let pid = server.pid();
        let client = exchange(&lab.left, lab.right.v4(port));
        server.finish(1);
        let what = if kind == "fds" { "io_uring" } else { "io_uring, direct descriptors" };
        scenes.push(Scene { what, client, opener: (pid, "exact"), server: pid });
    }
    let run = portwatch.stop();

    if !run.attached("pw_recv_length") {
        return skip("this kernel has no tracepoint sock_recv_length");
    }
    for scene in &scenes {
        assert_scene(&run, scene);
    }
    run.assert_sound();
}

#[test]
fn whoever_sends_without_a_copy_is_a_user_and_whoever_only_receives_so_is_not_taken_for_one() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "--port", "3516-3518"]);
    let [sends, echoes, swallows] = [0, 1, 2].map(|offset| lab.right.v4(PORT + offset));
    let connect = |address: SocketAddr| format!("connect tcp {address}");

    // As a web server does with a file.
    let mut sender = listener(&lab.right, sends, &[&format!("send-file {ACTOR}")]);
    let sent = lab.left.perform(&[&connect(sends), "drain"]).address();
    sender.answer();
    // As a proxy does.
    let mut proxy = listener(&lab.right, echoes, &["splice-back"]);
    let echoed = exchange(&lab.left, echoes);
    proxy.answer();
    let mut hoarder = listener(&lab.right, swallows, &["swallow"]);
    let swallowed = lab.left.perform(&[&connect(swallows), "send 3 1000"]);
    hoarder.answer();
    let run = portwatch.stop();

    if !run.attached("pw_send_length") {
        return skip("this kernel has no tracepoint sock_send_length");
    }
    for (client, server) in [(sent, &sender), (echoed, &proxy)] {
        let flow = run.flow_from(client);
        flow.assert_owner("destination", "user", "exact", server.pid());
        flow.assert_owner("destination", "opener", "exact", server.pid());
    }
    let flow = run.flow_from(swallowed.address());
    let users =
        flow.owners().into_iter().filter(|it| it.side == "destination" && it.role == "user");
    assert_eq!(users.count(), 0, "{flow}");
    flow.assert_owner("destination", "releaser", "exact", hoarder.pid());
    flow.assert_owner("destination", "opener", "exact", hoarder.pid());
    run.assert_sound();
}

#[test]
fn a_process_that_becomes_another_program_after_it_has_bound_is_named_as_what_it_is_now() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let directory = directory();
    let other = directory.path().join("other");
    fs::copy(ACTOR, &other).expect("copy a program");
    let other = other.display().to_string();
    let portwatch = host.portwatch(&["watch"]);
    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();
    let pid = server.pid();
    let opened = portwatch
        .expect("the listener", |event| event.is_listener("listener-opened", PORT, host.netns()));

    server.tell(&format!("become {other}"));
    let updated = portwatch.expect("what it is now", |event| {
        event.is_listener("listener-updated", PORT, host.netns())
            && event.text("process.executable") == other
    });
    let client = exchange(&host, host.v4(PORT));
    let run = portwatch.stop();

    assert_eq!(opened.text("process.executable"), ACTOR);
    let former = updated.owner("opener", pid);
    assert_eq!((&former["executable"], &former["replaced"]), (&ACTOR.into(), &true.into()));
    let now = updated.owner("holder", pid);
    assert_eq!((&now["executable"], &now["replaced"]), (&other.into(), &false.into()));
    let flow = run.flow_from(client);
    assert_eq!(flow.number("process.pid"), u64::from(pid));
    if run.attached("pw_recv_length") {
        let executable = directory.path().join("other").display().to_string();
        assert_eq!(flow.text("process.executable"), executable);
    }
    run.assert_sound();
}

#[test]
fn of_a_socket_that_was_passed_on_the_socket_unit_is_known() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let slice = "pwt-activation.slice";
    let Some(socket) = Cgroup::make(slice, "pwt-cards.socket") else { return };
    let Some(service) = Cgroup::make(slice, "pwt-cards.service") else { return };
    let directory = directory();
    let path = directory.path().join("sockets").display().to_string();
    let portwatch = host.portwatch(&["watch"]);
    let listen = format!("listen tcp {}", host.v4(PORT));
    let mut manager = in_cgroup(&socket, &host, &[&listen, "stay"]);
    manager.answer();
    let manager_pid = manager.pid();
    let opened = portwatch
        .expect("the listener", |event| event.is_listener("listener-opened", PORT, host.netns()));

    let mut server = in_cgroup(&service, &host, &[&format!("open-exchange {path}"), "stay"]);
    server.answer();
    server.tell("serve-given");
    manager.ask(&format!("give listener {path}"));
    manager.leave();
    let scan = finish(host.command(portwatch_tests::program()).args(["scan", "--format", "json"]));
    let client = exchange(&host, host.v4(PORT));
    server.answer();
    let run = portwatch.stop();

    assert_eq!(opened.text("portwatch.listener.unit"), "pwt-cards.socket");
    assert_eq!(opened.owner("opener", manager_pid)["unit"], "pwt-cards.socket");
    let events: Vec<Event> = scan.stdout.lines().map(Event::parse).collect();
    let found = events.iter().find(|it| it.is_listener("listener-found", PORT, host.netns()));
    let found = found.expect("the listener");
    assert_eq!(found.text("portwatch.listener.unit"), "pwt-cards.socket");
    assert_eq!(found.owner("holder", server.pid())["unit"], "pwt-cards.service");
    let flow = run.flow_from(client);
    if run.attached("pw_recv_length") {
        flow.assert_owner("destination", "user", "exact", server.pid());
        assert_eq!(flow.owner("user", server.pid())["unit"], "pwt-cards.service");
    }
    run.assert_sound();
}

#[test]
fn what_no_process_has_is_told_from_what_is_not_accepted_yet() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let [waiting, orphaned, over] = [0, 1, 2].map(|offset| lab.right.v4(PORT + offset));
    let listeners = [waiting, orphaned].map(|address| listener(&lab.right, address, &[]));
    let connect = |address: SocketAddr| format!("connect tcp {address}");
    let mut client = lab.left.actor(&[&connect(waiting), "stay"]);
    client.answer();
    let gone = lab.left.perform(&[&connect(orphaned), "fill"]);
    let mut server = listener(&lab.right, over, &["serve 1"]);
    let done = exchange(&lab.left, over);
    server.answer();

    let scan = lab.right.finish_portwatch(&["scan", "--format", "json", "-p", "3516-3518"]);

    let events: Vec<Event> = scan.stdout.lines().map(Event::parse).collect();
    let to = |address: SocketAddr| {
        let is_it = |event: &&Event| {
            event.is("flow-updated") && event.endpoint("destination") == Some(address)
        };
        events.iter().find(is_it).expect("a connection")
    };
    to(waiting).assert_owner("source", "holder", "observed", client.pid());
    to(waiting).assert_owner("destination", "holder", "inferred", listeners[0].pid());
    let reason = to(waiting).text("portwatch.ownership_reason");
    assert!(reason.contains("not accepted yet"), "{reason}");
    let orphan = to(orphaned);
    assert_eq!(orphan.endpoint("source"), Some(gone.address()));
    assert!(orphan.owners().iter().all(|owner| owner.side == "destination"), "{orphan}");
    let reason = orphan.text("portwatch.ownership_reason");
    assert!(reason.contains("its process has closed it"), "{reason}");
    let over = to(over);
    assert_eq!(over.endpoint("source"), Some(done));
    assert_eq!(over.text("portwatch.flow.state"), "TIME-WAIT");
    assert_eq!(over.text("portwatch.ownership"), "none");
    assert!(over.owners().is_empty(), "{over}");
    for mut listener in listeners {
        listener.ask("close");
    }
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = listener(&host, host.v4(PORT), &[]);
    let portwatch = host.portwatch(&["watch"]);
    let connect = format!("connect tcp {}", host.v4(PORT));
    let start_of = |client: SocketAddr| {
        portwatch.expect("the flow", move |event| event.is_flow("flow-started", client))
    };

    // Known while it was there, then gone.
    let mut first = host.actor(&[&connect, "stay"]);
    let address = address_in(&first.answer());
    let started = start_of(address);
    let pid = first.pid();
    first.leave();
    // Gone before portwatch has looked: its successor is there by then.
    portwatch.pause();
    let Some(second) = with_pid(&host, pid, &["name brief", &connect]) else { return };
    let second = second.finish(2).address();
    let Some(mut third) = with_pid(&host, pid, &["name other", &connect, "stay"]) else { return };
    third.answer();
    let third_address = address_in(&third.answer());
    portwatch.resume();
    let of_third = start_of(third_address);
    drop(third);
    let run = portwatch.stop();
    server.ask("close");

    let entity = |event: &Event| event.owner("opener", pid)["entity_id"].clone();
    assert!(entity(&started).is_string() && entity(&of_third).is_string());
    assert_ne!(entity(&started), entity(&of_third));
    let of_second = run.flow_from(second).owner("opener", pid);
    assert_eq!((&of_second["exited"], of_second.get("entity_id")), (&true.into(), None));
    assert!(of_second.get("args").is_none(), "{of_second}");
    run.assert_sound();
}

/// A thread of the server serves it, while another waits for another connection.
fn in_a_thread(lab: &Lab, port: u16) -> Scene {
    let address = lab.right.v4(port);
    let mut server = listener(&lab.right, address, &["serve-in-threads 2"]);
    let mut other = lab.left.actor(&[&format!("connect tcp {address}"), "stay"]);
    other.answer();
    let client = exchange(&lab.left, address);
    other.ask("exchange 10");
    server.answer();
    let pid = server.pid();
    Scene { what: "a thread", client, opener: (pid, "exact"), server: pid }
}

/// Another process is given the connection, or the listener, over a Unix socket.
fn given(lab: &Lab, port: u16, what: &'static str, path: &Path) -> Scene {
    let address = lab.right.v4(port);
    let mut opener = listener(&lab.right, address, &[]);
    let mut server = lab.right.actor(&[&format!("open-exchange {}", path.display()), "stay"]);
    server.answer();
    server.tell("serve-given");
    opener.tell(&format!("give {what} {}", path.display()));
    let client = exchange(&lab.left, address);
    opener.answer();
    server.answer();
    Scene { what, client, opener: (opener.pid(), "exact"), server: server.pid() }
}

/// Both the process that listened and the child that it left the listener to are gone.
fn inherited_twice(lab: &Lab, port: u16) -> Scene {
    let address = lab.right.v4(port);
    let listen = format!("listen tcp {address}");
    let mut opener = lab.right.actor(&[&listen, "bequeath twice"]);
    let pid = opener.pid();
    // The last answer comes from the child.
    let answers = [opener.answer(), opener.answer(), opener.answer()];
    let heir = answers.iter().find_map(|answer| answer.strip_prefix("heir ")?.parse().ok());
    opener.leave();
    let client = exchange(&lab.left, address);
    let server = heir.expect("the pid of the heir");
    Scene { what: "an heir of an heir", client, opener: (pid, "exact"), server }
}

/// Two processes listen on one port; the kernel leaves connections to either.
fn on_a_shared_port(lab: &Lab, port: u16) -> Vec<Scene> {
    let address = lab.right.v4(port);
    let mut servers = [0, 1].map(|_| {
        let mut server = lab.right.actor(&[&format!("listen shared tcp {address}"), "stay"]);
        server.answer();
        server
    });
    let connect = format!("connect tcp {address}");
    let mut clients: Vec<Actor> =
        (0..6).map(|_| lab.left.actor(&[&connect, "exchange 1000"])).collect();
    for client in &mut clients {
        client.answer();
    }
    let mut scenes = Vec::new();
    for server in &mut servers {
        let served = server.ask("serve-waiting");
        let peers = served.split(' ').filter_map(|word| word.parse().ok());
        let pid = server.pid();
        let scene = |client| Scene {
            what: "a shared port",
            client,
            opener: (pid, "inferred"),
            server: pid,
        };
        scenes.extend(peers.map(scene));
    }
    for client in clients {
        client.finish(1);
    }
    assert_eq!(scenes.len(), 6, "each connection was served");
    scenes
}

/// The server is the user and the one to name, the opener is known, and nobody else has to do with it.
fn assert_scene(run: &Run, scene: &Scene) {
    let Scene { what, client, opener: (opener, evidence), server } = *scene;
    let flow = run.flow_from(client);
    flow.assert_owner("destination", "user", "exact", server);
    flow.assert_owner("destination", "opener", evidence, opener);
    assert_eq!(flow.number("process.pid"), u64::from(server), "{what}");
    let owners = flow.owners();
    let of_server = owners.iter().filter(|owner| owner.side == "destination");
    let pids: BTreeSet<u32> = of_server.map(|owner| owner.pid).collect();
    assert_eq!(pids, BTreeSet::from([opener, server]), "{what}: {owners:?}");
}

/// Listens there and does what is told besides.
fn listener(host: &Host, address: SocketAddr, steps: &[&str]) -> Actor {
    let mut server = host.actor(&[&format!("listen tcp {address}"), "stay"]);
    server.answer();
    for step in steps {
        server.tell(step);
    }
    server
}

/// A connection whose client is gone afterwards: its address.
fn exchange(from: &Host, to: SocketAddr) -> SocketAddr {
    from.perform(&[&format!("connect tcp {to}"), "exchange 1000"]).address()
}

fn in_cgroup(cgroup: &Cgroup, host: &Host, steps: &[&str]) -> Actor {
    let mut command = cgroup.command();
    command.args(["ip", "netns", "exec", host.name(), ACTOR]).args(steps);
    Actor::start(&mut command)
}

/// An actor that has this pid, which is free; `None`, noted as skipped, where the kernel refuses.
fn with_pid(host: &Host, pid: u32, steps: &[&str]) -> Option<Actor> {
    let mut command = Command::new("perl");
    command.args(["-e", WITH_PID, &pid.to_string(), "ip", "netns", "exec", host.name(), ACTOR]);
    let mut actor = Actor::start(command.args(steps));
    if let Some(why) = actor.answer().strip_prefix("refused: ") {
        skip(&format!("no process can be given a pid: {why}"));
        return None;
    }
    Some(actor)
}

/// `clone3(2)` with the pid to give. Start times are told in hundredths of a second, so it waits for some
/// before: two processes within one tick cannot be told apart.
const WITH_PID: &str = r#"
    $| = 1;
    my ($pid, @command) = @ARGV;
    select(undef, undef, undef, 0.05);
    my $wanted = pack("L", $pid);
    my $address = unpack("Q", pack("P", $wanted));
    my $arguments = pack("Q11", 0, 0, 0, 0, 17, 0, 0, 0, $address, 1, 0);
    my $child = syscall(435, $arguments, 88);
    if ($child < 0) { print "refused: $!\n"; exit }
    if ($child == 0) { print "cloned\n"; exec @command; die }
    waitpid($child, 0);
    exit($? >> 8);
"#;

fn address_in(answer: &str) -> SocketAddr {
    let address = answer.rsplit(' ').next().and_then(|word| word.parse().ok());
    address.expect("an address in an answer")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("make a directory")
}
