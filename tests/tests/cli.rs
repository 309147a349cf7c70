//! How portwatch is called, how it ends, and what it never lets through to a terminal.

#![cfg(test)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use portwatch_tests::{Actor, Finished, Host, Lab, Portwatch, finish, is_root, program};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn a_bad_command_line_is_refused_in_one_line() {
    let table = [
        (&["scan", "-p", "80-"][..], "'80-'"),
        (&["scan", "-p", "99999"], "99999"),
        (&["watch", "--port", ""], "--port"),
        (&["scan", "--no-such-option"], "--no-such-option"),
        (&["watch", "--for", "soon"], "--for"),
        (&["watch", "--ring-size", "5000"], "--ring-size"),
        (&["explain", "99999"], "99999"),
        (&["gaze"], "gaze"),
        (&[], "subcommand"),
    ];
    for (args, named) in table {
        let refused = finish(Command::new(program()).args(args));

        assert_refused(&refused, named);
    }
}

#[test]
fn a_port_is_explained_without_rights() {
    let (_directory, program) = program_for_all();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let as_nobody = |args: &[&str]| {
        let rights = if rustix::process::geteuid().is_root() { &nobody[..] } else { &[] };
        finish(Command::new("setpriv").args(rights).arg(&program).args(args))
    };

    let text = as_nobody(&["explain"]);
    let json = as_nobody(&["explain", "22", "--format", "json"]);

    assert_eq!((text.code, &*text.stderr), (Some(0), ""));
    assert!(text.stdout.contains("smartcard-port") && text.stdout.contains("Firmador"));
    assert_eq!((json.code, &*json.stderr), (Some(0), ""));
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["registrations"][0]["name"], "ssh");
}

#[test]
fn an_unknown_interface_is_refused_with_the_names_there_are() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };

    let refused = lab.right.finish_portwatch(&["watch", "-i", "eth7"]);

    assert_refused(&refused, "eth7");
    assert!(["lo", "veth0"].iter().all(|it| refused.stderr.contains(it)), "{}", refused.stderr);
}

#[test]
fn a_bad_policy_is_refused_with_its_place() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    fs::write(&file, "version = 1\n\n[[listener]]\nid = \"a\"\nprot = 3516\n").unwrap();

    for command in ["scan", "watch"] {
        let refused = finish(Command::new(program()).args([command, "--policy"]).arg(&file));

        assert_refused(&refused, &format!("{}:5:1: ", file.display()));
        assert!(refused.stderr.contains("prot"), "{}", refused.stderr);
    }
}

#[test]
fn a_policy_that_others_can_write_is_refused() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    fs::write(&file, "version = 1\n").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();

    let refused = finish(Command::new(program()).args(["scan", "--policy"]).arg(&file));

    assert_refused(&refused, &file.display().to_string());
}

#[test]
fn without_rights_the_missing_ones_are_named() {
    if !is_root() {
        return;
    }
    let (_directory, program) = program_for_all();
    for (rights, missing) in [
        (&["--reuid=65534", "--regid=65534", "--clear-groups"][..], "CAP_BPF"),
        (&["--bounding-set=-net_admin"], "CAP_NET_ADMIN"),
        (&["--bounding-set=-all"], "CAP_SYS_ADMIN"),
    ] {
        let watch = finish(Command::new("setpriv").args(rights).arg(&program).arg("watch"));

        assert_eq!((watch.code, &*watch.stdout), (Some(3), ""), "{}", watch.stderr);
        assert!(watch.stderr.contains(missing), "{}", watch.stderr);
        assert!(watch.stderr.contains("root"), "{}", watch.stderr);
    }
}

#[test]
fn a_closed_output_is_a_normal_end() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let portwatch = program().display().to_string();
    for args in ["watch --interval 100ms", "scan"] {
        // Takes one byte, then closes the pipe while portwatch goes on writing.
        let line = format!("{portwatch} {args} --format json | head -c 1; echo ${{PIPESTATUS[0]}}");

        let ended = finish(host.command("bash").args(["-c", &line]));

        assert_eq!(ended.stdout, "{0\n", "{args}: {}", ended.stderr);
    }
}

#[test]
fn the_exit_code_of_a_command_is_passed_on() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain.txt");
    fs::write(&plain, "no program\n").unwrap();
    let plain = plain.display().to_string();
    let table = [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["true"], 0),
        (&["/no/such/command"], 127),
        (&[&plain], 126),
    ];
    for (command, code) in table {
        let ended = host.finish_portwatch(&[&["watch", "--"], command].concat());

        assert_eq!(ended.code, Some(code), "{command:?}: {}", ended.stderr);
    }
}

#[test]
fn a_command_is_watched_from_its_first_step() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let bind = format!("bind udp {}", host.v4(PORT));

    let portwatch = host.portwatch(&["watch", "--", ACTOR, &bind]);
    let run = portwatch.finish();

    let opened =
        |it: &&portwatch_tests::Event| it.is_listener("listener-opened", PORT, host.netns());
    assert_eq!(run.events.iter().filter(opened).count(), 1);
    assert_eq!(run.code, Some(0));
}

#[test]
fn a_run_ends_when_its_time_is_up_or_its_events_are_counted() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    for limit in [&["--for", "300ms"][..], &["--count", "2", "--interval", "100ms"]] {
        let run = host.portwatch(&[&["watch"], limit].concat()).finish();

        assert_eq!(run.code, Some(0), "{limit:?}");
        assert!(!run.ended().text("event.reason").is_empty(), "{limit:?}");
        run.assert_sound();
    }
}

#[test]
fn interrupt_and_terminate_end_a_run_in_order() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let interrupted = host.portwatch(&["watch"]).stop();
    let terminated = host.portwatch(&["watch"]).terminate();

    for run in [interrupted, terminated] {
        assert_eq!(run.code, Some(0));
        assert_eq!(run.stderr.len(), 1, "{:?}", run.stderr);
        run.assert_sound();
    }
}

#[test]
fn names_that_processes_chose_reach_no_terminal_raw() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("\u{1b}[2Jexe\nroot");
    fs::copy(ACTOR, &file).unwrap();
    let _server = hostile(&host, &file, PORT);

    let scan = host.finish_portwatch(&["scan", "--color", "never"]);
    let watch = host.finish_portwatch(&["watch", "-vvv", "--for", "500ms", "--color", "never"]);

    for said in [&scan.stdout, &watch.stdout] {
        assert!(said.contains(r"c\x1b[2J\nroot"), "{said:?}");
        assert!(said.contains(r"\x1b[2Jexe\nroot"), "{said:?}");
    }
    for said in [&scan.stdout, &scan.stderr, &watch.stdout, &watch.stderr] {
        assert!(!said.contains('\u{1b}'), "{said:?}");
        assert!(!said.lines().any(|line| line.starts_with("root")), "{said:?}");
    }
}

#[test]
fn names_that_processes_chose_are_kept_in_json() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let _server = hostile(&host, Path::new(ACTOR), PORT);

    let portwatch: Portwatch = host.portwatch(&["watch"]);
    let found = portwatch
        .expect("the listener", |event| event.is_listener("listener-found", PORT, host.netns()));
    portwatch.stop().assert_sound();

    assert_eq!(found.text("process.name"), "c\u{1b}[2J\nroot");
    assert_eq!(found.text("process.args.1"), "name c\u{1b}[2J\nroot");
}

/// Exactly one line on standard error, which names what was wrong; nothing on standard output.
#[track_caller]
fn assert_refused(refused: &Finished, named: &str) {
    assert_eq!((refused.code, &*refused.stdout), (Some(2), ""), "{}", refused.stderr);
    assert!(refused.stderr.ends_with('\n'), "{:?}", refused.stderr);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert!(refused.stderr.contains(named), "{named}: {}", refused.stderr);
}

/// A listener whose name is a terminal sequence and a line of its own.
fn hostile(host: &Host, file: &Path, port: u16) -> Actor {
    let listen = format!("listen tcp {}", host.v4(port));
    let mut command = host.command(file);
    let mut server = Actor::start(command.args(["name c\u{1b}[2J\nroot", &listen, "stay"]));
    assert_eq!(server.answer(), "named");
    server.answer();
    server
}

/// The program where everybody may run it.
fn program_for_all() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().expect("make a directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("open it");
    let copy = directory.path().join("portwatch");
    fs::copy(program(), &copy).expect("copy portwatch");
    (directory, copy)
}
