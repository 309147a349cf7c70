//! The thread that asks the kernel how it translates addresses, and what can answer for a port.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::attribution::ProcessKey;
use crate::endpoint::{Endpoint, Transport};
use crate::explanation::{self, Explanation};
use crate::flow::FlowId;
use crate::host::conntrack::{Tracker, Translated, Tuple};
use crate::host::ipvs::{self, Connections};
use crate::host::netns::{self, Descriptors, Namespace};
use crate::host::serving::{self, Place};
use crate::kernel::programs::Programs;
use crate::lookup::Answer;

/// Namespaces are listed for all questions of such a time, and not kept alive for longer.
const LISTED: Duration = Duration::from_secs(1);

/// A table that is read as quickly as this may be read for every flow; of others reading takes a twentieth of
/// the time.
const QUICK: Duration = Duration::from_millis(5);
const REST: u32 = 20;

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
    let mut balanced = Balanced::default();
    loop {
        let job = match jobs.recv_timeout(LISTED) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                there = Namespaces::default();
                balanced.forget();
                // From now on nothing is kept, for however long nobody asks.
                match jobs.recv() {
                    Ok(job) => job,
                    Err(_closed) => return,
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let answer = match job {
            Job::Translate { flow, tuple, netns } => Answer::Translated {
                flow,
                there: translate(&mut there, &mut balanced, tuple, netns),
            },
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
    balanced: &mut Balanced,
    tuple: Tuple,
    netns: u64,
) -> Option<(Translated, Option<Place>)> {
    let ask = || {
        let by_conntrack =
            Tracker::open().and_then(|it| it.map_or(Ok(None), |mut it| it.translate(tuple)));
        let by_conntrack = by_conntrack.unwrap_or_else(|error| {
            tracing::debug!("conntrack was not asked: {error}");
            None
        });
        // The load balancer translates behind the back of conntrack, unless it is told not to.
        by_conntrack.or_else(|| {
            balanced.translate(tuple, netns).unwrap_or_else(|error| {
                tracing::debug!("IPVS was not asked: {error}");
                None
            })
        })
    };
    let translated = there.within(netns, ask).unwrap_or_else(|why| {
        tracing::debug!("translations were not asked for: {why}");
        None
    })?;
    let ends = translated.ends;
    let is_sent_on = ends.destination != tuple.ends.destination;
    let place = is_sent_on.then(|| serving::find(Tuple { ends, ..tuple }));
    Some((translated, place))
}

/// The connections of IPVS in one namespace, as they were last read.
///
/// Read anew for each flow. A long table takes a while, so that it is left alone for some time then: who asks
/// meanwhile is answered by what is there.
#[derive(Default)]
struct Balanced {
    netns: u64,
    connections: Connections,
    rests_until: Option<Instant>,
}

impl Balanced {
    /// The connection on the other side, in the calling thread's namespace, which is `netns`.
    #[expect(clippy::disallowed_methods, reason = "what reading costs is the time it takes")]
    fn translate(&mut self, tuple: Tuple, netns: u64) -> io::Result<Option<Translated>> {
        if !ipvs::may_balance(tuple)? {
            return Ok(None);
        }
        let started = Instant::now();
        if self.rests_until.is_some_and(|until| started < until) {
            return Ok(self.connections.translate(tuple).filter(|_| self.netns == netns));
        }
        self.connections = Connections::read()?;
        self.netns = netns;
        let took = started.elapsed();
        let rest = if took > QUICK { took.saturating_mul(REST) } else { Duration::ZERO };
        self.rests_until = started.checked_add(rest);
        Ok(self.connections.translate(tuple))
    }

    /// Lets go of what was read, since it grows old.
    fn forget(&mut self) {
        self.connections = Connections::default();
    }
}

/// The network namespaces that were asked for in the last moments.
#[derive(Default)]
struct Namespaces(Vec<Namespace>);

impl Namespaces {
    /// Runs something in the namespace with this inode; an error is in words.
    fn within<T: Send>(&mut self, inode: u64, run: impl FnOnce() -> T + Send) -> Result<T, String> {
        let words = |error: io::Error| error.to_string();
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
