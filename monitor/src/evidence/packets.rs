//! What passes meanwhile: a `portwatch watch` captures it, as a process of its own, since it needs rights that
//! taking evidence gives up.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::store::{Part, Store};
use crate::cli;
use crate::failure;

/// A capture that goes on. Dropped, it is ended and forgotten.
pub(super) struct Capture {
    child: Child,
    packets: Part,
    events: Part,
    /// What ends it early; evidence is concluded all the same.
    signals: [Signal; 2],
}

impl Capture {
    /// Begins one that ends by itself; what is in the way is in words. Inside the runtime, before rights are given up.
    pub(super) fn begin(
        args: &cli::Evidence,
        duration: Duration,
        store: &mut Store,
    ) -> Result<Self, String> {
        let begun = Self::try_begin(args, duration, store);
        begun.map_err(|error| {
            for part in PARTS {
                store.abandon(part);
            }
            format!("starting `portwatch watch --pcap`: {error}")
        })
    }

    fn try_begin(args: &cli::Evidence, duration: Duration, store: &mut Store) -> io::Result<Self> {
        let [packets, events] = PARTS.map(|part| store.begin(part.to_owned()));
        let (packets, events) = (packets?, events?);
        let signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        let common = args.common();
        let mut command = Command::new(ITSELF);
        command.args(["watch", "--pcap", "-", "--sample", "1", "--port"]);
        command.arg(common.ports().to_string());
        command.arg("--for").arg(format!("{}ms", duration.as_millis()));
        match &common.policy {
            Some(policy) => command.arg("--policy").arg(policy),
            None if common.no_policy => command.arg("--no-policy"),
            None => &mut command,
        };
        command.stdin(Stdio::null());
        command.stdout(packets.file.try_clone()?).stderr(events.file.try_clone()?);
        // What the terminal sends comes to us only, who ask it to end.
        command.process_group(0).kill_on_drop(true);
        Ok(Self { child: command.spawn()?, packets, events, signals })
    }

    /// Waits for its end and keeps what it has written.
    pub(super) async fn conclude(mut self, store: &mut Store) {
        let status = self.end().await;
        let trouble = match &status {
            Ok(status) => in_words(*status),
            Err(error) => Some(error.to_string()),
        };
        for (part, path) in [(self.packets, PACKETS), (self.events, EVENTS)] {
            store.seal(part, path, "`portwatch watch --pcap`", trouble.as_deref());
        }
        if let Some(trouble) = trouble
            && !store.has(PACKETS)
        {
            let told =
                if store.has(EVENTS) { format!("; {EVENTS} says why") } else { String::new() };
            store.miss(PACKETS, format!("`portwatch watch --pcap` {trouble}{told}"));
        }
    }

    async fn end(&mut self) -> io::Result<ExitStatus> {
        let [interrupt, terminate] = &mut self.signals;
        tokio::select! {
            status = self.child.wait() => return status,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            kill_process(pid, rustix::process::Signal::TERM)?;
        }
        self.child.wait().await
    }
}

/// What went wrong; `None`: nothing.
fn in_words(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(code), _) if code == i32::from(failure::DONE) => None,
        (Some(code), _) if code == i32::from(failure::OUTPUT_FAILED) => {
            Some("could not write all of it".to_owned())
        }
        (Some(code), _) => Some(format!("ended with exit code {code}")),
        (None, signal) => Some(format!("was ended by signal {}", signal.unwrap_or_default())),
    }
}

const ITSELF: &str = "/proc/self/exe";
/// What grows meanwhile.
const PARTS: [&str; 2] = ["packets/part-1", "packets/part-2"];
pub(super) const PACKETS: &str = "packets/packets.pcapng";
const EVENTS: &str = "packets/events.txt";
