//! The commands as a user runs them: what `watch` costs while nothing happens, how long `scan` takes.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::Effort;
use crate::clock::Stopwatch;
use crate::report::Row;
use crate::spread::Spread;

const PORTWATCH: &str = env!("CARGO_BIN_EXE_portwatch");

/// The most that idling may cost, in per cent of a core and in megabytes, that `scan` may take, in
/// milliseconds, and on how many processes.
const CPU_BAR: f64 = 0.5;
const MEMORY_BAR: f64 = 40.0;
const SCAN_BAR: f64 = 200.0;
const PROCESSES: usize = 500;

/// A process that ends when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Of one that has ended by itself there is nothing to kill.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// CPU and memory of `portwatch watch` on this host, with no traffic on its port.
pub(crate) fn idle(effort: Effort) -> Result<Vec<Row>> {
    let (mut ready, announcer) = std::io::pipe().context("making a pipe")?;
    // Pipes close on exec; this end is for the child.
    rustix::io::fcntl_setfd(&announcer, FdFlags::empty()).context("handing on a pipe")?;
    let ready_fd = announcer.as_raw_fd().to_string();
    let mut watch = Command::new(PORTWATCH);
    watch.args(["watch", "--ready-fd", &ready_fd]).stdout(Stdio::null());
    let mut watch = Running(watch.spawn().with_context(|| format!("starting {PORTWATCH}"))?);
    drop(announcer);
    let mut newline = [0];
    ready.read_exact(&mut newline).context("waiting until portwatch watches")?;
    // It still hashes executables and learns who holds what was there before.
    thread::sleep(Duration::from_secs(1));

    let (mut shares, mut resident, mut own) = (Vec::new(), Vec::new(), Vec::new());
    // Each as long as what it does least often takes to come around, which a median would hide.
    for _ in 0..3 {
        let (passed, before) = (Stopwatch::of_everybody(), cpu_time(watch.0.id())?);
        thread::sleep(Duration::from_secs(effort.seconds));
        let used = cpu_time(watch.0.id())?.saturating_sub(before);
        shares.push(used.as_secs_f64() / passed.elapsed().as_secs_f64() * 100.0);
        resident.push(megabytes(watch.0.id(), "VmRSS:")?);
        own.push(megabytes(watch.0.id(), "RssAnon:")?);
    }
    stop(&mut watch.0)?;
    Ok(vec![
        Row::new("idle watch, CPU", "%", Spread::of(shares)).at_most(CPU_BAR),
        Row::new("idle watch, resident memory", "MB", Spread::of(resident)).at_most(MEMORY_BAR),
        Row::new("idle watch, of that neither mapped maps nor program", "MB", Spread::of(own)),
    ])
}

/// Wall time of `portwatch scan` on a host with many processes.
pub(crate) fn scan(effort: Effort) -> Result<Vec<Row>> {
    let mut sleepers = Vec::new();
    while processes()? < PROCESSES {
        let missing = PROCESSES - processes()?;
        for _ in 0..missing {
            let sleeper = Command::new("sleep").arg("600").spawn().context("starting sleep")?;
            sleepers.push(Running(sleeper));
        }
    }
    let processes = processes()?;
    let mut times = Vec::new();
    for _ in 0..effort.runs {
        let passed = Stopwatch::of_everybody();
        let status = Command::new(PORTWATCH).arg("scan").stdout(Stdio::null()).status();
        times.push(passed.elapsed().as_secs_f64() * 1e3);
        let code = status.with_context(|| format!("starting {PORTWATCH}"))?.code();
        // 1: it found a listener that no policy expects.
        ensure!(matches!(code, Some(0 | 1)), "`portwatch scan` ends with {code:?}");
    }
    let row = Row::new(format!("scan, {processes} processes"), "ms", Spread::of(times));
    Ok(vec![row.at_most(SCAN_BAR)])
}

/// Interrupts it and waits for its end.
fn stop(child: &mut Child) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.context("finding the pid of portwatch")?;
    kill_process(pid, Signal::INT).context("interrupting portwatch")?;
    child.wait().context("waiting for portwatch")?;
    Ok(())
}

/// Time that the threads of a process have run, to the nanosecond: `stat` counts hundredths of
/// a second, of which an idle portwatch uses one in a while.
fn cpu_time(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("listing threads")? {
        let path = thread.context("listing threads")?.path().join("schedstat");
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("reading {}", path.display()))?;
        let ran = text.split(' ').next().and_then(|number| number.parse().ok());
        sum += Duration::from_nanos(ran.context("reading the time a thread ran")?);
    }
    Ok(sum)
}

/// A size in `/proc/PID/status`.
fn megabytes(pid: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading a status")?;
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Ok(kibibytes.with_context(|| format!("finding {field} in a status"))? * 1024.0 / 1e6)
}

fn processes() -> Result<usize> {
    let entries = fs::read_dir("/proc").context("listing processes")?;
    let is_process = |name: &str| name.bytes().all(|letter| letter.is_ascii_digit());
    Ok(entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_process)).count())
}
