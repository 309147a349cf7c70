//! SIGHUP: the policy is read again. A bad one changes nothing, and says so.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clock;
use crate::pipeline::Input;
use crate::report::{PolicyChange, PolicyReport};
use crate::session::policy::PolicyFile;
use crate::watch::Watch;

/// SIGHUP, in either of its meanings.
pub(super) struct Hangups {
    signal: Signal,
    /// It would have ended us when the terminal went away.
    ends_with_terminal: bool,
}

/// What a SIGHUP meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Hangup {
    /// Somebody wants the policy read again.
    Reload,
    /// The terminal is gone.
    TerminalGone,
}

/// The policy that was asked for, and the one in force.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) file: PolicyFile,
    pub(super) report: Option<PolicyReport>,
}

impl Hangups {
    /// From now on SIGHUP does not end the process by itself.
    pub(super) fn new() -> Result<Self> {
        // Under nohup(1) it is ignored: then the terminal may go.
        let status = procfs::process::Process::myself().and_then(|it| it.status());
        let is_ignored = status.is_ok_and(|status| status.sigign & 1 != 0);
        let ends_with_terminal = has_terminal() && !is_ignored;
        let signal = signal(SignalKind::hangup()).context("asking for signals")?;
        Ok(Self { signal, ends_with_terminal })
    }

    /// Waits for one.
    pub(super) async fn received(&mut self) -> Hangup {
        self.signal.recv().await;
        if self.ends_with_terminal && !has_terminal() {
            Hangup::TerminalGone
        } else {
            Hangup::Reload
        }
    }
}

/// A controlling terminal is taken from its processes before they are told of its end.
fn has_terminal() -> bool {
    rustix::fs::open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        .is_ok()
}

impl Watch {
    /// Reads the policy again and judges everything that is open by it, or keeps the one in force.
    pub(super) fn reload_policy(&mut self) {
        let InForce { file, report } = &mut self.in_force;
        let (text, change) = match file.read() {
            Ok((policy, Some(new))) => {
                *report = Some(new.clone());
                (policy.text().map(str::to_owned), PolicyChange::Reloaded(new))
            }
            Ok((_, None)) => (None, refused(report.as_ref(), file.absence())),
            Err(error) => (None, refused(report.as_ref(), error.to_string())),
        };
        if writeln!(io::stderr(), "portwatch: {}", change.sentence()).is_err() {
            tracing::debug!("nobody reads stderr");
        }
        self.pipeline.apply(Input::PolicyRead { text, change, now_ns: clock::boot_ns() });
    }
}

fn refused(stays: Option<&PolicyReport>, problem: String) -> PolicyChange {
    PolicyChange::Refused { stays: stays.cloned(), problem }
}
