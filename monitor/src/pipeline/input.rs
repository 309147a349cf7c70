//! Everything the core is ever told: one [`Input`] after the other, and [`Pipeline::apply`] is the only
//! way in.
//!
//! The same inputs in the same order give the same reports, byte for byte. So a run can be recorded
//! by writing down its inputs, and whoever replays them does what the live run did. To tell the core
//! something new, add a variant here: nothing that changes what is reported may go past it
//! (`cargo xtask check` looks for methods of `Pipeline` that would).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use monitor_ebpf::wire::{SampleRecord, kind};
use serde::{Deserialize, Serialize};
use zerocopy::FromBytes as _;

use crate::attribution::ProcessKey;
use crate::decode::{self, Event};
use crate::endpoint::{Endpoint, Netns, SocketKind};
use crate::explanation::{Explanation, Standing};
use crate::flow::FlowId;
use crate::host::conntrack::Translated;
use crate::host::netns::Mark;
use crate::host::serving::Place;
use crate::host::shown::Task;
use crate::host::sockets::Socket;
use crate::kernel::chain::Gap;
use crate::kernel::flow_table::Reading;
use crate::kernel::holders::Holder;
use crate::owner::{Container, Packaging, Process};
use crate::pipeline::{Impression, KernelCounts, Payload, Pipeline};
use crate::report::{
    Body, InterfaceChange, InterfaceReport, PolicyChange, PortlessSocket, RunStarted, SinkCount,
};
use crate::views::Comparison;

/// Something the core is told. Times are nanoseconds of `CLOCK_BOOTTIME`.
///
/// What is written down is named by variant and field, so that a field can be added with
/// `#[serde(default)]` and older recordings are still read.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Input<'a> {
    /// The run begins.
    Started {
        /// How.
        started: RunStarted,
        /// When.
        now_ns: u64,
    },
    /// An interface is observed from the start.
    Observed(InterfaceReport),
    /// An interface came or went.
    Interface {
        /// Which of both.
        change: InterfaceChange,
        /// The interface.
        interface: InterfaceReport,
        /// When.
        now_ns: u64,
    },
    /// A record of either ring, as the kernel wrote it.
    Record {
        /// The record.
        #[serde(borrow, with = "serde_bytes")]
        bytes: Cow<'a, [u8]>,
        /// When it was read.
        now_ns: u64,
    },
    /// A record that is a sample, and what came of listening to it: what was said is known only by that,
    /// if it may not be shown. Whoever has a record tells [`Input::Record`].
    Sample {
        /// The record, with zeros in place of the bytes that are not shown.
        #[serde(borrow, with = "serde_bytes")]
        bytes: Cow<'a, [u8]>,
        /// What its bytes said.
        impression: Box<Impression>,
        /// When it was read.
        now_ns: u64,
    },
    /// Slots of the kernel's flow table.
    Readings {
        /// Those that may be news.
        readings: Cow<'a, [Reading]>,
        /// When they were read.
        now_ns: u64,
    },
    /// The flow table was looked at; flows that started may be reported.
    TableRead {
        /// When.
        now_ns: u64,
    },
    /// All network namespaces of the host, and how records name them.
    Namespaces(Vec<(Netns, Mark)>),
    /// Sockets that were there when portwatch looked.
    Sockets {
        /// Some of them.
        found: Cow<'a, [Socket]>,
        /// When.
        now_ns: u64,
    },
    /// Who holds descriptors of these sockets now, complete for all of them.
    Holders {
        /// Cookies.
        sockets: Cow<'a, [u64]>,
        /// `(cookie, pid)`.
        held: Cow<'a, [(u64, u32)]>,
        /// When.
        now_ns: u64,
    },
    /// The same for the sockets of [`Pipeline::take_strangers`].
    StrangersHeld {
        /// Cookies.
        sockets: Cow<'a, [u64]>,
        /// Their descriptors.
        #[serde(with = "crate::verbatim::slice")]
        held: Cow<'a, [Holder]>,
        /// When.
        now_ns: u64,
    },
    /// What `/proc` says of a process.
    Identified {
        /// Of whom.
        key: ProcessKey,
        /// What is known.
        process: Arc<Process>,
        /// When it was read.
        now_ns: u64,
    },
    /// The hash of a process's executable, or why there is none.
    Hashed {
        /// Of whose.
        key: ProcessKey,
        /// Lower-case hex, or a line for [`Process::missing`].
        hash: Result<String, String>,
    },
    /// The package of a process's executable, or why it is not known.
    Packaged {
        /// Of whose.
        key: ProcessKey,
        /// What is known, or a line for [`Process::missing`].
        packaging: Result<Packaging, String>,
    },
    /// What its container's runtime says of the container of a process.
    Contained {
        /// Of whose.
        key: ProcessKey,
        /// What is known, or a line for [`Process::missing`].
        container: Result<Box<Container>, String>,
        /// What of it the runtime does not tell, as a line for [`Process::missing`].
        #[serde(default)]
        untold: Option<String>,
    },
    /// A connection on the ports of this one was counted after it and where it was: it is over.
    Overtaken(FlowId),
    /// What kind of socket it is, where that can be told.
    Recognised {
        /// Its cookie.
        cookie: u64,
        /// The kind.
        kind: Option<SocketKind>,
        /// When.
        now_ns: u64,
    },
    /// What connection tracking says of a flow, and where its destination is; `None`: nothing.
    Translated {
        /// Of which.
        flow: FlowId,
        /// The other side of the translation.
        there: Option<(Translated, Option<Place>)>,
        /// When.
        now_ns: u64,
    },
    /// What else than a socket can answer for a port.
    Explained {
        /// Number of the question.
        number: u64,
        /// What was found out.
        explanation: Explanation,
        /// When.
        now_ns: u64,
    },
    /// What sends watched ports elsewhere, whether anything comes for them or not.
    Standing {
        /// All of it.
        found: Vec<Standing>,
        /// When.
        now_ns: u64,
    },
    /// Processes that are no longer there.
    Exited(Vec<ProcessKey>),
    /// Processes that are not what they were: of another user, in another place, another program.
    Changed {
        /// What `/proc` says of each now.
        processes: Vec<(ProcessKey, Arc<Process>)>,
        /// When it was read.
        now_ns: u64,
    },
    /// What came of a look at the host by several views.
    Compared {
        /// What disagrees.
        comparison: Comparison,
        /// When.
        now_ns: u64,
    },
    /// Where a process that said so passes on what comes for a port; `None`: it has no connection to there.
    Relayed {
        /// Whom it is about.
        key: ProcessKey,
        /// Where.
        to: Option<Endpoint>,
        /// When.
        now_ns: u64,
    },
    /// Sockets that can see or answer packets of the watched ports without being on them.
    Portless {
        /// Each with all who hold it.
        found: Vec<(PortlessSocket, Vec<Task>)>,
        /// When.
        now_ns: u64,
    },
    /// Such sockets are there no more.
    PortlessGone {
        /// Their cookies.
        cookies: Vec<u64>,
        /// When.
        now_ns: u64,
    },
    /// All gaps in what is observed that there are now.
    Coverage {
        /// The gaps.
        gaps: Vec<Gap>,
        /// When.
        now_ns: u64,
    },
    /// The policy was read again.
    PolicyRead {
        /// Its text, if it is in force from now on.
        text: Option<String>,
        /// What came of it.
        change: PolicyChange,
        /// When.
        now_ns: u64,
    },
    /// Whether records or counts of the kernel wait to be read: then no conversation is over.
    Behind(bool),
    /// Time passes.
    Tick {
        /// It is now.
        now_ns: u64,
    },
    /// Sockets that have been closed for long are to be forgotten.
    SocketsExpire {
        /// It is now.
        now_ns: u64,
    },
    /// What a run before this one had taken over: all that the kernel counted and this run has not read.
    Earlier(KernelCounts),
    /// The kernel's counters and those of the outputs, to be reported with our own.
    Counters {
        /// The kernel's, of one moment.
        kernel: KernelCounts,
        /// What became of the reports so far.
        sinks: Vec<SinkCount>,
        /// When.
        now_ns: u64,
    },
    /// The connections that a look at the sockets found are to be reported.
    Connections {
        /// All sockets.
        found: Cow<'a, [Socket]>,
        /// When.
        now_ns: u64,
    },
    /// Everything that is going on ends, some flows at a time: to be told until
    /// [`Pipeline::is_finished`].
    Finish {
        /// When.
        now_ns: u64,
    },
    /// The run is over.
    Ended {
        /// Why.
        reason: String,
        /// The last counters, of a run that counts.
        counts: Option<(KernelCounts, Vec<SinkCount>)>,
        /// When.
        now_ns: u64,
    },
}

impl Input<'_> {
    /// The time it comes with.
    pub const fn time_ns(&self) -> Option<u64> {
        match self {
            Self::Started { now_ns, .. }
            | Self::Interface { now_ns, .. }
            | Self::Record { now_ns, .. }
            | Self::Sample { now_ns, .. }
            | Self::Readings { now_ns, .. }
            | Self::TableRead { now_ns }
            | Self::Sockets { now_ns, .. }
            | Self::Holders { now_ns, .. }
            | Self::StrangersHeld { now_ns, .. }
            | Self::Identified { now_ns, .. }
            | Self::Recognised { now_ns, .. }
            | Self::Translated { now_ns, .. }
            | Self::Explained { now_ns, .. }
            | Self::Standing { now_ns, .. }
            | Self::Compared { now_ns, .. }
            | Self::Portless { now_ns, .. }
            | Self::Relayed { now_ns, .. }
            | Self::PortlessGone { now_ns, .. }
            | Self::Coverage { now_ns, .. }
            | Self::Changed { now_ns, .. }
            | Self::PolicyRead { now_ns, .. }
            | Self::Tick { now_ns }
            | Self::SocketsExpire { now_ns }
            | Self::Counters { now_ns, .. }
            | Self::Connections { now_ns, .. }
            | Self::Finish { now_ns }
            | Self::Ended { now_ns, .. } => Some(*now_ns),
            Self::Observed(_)
            | Self::Namespaces(_)
            | Self::Hashed { .. }
            | Self::Packaged { .. }
            | Self::Contained { .. }
            | Self::Exited(_)
            | Self::Behind(_)
            | Self::Overtaken(_)
            | Self::Earlier(_) => None,
        }
    }
}

/// Whoever wants to know what the core is told.
pub trait Tap: fmt::Debug + Send {
    /// The core will be told this next.
    fn note(&mut self, input: &Input<'_>);
}

impl Pipeline {
    /// Takes in one input.
    pub fn apply(&mut self, input: Input<'_>) {
        let input = self.listened(input);
        if let Some(tap) = &mut self.tap {
            tap.note(&input);
        }
        match input {
            Input::Started { started, now_ns } => self.report(now_ns, Body::RunStarted(started)),
            Input::Observed(interface) => self.observe(&interface),
            Input::Interface { change, interface, now_ns } => {
                self.interface(change, interface, now_ns);
            }
            Input::Record { bytes, now_ns } => {
                self.ingest(&bytes, &Impression::default(), now_ns);
            }
            Input::Sample { bytes, impression, now_ns } => {
                self.ingest(&bytes, &impression, now_ns);
            }
            Input::Readings { readings, now_ns } => self.readings(&readings, now_ns),
            Input::TableRead { now_ns } => self.report_started_flows(now_ns),
            Input::Namespaces(namespaces) => self.namespaces(namespaces),
            Input::Sockets { found, now_ns } => self.sockets(&found, now_ns),
            Input::Holders { sockets, held, now_ns } => self.holders(&sockets, &held, now_ns),
            Input::StrangersHeld { sockets, held, now_ns } => {
                self.strangers_held(&sockets, &held, now_ns);
            }
            Input::Identified { key, process, now_ns } => self.identified(key, process, now_ns),
            Input::Hashed { key, hash } => self.hashed(key, hash),
            Input::Packaged { key, packaging } => self.packaged(key, packaging),
            Input::Contained { key, container, untold } => {
                self.contained(key, container.map(|it| *it), untold);
            }
            Input::Overtaken(flow) => self.flows.overtaken(&flow),
            Input::Recognised { cookie, kind, now_ns } => self.recognised(cookie, kind, now_ns),
            Input::Translated { flow, there, now_ns } => self.translated(flow, there, now_ns),
            Input::Explained { number, explanation, now_ns } => {
                self.explained(number, &explanation, now_ns);
            }
            Input::Standing { found, now_ns } => self.standing(&found, now_ns),
            Input::Exited(keys) => keys.into_iter().for_each(|key| self.exited(key)),
            Input::Changed { processes, now_ns } => self.changed(processes, now_ns),
            Input::Compared { comparison, now_ns } => self.compared(&comparison, now_ns),
            Input::Relayed { key, to, now_ns } => self.relayed(key, to, now_ns),
            Input::Portless { found, now_ns } => self.found_portless(found, now_ns),
            Input::PortlessGone { cookies, now_ns } => self.portless_gone(&cookies, now_ns),
            Input::Coverage { gaps, now_ns } => self.coverage(gaps, now_ns),
            Input::PolicyRead { text, change, now_ns } => {
                self.policy_read(text.as_deref(), change, now_ns);
            }
            Input::Behind(is_behind) => self.is_behind = is_behind,
            Input::Tick { now_ns } => self.tick(now_ns),
            Input::SocketsExpire { now_ns } => self.expire_sockets(now_ns),
            Input::Earlier(kernel) => self.take_as_earlier(&kernel),
            Input::Counters { kernel, sinks, now_ns } => {
                let counters = self.counters(&kernel, sinks);
                self.report(now_ns, Body::Counters(Box::new(counters)));
            }
            Input::Connections { found, now_ns } => self.report_connections(&found, now_ns),
            Input::Finish { now_ns } => self.finish(now_ns),
            Input::Ended { reason, counts, now_ns } => {
                let counters = counts.map(|(kernel, sinks)| self.counters(&kernel, sinks));
                let ended = self.run_ended(&reason, counters);
                self.report(now_ns, Body::RunEnded(Box::new(ended)));
            }
        }
    }

    /// Listens to a sample. From there on it has only the bytes that may be shown, if anybody taps.
    fn listened<'a>(&mut self, input: Input<'a>) -> Input<'a> {
        let Input::Record { bytes, now_ns } = input else { return input };
        let Ok((sample, packet)) = SampleRecord::read_from_prefix(&bytes) else {
            return Input::Record { bytes, now_ns };
        };
        if sample.header.kind != kind::SAMPLE {
            return Input::Record { bytes, now_ns };
        }
        let Ok(Event::Sample(sample, data)) = decode::decode(&bytes) else {
            return Input::Record { bytes, now_ns };
        };
        let impression = Box::new(self.listen(&sample, data));
        let before = bytes.len().saturating_sub(packet.len());
        let bytes = match (&self.tap, self.payload) {
            (None, _) | (_, Payload::Full) => bytes,
            (Some(_), Payload::None) => blanked(&bytes, before, &[]),
            (Some(_), Payload::Masked) => {
                let headers = usize::try_from(sample.payload_offset).unwrap_or(usize::MAX);
                blanked(&bytes, before.saturating_add(headers), &impression.shown.bytes)
            }
        };
        Input::Sample { bytes, impression, now_ns }
    }

    /// Lets somebody know of every input from now on.
    pub fn tap(&mut self, tap: Box<dyn Tap>) {
        self.tap = Some(tap);
    }
}

/// So many bytes as they are, then `shown`, then zeros.
fn blanked(bytes: &[u8], kept: usize, shown: &[u8]) -> Cow<'static, [u8]> {
    let mut blanked = bytes.get(..kept).unwrap_or(bytes).to_vec();
    let room = bytes.len().saturating_sub(blanked.len());
    blanked.extend(shown.iter().take(room));
    blanked.resize(bytes.len(), 0);
    Cow::Owned(blanked)
}
