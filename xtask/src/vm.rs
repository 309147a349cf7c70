//! `cargo xtask vm`: the integration tests on other kernels, each booted under QEMU; and the part of them
//! that belongs to `cargo xtask test --vm`.
//!
//! Nothing of this machine is changed but for `target/vm`, and QEMU, which is installed if missing.

mod archive;
mod cpio;
mod guest;
mod initramfs;
mod kernels;
mod modules;
mod protocol;
mod selection;

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, ValueEnum};

use crate::command::{self, say};
use crate::packages::Installer;
use crate::setup;
use crate::tally::Tally;
use crate::vm::guest::Machine;
use crate::vm::initramfs::{Orders, Programs};
use crate::vm::kernels::{Kernel, Kernels};
use crate::vm::protocol::Account;
use crate::vm::selection::Share;

/// The kernels that portwatch promises to work on: Debian's long-term ones, and the newest there is.
const REQUIRED: [&str; 4] = ["5.10", "6.1", "6.12", archive::NEWEST];

/// How many times longer tests wait in a guest that is run by software: it is ten times slower, and
/// tests allow for more than they need.
const SLOWNESS: u32 = 4;

/// What `cargo xtask vm` may be told.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Options {
    /// A kernel series to test on, such as 6.12 or `newest`; all of them if none is named.
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<String>,
    /// A kernel series that may be missing: it then counts as skipped.
    #[arg(long = "optional", value_name = "SERIES")]
    optional: Vec<String>,
    /// A file of tests/tests to run, such as `counting`; all of them if none is named.
    #[arg(long = "program", value_name = "NAME")]
    programs: Vec<String>,
    /// Run only what `cargo xtask test --vm` runs; a kernel that cannot be had then counts as skipped.
    #[arg(long, conflicts_with_all = ["kernels", "optional", "programs", "arguments"])]
    quick: bool,
    /// How many guests run at a time.
    #[arg(long, default_value_t = Self::default().jobs)]
    jobs: usize,
    /// Virtual CPUs of a guest.
    #[arg(long, default_value_t = Self::default().smp)]
    smp: u32,
    /// Memory of a guest in MiB.
    #[arg(long, default_value_t = Self::default().mem)]
    mem: u32,
    /// Seconds that one test program may take.
    #[arg(long, default_value_t = Self::default().timeout)]
    timeout: u64,
    /// Who runs the guests: the processor (kvm), or software (tcg).
    #[arg(long, value_enum, default_value_t = Accelerator::Auto)]
    accel: Accelerator,
    /// Use only kernels that are here already.
    #[arg(long, conflicts_with = "refresh")]
    offline: bool,
    /// Look for newer kernels than those that are here.
    #[arg(long)]
    refresh: bool,
    /// Keep the archives that guests boot from.
    #[arg(long)]
    keep: bool,
    /// Names of tests to run, or parts of them, and other arguments of the test programs.
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kernels: Vec::new(),
            optional: Vec::new(),
            programs: Vec::new(),
            quick: false,
            jobs: 2,
            smp: 2,
            mem: 1024,
            timeout: 600,
            accel: Accelerator::Auto,
            offline: false,
            refresh: false,
            keep: false,
            arguments: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Accelerator {
    Auto,
    Tcg,
    Kvm,
}

/// A guest: a kernel and what is to run on it.
struct Job {
    kernel: Kernel,
    /// Tells it from other guests with this kernel.
    number: usize,
    /// Files of `tests/tests`; none: all of them.
    programs: Vec<String>,
    /// Arguments for each of them.
    arguments: Vec<String>,
}

impl Job {
    /// The kernel's release, and which of its guests.
    fn name(&self) -> String {
        format!("{}.{}", self.kernel.release, self.number)
    }
}

/// How a guest has done.
struct Outcome {
    guest: String,
    result: Result<Account>,
    took: Duration,
}

/// `cargo xtask vm`.
pub(crate) fn vm(options: &Options) -> Result<ExitCode> {
    setup::prepare()?;
    setup::prepare_tests();
    let tally = if options.quick { run_quick(options)? } else { run_all(options)? };
    println!("{tally}");
    Ok(tally.exit_code())
}

/// Runs everything, or what the user has named.
fn run_all(options: &Options) -> Result<Tally> {
    let mut kernels = kernels(options)?;
    let required = match &*options.kernels {
        [] if options.optional.is_empty() => REQUIRED.to_vec(),
        named => words(named),
    };
    let mut found = Vec::new();
    for series in required {
        found.push(kernels.get(series).with_context(|| format!("get kernel {series}"))?);
    }
    let (optional, mut tally) = find(&mut kernels, &words(&options.optional));
    let jobs = found.into_iter().chain(optional).map(|kernel| Job {
        kernel,
        number: 1,
        programs: options.programs.clone(),
        arguments: options.arguments.clone(),
    });
    install_qemu()?;
    tally += run_jobs(options, jobs.collect())?;
    Ok(tally)
}

/// Runs the tests of [`selection`]. A kernel that cannot be had here counts as skipped.
pub(crate) fn run_selection() -> Result<Tally> {
    run_quick(&Options::default())
}

fn run_quick(options: &Options) -> Result<Tally> {
    let mut kernels = kernels(options)?;
    if let Err(error) = install_qemu() {
        return Ok(skipped(&selection::kernels(), &error));
    }
    let (found, mut tally) = find(&mut kernels, &selection::kernels());
    let jobs_on = |kernel: Kernel| {
        let numbered = (1..).zip(selection::shares_on(&kernel.series));
        numbered.map(move |(number, Share { programs, tests: mut arguments })| {
            arguments.push("--exact".to_owned());
            Job { kernel: kernel.clone(), number, programs, arguments }
        })
    };
    let jobs: Vec<Job> = found.into_iter().flat_map(jobs_on).collect();
    if !jobs.is_empty() {
        tally += run_jobs(options, jobs)?;
    }
    Ok(tally)
}

/// Runs the tests on each kernel, and prints what came of it.
fn run_jobs(options: &Options, jobs: Vec<Job>) -> Result<Tally> {
    let programs = Programs::build()?;
    let run = Run { options, machine: machine(options), directory: directory()?, programs };
    run.programs.pack(&run.common())?;
    let outcomes = run.all(jobs);
    for outcome in &outcomes {
        outcome.explain();
    }
    println!("{:<28} {:>7} {:>7} {:>8} {:>8}", "guest", "passed", "failed", "skipped", "seconds");
    let mut tally = Tally::default();
    for outcome in &outcomes {
        let Tally { passed, failed, skipped } = outcome.tally();
        let (guest, seconds) = (&outcome.guest, outcome.took.as_secs());
        println!("{guest:<28} {passed:>7} {failed:>7} {skipped:>8} {seconds:>8}");
        tally += outcome.tally();
    }
    if !options.keep {
        fs::remove_file(run.common()).context("remove the archive")?;
    }
    Ok(tally)
}

fn directory() -> Result<PathBuf> {
    Ok(command::target_directory()?.join("vm"))
}

fn kernels(options: &Options) -> Result<Kernels> {
    Ok(Kernels::new(&directory()?, options.offline, options.refresh))
}

/// The kernels that can be had; the others are told and counted as skipped.
fn find(kernels: &mut Kernels, wanted: &[&str]) -> (Vec<Kernel>, Tally) {
    let mut tally = Tally::default();
    let mut found = Vec::new();
    for &series in wanted {
        match kernels.get(series) {
            Ok(kernel) => found.push(kernel),
            Err(error) => tally += skipped(&[series], &error),
        }
    }
    (found, tally)
}

fn words(named: &[String]) -> Vec<&str> {
    named.iter().map(String::as_str).collect()
}

fn skipped(kernels: &[&str], reason: &anyhow::Error) -> Tally {
    for series in kernels {
        println!("skipped: kernel {series}: {reason}");
    }
    say(&format!("vm: {reason:#}"));
    Tally { skipped: kernels.len(), ..Tally::default() }
}

fn install_qemu() -> Result<()> {
    if guest::installed().is_some() {
        return Ok(());
    }
    let installer = Installer::find().context("install qemu-system-x86, which runs the guests")?;
    installer.install(&["qemu-system-x86".to_owned(), "xz-utils".to_owned()])
}

fn machine(options: &Options) -> Machine {
    let is_accelerated = match options.accel {
        Accelerator::Auto => guest::can_accelerate(),
        Accelerator::Tcg => false,
        Accelerator::Kvm => true,
    };
    say(&format!("vm: guests run by {}", if is_accelerated { "KVM" } else { "software (TCG)" }));
    Machine { cpus: options.smp, memory: options.mem, is_accelerated, limit: options.timeout }
}

/// A run over several kernels.
///
/// QEMU's own processor sometimes executes code that another virtual CPU is just exchanging: one kernel in some dozens
/// dies before it starts a process. Such a guest is started once more.
struct Run<'a> {
    options: &'a Options,
    machine: Machine,
    directory: PathBuf,
    programs: Programs,
}

impl Run<'_> {
    /// The part of the archives that all kernels share.
    fn common(&self) -> PathBuf {
        self.directory.join("common.cpio")
    }

    /// Runs on all kernels, as many at a time as there are jobs.
    fn all(&self, jobs: Vec<Job>) -> Vec<Outcome> {
        let waiting = Mutex::new(jobs.into_iter().enumerate().collect::<VecDeque<_>>());
        let outcomes = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..self.options.jobs.max(1) {
                scope.spawn(|| {
                    let next =
                        || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    while let Some((position, job)) = next() {
                        let outcome = self.one(&job);
                        let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                        outcomes.push((position, outcome));
                    }
                });
            }
        });
        let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.sort_by_key(|(position, _)| *position);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    #[expect(clippy::disallowed_methods, reason = "the table says how long each kernel took")]
    fn one(&self, job: &Job) -> Outcome {
        let started = Instant::now();
        let result = self.boot(job);
        Outcome { guest: job.name(), result, took: started.elapsed() }
    }

    fn boot(&self, job: &Job) -> Result<Account> {
        let Job { kernel, programs, arguments: named, .. } = job;
        let logs = self.directory.join("logs").join(job.name());
        fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
        let initramfs = logs.join("initramfs.cpio");
        let mut arguments = vec!["--test-threads=1".to_owned()];
        arguments.extend(named.iter().cloned());
        let slowness = if self.machine.is_accelerated { 1 } else { SLOWNESS };
        let limit = self.options.timeout;
        let orders = Orders { programs, arguments: &arguments, limit, slowness };
        self.programs.pack_for(kernel, &orders, &self.common(), &initramfs)?;
        let tell = |line: &str| println!("[{} {}] {line}", kernel.series, job.number);
        let run = || guest::run(kernel, self.machine, &initramfs, &logs, &tell);
        let mut account = run()?;
        if account.release.is_none() && !self.machine.is_accelerated {
            for fault in &account.faults {
                tell(fault);
            }
            tell("it did not come up, by no fault of what is tested: once more");
            account = run()?;
        }
        if !self.options.keep {
            fs::remove_file(&initramfs).context("remove the archive of a guest")?;
        }
        if account.tally.is_empty() && account.faults.is_empty() {
            return Err(anyhow!("no test ran"));
        }
        Ok(account)
    }
}

impl Outcome {
    fn tally(&self) -> Tally {
        match &self.result {
            Ok(account) => account.total(),
            Err(_) => Tally { failed: 1, ..Tally::default() },
        }
    }

    /// Says what did not pass.
    fn explain(&self) {
        match &self.result {
            Ok(account) => {
                for note in &account.skipped {
                    println!("skipped: [{}] {note}", self.guest);
                }
                for failure in account.failures.to_string().lines() {
                    println!("[{}] {failure}", self.guest);
                }
                for fault in &account.faults {
                    println!("FAILED: [{}] {fault}", self.guest);
                }
            }
            Err(error) => println!("FAILED: [{}] {error:#}", self.guest),
        }
    }
}
