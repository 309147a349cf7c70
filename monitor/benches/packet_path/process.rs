//! Processes that are measured: started, asked about, and surely ended.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The program that is measured.
pub(crate) const PORTWATCH: &str = env!("CARGO_BIN_EXE_portwatch");

/// A process that ends when it is dropped, or when the bench itself ends in whatever way.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    /// Starts `command`.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        // SAFETY: between fork and exec it makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        command.spawn().map(Self).with_context(|| format!("starting {command:?}"))
    }

    /// Starts `portwatch watch` with these arguments and waits until it watches. Its reports go nowhere.
    pub(crate) fn watch<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Self> {
        let (mut ready, announcer) = std::io::pipe().context("making a pipe")?;
        // Pipes close on exec; this end is for the child.
        rustix::io::fcntl_setfd(&announcer, FdFlags::empty()).context("handing on a pipe")?;
        let ready_fd = announcer.as_raw_fd().to_string();
        let mut watch = Command::new(PORTWATCH);
        watch.args(["watch", "--ready-fd", &ready_fd]).args(arguments);
        // The summary at its end is nothing to read here; why it does not start is.
        watch.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut watch = Self::start(&mut watch)?;
        drop(announcer);
        let mut newline = [0];
        if ready.read_exact(&mut newline).is_err() {
            let reason = watch.stderr()?;
            anyhow::bail!("portwatch does not start: {}", reason.trim());
        }
        Ok(watch)
    }

    /// What it has written to stderr, once it has ended.
    fn stderr(&mut self) -> Result<String> {
        let mut text = String::new();
        if let Some(stderr) = &mut self.0.stderr {
            stderr.read_to_string(&mut text).context("reading what a process says")?;
        }
        Ok(text)
    }

    /// The child itself.
    pub(crate) const fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Interrupts it and waits for its end.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill_process(self.pid()?, Signal::INT).context("interrupting a process")?;
        // A full pipe would keep it from ending.
        self.stderr()?;
        self.0.wait().context("waiting for a process")?;
        Ok(())
    }

    /// Time that its threads have run, to the nanosecond: `stat` counts hundredths of a second, of
    /// which an idle portwatch uses one in a while.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for thread in self.threads()? {
            let text = self.read(&format!("task/{thread}/schedstat"))?;
            let ran = text.split(' ').next().and_then(|number| number.parse().ok());
            sum += Duration::from_nanos(ran.context("reading the time a thread ran")?);
        }
        Ok(sum)
    }

    /// How often its threads have gone to sleep, hence were woken.
    pub(crate) fn wake_ups(&self) -> Result<u64> {
        let mut sum = 0;
        for thread in self.threads()? {
            let status = self.read(&format!("task/{thread}/status"))?;
            sum += field(&status, "voluntary_ctxt_switches:")?.parse::<u64>()?;
        }
        Ok(sum)
    }

    /// A size in its `/proc/PID/status`, in megabytes.
    pub(crate) fn megabytes(&self, name: &str) -> Result<f64> {
        let status = self.read("status")?;
        let kibibytes = field(&status, name)?.strip_suffix(" kB").context("reading a size")?;
        Ok(kibibytes.parse::<f64>().context("reading a size")? * 1024.0 / 1e6)
    }

    fn threads(&self) -> Result<Vec<i32>> {
        let threads =
            fs::read_dir(format!("/proc/{}/task", self.0.id())).context("listing threads")?;
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        Ok(threads.flatten().filter_map(number).collect())
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.0.id());
        fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    }

    fn pid(&self) -> Result<Pid> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        pid.context("finding the pid of a process")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of one that has ended by itself there is nothing to kill.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The value of a field in a status.
fn field<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.map(str::trim).with_context(|| format!("finding {name} in a status"))
}

/// The CPUs that this thread may run on.
pub(crate) fn own_cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("asking for the own CPUs")?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect())
}

/// Binds this thread, and what it starts, to some CPUs.
pub(crate) fn stay_on(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    sched_setaffinity(None, &set).context("moving to a CPU")
}

/// A CPU to measure on, and those on which what is not measured can run: the others, if there are any.
pub(crate) fn one_apart() -> Result<(usize, Vec<usize>)> {
    let mut others = own_cpus()?;
    // Most interrupts go to the first.
    let one = others.pop().context("finding a CPU to run on")?;
    if others.is_empty() {
        others.push(one);
    }
    Ok((one, others))
}

/// How many CPUs there may be: maps that are laid out by hand have a part for each.
pub(crate) fn possible_cpus() -> Result<usize> {
    aya::util::nr_cpus().map_err(|(_path, error)| error).context("counting CPUs")
}
