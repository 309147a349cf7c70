//! Who a process is: what it really runs and where that comes from, its namespaces, terminal, login.
//!
//! The processes are real: a program of a package of this host, copies of it, mount and pid namespaces.

#![cfg(test)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use portwatch_tests::{Actor, Cgroup, Event, Finished, Host, Lab, are_installed, skip};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
/// Of an essential package: every Debian has it.
const PERL: &str = "/usr/bin/perl";

#[test]
fn a_program_of_a_package_is_named_with_it_and_verified() {
    let Some(host) = lab_with_perl() else { return };
    let server = listen(host.command(PERL));

    let found = found(&host, &scan(&host));

    assert_eq!(found.number("process.pid"), u64::from(server.pid()));
    assert_eq!(found.text("process.executable"), PERL);
    assert_eq!(found.text("package.name"), "perl-base");
    assert_eq!(found.text("package.type"), "deb");
    assert_eq!(found.text("package.version"), installed_version("perl-base"));
    let owner = found.owner("holder", server.pid());
    assert_eq!(owner["executable_on_host"], true);
    assert_eq!(owner["package"], "perl-base");
    assert_eq!(owner["package_state"], "unmodified");
    assert_eq!(owner["package_intact"], true);
    assert_eq!(owner["sha256"], sha256(PERL));
    assert!(owner.get("missing").is_none(), "{owner}");
}

#[test]
fn a_copy_of_it_belongs_to_no_package() {
    let Some(host) = lab_with_perl() else { return };
    let directory = directory();
    let copy = copy_of_perl(&directory);
    let server = listen(host.command(&copy));

    let found = found(&host, &scan(&host));

    let owner = found.owner("holder", server.pid());
    assert_eq!(owner["executable"], copy);
    assert_eq!(
        (&owner["executable_on_host"], &owner["package_state"]),
        (&true.into(), &"none".into())
    );
    assert!(owner.get("package").is_none() && found.at("package").is_null(), "{found}");
}

#[test]
fn a_program_that_is_not_as_its_package_installed_it_is_modified() {
    let Some(host) = lab_with_perl() else { return };
    let directory = directory();
    let copy = copy_of_perl(&directory);
    modify(&copy);
    // Server and portwatch each see the modified program in place of the real one.
    let server = listen(mounted(&host, &copy, PERL));
    let mut portwatch = mounted(&host, &copy, &portwatch_tests::program().display().to_string());
    let finished = portwatch_tests::finish(portwatch.args(["scan", "--format", "json"]));

    let events = events_of(&finished);
    let found = found(&host, &events);

    let owner = found.owner("holder", server.pid());
    assert_eq!(
        (&owner["package"], &owner["package_state"]),
        (&"perl-base".into(), &"modified".into())
    );
    assert_eq!(owner["package_intact"], false);
    assert_eq!(owner["sha256"], sha256(&copy));
    let finding = finding(&host, &events);
    assert_eq!(finding.number("event.severity"), 99);
    assert!(evidence(finding).contains("the file is NOT as it was installed"), "{finding}");
}

#[test]
fn a_path_forged_in_a_mount_namespace_is_neither_believed_nor_expected() {
    let Some(host) = lab_with_perl() else { return };
    let directory = directory();
    let copy = copy_of_perl(&directory);
    modify(&copy);
    let policy = directory.path().join("policy.toml");
    let rule = format!(
        "version = 1\n[[listener]]\nid = \"perl\"\nreason = \"a part\"\nexe = \"{PERL}\"\n"
    );
    fs::write(&policy, rule).expect("write a policy");
    let scan = ["scan", "--format", "json", "--policy", &policy.display().to_string()];

    let real = listen(host.command(PERL));
    let expected = events_of(&host.finish_portwatch(&scan));
    real.leave();
    let server = listen(mounted(&host, &copy, PERL));
    let forged = events_of(&host.finish_portwatch(&scan));

    assert_eq!(found(&host, &expected).text("portwatch.verdict"), "expected");
    let found = found(&host, &forged);
    assert_eq!(found.text("process.executable"), PERL, "this is what it looks like");
    assert_eq!(found.text("portwatch.verdict"), "unknown");
    let owner = found.owner("holder", server.pid());
    assert_eq!(owner["executable_on_host"], false);
    assert!(owner.get("package").is_none() && owner.get("package_state").is_none(), "{owner}");
    assert!(missing(owner).contains("package: its path leads to another file"), "{owner}");
    assert_eq!(owner["sha256"], sha256(&copy), "what really runs");
    let difference = finding(&host, &forged).text("portwatch.finding.differences.0").to_owned();
    assert!(difference.contains("of another mount namespace"), "{difference}");
}

#[test]
fn a_deleted_program_has_a_hash_and_no_package() {
    let Some(host) = lab_with_perl() else { return };
    let directory = directory();
    let copy = copy_of_perl(&directory);
    let expected = sha256(&copy);
    let server = listen(host.command(&copy));
    fs::remove_file(&copy).expect("delete a program");

    let found = found(&host, &scan(&host));

    let owner = found.owner("holder", server.pid());
    assert_eq!((&owner["executable"], &owner["deleted"]), (&copy.into(), &true.into()));
    assert_eq!((&owner["executable_on_host"], &owner["sha256"]), (&false.into(), &expected.into()));
    assert!(missing(owner).contains("package: what runs was deleted"), "{owner}");
}

#[test]
fn a_program_without_a_file_has_a_hash() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&["memfd", &format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();

    let found = found(&host, &scan(&host));

    let owner = found.owner("holder", server.pid());
    assert_eq!(owner["executable"], "/memfd:nameless");
    assert_eq!((&owner["deleted"], &owner["executable_on_host"]), (&true.into(), &false.into()));
    assert_eq!(owner["sha256"], sha256(ACTOR));
}

#[test]
fn a_process_in_a_pid_namespace_is_known_by_both_pids() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut command = host.command("unshare");
    command.args(["--pid", "--fork", "--kill-child", ACTOR]);
    let outer = Actor::start(command.args([&*format!("listen tcp {}", host.v4(PORT)), "stay"]));

    let found = found_once(&host);

    assert_eq!(found.number("process.vpid"), 1);
    assert_eq!(found.number("process.parent.pid"), u64::from(outer.pid()));
    let server = u32::try_from(found.number("process.pid")).expect("read a pid");
    let owner = found.owner("holder", server);
    assert_eq!(owner["inner_pid"], 1);
    for name in ["net", "mnt", "pid", "user"] {
        assert_eq!(owner["namespaces"][name], namespace(server, name), "{name}");
    }
    assert_ne!(owner["namespaces"]["pid"], namespace(outer.pid(), "pid"));
    assert_eq!(owner["ancestors"][0]["args"][0], "unshare");
}

#[test]
fn session_terminal_login_and_directory_are_known() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    if !Path::new("/usr/bin/script").exists() {
        return skip("script(1), which gives a terminal, is not installed");
    }
    let login = fs::read_to_string("/proc/self/loginuid").is_ok();
    let set_login = if login { "echo 1 > /proc/self/loginuid; " } else { "" };
    let line = format!(
        "cd /tmp; tty; echo \"$$\"; {set_login}exec {ACTOR} \"listen tcp {}\" stay",
        host.v4(PORT)
    );
    let mut command = host.command("script");
    let mut terminal =
        Actor::start(command.args(["--quiet", "--return", "--command", &line, "/dev/null"]));
    let tty = terminal.answer().trim().to_owned();
    let pid: u32 = terminal.answer().trim().parse().expect("read a pid");

    let found = found_once(&host);

    let owner = found.owner("holder", pid);
    assert_eq!(format!("/dev/{}", owner["tty"].as_str().unwrap_or_default()), tty);
    assert_eq!(owner["session"], pid, "script(1) makes it the leader of a session");
    assert_eq!(found.number("process.session_leader.pid"), u64::from(pid));
    assert_eq!(owner["working_directory"], "/tmp");
    if login {
        assert_eq!(owner["login"]["user"], "daemon", "the user with id 1");
    }
}

#[test]
fn of_a_process_that_is_gone_it_is_said_what_nobody_knows() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();
    let portwatch = host.portwatch(&["watch"]);

    // While portwatch does not look.
    portwatch.pause();
    let client = host.perform(&[&format!("connect tcp {}", host.v4(PORT))]);
    portwatch.resume();
    let opener = |event: &Event| {
        let owners = event.at("portwatch.owners").as_array();
        owners.is_some_and(|owners| owners.iter().any(|owner| owner["pid"] == client.pid))
    };
    portwatch.expect("a flow of a process that is gone", opener);
    let run = portwatch.stop();

    let flow = run.flow_from(client.address());
    let owner = flow.owner("opener", client.pid);
    assert_eq!((&owner["exited"], &owner["user"]), (&true.into(), &"root".into()));
    let missing = missing(owner);
    for fact in ["start time", "exe", "sha256", "package", "args", "cwd", "cgroup", "parents"] {
        assert!(missing.contains(fact), "{fact}: {missing}");
    }
    assert!(missing.ends_with("gone before they could be read"), "{missing}");
}

#[test]
fn of_a_process_that_is_gone_the_unit_is_known_by_its_cgroup() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let Some(service) = Cgroup::make("pwt-identity.slice", "pwt.service") else { return };
    let mut server = host.actor(&[&format!("listen tcp {}", host.v4(PORT)), "stay"]);
    server.answer();
    let portwatch = host.portwatch(&["watch"]);

    portwatch.pause();
    let mut client = service.command();
    client.args(["ip", "netns", "exec", host.name()]);
    client.args([ACTOR, &*format!("connect tcp {}", host.v4(PORT))]);
    let client = Actor::start(&mut client).finish(1);
    portwatch.resume();
    portwatch.expect("a flow of a process that is gone", |event| {
        let owners = event.at("portwatch.owners").as_array();
        owners.is_some_and(|owners| owners.iter().any(|owner| owner["pid"] == client.pid))
    });
    let run = portwatch.stop();

    let owner = run.flow_from(client.address()).owner("opener", client.pid);
    assert_eq!(owner["exited"], true);
    assert_eq!(
        (&owner["unit"], &owner["slice"]),
        (&"pwt.service".into(), &"pwt-identity.slice".into())
    );
    assert!(!missing(owner).contains("cgroup"), "{owner}");
}

#[test]
fn of_a_container_name_and_image_are_what_docker_says_on_its_socket() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let id = "0123456789abcdef".repeat(4);
    let scope = format!("docker-{id}.scope");
    let Some(container) = Cgroup::make("pwt-docker.slice", &scope) else { return };
    let directory = directory();
    let socket = directory.path().join("docker.sock");
    let docker = UnixListener::bind(&socket).expect("listen as docker");
    let asked = thread::spawn(move || answer_as_docker(&docker));
    let server = listener_in(&container, &host);

    // Once it looks, portwatch has next to no rights left, and system calls are denied to it.
    let mut portwatch = host.command("unshare");
    let script = "mount -t tmpfs none /run && ln -s \"$0\" /run/docker.sock && exec \"$@\"";
    portwatch.args(["--mount", "sh", "-c", script]).arg(socket).arg(portwatch_tests::program());
    let scan = portwatch_tests::finish(portwatch.args(["scan", "--format", "json"]));

    let found = found(&host, &events_of(&scan));
    let image_id = format!("sha256:{}", "ab".repeat(32));
    assert_eq!((found.text("container.id"), found.text("container.name")), (&*id, "web"));
    assert_eq!(found.text("container.image.name"), "registry.example/web:1");
    let digest = format!("sha256:{}", "cd".repeat(32));
    let hashes = [image_id.clone(), digest.clone()].map(Value::from);
    assert_eq!(found.list("container.image.hash.all"), hashes);
    let owner = found.owner("holder", server.pid());
    assert_eq!(owner["container_image_digests"][0], format!("registry.example/web@{digest}"));
    let targets = [format!("/containers/{id}/json"), format!("/images/{image_id}/json")];
    assert_eq!(asked.join().expect("what docker was asked"), targets);
}

#[test]
fn where_others_than_root_can_name_cgroups_no_runtime_is_asked_about_a_container() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let id = "fedcba9876543210".repeat(4);
    let scope = format!("docker-{id}.scope");
    let Some(container) = Cgroup::make("pwt-delegated.slice", &scope) else { return };
    container.delegate(65534);
    let server = listener_in(&container, &host);

    // Not by `ip netns exec`, which mounts a /sys without cgroups.
    let mut scan = Command::new("nsenter");
    scan.arg(format!("--net=/run/netns/{}", host.name())).arg(portwatch_tests::program());
    let scan = portwatch_tests::finish(scan.args(["scan", "--format", "json"]));

    let found = found(&host, &events_of(&scan));
    let missing = missing(found.owner("holder", server.pid()));
    let why = "container: others than root can make cgroups there, and call them so";
    assert!(missing.contains(why), "{missing}");
}

/// Somebody in a cgroup who listens on the port.
fn listener_in(cgroup: &Cgroup, host: &Host) -> Actor {
    let mut command = cgroup.command();
    command.args(["ip", "netns", "exec", host.name(), ACTOR]);
    let mut server = Actor::start(command.args([&format!("listen tcp {}", host.v4(PORT)), "stay"]));
    server.answer();
    server
}

/// Tells of one container and its image; then what it was asked.
fn answer_as_docker(docker: &UnixListener) -> Vec<String> {
    let id = "ab".repeat(32);
    let digest = "cd".repeat(32);
    let answers = [
        format!(
            r#"{{"Name":"/web","Image":"sha256:{id}","Config":{{"Image":"registry.example/web:1"}}}}"#
        ),
        format!(r#"{{"RepoDigests":["registry.example/web@sha256:{digest}"]}}"#),
    ];
    let answer = |answer: &String| {
        let (mut stream, _) = docker.accept().expect("accept");
        let mut lines = BufReader::new(stream.try_clone().expect("clone a stream")).lines();
        let request = lines.next().and_then(Result::ok).expect("a request");
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        write!(stream, "HTTP/1.0 200 OK\r\n\r\n{answer}").expect("answer");
        request.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    answers.iter().map(answer).collect()
}

#[test]
fn of_a_container_that_containerd_runs_its_bundle_tells_what_kubernetes_calls_it() {
    let Some((host, containerd)) = containerd() else { return };
    let id = "89abcdef01234567".repeat(4);
    let cgroup = format!("/pwt-containerd.slice/cri-containerd-{id}.scope");
    let image = format!("registry.example/web@sha256:{}", "cd".repeat(32));
    let annotations = [
        ("container-type", "container"),
        ("container-name", "web"),
        ("image-name", &image),
        ("sandbox-namespace", "shop"),
        ("sandbox-name", "web-0"),
        ("sandbox-uid", "0f2a6b2c-59a5-4d1b-9f6e-0c5d1a7b3e4f"),
    ];
    let mut args = vec!["--cgroup".to_owned(), cgroup];
    for (key, value) in annotations {
        args.extend(["--annotation".to_owned(), format!("io.kubernetes.cri.{key}={value}")]);
    }
    let server = containerd.run(&host, "k8s.io", &id, &args);

    let found = found(&host, &containerd.scan(&host));

    server.leave();
    assert_eq!((found.text("container.id"), found.text("container.name")), (&*id, "web"));
    assert_eq!(found.text("container.runtime"), "containerd");
    assert_eq!(found.text("container.image.name"), image);
    assert_eq!(found.list("container.image.hash.all")[0], format!("sha256:{}", "cd".repeat(32)));
    assert_eq!(found.text("orchestrator.namespace"), "shop");
    assert_eq!(found.text("orchestrator.resource.name"), "web-0");
    assert_eq!(found.text("orchestrator.resource.id"), "0f2a6b2c-59a5-4d1b-9f6e-0c5d1a7b3e4f");
}

#[test]
fn of_a_container_that_is_only_containerds_it_is_said_that_nobody_tells_more() {
    let Some((host, containerd)) = containerd() else { return };
    let id = "76543210fedcba98".repeat(4);
    // Its cgroup is /pwt/ID then, which could be anybody's.
    let server = containerd.run(&host, "pwt", &id, &[]);

    let found = found(&host, &containerd.scan(&host));

    server.leave();
    assert_eq!((found.text("container.id"), found.text("container.runtime")), (&*id, "containerd"));
    assert!(found.at("container.name").is_null() && found.at("container.image").is_null());
    let missing = missing(&found.list("portwatch.owners")[0]);
    let why = "container: containerd tells neither name nor image (its namespace pwt)";
    assert!(missing.contains(why), "{missing}");
}

/// A real containerd. It has a `/run` of its own, which is a directory of ours.
struct Containerd {
    directory: TempDir,
    /// With it go those that it has started: it is the first process of a pid namespace.
    _process: Actor,
}

const CONTAINERD: (&str, &str) = ("/usr/bin/containerd", "containerd");
const CTR: (&str, &str) = ("/usr/bin/ctr", "containerd");
const RUNC: (&str, &str) = ("/usr/sbin/runc", "runc");

/// A lab with a containerd in it, where one is installed.
fn containerd() -> Option<(Host, Containerd)> {
    let host = Lab::loopback_only(ACTOR)?;
    if !are_installed(&[CONTAINERD, CTR, RUNC]) {
        return None;
    }
    let directory = directory();
    for name in ["run", "rootfs/usr"] {
        fs::create_dir_all(directory.path().join(name)).expect("make a directory");
    }
    for name in ["lib", "lib64"] {
        let link = directory.path().join("rootfs").join(name);
        std::os::unix::fs::symlink(format!("usr/{name}"), link).expect("make a link");
    }
    let root = directory.path().join("root").display().to_string();
    let config = directory.path().join("config.toml").display().to_string();
    let disabled = "disabled_plugins = ['io.containerd.grpc.v1.cri']";
    fs::write(&config, format!("version = 2\nroot = '{root}'\n{disabled}\n"))
        .expect("write a configuration");
    // Not by `ip netns exec`, which mounts a /sys without cgroups.
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", host.name()));
    let apart = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    command.arg("unshare").args(apart).args(["sh", "-c", WITH_RUN]).arg(directory.path());
    let script = "exec \"$0\" --config \"$1\" 2>&1";
    let mut process = Actor::start(command.args(["sh", "-c", script, CONTAINERD.0, &config]));
    while !process.answer().contains("successfully booted") {}
    Some((host, Containerd { directory, _process: process }))
}

impl Containerd {
    /// Runs a container in the lab's network, whose program listens on the port once it is there.
    fn run(&self, host: &Host, namespace: &str, id: &str, args: &[String]) -> Actor {
        let mut command = self.with_run(Command::new("unshare"));
        command.args([CTR.0, "--namespace", namespace, "run", "--rm", "--rootfs", "--net-host"]);
        for (from, to) in [("/usr", "/usr"), (ACTOR, "/actor")] {
            command.arg(format!("--mount=type=bind,src={from},dst={to},options=rbind:ro"));
        }
        command.args(args).arg(self.directory.path().join("rootfs"));
        let listen = format!("listen tcp {}", host.v4(PORT));
        let mut server = Actor::start(command.args([id, "/actor", &listen, "stay"]));
        server.answer();
        server
    }

    /// What portwatch finds where `/run` is as containerd has it.
    fn scan(&self, host: &Host) -> Vec<Event> {
        let mut command = self.with_run(host.command("unshare"));
        command.arg(portwatch_tests::program());
        events_of(&portwatch_tests::finish(command.args(["scan", "--format", "json"])))
    }

    /// `unshare`, told to run what follows with the `/run` that containerd has.
    fn with_run(&self, mut unshare: Command) -> Command {
        unshare.args(["--mount", "sh", "-c", WITH_RUN]).arg(self.directory.path());
        unshare
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // runc removes a container's cgroup, and leaves the one above it.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for mount in mounts.lines().filter(|mount| mount.starts_with("cgroup")) {
            let path = Path::new(mount.split(' ').nth(1).unwrap_or_default());
            for name in ["pwt", "pwt-containerd.slice"] {
                drop(fs::remove_dir(path.join(name)));
            }
        }
    }
}

/// Runs a command with the `/run` of a directory.
const WITH_RUN: &str = "mount --bind \"$0/run\" /run && exec \"$@\"";

/// A lab, where this host has the program and the database that knows it.
fn lab_with_perl() -> Option<Host> {
    let host = Lab::loopback_only(ACTOR)?;
    if !Path::new("/var/lib/dpkg/info/perl-base.md5sums").exists() || !Path::new(PERL).exists() {
        skip("perl-base is not installed by dpkg");
        return None;
    }
    Some(host)
}

/// Lets perl listen, and waits until it does.
fn listen(mut perl: Command) -> Actor {
    let script = format!(
        "use IO::Socket::INET; $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', \
         LocalPort => {PORT}, Listen => 1) or die $!; $| = 1; print \"listens\\n\"; <STDIN>"
    );
    let mut server = Actor::start(perl.args(["-e", &script]));
    assert_eq!(server.answer(), "listens");
    server
}

/// A command that runs `program` in a mount namespace of its own, in which `file` lies over [`PERL`].
fn mounted(host: &Host, file: &str, program: &str) -> Command {
    let mut command = host.command("unshare");
    let script = "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, file, PERL, program]);
    command
}

fn copy_of_perl(directory: &TempDir) -> String {
    let copy = directory.path().join("perl");
    fs::copy(PERL, &copy).expect("copy a program");
    copy.display().to_string()
}

/// Appends to a program, which runs all the same.
fn modify(program: &str) {
    let mut bytes = fs::read(program).expect("read a program");
    bytes.extend_from_slice(b"and more");
    fs::write(program, bytes).expect("modify a program");
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("make a directory")
}

fn scan(host: &Host) -> Vec<Event> {
    events_of(&host.finish_portwatch(&["scan", "--format", "json"]))
}

fn events_of(finished: &Finished) -> Vec<Event> {
    assert!(finished.code.is_some_and(|code| code <= 1), "{}", finished.stderr);
    finished.stdout.lines().map(Event::parse).collect()
}

/// Scans until the listener is there: its process does not say when.
fn found_once(host: &Host) -> Event {
    let watch = host.portwatch(&["watch"]);
    let is_it = |event: &Event| {
        ["listener-found", "listener-opened"]
            .iter()
            .any(|action| event.is_listener(action, PORT, host.netns()))
    };
    watch.expect("the listener", is_it);
    drop(watch);
    found(host, &scan(host))
}

fn found(host: &Host, events: &[Event]) -> Event {
    let found = events.iter().find(|it| it.is_listener("listener-found", PORT, host.netns()));
    found.expect("the listener").clone()
}

fn finding<'a>(host: &Host, events: &'a [Event]) -> &'a Event {
    let finding = events.iter().find(|it| it.is_listener("finding", PORT, host.netns()));
    finding.expect("the finding")
}

fn evidence(finding: &Event) -> String {
    let lines = finding.list("portwatch.finding.evidence").iter();
    lines.filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

fn missing(owner: &Value) -> String {
    let lines = owner["missing"].as_array().into_iter().flatten();
    lines.filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

fn namespace(pid: u32, name: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{name}")).expect("look at a namespace").ino()
}

fn installed_version(package: &str) -> String {
    let query = portwatch_tests::finish(Command::new("dpkg-query").args([
        "-W",
        "-f",
        "${Version}",
        package,
    ]));
    query.stdout
}

fn sha256(file: impl AsRef<Path>) -> String {
    let bytes = fs::read(file).expect("read a program");
    let hex: Vec<_> = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    hex.concat()
}
