//! `portwatch doctor`: what it proves, what it finds missing, and that nothing of it stays.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use portwatch_tests::{Event, Finished, finish, is_root, program, soon};

/// What decoys do, in this order.
const PLAYED: [&str; 9] = [
    "older-listener",
    "listener",
    "brief-client",
    "worker",
    "passed-socket",
    "datagram",
    "udp-receiver",
    "ipv6-client",
    "raw-responder",
];

#[test]
fn on_a_kernel_that_offers_everything_every_decoy_is_seen_and_named() {
    if !is_root() {
        return;
    }
    let run = doctor(&mut Command::new(program()));

    let names: Vec<&str> = run.of_part("self-test").collect();
    assert_eq!(names, PLAYED);
    let is_whole = run.outcome("readers") == "ok" && run.outcome("socket-hooks") == "ok";
    for name in PLAYED {
        match name {
            "ipv6-client" if !Path::new("/proc/net/if_inet6").exists() => {
                assert_eq!(run.outcome(name), "not applicable");
            }
            // What an older kernel cannot offer, the next test is about.
            _ if is_whole => assert_eq!(run.outcome(name), "ok", "{}", run.checks[name]),
            _ => {}
        }
    }
    run.assert_sound();
    assert!(!is_whole || run.code == Some(0), "{}", run.ended());
}

#[test]
fn what_is_missed_is_named_and_said_by_the_exit_code() {
    if !is_root() {
        return;
    }
    // Without the kernel's types nobody sees who reads and writes.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"").arg(program());

    let run = doctor(&mut command);

    assert_eq!(run.code, Some(1), "{}", run.ended());
    assert_eq!(run.outcome("readers"), "degraded");
    assert_eq!(run.outcome("worker"), "missed");
    // What the kernel tells in the system call itself is still there.
    assert_eq!(run.outcome("brief-client"), "ok");
    assert_eq!(run.outcome("listener"), "ok");
    run.assert_sound();
}

#[test]
fn pids_that_mean_nothing_here_are_a_gap() {
    if !is_root() {
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(program());

    let run = doctor(&mut command);

    assert_eq!(run.outcome("pids"), "missed");
    assert_eq!(run.outcome("brief-client"), "missed");
    run.assert_sound();
}

#[test]
fn a_decoy_that_cannot_play_is_not_taken_for_missed() {
    if !is_root() {
        return;
    }
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-net_raw").arg(program());

    let run = doctor(&mut command);

    assert_eq!(run.code, Some(1), "{}", run.ended());
    let raw = &run.checks["raw-responder"];
    assert_eq!(raw.text("portwatch.check.outcome"), "not done");
    assert!(raw.text("portwatch.check.seen").contains("raw socket"), "{raw}");
    run.assert_sound();
}

#[test]
fn a_host_that_cannot_be_observed_is_refused_with_a_remedy() {
    if !is_root() {
        return;
    }
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-all").arg(program()).arg("doctor");

    let Finished { code, stdout, stderr } = finish(&mut command);

    assert_eq!((code, &*stdout), (Some(3), ""), "{stderr}");
    assert!(
        stderr.lines().any(|line| line.contains("CAP_BPF") && line.contains("sudo")),
        "{stderr}"
    );
}

#[test]
fn nothing_stays_however_it_ends() {
    if !is_root() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let own = namespace("self");
    let mut command = Command::new(program());
    command.arg("doctor").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut killed = command.spawn().unwrap();
    let pid = killed.id().to_string();
    let inside = soon("a network namespace of its own", || {
        let inside = namespace(&pid)?;
        let is_played = processes_in(inside).iter().any(|it| said_to(it).contains("decoy"));
        (Some(inside) != own && is_played && watches(inside)).then_some(inside)
    });

    killed.kill().unwrap();
    killed.wait().unwrap();

    soon("an end of everything in it", || processes_in(inside).is_empty().then_some(()));
}

/// What a run of doctor's said.
struct Examination {
    code: Option<i32>,
    events: Vec<Event>,
    checks: BTreeMap<String, Event>,
}

/// One at a time: each starts a dozen processes and wants to be done in seconds.
static TURN: Mutex<()> = Mutex::new(());

fn doctor(command: &mut Command) -> Examination {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Finished { code, stdout, stderr } = finish(command.args(["doctor", "--format", "json"]));
    assert!(!stdout.is_empty(), "{code:?}: {stderr}");
    let events: Vec<Event> = stdout.lines().map(Event::parse).collect();
    let checks = events.iter().filter(|event| event.is("check"));
    let checks = checks.map(|check| (check.text("portwatch.check.name").to_owned(), check.clone()));
    Examination { code, checks: checks.collect(), events }
}

impl Examination {
    fn outcome(&self, name: &str) -> &str {
        self.checks[name].text("portwatch.check.outcome")
    }

    /// The names of the checks of one part, in their order.
    fn of_part<'a>(&'a self, part: &'a str) -> impl Iterator<Item = &'a str> {
        let of_part = self.events.iter().filter(move |it| it.text("portwatch.check.part") == part);
        of_part.map(|check| check.text("portwatch.check.name"))
    }

    fn ended(&self) -> &Event {
        self.events.last().unwrap()
    }

    /// It has a beginning and an end, and the end, the exit code and the checks say the same.
    fn assert_sound(&self) {
        assert!(self.events[0].is("run-started"), "{}", self.events[0]);
        assert_eq!(self.events[0].text("portwatch.run.command"), "doctor");
        assert!(self.ended().is("run-ended"), "{}", self.ended());
        let is_gap = |name: &&String| matches!(self.outcome(name), "missed" | "not done");
        let gaps = self.checks.keys().filter(is_gap).collect::<Vec<_>>();
        let named = self.ended().list("portwatch.run.coverage_gaps");
        assert_eq!(named.len(), gaps.len(), "{}", self.ended());
        assert!(gaps.iter().all(|gap| named.iter().any(|it| it.as_str().unwrap().contains(*gap))));
        assert_eq!(self.code, Some(i32::from(!gaps.is_empty())), "{gaps:?}");
    }
}

fn processes_in(netns: u64) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes.filter(|it| inode(it) == Some(netns)).collect()
}

fn watches(netns: u64) -> bool {
    processes_in(netns).iter().any(|it| said_to(it).contains("watch"))
}

/// How a process was called, without the name of the program.
fn said_to(process: &Path) -> String {
    let line = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
    line.split('\0').skip(1).collect::<Vec<_>>().join(" ")
}

fn namespace(pid: &str) -> Option<u64> {
    inode(&Path::new("/proc").join(pid))
}

fn inode(process: &Path) -> Option<u64> {
    fs::metadata(process.join("ns/net")).ok().map(|namespace| namespace.ino())
}
