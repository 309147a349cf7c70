//! `portwatch doctor`: can this host be observed, with what, and what would be missed?
//!
//! It is tried, not concluded: decoys in a network namespace of their own do what is hard to see, and a
//! real `portwatch watch` has to see and name each. Every decoy says itself what it did, so that what was
//! not done is not taken for missed. All of them are child processes of doctor's, and the namespace has no
//! name: everything is gone with them, however doctor ends.

mod cast;
mod decoy;
mod host;
mod judge;
mod scenes;
mod segment;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use self::cast::{Observer, within};
use self::host::{Facts, Started};
use self::judge::Act;
use self::scenes::Cast;
use crate::clock::{self, Clock};
use crate::failure::{self, Failure};
use crate::host::{loopback, netns};
use crate::kernel::preflight::{self, Needs};
use crate::output::{Output, Style};
use crate::privilege::{self, Thread, Work};
use crate::report::{Body, CheckReport, Report, RunEnded, RunStarted};
use crate::sys;

/// The program that runs now, also when its file was replaced meanwhile.
const ITSELF: &str = "/proc/self/exe";

/// How long the observer may take to be attached, and to end, on a host that has other things to do: it
/// takes a small part of that.
const TO_START: Duration = Duration::from_secs(20);
const TO_END: Duration = Duration::from_secs(10);

/// Examines this host; the exit code.
pub fn run(style: Style) -> Result<u8, Failure> {
    let obstacles = preflight::obstacles(Needs::Watch);
    if !obstacles.is_empty() {
        return Err(Failure::Unobservable(obstacles));
    }
    let facts = Facts::read();
    let (started, checks) = examine(&facts)?;
    let output = Output::stdout(style)?;
    let send = |body| {
        let time_unix_ns = Clock::of_host().unix_ns(clock::boot_ns());
        output.send_last(Report { time_unix_ns, body });
    };
    let gaps: Vec<String> = checks.iter().filter(|check| check.outcome.is_gap()).map(gap).collect();
    send(Body::RunStarted(run_started(started)));
    for check in checks {
        send(Body::Check(Box::new(check)));
    }
    let is_all_seen = gaps.is_empty();
    send(Body::RunEnded(Box::new(run_ended(gaps))));
    output.drain();
    Ok(match (output.has_failed(), is_all_seen) {
        (true, _) => failure::OUTPUT_FAILED,
        (false, true) => failure::DONE,
        (false, false) => failure::FINDINGS,
    })
}

/// Plays one of the processes that have to be seen.
pub fn decoy() -> Result<u8> {
    decoy::play().map(|()| failure::DONE)
}

/// Plays the worker of one of them.
pub fn decoy_worker() -> Result<u8> {
    decoy::work().map(|()| failure::DONE)
}

/// Lets everything be played and watched, in a network namespace of our own.
fn examine(facts: &Facts) -> Result<(Started, Vec<CheckReport>)> {
    sys::unshare_network().context("making a network namespace for the self-test")?;
    loopback::set_up().context("setting up the loopback device of the self-test")?;
    let netns = netns::own().context("reading the own network namespace")?.netns.inode;
    let has_ipv6 = Path::new("/proc/thread-self/net/if_inet6").exists();
    let mut cast = Cast::call()?;
    let mut acts = vec![cast.play_before()];
    let mut observer = Observer::start(scenes::PORTS)?;
    // Everybody is there: from now on we only talk and listen.
    let work = Work::default();
    privilege::confine(work);
    privilege::reduce(Thread::Output, work);
    let started = Started::read(&observer.started(within(TO_START))?);
    acts.extend(cast.play(has_ipv6));
    wait(&mut observer, &acts, netns, scenes::patience());
    observer.stop(within(TO_END));
    let mut checks = host::checks(facts, &started);
    checks.extend(acts.iter().map(|act| judge::judge(act, observer.events(), netns)));
    Ok((started, checks))
}

/// Reads events until everything is seen, or until it is too late.
fn wait(observer: &mut Observer, acts: &[Act], netns: u64, deadline: Instant) {
    while !judge::is_all_seen(acts, observer.events(), netns) && observer.read(deadline) {}
}

fn run_started(started: Started) -> RunStarted {
    RunStarted {
        command: "doctor".into(),
        ports: scenes::PORTS.to_owned(),
        interfaces: Vec::new(),
        attached: started.attached,
        resumed: false,
        payload: None,
        policy: None,
        degraded: started.degraded,
    }
}

fn run_ended(gaps: Vec<String>) -> RunEnded {
    let count = u64::try_from(gaps.len()).unwrap_or(u64::MAX);
    RunEnded {
        reason: if gaps.is_empty() { "all seen" } else { "not all seen" }.to_owned(),
        counters: None,
        listeners: 0,
        flows: 0,
        findings: count,
        findings_open: count,
        findings_unfollowed: 0,
        coverage_gaps: gaps,
    }
}

/// `brief-client (a client that …): not seen`.
fn gap(check: &CheckReport) -> String {
    let CheckReport { name, subject, seen, outcome, .. } = check;
    format!("{name} ({subject}) {}: {seen}", outcome.words())
}
