//! The commands as a user runs them: what `watch` costs while nothing happens, how long `scan` takes.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::Effort;
use crate::clock::Stopwatch;
use crate::process::{PORTWATCH, Running};
use crate::report::Row;
use crate::spread::Spread;

/// The most that idling may cost, in per cent of a core and in megabytes, that `scan` may take, in
/// milliseconds, and on how many processes.
const CPU_BAR: f64 = 0.5;
const MEMORY_BAR: f64 = 40.0;
const SCAN_BAR: f64 = 200.0;
const PROCESSES: usize = 500;

/// CPU and memory of `portwatch watch` on this host, with no traffic on its port.
pub(crate) fn idle(effort: Effort) -> Result<Vec<Row>> {
    let watch = Running::watch::<&str>(&[])?;
    // It still hashes executables and learns who holds what was there before.
    thread::sleep(Duration::from_secs(1));

    let (mut shares, mut resident, mut own) = (Vec::new(), Vec::new(), Vec::new());
    // Each as long as what it does least often takes to come around, which a median would hide.
    for _ in 0..3 {
        let (passed, before) = (Stopwatch::of_everybody(), watch.cpu_time()?);
        thread::sleep(Duration::from_secs(effort.seconds));
        let used = watch.cpu_time()?.saturating_sub(before);
        shares.push(used.as_secs_f64() / passed.elapsed().as_secs_f64() * 100.0);
        resident.push(watch.megabytes("VmRSS:")?);
        own.push(watch.megabytes("RssAnon:")?);
    }
    watch.stop()?;
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
            sleepers.push(Running::start(Command::new("sleep").arg("600"))?);
        }
    }
    let processes = processes()?;
    let times = (0..effort.runs).map(|_| time_scan()).collect::<Result<_>>()?;
    let row = Row::new(format!("scan, {processes} processes"), "ms", Spread::of(times));
    Ok(vec![row.at_most(SCAN_BAR)])
}

/// Milliseconds that `portwatch scan` takes.
pub(crate) fn time_scan() -> Result<f64> {
    let passed = Stopwatch::of_everybody();
    let status = Command::new(PORTWATCH).arg("scan").stdout(Stdio::null()).status();
    let took = passed.elapsed();
    let code = status.with_context(|| format!("starting {PORTWATCH}"))?.code();
    // 1: it found a listener that no policy expects.
    ensure!(matches!(code, Some(0 | 1)), "`portwatch scan` ends with {code:?}");
    Ok(took.as_secs_f64() * 1e3)
}

fn processes() -> Result<usize> {
    let entries = fs::read_dir("/proc").context("listing processes")?;
    let is_process = |name: &str| name.bytes().all(|letter| letter.is_ascii_digit());
    Ok(entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_process)).count())
}
