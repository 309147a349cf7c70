//! The first process of a test machine: mounts what Linux programs expect, loads modules, runs test
//! programs one after the other and tells how they ended.
//!
//! Where some of them want a service manager as the first process, [that](systemd) takes our place after the
//! others, and starts this program once more for the rest.
//!
//! `cargo xtask vm` packs it as `/init`, with `/vm/plan` beside it (see [`plan`]), and reads the
//! second serial port: a line that begins with `@` is ours, one that begins with `|` is a program's.

#![forbid(unsafe_code)]

mod systemd;
mod plan;
mod serial;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, PipeReader};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process_group, waitpid};
use rustix::system::{RebootCommand, reboot};

use plan::Plan;
use serial::Serial;

fn main() {
    match start() {
        Ok(mut serial) => {
            if let Err(error) = perform(&mut serial) {
                serial.say("failed", &format!("{error:#}"));
            }
            serial.say("done", "");
            as_far_as_possible(serial.drain());
        }
        // The host shows the end of the kernel's console when it hears nothing.
        Err(error) => {
            as_far_as_possible(fs::write("/dev/kmsg", format!("init: {error:#}\n")));
        }
    }
    rustix::fs::sync();
    // With QEMU's `-no-reboot` this ends the machine.
    as_far_as_possible(reboot(RebootCommand::Restart));
}

/// Mounts, and opens the serial port of the protocol.
fn start() -> Result<Serial> {
    if is_service() {
        return Serial::open(PORT);
    }
    for (kind, target) in MOUNTS {
        // What a kernel does not have, a test that needs it will say.
        as_far_as_possible(fs::create_dir_all(target));
        as_far_as_possible(mount(*kind, *target, *kind, MountFlags::empty(), None));
    }
    let serial = Serial::open(PORT)?;
    for (link, target) in LINKS {
        if !Path::new(link).exists() {
            symlink(target, link).with_context(|| format!("link {link}"))?;
        }
    }
    Ok(serial)
}

/// Has a service manager taken our place, and started us again?
fn is_service() -> bool {
    !getpid().is_init()
}

fn perform(serial: &mut Serial) -> Result<()> {
    let plan = fs::read_to_string("/vm/plan").context("read /vm/plan")?;
    let mut plan = Plan::parse(&plan)?;
    if is_service() {
        let (name, value) = systemd::VARIABLE;
        plan.environment.push((name.to_owned(), value.to_owned()));
        run_all(&plan, &plan.managed, serial);
        return Ok(());
    }
    prepare(&plan, serial)?;
    run_all(&plan, &plan.programs, serial);
    match &plan.manager {
        Some(manager) if !plan.managed.is_empty() => {
            serial.drain()?;
            systemd::take_over(manager).map(drop)
        }
        _ => Ok(()),
    }
}

/// Makes the machine what tests expect.
fn prepare(plan: &Plan, serial: &mut Serial) -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("ask the release")?;
    serial.say("up", release.trim());
    // Else each module of a tunnel puts a device into each namespace, which no test expects.
    as_far_as_possible(fs::write("/proc/sys/net/core/fb_tunnels_only_for_init_net", "2"));
    for module in &plan.modules {
        if let Err(error) = load(module) {
            serial.say("warning", &format!("{}: {error:#}", module.display()));
        }
    }
    fs::write("/proc/sys/kernel/hostname", "guest").context("name the machine")?;
    let mut loopback = Command::new("ip");
    loopback.args(["link", "set", "lo", "up"]).envs(plan.environment.clone());
    loopback.status().context("start ip")?;
    Ok(())
}

fn run_all(plan: &Plan, programs: &[PathBuf], serial: &mut Serial) {
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        serial.say("begin", &name);
        let end = run(plan, program, serial).unwrap_or_else(|error| format!("{error:#}"));
        for note in take_notes() {
            serial.say("skipped", &note);
        }
        serial.say("end", &format!("{name} {end}"));
    }
}

fn load(module: &Path) -> Result<()> {
    let file = File::open(module)?;
    rustix::system::finit_module(&file, &CString::default(), 0)?;
    Ok(())
}

/// Runs a program to its end, its output to the serial port, and says how it ended.
fn run(plan: &Plan, program: &Path, serial: &mut Serial) -> Result<String> {
    let (output, writer) = std::io::pipe().context("make a pipe")?;
    let mut command = Command::new(program);
    command.args(&plan.arguments).env("PORTWATCH_SKIPPED", SKIPPED).envs(plan.environment.clone());
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    // It holds the writing end, without which there is no end of output.
    drop(command);
    let group = Pid::from_child(&child);
    let (alive, watched) = sync_channel::<()>(0);
    let watchdog = thread::spawn({
        let limit = plan.limit;
        move || kill_when_late(limit, group, &watched)
    });
    let copier = serial.try_clone()?;
    let copying = thread::spawn(move || copy(output, copier));
    let status = child.wait().context("wait for a program")?;
    let is_late = end_watchdog(alive, watchdog);
    // What it left behind would disturb the next one, and holds its output open.
    as_far_as_possible(kill_process_group(group, Signal::KILL));
    bury_orphans();
    as_far_as_possible(copying.join());
    Ok(describe(status, is_late))
}

fn kill_when_late(limit: Duration, group: Pid, watched: &std::sync::mpsc::Receiver<()>) -> bool {
    let is_late = watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
    if is_late {
        as_far_as_possible(kill_process_group(group, Signal::KILL));
    }
    is_late
}

fn end_watchdog(alive: SyncSender<()>, watchdog: thread::JoinHandle<bool>) -> bool {
    drop(alive);
    watchdog.join().unwrap_or_default()
}

/// PID 1 inherits whose parents are gone, and has to wait for them.
fn bury_orphans() {
    while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
}

fn copy(output: PipeReader, mut serial: Serial) {
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        serial.pass(&line);
    }
}

/// For what the host notices when it fails.
fn as_far_as_possible<T, E>(_attempt: Result<T, E>) {}

fn describe(status: ExitStatus, is_late: bool) -> String {
    if is_late { "took too long".to_owned() } else { status.to_string() }
}

/// What tests noted that could not run, once.
fn take_notes() -> Vec<String> {
    let notes = fs::read_to_string(SKIPPED).unwrap_or_default();
    as_far_as_possible(fs::remove_file(SKIPPED));
    notes.lines().map(str::to_owned).collect()
}

/// The serial port of the protocol.
const PORT: &str = "/dev/ttyS1";

/// Where tests note that they could not run.
const SKIPPED: &str = "/tmp/skipped";

/// Kinds of file systems and where they belong, in this order.
const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("securityfs", "/sys/kernel/security"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// What udev would make: a link and where it leads.
const LINKS: &[(&str, &str)] = &[("/dev/fd", "/proc/self/fd")];
