//! Who hides: views of the host that disagree are findings, and a busy host is none.

#![cfg(test)]

use std::fs;
use std::process::{Command, Stdio};

use portwatch_tests::{Event, Finished, Host, Lab, Neighbour, Portwatch, finish, program, skip};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn a_listener_behind_a_mount_over_its_process_is_found_with_both_views() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();
    let pid = server.pid();

    let scan = finish(&mut covered(&host, &format!("/proc/{pid}"), &["scan", "--format", "json"]));

    let events = events_of(&scan);
    if is_blind(&events) {
        return;
    }
    let finding = hidden_owner(&events, pid).expect("a finding");
    assert_eq!(
        says(finding, "descriptors (BPF iterator)"),
        format!("pid {pid} has it as descriptor 3")
    );
    assert_eq!(
        says(finding, "/proc"),
        format!("has something else mounted over its directory {pid}")
    );
    assert_eq!(finding.number("event.severity"), 99);
    assert_eq!(finding.text("rule.id"), "PW1004");
    assert_eq!(finding.at("portwatch.listener.port"), PORT);
    assert_eq!(scan.code, Some(1), "{}", scan.stderr);
}

#[test]
fn a_process_that_no_list_of_proc_has_is_found() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();
    let pid = server.pid();
    let Some(rootkit) = Neighbour::that_hides(pid) else { return };
    let listed = fs::read_dir("/proc").expect("list /proc").map_while(Result::ok);
    let is_listed = listed.into_iter().any(|entry| *entry.file_name() == *pid.to_string());

    let scan = host.finish_portwatch(&["scan", "--format", "json"]);
    drop(rootkit);

    assert!(!is_listed, "it is not hidden");
    let events = events_of(&scan);
    if is_blind(&events) {
        return;
    }
    let finding = hidden_owner(&events, pid).expect("a finding");
    let says = says(finding, "/proc");
    assert_eq!(says, format!("does not list {pid}, although its directory opens"));
    assert_eq!(finding.number("event.severity"), 99);
}

#[test]
fn a_watch_finds_a_table_of_descriptors_that_is_covered() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();
    let pid = server.pid();

    let portwatch = Portwatch::start(covered(&host, &format!("/proc/{pid}/fd"), &[]), &["watch"]);
    if is_blind(&[portwatch.expect("the start", |event| event.is("run-started"))]) {
        return;
    }
    let finding = portwatch.expect("a finding", |event| hides(event, pid));
    portwatch.stop().assert_sound();

    assert_eq!(says(&finding, "/proc"), format!("has something else mounted over {pid}/fd"));
}

#[test]
fn a_watch_finds_who_hides_while_it_watches() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let portwatch = host.portwatch(&["watch"]);
    if is_blind(&[portwatch.expect("the start", |event| event.is("run-started"))]) {
        return;
    }
    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();
    let pid = server.pid();
    let opened = portwatch
        .expect("the listener", |event| event.is_listener("listener-opened", PORT, host.netns()));
    assert_eq!(opened.number("process.pid"), u64::from(pid));

    let mounts = format!("--mount=/proc/{}/ns/mnt", portwatch.pid());
    let mount = ["mount", "-t", "tmpfs", "none", &format!("/proc/{pid}")];
    let mounted = finish(Command::new("nsenter").arg(mounts).args(mount));
    assert_eq!(mounted.code, Some(0), "{}", mounted.stderr);
    let finding = portwatch.expect("a finding", |event| hides(event, pid));
    let run = portwatch.stop();

    assert!(says(&finding, "/proc").contains("mounted over"), "{finding}");
    // Known from before, and not said to have exited.
    assert_eq!(finding.number("process.pid"), u64::from(pid));
    assert_eq!(finding.owner("opener", pid)["exited"], false);
    run.assert_sound();
}

#[test]
fn a_listener_that_nobody_has_a_descriptor_of_is_found() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let listen = format!("listen tcp {}", host.v4(PORT));
    let mut server = host.actor(&[&listen, "cast-adrift", "stay"]);
    server.answer();
    server.answer();

    let scan = host.finish_portwatch(&["scan", "--format", "json"]);

    let events = events_of(&scan);
    if is_blind(&events) {
        return;
    }
    let of_kind = |event: &&Event| event.text("portwatch.finding.kind") == "hidden-owner";
    let finding = events.iter().find(of_kind).expect("a finding");
    let message = finding.text("message");
    assert!(message.ends_with("is there, and no process holds it."), "{message}");
    assert_eq!(says(finding, "descriptors (BPF iterator)"), "no process has a descriptor of it");
    let hint = says(finding, "/proc");
    assert!(hint.contains(&format!("pid {}", server.pid())), "{hint}");
}

#[test]
fn a_listener_of_multipath_tcp_is_of_who_opened_it_and_hides_nothing() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    if fs::read_to_string("/proc/sys/net/mptcp/enabled").is_err() {
        return skip("this kernel has no Multipath TCP");
    }
    let mut server = host.actor(&[&format!("listen mptcp {}", host.v4(PORT)), "stay"]);
    server.answer();

    let scan = host.finish_portwatch(&["scan", "--format", "json"]);

    let events = events_of(&scan);
    if is_blind(&events) {
        return;
    }
    let is_found = |event: &&Event| event.is_listener("listener-found", PORT, host.netns());
    let listener = events.iter().find(is_found).expect("the listener");
    assert_eq!(listener.text("portwatch.ownership"), "process");
    listener.assert_owner("", "holder", "observed", server.pid());
    assert!(!events.iter().any(disagrees), "{events:#?}");
}

#[test]
fn the_socket_of_vxlan_is_the_kernels_and_hides_nothing() {
    is_the_kernels("vxlan", &format!("id 5 local 127.0.0.1 dstport {PORT}"));
}

#[test]
fn the_socket_of_geneve_is_the_kernels_and_hides_nothing() {
    is_the_kernels("geneve", &format!("id 5 remote 127.0.0.1 dstport {PORT}"));
}

#[test]
fn the_socket_of_wireguard_is_the_kernels_and_has_the_name_of_its_device() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let link = "link add wg0 type wireguard";
    let added = finish(host.command("ip").args(link.split(' ')));
    if added.code != Some(0) {
        return skip(&format!("`ip {link}`: {}", added.stderr.trim()));
    }
    // It takes a port by chance.
    host.ip("link set wg0 up");
    let sockets = finish(host.command("cat").arg("/proc/net/udp")).stdout;
    let local = sockets.lines().nth(1).and_then(|line| line.split_whitespace().nth(1));
    let port = local.and_then(|local| u16::from_str_radix(local.rsplit(':').next()?, 16).ok());
    let port = port.expect("the port of WireGuard");

    let scan = host.finish_portwatch(&["scan", "-p", &port.to_string(), "--format", "json"]);

    let reason = format!("the kernel made it: wireguard device wg0 uses UDP {port}");
    assert_kernels(&host, &scan, port, &reason);
}

#[test]
fn the_socket_that_the_nfs_server_makes_is_the_kernels() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    is_the_nfs_servers(&host, &format!("echo tcp {PORT} > portlist"));
}

#[test]
fn the_socket_that_the_nfs_server_is_given_is_the_kernels_and_hides_nothing() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let listen = format!("listen tcp {}", host.v4(PORT));
    // As rpc.nfsd does, which exits then.
    is_the_nfs_servers(&host, &format!("{ACTOR} '{listen}' 'give kernel portlist' > /dev/null"));
}

#[test]
fn the_connection_of_the_nfs_client_is_the_kernels_with_the_server_it_talks_to() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    if !can_serve_nfs(&host) {
        return;
    }
    let scan = format!("{MOUNT} && {{ \"$0\" scan --format json; result=$?; {UNMOUNT}; }}");

    let script = nfs_client(&host, &scan);
    let scan = finish(host.command("sh").args(["-c", &script]).arg(program()));

    let events = events_of(&scan);
    assert!(scan.code.is_some_and(|code| code <= 1) && !events.is_empty(), "{}", scan.stderr);
    if is_blind(&events) {
        return;
    }
    let of_server = |event: &&Event| event.endpoint("destination") == Some(host.v4(PORT));
    let is_its = |event: &&Event| event.is("flow-updated") && of_server(event);
    let connection = events.iter().find(is_its).expect("the connection");
    assert_eq!(connection.text("portwatch.ownership"), "kernel", "{connection}");
    assert_eq!(connection.text("portwatch.ownership_reason"), of_both(&host), "{connection}");
    assert!(!events.iter().any(disagrees), "{events:#?}");
}

#[test]
fn a_connection_of_the_nfs_client_that_begins_while_portwatch_watches_is_the_kernels() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    if !can_serve_nfs(&host) {
        return;
    }
    let portwatch = host.portwatch(&["watch", "--interval", "1s"]);
    if is_blind(&[portwatch.expect("the start", |event| event.is("run-started"))]) {
        return;
    }
    // Asks the server for ever new names, until nothing more comes from here.
    let ask =
        "n=0; while [ ! -e /run/over ]; do n=$((n + 1)); [ -e /run/there/$n ]; sleep 0.2; done";
    let ask = format!("{{ {ask}; }} & cat; : > /run/over; wait");
    let mounted = format!("{MOUNT} && {{ {ask}; {UNMOUNT}; result=0; }}");
    let mut script = host.command("sh");
    script.args(["-c", &nfs_client(&host, &mounted)]).stdin(Stdio::piped());
    let mut mounting = script.spawn().expect("start a script");

    let server = "/proc/net/nfsfs/servers lists";
    let is_its = |event: &Event| {
        event.is("flow-updated") && event.text("portwatch.ownership_reason").contains(server)
    };
    let connection = portwatch.expect("that the connection is the NFS client's", is_its);
    drop(mounting.stdin.take());
    let ended = mounting.wait().expect("wait for a script");
    portwatch.stop().assert_sound();

    assert!(ended.success(), "{ended}");
    assert_eq!(connection.text("portwatch.ownership"), "kernel", "{connection}");
    assert_eq!(connection.endpoint("destination"), Some(host.v4(PORT)));
    let reason = connection.text("portwatch.ownership_reason");
    let expected = format!("NFS client has it: {server} {} (NFS 4)", host.v4(PORT));
    assert!(reason.ends_with(&expected), "{reason}");
}

/// A script that does something where the kernel's NFS server serves on the port, and ends with its result.
fn nfs_client(host: &Host, script: &str) -> String {
    let ip = host.v4(PORT).ip();
    // What mountd tells the kernel of who may mount what: a directory in memory, by its number.
    let grant = format!(
        "mount -t tmpfs none /run && mkdir /run/shared /run/there && \
         echo nfsd {ip} {FOREVER} us > /proc/net/rpc/auth.unix.ip/channel && \
         echo us /run/shared {FOREVER} 9219 65534 65534 0 > /proc/net/rpc/nfsd.export/channel && \
         echo us 1 '\\x00000000' {FOREVER} /run/shared > /proc/net/rpc/nfsd.fh/channel"
    );
    let options = format!("addr={ip},clientaddr={ip},port={PORT},vers=4.2,sec=sys");
    with_nfs(&format!(
        "export OPTIONS={options} SERVER={ip} && {grant} && \
         echo tcp {PORT} > portlist && echo 1 > threads && \
         {{ result=1; {script}; echo 0 > threads; exit $result; }}"
    ))
}

/// Why a connection of the NFS client to the NFS server of the same host is the kernel's.
fn of_both(host: &Host) -> String {
    let there = host.v4(PORT);
    format!(
        "the kernel's NFS server has it: /proc/fs/nfsd/portlist lists tcp {PORT}; the client's end: \
         the kernel's NFS client has it: /proc/net/nfsfs/servers lists {there} (NFS 4)"
    )
}

/// For the shell: without the helpers, which need not be there.
const MOUNT: &str = "mount -i -t nfs4 -o $OPTIONS $SERVER:/ /run/there";
const UNMOUNT: &str = "umount -i /run/there";

/// Lets the kernel's NFS server begin to listen by a script, and looks who does.
fn is_the_nfs_servers(host: &Host, script: &str) {
    if !can_serve_nfs(host) {
        return;
    }
    // It ends with its last thread.
    let scan = "\"$0\" scan --format json; result=$?; echo 0 > threads; exit $result";
    let script = with_nfs(&format!("{script} && {{ {scan}; }}"));

    let scan = finish(host.command("sh").args(["-c", &script]).arg(program()));

    assert!(scan.code.is_some_and(|code| code <= 1), "{}", scan.stderr);
    let list = "/proc/fs/nfsd/portlist lists tcp";
    assert_kernels(host, &scan, PORT, &format!("the kernel's NFS server has it: {list} {PORT}"));
}

/// Is the kernel's NFS server there? Noted as skipped if not.
fn can_serve_nfs(host: &Host) -> bool {
    let mounted = finish(host.command("sh").args(["-c", NFS_FILES]));
    if mounted.code != Some(0) {
        skip(&format!("the kernel's NFS server is not there: {}", mounted.stderr.trim()));
    }
    mounted.code == Some(0)
}

/// A script where the files of the NFS server are, which has version 4 alone: no portmapper has to know of that.
fn with_nfs(script: &str) -> String {
    format!("{NFS_FILES} && echo -3 > versions && {script}")
}

/// For the shell: to where the files of the NFS server are.
const NFS_FILES: &str = "mount -t nfsd none /proc/fs/nfsd && cd /proc/fs/nfsd";
/// A time that does not come, in seconds.
const FOREVER: u32 = 4_000_000_000;

fn is_the_kernels(kind: &str, options: &str) {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let link = format!("link add tunnel0 type {kind} {options}");
    let added = finish(host.command("ip").args(link.split(' ')));
    if added.code != Some(0) {
        return skip(&format!("`ip {link}`: {}", added.stderr.trim()));
    }
    host.ip("link set tunnel0 up");

    let scan = host.finish_portwatch(&["scan", "--format", "json"]);

    let reason = format!("the kernel made it: {kind} device tunnel0 uses UDP {PORT}");
    assert_kernels(&host, &scan, PORT, &reason);
}

/// The listener on the port is the kernel's, for this reason, and no two views disagree.
fn assert_kernels(host: &Host, scan: &Finished, port: u16, reason: &str) {
    let events = events_of(scan);
    if is_blind(&events) {
        return;
    }
    let is_found = |event: &&Event| event.is_listener("listener-found", port, host.netns());
    let listener = events.iter().find(is_found).expect("the listener");
    assert_eq!(listener.text("portwatch.ownership"), "kernel");
    assert_eq!(listener.text("portwatch.ownership_reason"), reason);
    assert!(!events.iter().any(disagrees), "{events:#?}");
}

#[test]
fn a_host_on_which_everything_comes_and_goes_hides_nothing() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let address = host.v4(PORT);
    let rounds = 4_000;
    let mut server = host.actor(&[&format!("listen tcp {address}"), "stay"]);
    server.answer();
    server.tell(&format!("reap {rounds}"));
    let churn = host.actor(&[&format!("churn {address} {rounds}")]);
    let mut crowded = host.actor(&[&format!("listen tcp {}", host.v4(3517)), "stay"]);
    crowded.answer();
    crowded.tell("mayflies 300");
    let crowd = host.actor(&[&format!("crowd {} 300", host.v4(3517))]);

    for _ in 0..20 {
        let scan = host.finish_portwatch(&["scan", "-p", "3516,3517", "--format", "json"]);

        let disagreement = events_of(&scan).into_iter().find(disagrees);
        assert_eq!(disagreement, None);
    }
    drop((churn, crowd));
}

/// Does this kernel refuse the iterators that look past `/proc`? Noted as skipped if so.
fn is_blind(events: &[Event]) -> bool {
    let started = events.first().expect("the first event");
    let mut degraded = started.list("portwatch.run.degraded").iter().filter_map(|it| it.as_str());
    let reason = degraded.find(|it| it.starts_with("what /proc and sock_diag say"));
    reason.inspect(|reason| skip(reason)).is_some()
}

/// A command for a portwatch that has something else mounted over a path: only for itself, as `ip netns
/// exec` gives it a mount namespace of its own.
fn covered(host: &Host, path: &str, args: &[&str]) -> Command {
    let mut command = host.command("sh");
    let script = format!("mount -t tmpfs none {path} && exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(program()).args(args);
    command
}

fn hidden_owner(events: &[Event], pid: u32) -> Option<&Event> {
    events.iter().find(|event| hides(event, pid))
}

/// Does it say that this process hides?
fn hides(event: &Event, pid: u32) -> bool {
    event.text("portwatch.finding.kind") == "hidden-owner"
        && event.text("message").contains(&format!("(pid {pid})"))
}

fn disagrees(event: &Event) -> bool {
    ["hidden-owner", "view-mismatch"].contains(&event.text("portwatch.finding.kind"))
}

/// What a view says.
fn says<'a>(finding: &'a Event, view: &str) -> &'a str {
    let views = finding.list("portwatch.finding.views");
    let says = views.iter().find(|it| it["name"] == view).and_then(|it| it["says"].as_str());
    says.unwrap_or_else(|| panic!("no {view} in {finding}"))
}

fn events_of(scan: &Finished) -> Vec<Event> {
    scan.stdout.lines().map(Event::parse).collect()
}
