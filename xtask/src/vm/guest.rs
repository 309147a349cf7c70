//! Boots a kernel under QEMU and hears what it says, until it is done or too much time has passed.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::vm::kernels::Kernel;
use crate::vm::protocol::{Account, Line};

/// How long a kernel may take to start `/init`. Under software emulation it takes 3 to 10 seconds.
const BOOT_LIMIT: Duration = Duration::from_mins(2);

/// How a guest is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// Virtual CPUs.
    pub(super) cpus: u32,
    /// Memory in MiB.
    pub(super) memory: u32,
    /// By the processor rather than by software.
    pub(super) is_accelerated: bool,
    /// Seconds that it may run.
    pub(super) limit: u64,
}

/// Boots `kernel` with the archive at `initramfs`; each line that is worth reading goes to `tell`.
/// What was said in full, and after how many seconds, stays in `logs`.
#[expect(clippy::disallowed_methods, reason = "the log says when each test ended")]
pub(super) fn run(
    kernel: &Kernel,
    machine: Machine,
    initramfs: &Path,
    logs: &Path,
    tell: &dyn Fn(&str),
) -> Result<Account> {
    let console = logs.join("console.log");
    let mut log = File::create(logs.join("tests.log")).context("write a log")?;
    let mut child = qemu(kernel, machine, initramfs, &console)?.spawn().context("start QEMU")?;
    let started = Instant::now();
    let lines = lines_of(child.stdout.take().context("take the output of QEMU")?);
    let mut account = Account::default();
    let mut wait = BOOT_LIMIT;
    let late = loop {
        let line = match lines.recv_timeout(wait) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => break Some(wait),
        };
        writeln!(log, "{:7.1} {line}", started.elapsed().as_secs_f64()).context("write a log")?;
        let Some(line) = Line::parse(&line) else { continue };
        account.take(&line);
        // From now on the guest itself ends programs that take too long.
        wait = Duration::from_secs(machine.limit).saturating_add(BOOT_LIMIT);
        if let Some(text) = worth_telling(&line) {
            tell(&text);
        }
    };
    judge(&mut account, &mut child, late, &console)?;
    Ok(account)
}

fn judge(
    account: &mut Account,
    child: &mut Child,
    late: Option<Duration>,
    console: &Path,
) -> Result<()> {
    if let Some(late) = late {
        child.kill().context("end QEMU")?;
        account.faults.push(format!("said nothing for {} seconds", late.as_secs()));
    }
    let status = child.wait().context("wait for QEMU")?;
    let console = fs::read(console).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    if !account.is_done {
        let what = match &account.release {
            Some(_) => "ended before its tests did",
            None => "did not come up",
        };
        let last: Vec<&str> = console.lines().rev().take(SHOWN_LINES).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n    ");
        account.faults.push(format!("{what} ({status}); its console:\n    {last}"));
    }
    account.faults.extend(complaints(&console).map(|line| format!("the kernel said: {line}")));
    Ok(())
}

/// Lines of the kernel's console that tell of a defect in it.
fn complaints(console: &str) -> impl Iterator<Item = &str> {
    console.lines().map(str::trim_end).filter(|line| {
        let is_of_kernel = |word: &&&str| line.contains(**word);
        COMPLAINTS.iter().find(is_of_kernel).is_some()
    })
}

/// What is neither a test that passed nor the frame around it.
fn worth_telling(line: &Line<'_>) -> Option<String> {
    match line {
        Line::Up(release) => Some(format!("Linux {release}")),
        Line::Warning(what) => Some(format!("warning: {what}")),
        Line::Output(output) => {
            let is_frame = output.is_empty() || output.starts_with("running ");
            let has_passed = output.starts_with("test ") && output.ends_with("... ok");
            (!is_frame && !has_passed).then(|| (*output).to_owned())
        }
        Line::Begin(name) => Some(format!("runs {name}")),
        Line::Skipped(note) => Some(format!("skipped: {note}")),
        Line::End(..) | Line::Done => None,
        Line::Failed(reason) => Some(format!("failed: {reason}")),
    }
}

fn qemu(kernel: &Kernel, machine: Machine, initramfs: &Path, console: &Path) -> Result<Command> {
    // A machine that nobody hears any more ends.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "--", QEMU, "-M", MACHINE, "-cpu", "max"]);
    let accelerator = if machine.is_accelerated { "kvm" } else { "tcg,thread=multi,tb-size=256" };
    qemu.args(["-accel", accelerator]);
    qemu.args(["-m", &machine.memory.to_string(), "-smp", &machine.cpus.to_string()]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    qemu.args(["-monitor", "none"]);
    // The kernel's console into a file; the second port is the protocol's alone.
    let console = console.to_str().context("a path is no text")?;
    qemu.args(["-serial", &format!("file:{console}"), "-serial", "stdio"]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
    qemu.args(["-append", COMMAND_LINE]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    Ok(qemu)
}

fn lines_of(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = sync_channel(64);
    thread::spawn(move || {
        let read = BufReader::new(output).split(b'\n').map_while(Result::ok);
        for line in read {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    lines
}

/// Whether this machine's processor can run guests itself. `/dev/kvm` alone says little: it may be
/// there, and even open, where the processor cannot.
pub(super) fn can_accelerate() -> bool {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    kvm.is_ok() && has_virtualization(&processor)
}

fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_whitespace).any(|flag| matches!(flag, "vmx" | "svm"))
}

/// Where QEMU is, if it is installed.
pub(super) fn installed() -> Option<PathBuf> {
    crate::command::program(QEMU)
}

const QEMU: &str = "qemu-system-x86_64";

/// Without the oldest timer, against which a busy host lets a guest measure its TSC many times too slow.
const MACHINE: &str = "q35,pit=off";

/// The kernel's. A guest that panics ends. The other two make one that is run by software faster: an HPET,
/// which older kernels trust more than the TSC, leaves the emulated processor each time the clock is
/// read, and retpolines are jumps that QEMU cannot foresee.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 oops=panic tsc=reliable mitigations=off";

/// How much of the console is shown of a guest that died.
const SHOWN_LINES: usize = 25;

/// How Linux begins to tell of a defect of its own.
const COMPLAINTS: &[&str] = &[
    "BUG: ",
    "WARNING: ",
    "Oops: ",
    "kernel BUG at",
    "general protection fault",
    "Kernel panic",
    "INFO: rcu",
    "INFO: task ",
    "UBSAN: ",
    "KASAN: ",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_takes_a_processor_that_can() {
        assert!(has_virtualization("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualization("flags : svm\n"));
        assert!(!has_virtualization("flags : fpu hypervisor\nvmx flags : none\n"));
    }

    #[test]
    fn defects_of_the_kernel_are_found_on_its_console() {
        let console = "[    0.000000] Linux version 6.12\n\
                       [    3.1] WARNING: CPU: 0 PID: 1 at net/core/dev.c:1\n\
                       [    3.2] BUG: kernel NULL pointer dereference\n\
                       [    3.3] Command line: oops=panic\n";

        assert_eq!(complaints(console).count(), 2);
    }

    #[test]
    fn what_passed_is_not_told() {
        assert_eq!(worth_telling(&Line::Output("test a ... ok")), None);
        assert_eq!(worth_telling(&Line::Output("running 3 tests")), None);
        let failed = "test a ... FAILED";
        assert_eq!(worth_telling(&Line::Output(failed)), Some(failed.to_owned()));
    }
}
