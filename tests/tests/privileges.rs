//! What portwatch gives up once it has started, and that nothing is missed for it.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use portwatch_tests::{Actor, Host, Lab, Portwatch, Run, finish, is_root, program};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

/// Bits of include/uapi/linux/capability.h.
const DAC_READ_SEARCH: u64 = 1 << 2;
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const BPF: u64 = 1 << 39;

#[test]
fn every_thread_keeps_what_it_needs_and_nothing_else() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    for attach in ["auto", "clsact"] {
        let portwatch = host.portwatch(&["watch", "--attach", attach]);

        let threads = threads(portwatch.pid());
        let run = portwatch.stop();

        let proc = SYS_PTRACE | DAC_READ_SEARCH;
        let is_old = |capability: &str| is_degraded(&run, &format!("{capability} is kept"));
        let bpf = if is_old("CAP_BPF") { BPF } else { 0 };
        let admin = if is_old("CAP_SYS_ADMIN") { SYS_ADMIN } else { 0 };
        let kept = [
            ("portwatch", proc | NET_ADMIN | bpf),
            ("pw-identities", proc | admin),
            ("pw-hashes", proc),
            ("pw-network", proc | NET_ADMIN | bpf),
            ("pw-stdout", 0),
        ];
        let expected = kept.map(|(name, kept)| (name.to_owned(), Status::confined(kept)));
        assert_eq!(threads, BTreeMap::from(expected));
    }
}

#[test]
fn a_command_has_the_rights_that_portwatch_was_started_with() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let own = finish(host.command("cat").arg("/proc/self/status"));

    let watched = host.finish_portwatch(&["watch", "--", "cat", "/proc/self/status"]);

    assert_eq!(watched.code, Some(0));
    assert_eq!(Status::read(&watched.stderr), Status::read(&own.stdout));
}

#[test]
fn a_command_that_became_another_user_ends_with_its_watch() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let become_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    // It would wait for 25 seconds, and holds no pipe of the test that long.
    let waits = format!("exec {ACTOR} 'listen tcp 127.0.0.1:3516' 'serve 1' > /dev/null 2>&1");
    let shell = ["sh", "-c", &waits];
    let portwatch = host.portwatch(&[&["watch", "--"], &become_nobody[..], &shell].concat());
    let listener = portwatch.expect("the listener of the command", |event| {
        event.is_listener("listener-opened", PORT, host.netns())
    });
    let pid = i32::try_from(listener.number("process.pid")).ok().and_then(Pid::from_raw).unwrap();
    let command = pidfd_open(pid, PidfdFlags::empty()).unwrap();

    portwatch.stop().assert_sound();

    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&command, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(ended, 1, "the command outlives its watch");
}

#[test]
fn with_the_documented_capabilities_everything_works_and_with_fewer_the_missing_one_is_named() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let for_watch = ["bpf", "perfmon", "net_admin", "sys_admin", "sys_ptrace", "dac_read_search"];
    let for_scan = ["sys_admin", "sys_ptrace", "dac_read_search"];
    for (args, needed) in [(&["watch", "--for", "1ms"][..], &for_watch[..]), (&["scan"], &for_scan)]
    {
        let run_with = |capabilities: &[&str]| {
            finish(with_capabilities(&host, "unlimited", capabilities).arg(program()).args(args))
        };

        let enough = run_with(needed);
        assert_eq!(enough.code, Some(0), "{args:?}: {}", enough.stderr);
        for missing in needed {
            let others: Vec<&str> = needed.iter().copied().filter(|it| it != missing).collect();
            let refused = run_with(&others);

            // CAP_SYS_ADMIN contains these two.
            let is_contained = matches!(*missing, "bpf" | "perfmon");
            let code = if is_contained { 0 } else { 3 };
            assert_eq!(refused.code, Some(code), "without {missing}: {}", refused.stderr);
            let name = format!("CAP_{}", missing.to_uppercase());
            assert!(is_contained || refused.stderr.contains(&name), "{}", refused.stderr);
        }
    }
}

/// Before Linux 5.11 maps are locked memory.
#[test]
fn too_little_locked_memory_is_enough_or_the_remedy_is_said() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let rights = ["bpf", "perfmon", "net_admin", "sys_admin", "sys_ptrace", "dac_read_search"];
    let mut watch = with_capabilities(&host, "64", &rights);

    let run = finish(watch.arg(program()).args(["watch", "--for", "1ms"]));

    let told = run.stderr.contains("`ulimit -l unlimited`");
    assert!(matches!((run.code, told), (Some(0), false) | (Some(3), true)), "{}", run.stderr);
}

#[test]
fn what_cannot_be_given_up_is_said() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let mut command = host.command("setpriv");
    command.arg("--bounding-set=-setpcap").arg(program());
    let portwatch = Portwatch::start(command, &["watch"]);

    let threads = threads(portwatch.pid());
    let run = portwatch.stop();

    let said = "the capability bounding set stays: CAP_CHOWN, ";
    assert!(is_degraded(&run, said), "{}", run.events[0]);
    assert!(run.stderr.iter().any(|line| line.contains(said)), "{:?}", run.stderr);
    assert_eq!(threads["pw-hashes"].effective, SYS_PTRACE | DAC_READ_SEARCH);
}

#[test]
fn who_comes_from_a_new_namespace_as_another_user_with_a_deleted_program_is_known_afterwards() {
    for attach in ["auto", "clsact"] {
        if !is_root() {
            return;
        }
        let Some(watched) = Lab::loopback_only(ACTOR) else { return };
        let portwatch = watched.portwatch(&["watch", "--attach", attach]);

        // Only now are there the other network, the interface and the programs.
        let Some(lab) = Lab::two_hosts(ACTOR) else { return };
        watched.ip("link add late0 type veth peer name late1");
        let directory = tempfile::tempdir().unwrap();
        let closed = directory.path().join("closed");
        fs::copy(ACTOR, &closed).unwrap();
        let address = lab.right.v4(PORT);
        let mut server = closed_program(&lab.right, &closed, &["name closed", "stay"]);
        server.answer();
        fs::remove_file(&closed).unwrap();
        server.ask(&format!("listen tcp {address}"));
        let listener = portwatch.expect("the hash of the listener's program", |event| {
            let is_change = |action| event.is_listener(action, PORT, lab.right.netns());
            (is_change("listener-opened") || is_change("listener-updated"))
                && !event.text("process.hash.sha256").is_empty()
        });
        let late = portwatch.expect("the late interface", |event| {
            event.is("interface-attached") && event.text("portwatch.interface.name") == "late0"
        });
        let pid = server.pid();
        server.leave();
        let run = portwatch.stop();

        let opener = listener.owner("opener", pid);
        assert_eq!(opener["deleted"], true, "{listener}");
        assert_eq!(listener.at("process.user.id"), "65534", "{listener}");
        assert_eq!(listener.text("portwatch.listener.netns.name"), lab.right.name());
        assert_eq!(
            late.text("portwatch.interface.mode"),
            run.events[0].text("portwatch.run.interfaces.0.mode")
        );
        run.assert_sound();
        drop(run);
        drop(lab);
        let left = finish(watched.command("tc").args(["qdisc", "show"])).stdout;
        assert!(!left.contains("clsact"), "{left}");
    }
}

/// Starts a program that only its owner, who is not root, may read.
fn closed_program(host: &Host, program: &Path, steps: &[&str]) -> Actor {
    chown(program, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o500)).unwrap();
    fs::set_permissions(program.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = host.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(steps);
    Actor::start(&mut command)
}

fn is_degraded(run: &Run, what: &str) -> bool {
    let degraded = run.events[0].list("portwatch.run.degraded");
    degraded.iter().any(|line| line.as_str().is_some_and(|line| line.contains(what)))
}

/// What a thread may do, as `/proc/PID/task/TID/status` tells.
#[derive(Debug, Eq, PartialEq)]
struct Status {
    inheritable: u64,
    permitted: u64,
    effective: u64,
    bounding: u64,
    ambient: u64,
    no_new_privileges: u64,
    /// 2: system calls are filtered.
    seccomp: u64,
}

impl Status {
    const fn confined(kept: u64) -> Self {
        Self {
            inheritable: 0,
            permitted: kept,
            effective: kept,
            bounding: 0,
            ambient: 0,
            no_new_privileges: 1,
            seccomp: 2,
        }
    }

    fn read(status: &str) -> Self {
        let field = |name: &str, radix| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(value.trim(), radix).unwrap()
        };
        Self {
            inheritable: field("CapInh:", 16),
            permitted: field("CapPrm:", 16),
            effective: field("CapEff:", 16),
            bounding: field("CapBnd:", 16),
            ambient: field("CapAmb:", 16),
            no_new_privileges: field("NoNewPrivs:", 10),
            seccomp: field("Seccomp:", 10),
        }
    }
}

/// The threads of a process by their names.
fn threads(pid: u32) -> BTreeMap<String, Status> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            let task = task.unwrap().path();
            let name = fs::read_to_string(task.join("comm")).unwrap().trim().to_owned();
            (name, Status::read(&fs::read_to_string(task.join("status")).unwrap()))
        })
        .collect()
}

/// A command with no other capabilities, and with so many KiB of locked memory, as far as that can be
/// chosen here; its program is still to be named.
fn with_capabilities(host: &Host, locked_memory: &str, capabilities: &[&str]) -> Command {
    let set = format!("--bounding-set=-all,+{}", capabilities.join(",+"));
    let limited = format!("ulimit -l {locked_memory} 2> /dev/null; exec \"$@\"");
    let mut command = host.command("bash");
    command.args(["-c", &limited, "bash", "setpriv", &set]);
    command
}
