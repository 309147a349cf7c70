//! What outputs receive: one [`Report`] per line of the event stream.
//!
//! Reports are complete: an output renders them without looking anything up. Field meanings are those
//! of docs/events.md.

mod check;
mod finding;
mod portless;
mod technique;
mod policy;
mod review;
mod verdict;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use monitor_ebpf::wire::InterfaceId;
use serde::{Deserialize, Serialize};

use crate::app::Likeness;
use crate::endpoint::{Direction, Endpoint, Family, Interface, Netns, Transport};
use crate::owner::{Attribution, Owner, Ownership};

pub use self::check::{CheckOutcome, CheckPart, CheckReport};
pub use self::finding::{Finding, FindingKind, FindingReport, FindingState, Indicator, Severity};
pub use self::policy::{PolicyChange, PolicyReport};
pub use self::portless::{PortlessFilter, PortlessKind, PortlessReport, PortlessSocket};
pub use self::review::{Review, RuleReview, Warning};
pub use self::technique::Technique;
pub use self::verdict::{Difference, NearMiss, RuleKey, Verdict};

/// One event, ready to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// When it happened, nanoseconds since the Unix epoch.
    pub time_unix_ns: i64,
    /// What happened.
    pub body: Body,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// First line of a run.
    RunStarted(RunStarted),
    /// Last line of a run.
    RunEnded(Box<RunEnded>),
    /// A listener.
    Listener(ListenerChange, Box<ListenerReport>),
    /// A flow.
    Flow(FlowChange, Box<FlowReport>),
    /// A sampled packet.
    Sample(Box<SampleReport>),
    /// A socket that gets or sends packets of a port without being on it.
    Portless(Box<PortlessReport>),
    /// Something a person should look at.
    Finding(Box<FindingReport>),
    /// An interface is observed from now on, or no longer.
    Interface(InterfaceChange, InterfaceReport),
    /// The policy was read again.
    Policy(PolicyChange),
    /// The counters, every interval.
    Counters(Box<Counters>),
    /// What `doctor` looked at.
    Check(Box<CheckReport>),
}

/// What a run observes and how.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RunStarted {
    /// The command: `watch`, `scan` or `doctor`.
    pub command: Cow<'static, str>,
    /// The watched ports as the user wrote them, normalised.
    pub ports: String,
    /// Interfaces observed at the start.
    pub interfaces: Vec<InterfaceReport>,
    /// Kernel programs attached, with how: `("pw_ingress", "tcx")`.
    pub attached: Vec<(String, String)>,
    /// Counting goes on from an earlier run that pinned it.
    pub resumed: bool,
    /// How much of a sampled packet's payload is shown: `none`, `masked` or `full`; `None` where none
    /// is looked at.
    pub payload: Option<Cow<'static, str>>,
    /// What is expected, if there is a policy.
    #[serde(default)]
    pub policy: Option<PolicyReport>,
    /// What is not seen on this host, and why, a sentence each.
    pub degraded: Vec<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEnded {
    /// Why: `"interrupted"`, `"duration reached"`, …
    pub reason: String,
    /// Final counters; `None` for a `scan`, which counts no packets.
    pub counters: Option<Counters>,
    /// Listeners seen.
    pub listeners: u64,
    /// Flows seen.
    pub flows: u64,
    /// Findings there were, each counted once however often it came back.
    pub findings: u64,
    /// Those of them that are still so at the end.
    pub findings_open: u64,
    /// Findings that were reported and not followed, since too many were open.
    pub findings_unfollowed: u64,
    /// What was not seen, or may not have been, a sentence each; no more than a reader can take.
    pub coverage_gaps: Vec<String>,
}

/// How a listener came to be reported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListenerChange {
    /// It was there when portwatch looked.
    Found,
    /// It was opened while portwatch watched.
    Opened,
    /// An owner came, went or exited.
    Updated,
    /// It is gone.
    Closed,
}

/// A listener: a TCP socket that listens or a UDP socket that is bound.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerReport {
    /// Local address and port; the unspecified address means all.
    pub local: Endpoint,
    /// TCP or UDP.
    pub transport: Transport,
    /// Family of the socket: a dual-stack IPv6 socket is `Ipv6`.
    pub family: Family,
    /// Where; `None` when its namespace was gone before it could be looked up.
    pub netns: Option<Netns>,
    /// Name of the interface it is bound to with `SO_BINDTODEVICE`.
    pub interface: Option<String>,
    /// Socket cookie.
    pub cookie: u64,
    /// The systemd unit in which it was made: with socket activation the `.socket` unit, whoever serves
    /// it.
    pub unit: Option<String>,
    /// Who.
    pub attribution: Attribution,
    /// What the policy says.
    pub verdict: Verdict,
}

/// A stage in the life of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FlowChange {
    /// First packet.
    Started,
    /// Still active, once every interval.
    Updated,
    /// Over.
    Ended(EndReason),
}

/// Why a flow ended: IPFIX `flowEndReason` (RFC 5102, 5.11.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndReason {
    /// No packet for the idle timeout.
    IdleTimeout,
    /// FIN in both directions, RST, or the socket was closed.
    EndOfFlow,
    /// portwatch stopped.
    ForcedEnd,
    /// The flow table of user space was full.
    LackOfResources,
}

impl EndReason {
    /// The words in `event.reason`.
    pub const fn words(self) -> &'static str {
        match self {
            Self::IdleTimeout => "idle timeout",
            Self::EndOfFlow => "end of flow",
            Self::ForcedEnd => "forced end",
            Self::LackOfResources => "lack of resources",
        }
    }
}

/// What this host is to a flow.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum FlowRole {
    /// This host answers on the watched port, by a socket that listens there unless a finding says otherwise.
    Server,
    /// A local process talks to a watched port elsewhere.
    Client,
    /// A client, of this host or another, happened to get the watched port as its source port.
    Ephemeral,
    /// It passes through.
    Forwarded,
    /// SYN in, RST out (or UDP answered by ICMP): nobody listens.
    Refused,
    /// One direction only.
    Unanswered,
}

impl FlowRole {
    /// The name in `portwatch.flow.role`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Ephemeral => "ephemeral",
            Self::Forwarded => "forwarded",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
        }
    }
}

/// A flow: both directions of one conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowReport {
    /// The side that opened the flow.
    pub source: Endpoint,
    /// The other side.
    pub destination: Endpoint,
    /// TCP or UDP.
    pub transport: Transport,
    /// IPv4 or IPv6.
    pub family: Family,
    /// The watched port this flow counts under.
    pub port: u16,
    /// Direction of its first packet at this host.
    pub direction: Direction,
    /// What this host is to it; `None` while that is not decided.
    pub role: Option<FlowRole>,
    /// Packets from source to destination, each counted once.
    pub source_packets: u64,
    /// IP bytes of those.
    pub source_bytes: u64,
    /// Packets from destination to source.
    pub destination_packets: u64,
    /// IP bytes of those.
    pub destination_bytes: u64,
    /// First packet, Unix nanoseconds.
    pub start_unix_ns: i64,
    /// Last packet so far, Unix nanoseconds.
    pub last_unix_ns: i64,
    /// All TCP flags seen, both directions; `None` for UDP.
    pub tcp_flags: Option<u8>,
    /// State of the local socket in the words of `ss` (`"ESTAB"`), where one was looked at.
    pub state: Option<&'static str>,
    /// Namespace of the local socket, where it is known.
    pub netns: Option<Netns>,
    /// Every place it was seen at; additive.
    pub interfaces: Vec<PlaceCount>,
    /// Community ID v1.
    pub community_id: String,
    /// What its first bytes look like, where some were sampled.
    pub app: Option<Arc<Likeness>>,
    /// Source and destination on the other side of a translation of addresses, if there is one.
    pub nat: Option<(Endpoint, Endpoint)>,
    /// Who.
    pub attribution: Attribution,
}

/// Packets of one flow, or of one port, at one interface in one direction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlaceCount {
    /// The interface.
    pub interface: Interface,
    /// Its namespace.
    pub netns: Netns,
    /// Direction at the interface.
    pub direction: Direction,
    /// Packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

/// A sampled packet.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleReport {
    /// Sender of the packet.
    pub source: Endpoint,
    /// Receiver of the packet.
    pub destination: Endpoint,
    /// TCP or UDP.
    pub transport: Transport,
    /// Community ID of its flow.
    pub community_id: String,
    /// The interface.
    pub interface: Interface,
    /// Its namespace.
    pub netns: Netns,
    /// Direction at the interface.
    pub direction: Direction,
    /// IP bytes of the packet.
    pub length: u32,
    /// How many packets it stands for.
    pub represents: u32,
    /// Bytes of `data` that were captured, also when `data` is not shown.
    pub captured: u32,
    /// From the IP header on; empty with `--payload none`. With `masked` of the payload only what names
    /// its protocol, and 0 in place of other bytes.
    pub data: Bytes,
    /// Bytes of `data` that are 0 in place of what was sent.
    pub blanked: u32,
    /// For captures: as `data`, but with `--payload none` the headers.
    pub packet: Bytes,
    /// For captures: who is at the end of the packet that is on this host, as far as that was known
    /// when it was taken in; `None` where nobody asked.
    pub near: Option<Box<NearEnd>>,
}

/// The end of a packet at the place where it was seen: of one that leaves its sender, of one that
/// comes in its receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct NearEnd {
    /// What kind of answer "who owns it" has.
    pub ownership: Ownership,
    /// The process to name, if one is known.
    pub owner: Option<Owner>,
    /// What the policy says of the listener it serves.
    pub verdict: Option<Verdict>,
}

/// What one view of the host says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ViewReport {
    /// Its name: `sock_diag`.
    pub name: Cow<'static, str>,
    /// What it says, in words.
    pub says: String,
}

/// Whether an interface came or went.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum InterfaceChange {
    /// Programs are attached.
    Attached,
    /// They are no longer.
    Detached,
}

/// An interface and how its traffic is seen.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InterfaceReport {
    /// The interface.
    pub interface: Interface,
    /// Its namespace.
    pub netns: Netns,
    /// What packets call it; `None`: they cannot, and are not followed as flows.
    #[serde(with = "crate::verbatim::interface")]
    pub id: Option<InterfaceId>,
    /// `tcx` or `clsact`.
    pub mode: Cow<'static, str>,
}

impl InterfaceReport {
    /// It may be in another namespace than portwatch: it is, or packets cannot tell.
    pub fn is_elsewhere(&self) -> bool {
        self.id.is_none_or(|id| id.netns() != 0)
    }
}

/// Everything counted; the equations over it are checked by [`Counters::broken_equations`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Per watched port and direction, over all interfaces.
    pub ports: Vec<PortCount>,
    /// Packets that count in `ports` but belong to no flow.
    pub overflow: Vec<PortCount>,
    /// Packets that count in `ports` but belong to flows that a run before this one has reported and
    /// that were over by then; only where this one goes on from it.
    pub earlier: Vec<PortCount>,
    /// Per interface, port and direction.
    pub interfaces: Vec<InterfaceCount>,
    /// First fragments, which count in `ports`.
    pub fragments_first: u64,
    /// Later fragments that were joined to their flow and count in `ports`.
    pub fragments_joined: u64,
    /// Later fragments that were not.
    pub fragments_later: u64,
    /// ICMP errors that quote a watched port.
    pub icmp_errors: u64,
    /// Packets in tunnels that count in `ports` by what is inside.
    pub tunnelled: u64,
    /// Packets that could not be parsed, by reason.
    pub unparsable: BTreeMap<&'static str, u64>,
    /// Fates of records, over all programs.
    pub records: RecordCounts,
    /// The same for each program that has any.
    pub programs: BTreeMap<&'static str, RecordCounts>,
    /// Samples reported.
    pub samples_taken: u64,
    /// Samples the token bucket suppressed.
    pub samples_suppressed: u64,
    /// Flows that were listened to no longer before it was certain what they speak: of too many at once
    /// the one that was silent longest makes room.
    pub flows_given_up: u64,
    /// Reports delivered and lost, by output.
    pub sinks: Vec<SinkCount>,
}

/// Packets of one port in one direction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortCount {
    /// The watched port.
    pub port: u16,
    /// Direction.
    pub direction: Direction,
    /// Packets (skbs).
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
    /// Packets on the wire, estimated; `None` where that is not kept.
    pub wire_packets: Option<u64>,
    /// IP bytes on the wire, estimated.
    pub wire_bytes: Option<u64>,
}

/// Packets of one port in one direction at one interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InterfaceCount {
    /// The watched port.
    pub port: u16,
    /// Where and how many.
    pub place: PlaceCount,
}

/// What became of records.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RecordCounts {
    /// Records programs wanted to send.
    pub seen: u64,
    /// Suppressed on purpose.
    pub filtered: u64,
    /// Handed to the ring.
    pub submitted: u64,
    /// Lost: the ring was full.
    pub ring_full: u64,
    /// Read by user space.
    pub read: u64,
    /// Read but not understood.
    pub undecodable: u64,
}

/// What became of reports at one output.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SinkCount {
    /// `stdout`, …
    pub name: String,
    /// Written.
    pub delivered: u64,
    /// Not written.
    pub lost: u64,
}

impl ListenerReport {
    /// Listens on every address of its namespace.
    pub fn on_all_addresses(&self) -> bool {
        match self.local.ip {
            IpAddr::V4(ip) => ip.is_unspecified(),
            IpAddr::V6(ip) => ip.is_unspecified(),
        }
    }
}

impl Counters {
    /// What was lost on the way, a phrase each; nothing if every record and report arrived.
    pub fn losses(&self) -> Vec<String> {
        let mut losses = Vec::new();
        let mut lost = |count: u64, what: &str, fate: &str| {
            let plural = if count == 1 { "" } else { "s" };
            if count > 0 {
                losses.push(format!("{count} {what}{plural} {fate}"));
            }
        };
        lost(self.records.ring_full, "record", "found the ring buffer full (--ring-size)");
        lost(self.records.undecodable, "record", "could not be decoded");
        let overflow = self.overflow.iter().fold(0_u64, |sum, row| sum.saturating_add(row.packets));
        lost(overflow, "packet", "counted but in no flow (--ring-size, --flow-table)");
        for sink in &self.sinks {
            lost(sink.lost, "report", &format!("not written to {}", sink.name));
        }
        losses
    }

    /// The equations that do not hold, which must never be; exact once nothing runs in the kernel.
    pub fn broken_equations(&self) -> Vec<String> {
        let mut broken = Vec::new();
        // What one program has too many must not hide what another has too few.
        let programs = self.programs.iter().map(|(name, counts)| (*name, *counts));
        for (name, counts) in programs.chain([("all programs", self.records)]) {
            let RecordCounts { seen, filtered, submitted, ring_full, read, undecodable: _ } =
                counts;
            if seen != filtered.wrapping_add(submitted).wrapping_add(ring_full) {
                broken.push(format!(
                    "records of {name}: seen {seen} ≠ filtered {filtered} + submitted {submitted} + \
                     ring full {ring_full}"
                ));
            }
            if submitted != read {
                broken.push(format!("records of {name}: submitted {submitted} ≠ read {read}"));
            }
        }
        for row in &self.ports {
            let is_row =
                |port: u16, direction: Direction| port == row.port && direction == row.direction;
            let in_flows = self
                .interfaces
                .iter()
                .filter(|count| is_row(count.port, count.place.direction))
                .fold((0_u64, 0_u64), |sum, count| {
                    (sum.0.wrapping_add(count.place.packets), sum.1.wrapping_add(count.place.bytes))
                });
            let overflow = self
                .overflow
                .iter()
                .chain(&self.earlier)
                .filter(|count| is_row(count.port, count.direction))
                .fold((0_u64, 0_u64), |sum, count| {
                    (sum.0.wrapping_add(count.packets), sum.1.wrapping_add(count.bytes))
                });
            let sum = (in_flows.0.wrapping_add(overflow.0), in_flows.1.wrapping_add(overflow.1));
            if sum != (row.packets, row.bytes) {
                broken.push(format!(
                    "port {} {}: flows and overflow have {} packets and {} bytes, the total is {} \
                     and {}",
                    row.port,
                    row.direction.name(),
                    sum.0,
                    sum.1,
                    row.packets,
                    row.bytes
                ));
            }
        }
        broken
    }
}

#[cfg(test)]
mod tests;
