//! The thread that asks the kernel how it translates addresses, and what can answer for a port.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::attribution::ProcessKey;
use crate::endpoint::{Endpoint, Transport};
use crate::explanation::{self, Explanation};
use crate::flow::FlowId;
use crate::host::conntrack::{Tracker, Translated, Tuple};
use crate::host::netns::{self, Descriptors, Namespace};
use crate::host::serving::{self, Place};
use crate::kernel::programs::Programs;
use crate::lookup::Answer;

/// Namespaces are listed for all questions of such a time, and not kept alive for longer.
const LISTED: Duration = Duration::from_secs(1);

/// Something to ask in a network namespace, given by its inode.
#[derive(Debug)]
pub(super) enum Job {
    /// The other side of a translation.
    Translate { flow: FlowId, tuple: Tuple, netns: u64 },
    /// Whether a process, by pid and start, has a connection to there.
    Relay { key: ProcessKey, process: (u32, u64), transport: Transport, to: Endpoint },
    /// What can answer for a port.
    Explain { number: u64, transport: Transport, answered: Endpoint, netns: u64 },
}

/// Answers until nobody asks any more.
pub(super) fn answer(jobs: &Receiver<Job>, answers: &mpsc::Sender<Answer>, programs: &Programs) {
    let mut there = Namespaces::default();
    loop {
        let job = match jobs.recv_timeout(LISTED) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                there = Namespaces::default();
                // From now on nothing is kept, for however long nobody asks.
                match jobs.recv() {
                    Ok(job) => job,
                    Err(_closed) => return,
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let answer = match job {
            Job::Translate { flow, tuple, netns } => {
                Answer::Translated { flow, there: translate(&mut there, tuple, netns) }
            }
            Job::Relay { key, process, transport, to } => {
                let is_connected = serving::is_connected(process, transport, to);
                Answer::Relayed { key, to: is_connected.then_some(to) }
            }
            Job::Explain { number, transport, answered, netns } => {
                let explain = || explanation::of_answer(transport, answered, programs);
                let explanation = there.within(netns, explain).unwrap_or_else(|why| Explanation {
                    checked: vec![format!("not checked: rules and programs: {why}")],
                    ..Explanation::default()
                });
                Answer::Explained { number, explanation }
            }
        };
        if answers.blocking_send(answer).is_err() {
            return;
        }
    }
}

fn translate(
    there: &mut Namespaces,
    tuple: Tuple,
    netns: u64,
) -> Option<(Translated, Option<Place>)> {
    let ask = || Tracker::open()?.map_or(Ok(None), |mut tracker| tracker.translate(tuple));
    let translated = match there.within(netns, ask) {
        Ok(Ok(translated)) => translated?,
        Ok(Err(error)) => {
            tracing::debug!("conntrack was not asked: {error}");
            return None;
        }
        Err(why) => {
            tracing::debug!("conntrack was not asked: {why}");
            return None;
        }
    };
    let ends = translated.ends;
    let is_sent_on = ends.destination != tuple.ends.destination;
    let place = is_sent_on.then(|| serving::find(Tuple { ends, ..tuple }));
    Some((translated, place))
}

/// The network namespaces that were asked for in the last moments.
#[derive(Default)]
struct Namespaces(Vec<Namespace>);

impl Namespaces {
    /// Runs something in the namespace with this inode; an error is in words.
    fn within<T: Send>(&mut self, inode: u64, run: impl FnOnce() -> T + Send) -> Result<T, String> {
        let words = |error: std::io::Error| error.to_string();
        let own = netns::own().map_err(words)?;
        if own.netns.inode == inode {
            return Ok(run());
        }
        if self.0.is_empty() {
            self.0 = netns::list(&mut Descriptors::default()).map_err(words)?.found;
        }
        match self.0.iter().find(|it| it.netns.inode == inode) {
            Some(namespace) => netns::within(namespace, run).map_err(words),
            None => Err(format!("network namespace {inode} is gone")),
        }
    }
}
