//! How a run ends: detach, drain, end all flows, print the summary, choose the exit code.

use std::future::pending;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::clock;
use crate::failure::{self, Failure};
use crate::kernel::cgroup;
use crate::lookup;
use crate::output::text;
use crate::pcap::Pcap;
use crate::pipeline::Input;
use crate::recording::Recording;
use crate::report::RunEnded;
use crate::session::{self, Brought};
use crate::watch::{QUIET_TRIES, Stop, Watch, command};

/// Said at the end of a run with `--pin`.
const GOES_ON: &str = "portwatch: counting goes on; `portwatch watch --pin` continues with it, \
     `portwatch detach` ends it";

/// How long the end of a run waits for a reader to take in what was going on. What it could not take
/// in by then is lost, and counted: who stops portwatch in the middle of a flood wants it stopped.
const PATIENCE: Duration = Duration::from_secs(5);

/// SIGINT and SIGTERM.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on neither ends the process by itself.
    pub(super) fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("asking for signals");
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    /// Waits for either.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Waits until the deadline; for ever if there is none.
pub(super) async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

impl Stop {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::Duration => "duration reached",
            Self::Count => "count reached",
            Self::OutputClosed => "output closed",
            Self::Command(_) => "command ended",
        }
    }
}

/// Ends the run and gives the exit code.
pub(super) fn end(mut watch: Watch, stop: &Stop) -> Result<u8, Failure> {
    let ended = watch.end(stop.reason())?;
    let lost = ended.counters.as_ref().is_some_and(|counters| {
        !counters.losses().is_empty() || watch.is_exact && !counters.broken_equations().is_empty()
    });
    let is_broken = watch.recording.as_ref().is_some_and(Recording::is_broken);
    let is_torn = watch.pcap.as_ref().is_some_and(Pcap::has_failed);
    let code = if watch.output.has_failed() || is_broken || is_torn {
        failure::OUTPUT_FAILED
    } else if lost && watch.args.fail_on_loss {
        failure::LOSS
    } else if ended.findings > 0 && watch.args.fail_on_finding {
        failure::FINDINGS
    } else if let Stop::Command(status) = stop {
        command::code(*status)
    } else {
        failure::DONE
    };
    Ok(code)
}

impl Watch {
    /// Detaches, reads what is left, and reports the end. The counters are exact from here on: nothing
    /// runs in the kernel any more, or with `--pin`, they are of one moment if there was a quiet one.
    pub(super) fn end(&mut self, reason: &str) -> Result<RunEnded> {
        self.look_for_gaps();
        self.interfaces.get_mut().detach();
        cgroup::detach(&mut self.object)?;
        self.tracepoints.follow(&mut self.object, false);
        let now_ns = clock::boot_ns();
        let deadline = Instant::now() + PATIENCE;
        while self.readers.read_packets(&mut self.pipeline, now_ns) == Brought::Part {
            self.hand_over(deadline);
        }
        self.is_exact =
            self.readers.read_all(self.sockets.get_mut(), &mut self.pipeline, QUIET_TRIES)?;
        let counts = self.readers.counts()?;
        self.settle();
        // The ends of all flows may be more than the queue has room for, and than memory should hold.
        while !self.pipeline.is_finished() {
            self.pipeline.apply(Input::Finish { now_ns: clock::boot_ns() });
            self.hand_over(deadline);
        }
        self.output.drain();
        if let Some(pcap) = &self.pcap {
            pcap.drain();
        }
        let sinks = self.sinks();
        let counters = self.pipeline.counters(&counts, sinks.clone());
        if self.is_exact {
            for broken in counters.broken_equations() {
                tracing::error!("the counters contradict each other: {broken}");
            }
        } else {
            tracing::warn!("traffic went on while the counters were read for the last time");
        }
        let ended = self.pipeline.run_ended(reason, Some(counters));
        let (reason, counts) = (reason.to_owned(), Some((counts, sinks)));
        self.pipeline.apply(Input::Ended { reason, counts, now_ns: clock::boot_ns() });
        for report in self.pipeline.take_reports() {
            let report = Arc::new(report);
            if let Some(pcap) = &mut self.pcap {
                pcap.send_last(&report);
            }
            self.output.send_last(report);
        }
        self.output.drain();
        if let Some(pcap) = &self.pcap {
            pcap.close();
        }
        if let Some(recording) = &self.recording {
            recording.close();
        }
        if !self.is_quiet && writeln!(io::stderr(), "{}", text::summary(&ended)).is_err() {
            tracing::debug!("nobody reads stderr");
        }
        if self.pins.is_some() && writeln!(io::stderr(), "{GOES_ON}").is_err() {
            tracing::debug!("nobody reads stderr");
        }
        Ok(ended)
    }

    /// Hands over the reports made so far, waiting for room until `deadline`.
    fn hand_over(&mut self, deadline: Instant) {
        self.output.lose(self.pipeline.take_unreported());
        for report in self.pipeline.take_reports() {
            let report = Arc::new(report);
            let has_time = Instant::now() < deadline;
            match &mut self.pcap {
                Some(pcap) if has_time => pcap.send_last(&report),
                Some(pcap) => pcap.send(&report),
                None => {}
            }
            if has_time {
                self.output.send_last(report);
            } else {
                self.output.send(report);
            }
        }
    }

    /// Takes in the answers that are still under way, for a moment.
    fn settle(&mut self) {
        self.pipeline.take_up_requests();
        session::ask(&mut self.pipeline, &self.lookup);
        while let Ok(answer) = self.answers.try_recv() {
            session::answer(&mut self.pipeline, answer);
        }
        let alive = self.pipeline.alive().into_iter();
        let gone = alive.filter(|(_, pid, start_ticks)| !lookup::is_alive(*pid, *start_ticks));
        self.pipeline.apply(Input::Exited(gone.map(|(key, _, _)| key).collect()));
    }
}
