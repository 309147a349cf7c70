//! What is preserved is what was there, byte for byte, for its owner only; and whoever changes it is found.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use portwatch_tests::{
    Actor, Event, Finished, Host, Lab, Pcapng, deadline, finish, interrupt, is_installed, now,
    program,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn a_deleted_executable_is_preserved_byte_for_byte_and_can_never_be_run() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let lab = directory();
    let copy = lab.path().join("implant");
    fs::copy(ACTOR, &copy).expect("copy a program");
    let mut server = Actor::start(host.command(&copy).args([&*listen(&host), "stay"]));
    server.answer();
    fs::remove_file(&copy).expect("delete a program");

    let start = now();
    let evidence = Evidence::of(&host, &[]);
    let took = now().saturating_sub(start);

    let sha256 = sha256(Path::new(ACTOR));
    let kept = evidence.path(&format!("executables/{sha256}"));
    assert!(fs::read(&kept).expect("read a copy") == fs::read(ACTOR).expect("read a program"));
    let process = evidence.process(server.pid());
    let summary = json(&process.join("process.json"));
    assert_eq!((&summary["deleted"], &summary["copy_sha256"]), (&true.into(), &(*sha256).into()));
    let argument = listen(&host).into_bytes();
    let cmdline = [copy.as_os_str().as_encoded_bytes(), b"\0", &argument, b"\0stay\0"].concat();
    assert_eq!(fs::read(process.join("cmdline")).expect("read cmdline"), cmdline);
    assert!(contains(&process.join("fds.ndjson"), b"socket:["));
    assert!(contains(&process.join("maps"), b"implant (deleted)"));
    assert!(json(&process.join("links.json"))["ns/net"].is_string());
    evidence.assert_private();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn an_executable_without_a_file_is_preserved_and_parents_are_up_to_init() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&["memfd", &listen(&host), "stay"]);
    server.answer();

    let evidence = Evidence::of(&host, &[]);

    let sha256 = sha256(Path::new(ACTOR));
    assert_eq!(evidence.sha256_of(&format!("executables/{sha256}")), sha256);
    let summary = json(&evidence.process(server.pid()).join("process.json"));
    assert_eq!(summary["executable"], "/memfd:nameless");
    let parents: Vec<u64> =
        summary["parents"].as_array().expect("parents").iter().filter_map(Value::as_u64).collect();
    assert_eq!(parents[0], u64::from(std::process::id()));
    for parent in parents {
        let parent = u32::try_from(parent).expect("read a pid");
        assert!(contains(&evidence.process(parent).join("stat"), format!("{parent} (").as_bytes()));
    }
}

#[test]
fn what_scan_sees_is_preserved_as_it_says_it() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&listen(&host), "stay"]);
    server.answer();

    let evidence = Evidence::of(&host, &[]);

    let events = fs::read_to_string(evidence.path("events.ndjson")).expect("read the events");
    let events: Vec<Event> = events.lines().map(Event::parse).collect();
    assert!(events[0].is("run-started") && events.last().is_some_and(|it| it.is("run-ended")));
    assert_eq!(events[0].at("portwatch.run_id"), &evidence.manifest["run_id"]);
    let listener = events.iter().find(|it| it.is_listener("listener-found", PORT, host.netns()));
    listener.expect("the listener").owner("holder", server.pid());
    let finding = events.iter().find(|it| it.is_finding("unknown-listener", "open"));
    let steps = finding.expect("a finding").list("portwatch.finding.next_steps");
    let step =
        steps.iter().filter_map(Value::as_str).find(|it| it.starts_with("portwatch evidence "));
    let words: Vec<&str> = step.expect("a next step").split(' ').skip(1).collect();
    let lab = directory();
    let run = finish(host.command(program()).args(&words).current_dir(lab.path()));
    assert_eq!(run.code, Some(0), "what a finding proposes works as it is: {}", run.stderr);
}

#[test]
fn secrets_in_the_environment_are_kept_only_when_asked_for() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    // Made here, so that it stands in no program.
    let secret = format!("secret-{}-{}", std::process::id(), now().as_nanos());
    let mut command = host.command(ACTOR);
    let mut server = Actor::start(command.args([&*listen(&host), "stay"]).env("PASSWORD", &secret));
    server.answer();

    let plain = Evidence::of(&host, &[]);
    let full = Evidence::of(&host, &["--with-environment"]);

    let with_secret: Vec<PathBuf> =
        plain.files().into_iter().filter(|it| contains(it, secret.as_bytes())).collect();
    assert!(with_secret.is_empty(), "{with_secret:?}");
    assert!(contains(&full.process(server.pid()).join("environ"), secret.as_bytes()));
}

#[test]
fn the_sockets_and_rules_of_every_network_namespace_are_preserved() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let mut servers = [&lab.left, &lab.right].map(|host| host.actor(&[&listen(host), "stay"]));
    for server in &mut servers {
        server.answer();
    }
    let has_nft = is_installed("nft");
    if has_nft {
        let rule = "add table ip t; add chain ip t c { type nat hook prerouting priority 0; }; \
                    add rule ip t c tcp dport 3516 redirect to :3517";
        assert_eq!(finish(lab.left.command("nft").arg(rule)).code, Some(0));
    }

    let evidence = Evidence::of(&lab.right, &[]);

    for host in [&lab.left, &lab.right] {
        let tables = evidence.path(&format!("namespaces/{}", host.netns()));
        let local = format!(r#""local":"{}""#, host.v4(PORT));
        assert!(contains(&tables.join("sockets.ndjson"), local.as_bytes()), "{local}");
        assert!(contains(&tables.join("tcp"), b":0DBC"), "3516 in hexadecimal");
        assert!(contains(&tables.join("links.ndjson"), b"veth0"));
        assert!(contains(&tables.join("routes.ndjson"), b"10.35.16.0"));
        assert!(contains(&evidence.path("namespaces/list.ndjson"), host.name().as_bytes()));
    }
    if has_nft {
        let rules = evidence.path(&format!("namespaces/{}/netfilter.txt", lab.left.netns()));
        assert!(contains(&rules, b"tcp dport 3516 redirect to :3517"), "{rules:?}");
    }
    assert!(contains(&evidence.path("system/clock.json"), b"boottime_ns"));
    assert!(contains(&evidence.path("system/version"), b"Linux version "));
}

#[test]
fn what_nobody_changed_is_intact_and_what_somebody_changed_is_named() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&listen(&host), "stay"]);
    server.answer();
    let evidence = Evidence::of(&host, &[]);
    let archive = evidence.archive();
    let unpacked = directory();
    let unpack = ["-x", "-f", &text(&archive), "-C", &text(unpacked.path())];
    assert_eq!(finish(Command::new("tar").args(unpack)).code, Some(0));
    let copy = unpacked.path().join("case");

    for place in [&evidence.root(), &archive, &copy] {
        let intact = verify(place);
        assert_eq!(intact.code, Some(0), "{place:?}: {}{}", intact.stdout, intact.stderr);
        assert!(intact.stdout.starts_with("intact: "), "{}", intact.stdout);
        assert!(intact.stdout.contains(&evidence.printed), "the hash that was printed");
    }
    let changed = copy.join("events.ndjson");
    let mut bytes = fs::read(&changed).expect("read the events");
    bytes[7] ^= 1;
    fs::write(&changed, bytes).expect("change the events");
    fs::write(copy.join("more"), "").expect("add a file");

    let differs = verify(&copy);

    assert_eq!(differs.code, Some(1), "{}", differs.stdout);
    let lines: Vec<&str> = differs.stdout.lines().collect();
    assert!(lines.contains(&"added: more"), "{lines:?}");
    assert!(lines.iter().any(|it| it.starts_with("changed: events.ndjson has the SHA-256")));
    assert!(lines.iter().any(|it| it.starts_with("2 differences")), "{lines:?}");
}

#[test]
fn with_nothing_on_the_port_the_tables_are_preserved_and_that_is_said() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };

    let evidence = Evidence::of(&host, &["--port", "3599"]);

    assert!(evidence.stdout.starts_with("nothing on the port (3599)"), "{}", evidence.stdout);
    assert!(!evidence.path("processes").exists());
    assert!(evidence.path(&format!("namespaces/{}/sockets.ndjson", host.netns())).exists());
}

#[test]
fn one_process_one_listener_or_one_connection_is_preserved_alone() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&listen(&host), "serve 1", "stay"]);
    server.answer();
    let mut client =
        host.actor(&[&format!("connect tcp {}", host.v4(PORT)), "roundtrips 1 10", "stay"]);
    let from = client.answer();
    let from = from.split(' ').next_back().expect("an address").to_owned();
    client.answer();
    let other = host.actor(&["stay"]);
    let (server, client, other) = (server.pid(), client.pid(), other.pid());

    let select = |option: &str, value: &str| {
        let evidence = Evidence::of(&host, &[option, value]);
        [server, client, other].map(|pid| evidence.has_process(pid))
    };

    let address = host.v4(PORT).to_string();
    assert_eq!(select("--listener", &address), [true, false, false]);
    assert_eq!(select("--flow", &format!("{from},{address}"))[1..], [true, false]);
    assert_eq!(select("--pid", &client.to_string()), [false, true, false]);
    assert_eq!(select("--pid", &other.to_string()), [false, false, true]);
    assert_eq!(select("--port", "3516"), [true, true, false]);
}

#[test]
fn what_could_not_be_obtained_is_listed_with_the_reason() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&listen(&host), "stay"]);
    server.answer();
    let gone = host.perform(&["name gone"]).pid;

    let without = Evidence::of(&host, &["--max-file", "1KiB"]);
    let of_nobody = Evidence::of(&host, &["--pid", &gone.to_string()]);

    let why = without.missing(&format!("copy of /proc/{}/exe", server.pid()));
    assert!(why.ends_with("bytes are more than --max-file 1024"), "{why}");
    assert!(!without.path("executables").exists());
    assert!(without.missing("packets").starts_with("not asked for"));
    let why = of_nobody.missing(&format!("process {gone}, asked for"));
    assert_eq!(why, "gone before it could be read");
}

#[test]
fn packets_are_captured_for_a_while_and_what_ends_that_early_loses_nothing() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let lab = directory();
    let case = lab.path().join("case");
    let Some(capture) = Pcapng::open(&case.join("packets/packets.pcapng")) else { return };
    let mut server = host.actor(&[&listen(&host), "stay"]);
    server.answer();
    let mut command = host.command(program());
    command.args(["evidence", &text(&case), "--no-policy", "--for", "10m"]);
    let evidence = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start it");

    // What it writes there begins with a header; more than that is packets.
    let growing = case.join("packets/part-1");
    let is_capturing = || growing.metadata().is_ok_and(|it| it.len() > 4096);
    let end = now() + deadline();
    while !is_capturing() {
        assert!(now() < end, "no packets are captured");
        server.tell("serve 1");
        host.perform(&[&format!("connect tcp {}", host.v4(PORT)), "roundtrips 5 100", "close"]);
        server.answer();
    }
    interrupt(&evidence);
    let finished = evidence.wait_with_output().expect("wait for it");

    let said = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.status.code(), Some(0), "{said}");
    let packets = capture.packets();
    let pid = format!("PID: {}", server.pid());
    assert!(packets.iter().any(|packet| packet.comments.contains(&pid)), "{packets:?}");
    assert!(contains(&case.join("packets/events.txt"), b"LISTENER"));
    for path in [&case, &lab.path().join("case.tar")] {
        let verified = verify(path);
        assert_eq!(verified.code, Some(0), "{}", verified.stdout);
    }
    let manifest = json(&case.join("manifest.json"));
    let items = manifest["items"].as_array().expect("items").iter();
    let kept: Vec<&str> = items.filter_map(|it| it["path"].as_str()).collect();
    assert!(kept.contains(&"packets/packets.pcapng"), "{kept:?}");
    assert!(kept.iter().any(|path| path.starts_with("processes/")), "{kept:?}");
}

#[test]
fn a_process_that_hides_is_not_said_to_be_gone() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&listen(&host), "stay"]);
    server.answer();
    let pid = server.pid();
    let mut command = host.command("sh");
    let script = format!("mount -t tmpfs none /proc/{pid} && exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(program());

    let evidence = Evidence::by(&mut command, &["--pid", &pid.to_string()]);

    let why = evidence.missing(&format!("process {pid}, "));
    assert_eq!(why, "something else is mounted over its directory in /proc");
}

#[test]
fn names_that_others_chose_become_neither_paths_nor_escape_sequences() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let lab = directory();
    let copy = lab.path().join("..\u{1b}[2J\n\u{202e}x");
    fs::copy(ACTOR, &copy).expect("copy a program");
    let mut command = host.command(&copy);
    let mut server = Actor::start(command.args(["name ../../\u{1b}[2J", &listen(&host), "stay"]));
    assert_eq!(server.answer(), "named");
    server.answer();

    let evidence = Evidence::of(&host, &[]);

    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    for file in evidence.files() {
        let path = file.strip_prefix(evidence.root()).expect("a file of it");
        assert!(text(path).chars().all(is_plain), "{path:?}");
    }
    assert!(!evidence.stdout.contains(['\u{1b}', '\u{202e}']), "{:?}", evidence.stdout);
    for file in ["manifest.json", "events.ndjson"] {
        let shown = fs::read_to_string(evidence.path(file)).expect("read a file");
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{file}");
    }
    assert!(contains(&evidence.process(server.pid()).join("comm"), b"\x1b[2J"), "as it was");
}

#[test]
fn a_place_that_cannot_be_written_to_is_said_in_one_line_before_anything_is_done() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let lab = directory();
    let at = |name: &str| text(&lab.path().join(name));
    fs::write(at("file"), "").expect("make a file");
    fs::create_dir(at("full")).expect("make a directory");
    fs::write(at("full/x"), "").expect("make a file");
    fs::write(at("taken.tar"), "").expect("make a file");

    for (arguments, why) in [
        (vec![at("file")], "no directory"),
        (vec![at("full")], "not empty"),
        (vec![at("taken")], "taken.tar: is there already"),
        (vec![at("none/x")], "No such file"),
        (vec![at("new"), "--flow".to_owned(), "1.2.3.4:5".to_owned()], "write both ends"),
        (vec![at("new"), "--pid".to_owned(), "0".to_owned()], "the number of a process"),
        (vec![], "<DIR> is missing"),
        (vec!["verify".to_owned(), at("full")], "no evidence: manifest.json"),
    ] {
        let refused = finish(host.command(program()).arg("evidence").args(&arguments));
        assert_eq!(refused.code, Some(2), "{arguments:?}: {}", refused.stderr);
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    let mut names: Vec<_> = fs::read_dir(lab.path())
        .expect("list a directory")
        .map(|entry| entry.expect("list a directory").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["file", "full", "taken.tar"], "nothing was made");
}

#[test]
fn a_full_disk_is_said_at_once_and_is_an_exit_code_of_its_own() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut server = host.actor(&[&listen(&host), "stay"]);
    server.answer();
    let lab = directory();
    let script =
        "mount -t tmpfs -o size=256k none \"$0\" && exec \"$1\" evidence \"$0/case\" --no-policy";
    let mut command = host.command("unshare");
    command.args(["--mount", "sh", "-c", script, &text(lab.path()), &text(&program())]);

    let failed = finish(&mut command);

    assert_eq!(failed.code, Some(5), "{}", failed.stderr);
    assert!(failed.stderr.contains("No space left on device"), "{}", failed.stderr);
}

/// What was preserved of a host, and what was said about it.
struct Evidence {
    lab: TempDir,
    stdout: String,
    manifest: Value,
    /// The hash of the manifest that was printed.
    printed: String,
}

impl Evidence {
    fn of(host: &Host, options: &[&str]) -> Self {
        Self::by(&mut host.command(program()), options)
    }

    /// By a command that ends in the program.
    fn by(portwatch: &mut Command, options: &[&str]) -> Self {
        let lab = directory();
        let case = text(&lab.path().join("case"));
        let finished = finish(portwatch.args(["evidence", &case, "--no-policy"]).args(options));
        assert_eq!(finished.code, Some(0), "{}{}", finished.stdout, finished.stderr);
        let printed =
            finished.stdout.lines().find_map(|it| it.strip_prefix("sha256 of manifest.json: "));
        let printed = printed.expect("find the hash of the manifest").to_owned();
        let manifest = json(&lab.path().join("case/manifest.json"));
        Self { lab, stdout: finished.stdout.clone(), manifest, printed }
    }

    fn root(&self) -> PathBuf {
        self.lab.path().join("case")
    }

    fn archive(&self) -> PathBuf {
        self.lab.path().join("case.tar")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// The directory of a process.
    fn process(&self, pid: u32) -> PathBuf {
        self.find_process(pid).unwrap_or_else(|| panic!("no process {pid}: {}", self.manifest))
    }

    fn has_process(&self, pid: u32) -> bool {
        self.find_process(pid).is_some()
    }

    fn find_process(&self, pid: u32) -> Option<PathBuf> {
        let directories = fs::read_dir(self.path("processes")).ok()?;
        let mut paths = directories.map(|entry| entry.expect("list processes").path());
        paths.find(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(&format!("{pid}-")))
        })
    }

    fn sha256_of(&self, path: &str) -> String {
        sha256(&self.path(path))
    }

    /// Why there is nothing of which the name begins so.
    fn missing(&self, what: &str) -> &str {
        let missing = self.manifest["missing"].as_array().expect("what is missing");
        let is_it = |it: &&Value| it["what"].as_str().is_some_and(|it| it.starts_with(what));
        let entry = missing.iter().find(is_it);
        entry.and_then(|it| it["reason"].as_str()).unwrap_or_else(|| panic!("{what}: {missing:?}"))
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut directories = vec![self.root()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).expect("list a directory") {
                let path = entry.expect("list a directory").path();
                if path.is_dir() { directories.push(path) } else { files.push(path) }
            }
        }
        files
    }

    /// Only its owner can read it, and nothing can be run.
    fn assert_private(&self) {
        let mode =
            |path: &Path| path.metadata().expect("look at a file").permissions().mode() & 0o7777;
        let files = self.files();
        assert!(files.len() > 50, "{files:?}");
        for file in files.iter().chain([&self.archive()]) {
            assert_eq!(mode(file), 0o600, "{file:?}");
            if file.parent() != Some(self.lab.path()) {
                assert_eq!(mode(file.parent().expect("a directory")), 0o700, "{file:?}");
            }
        }
    }
}

fn verify(path: &Path) -> Finished {
    finish(Command::new(program()).args(["evidence", "verify"]).arg(path))
}

fn listen(host: &Host) -> String {
    format!("listen tcp {}", host.v4(PORT))
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("make a directory")
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path of UTF-8").to_owned()
}

fn json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_slice(&bytes).expect("read JSON")
}

fn contains(path: &Path, part: &[u8]) -> bool {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    bytes.windows(part.len()).any(|it| it == part)
}

fn sha256(path: &Path) -> String {
    let bytes = fs::read(path).expect("read a file");
    let hex: Vec<_> = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    hex.concat()
}
