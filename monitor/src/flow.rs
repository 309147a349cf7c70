//! The flow table of user space: both directions and every place of a conversation, joined.
//!
//! It never reads a clock: every method takes the time (nanoseconds of `CLOCK_BOOTTIME`), so that a
//! replayed recording ends its flows exactly as the live run did.

mod conversations;
mod due;
mod id;
mod reuse;
mod role;
mod tally;

use std::cmp::Reverse;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{FlowKey, FlowRecord};
use smallvec::SmallVec;

use crate::app::Likeness;
use crate::endpoint::{Direction, Transport};
use crate::ledger::{Credit, Tenure};
use crate::ports::PortSet;
use crate::report::{EndReason, FlowChange};

use conversations::Conversations;
use due::{Due, Look};
use reuse::opens;

pub use id::{End, FlowId};
pub use reuse::Doubt;
pub use tally::PlaceTally;

/// Changes handed out in one go; the rest waits for the next call. What outputs queue is some thousand
/// reports, and the memory of a flood of them is bounded here.
const CHANGES_PER_CALL: usize = 1024;

/// Flows that had to make room and wait to be reported; of more only the number is known.
const MAX_DISPLACED: usize = 4096;

/// A conversation of so many packets makes room only after all that have fewer, as in the kernel's
/// table.
const LASTING_PACKETS: u64 = 64;

/// Something of each end.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OfEnds<T> {
    low: T,
    high: T,
}

impl<T: Copy> OfEnds<T> {
    /// That of an end.
    pub const fn of(self, end: End) -> T {
        match end {
            End::Low => self.low,
            End::High => self.high,
        }
    }

    const fn of_mut(&mut self, end: End) -> &mut T {
        match end {
            End::Low => &mut self.low,
            End::High => &mut self.high,
        }
    }
}

/// A conversation.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each of them is known apart from the others")]
pub struct Flow {
    /// Its ends.
    pub id: FlowId,
    /// The watched port it counts under.
    pub port: u16,
    /// The end that opened it, as far as is known.
    pub opener: End,
    /// The first packet was seen and told who opened it.
    pub opening_seen: bool,
    /// Both ends may have been heard first: of UDP, whose packets say nothing about that, in a flood.
    pub is_order_open: bool,
    /// The sequence number of the SYN that opened it, if that was seen.
    pub opening_sequence: Option<u32>,
    /// All TCP flags that an end has sent, or-ed.
    pub tcp_flags: OfEnds<u8>,
    /// Cookie of the socket that an end sent from, where a packet told; 0 otherwise.
    pub cookies: OfEnds<u64>,
    /// Every place it was seen at: usually two, there and back.
    pub places: SmallVec<[PlaceTally; 2]>,
    /// First packet: then, or up to a jiffy later.
    pub start_ns: u64,
    /// It was there by then: `start_ns`, if the clock was read for it.
    pub start_by_ns: u64,
    /// Last packet so far.
    pub last_ns: u64,
    /// Direction of the first packet at this host.
    pub direction: Direction,
    /// No other conversation of this table has had it, also none between the same ends.
    pub number: u64,
    /// What it looks like, as far as it was listened to.
    pub app: Option<Arc<Likeness>>,
    /// Nobody listens any more: it is understood, or is not worth it.
    pub is_heard_out: bool,
    started: bool,
    is_overtaken: bool,
    last_report_ns: u64,
}

impl Flow {
    /// All TCP flags that were seen.
    pub const fn tcp_flags_of_both(&self) -> u8 {
        self.tcp_flags.low | self.tcp_flags.high
    }

    /// Cookie of the socket that sent what an end did; 0 if none is known.
    pub const fn sender(&self, end: End) -> u64 {
        if self.is_turned_round(end) { 0 } else { self.cookies.of(end) }
    }

    /// What an end sent are packets of the other, which somebody on the way has turned round: they keep the
    /// cookie of who asked.
    pub const fn is_turned_round(&self, end: End) -> bool {
        let (here, there) = (self.cookies.of(end), self.cookies.of(end.other()));
        let is_answer =
            !matches!((end, self.opener), (End::Low, End::Low) | (End::High, End::High));
        // A socket may be at both ends, but only on one port.
        is_answer && here != 0 && here == there && self.id.low.port != self.id.high.port
    }

    /// FIN in both directions, or RST in one.
    pub const fn is_closed(&self) -> bool {
        let OfEnds { low, high } = self.tcp_flags;
        (low | high) & tcp::RST != 0 || low & high & tcp::FIN != 0
    }
}

/// All conversations that are going on.
#[derive(Debug)]
pub struct FlowTable {
    /// Densely packed: a sweep reads them in the order in which they lie in memory.
    flows: Conversations,
    /// Closed connections whose ports are in use again.
    previous: Conversations,
    /// For each slot of the kernel's table the position in `flows` of the flow it counted last. Only
    /// where to look first: flows move and end.
    positions: Vec<u32>,
    /// Flows whose start was not reported yet.
    unstarted: Vec<FlowId>,
    /// Flows that had to make room.
    displaced: Vec<Flow>,
    /// What was going on when portwatch stopped, the oldest last.
    ending: Vec<Flow>,
    /// Reports that no flow is left for.
    unreported_changes: u64,
    capacity: usize,
    due: Due,
    jiffy_ns: u64,
    /// A moment in both clocks: low 32 bits of jiffies, and boot time.
    reference: Option<(u32, u64)>,
    seen: u64,
    /// No conversation is over or due for a report before: a sweep reads all of them.
    none_due_before_ns: u64,
}

/// The limits of a [`FlowTable`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Conversations followed at once.
    pub capacity: usize,
    /// A conversation without a packet for this long is over.
    pub idle_timeout: Duration,
    /// Time between two reports of an active conversation.
    pub update_interval: Duration,
    /// Nanoseconds of a jiffy of the kernel.
    pub jiffy_ns: u64,
}

impl FlowTable {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        let nanoseconds =
            |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            flows: Conversations::new(limits.capacity),
            previous: Conversations::new(limits.capacity),
            positions: Vec::new(),
            unstarted: Vec::new(),
            displaced: Vec::new(),
            ending: Vec::new(),
            unreported_changes: 0,
            capacity: limits.capacity.max(1),
            due: Due {
                idle_timeout_ns: nanoseconds(limits.idle_timeout),
                update_interval_ns: nanoseconds(limits.update_interval),
            },
            jiffy_ns: limits.jiffy_ns,
            reference: None,
            seen: 0,
            none_due_before_ns: 0,
        }
    }

    /// Reports of flows that will not be made, since the last call: too many had to make room.
    pub const fn take_unreported(&mut self) -> u64 {
        std::mem::replace(&mut self.unreported_changes, 0)
    }

    /// How many conversations were seen in all.
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// How many are going on.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// None is going on.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// A conversation that is going on.
    pub fn get(&self, id: &FlowId) -> Option<&Flow> {
        self.flows.get(id)
    }

    /// The same, to note what it looks like.
    pub fn get_mut(&mut self, id: &FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(id)
    }

    /// A slot was taken: a conversation starts, or is seen at one more place.
    pub fn announce(&mut self, record: &FlowRecord, ports: &PortSet) {
        let now_ns = record.header.ktime_ns;
        self.reference = Some((record.jiffies, now_ns));
        let (id, sender) = FlowId::of(&record.key);
        let flags = record.tcp_flags;
        let late = record.circumstances & FlowRecord::LATE != 0;
        let early = record.circumstances & FlowRecord::EARLY != 0;
        let start = if early { self.within_a_jiffy_of(now_ns) } else { (now_ns, now_ns) };
        let opens = opens(record);
        let tenure = Tenure::announced_by(record);
        let mut position = self.position(record.slot, &id);
        let known = position.and_then(|position| self.flows.at(position));
        if opens && known.is_some_and(|flow| flow.is_followed_by(record, sender)) {
            self.retire(id);
            position = None;
        }
        let (is_new, due) = (position.is_none(), self.due);
        let flow = match position.and_then(|position| self.flows.at_mut(position)) {
            Some(flow) => flow,
            None => self.open((id, sender), &record.key, record.slot, start, ports),
        };
        let is_heard_first = flow.places_of(sender).next().is_none();
        if id.transport == Transport::Udp && !is_new && is_heard_first {
            flow.is_order_open |= start.0 < flow.start_by_ns;
        }
        flow.start_ns = flow.start_ns.min(start.0);
        flow.start_by_ns = flow.start_by_ns.min(start.1);
        flow.last_ns = flow.last_ns.max(now_ns);
        if is_new && !late && id.transport == Transport::Udp {
            // Whoever is heard first asks; UDP has no other sign.
            flow.opener = sender;
        }
        *flow.tcp_flags.of_mut(sender) |= flags;
        if record.cookie != 0 {
            *flow.cookies.of_mut(sender) = record.cookie;
        }
        if opens {
            (flow.opener, flow.opening_seen) = (sender, true);
            flow.opening_sequence = Some(record.sequence);
        } else if flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK {
            (flow.opener, flow.opening_seen) = (sender.other(), true);
        }
        flow.place(&record.key, sender, tenure, now_ns);
        let next_ns = due.next_ns(flow);
        self.none_due_before_ns = self.none_due_before_ns.min(next_ns);
    }

    /// Counts packets. Those of a closed connection whose ports are in use again belong to it.
    pub fn credit(&mut self, credit: &Credit, now_ns: u64, ports: &PortSet) {
        let last_ns = self.boot_time(credit.last_jiffies, now_ns);
        let start = self.within_a_jiffy_of(last_ns);
        let (id, sender) = FlowId::of(&credit.key);
        let ended = credit.tcp_flags & (tcp::FIN | tcp::RST) != 0;
        self.expect_slot(credit.tenure.slot);
        let (position, due) = (self.position(credit.tenure.slot, &id), self.due);
        let has_counted = |flow: &Flow| {
            let here = flow.known_place(&credit.key, sender);
            here.is_some_and(|place| place.tenure() == credit.tenure)
        };
        let is_new_one =
            || position.and_then(|position| self.flows.at(position)).is_some_and(has_counted);
        let flow = match self.previous.get_mut(&id) {
            Some(previous) if has_counted(previous) || ended && !is_new_one() => previous,
            _ => match position.and_then(|position| self.flows.at_mut(position)) {
                Some(flow) => flow,
                None => self.open((id, sender), &credit.key, credit.tenure.slot, start, ports),
            },
        };
        flow.last_ns = flow.last_ns.max(last_ns);
        *flow.tcp_flags.of_mut(sender) |= credit.tcp_flags;
        let place = flow.place(&credit.key, sender, credit.tenure, last_ns);
        place.packets = place.packets.wrapping_add(credit.packets);
        place.bytes = place.bytes.wrapping_add(credit.bytes);
        let next_ns = due.next_ns(flow);
        self.none_due_before_ns = self.none_due_before_ns.min(next_ns);
    }

    /// Brings what crediting a slot will need into the caches; changes nothing. Called for many slots in
    /// a row, the processor fetches several at a time, which crediting one after the other cannot.
    pub fn touch(&self, slot: u32) {
        let position = usize::try_from(slot).ok().and_then(|slot| self.positions.get(slot));
        if let Some(flow) = position.and_then(|&position| self.flows.at(position as usize)) {
            let place = flow.places.first().map(|place| place.packets);
            black_box((flow.id.high.port, flow.last_ns, flow.tcp_flags, place));
        }
    }

    /// The position of a flow, which is nearly always where its slot had it last: looking it up there
    /// takes a fraction of what finding it by its hash takes.
    fn position(&mut self, slot: u32, id: &FlowId) -> Option<usize> {
        let slot = usize::try_from(slot).ok()?;
        if let Some(position) = self.positions.get(slot).map(|&position| position as usize)
            && self.flows.at(position).is_some_and(|flow| flow.id == *id)
        {
            return Some(position);
        }
        let position = self.flows.position(id)?;
        self.remember(slot, position);
        Some(position)
    }

    /// The kernel's table has a slot of this number, which the ledger has made sure of.
    fn expect_slot(&mut self, slot: u32) {
        let slots = usize::try_from(slot).unwrap_or(usize::MAX).saturating_add(1);
        if self.positions.len() < slots {
            self.positions.resize(slots, 0);
        }
    }

    /// The flow that a slot counts from now on. Of a slot that nobody has vouched for nothing is kept:
    /// a recording may name any.
    fn remember(&mut self, slot: usize, position: usize) {
        if let Some(known) = self.positions.get_mut(slot) {
            // Only where to look first: of more flows than that the rest is looked up.
            *known = u32::try_from(position).unwrap_or(u32::MAX);
        }
    }

    /// Conversations whose start is to be reported: those `settled` says are ready, and those that
    /// have waited for `patience_ns`.
    pub fn started(
        &mut self,
        now_ns: u64,
        patience_ns: u64,
        settled: impl Fn(&Flow) -> bool,
    ) -> Vec<Flow> {
        let mut started = Vec::new();
        let (flows, unstarted) = (&mut self.flows, &mut self.unstarted);
        unstarted.retain(|id| {
            if started.len() >= CHANGES_PER_CALL {
                return true;
            }
            let Some(flow) = flows.get_mut(id) else { return false };
            if flow.started {
                return false;
            }
            let waited = now_ns.saturating_sub(flow.start_ns) >= patience_ns;
            if waited || settled(flow) {
                (flow.started, flow.last_report_ns) = (true, now_ns);
                started.push(flow.clone());
            }
            !flow.started
        });
        if unstarted.is_empty() {
            // After a flood of new flows this is megabytes.
            *unstarted = Vec::new();
        }
        started
    }

    /// Conversations that had to make room.
    pub fn displaced(&mut self) -> Vec<(FlowChange, Flow)> {
        let mut changes = Vec::new();
        for flow in self.displaced.drain(..) {
            let has_ended = flow.has_ended();
            let reason = if has_ended { EndReason::EndOfFlow } else { EndReason::LackOfResources };
            end(&mut changes, flow, reason);
        }
        changes
    }

    /// Conversations to report: over, or active for another interval. What is too much for one call
    /// comes with the next.
    pub fn sweep(&mut self, now_ns: u64) -> Vec<(FlowChange, Flow)> {
        let mut changes = self.displaced();
        if now_ns >= self.none_due_before_ns {
            self.look(&mut changes, now_ns);
        }
        // In one order whatever was removed before. Stable, so that a flow still starts before it ends.
        changes.sort_by_key(|(_, flow)| (flow.start_ns, flow.id));
        changes
    }

    /// Adds what is over or due for a report.
    fn look(&mut self, changes: &mut Vec<(FlowChange, Flow)>, now_ns: u64) {
        let previous = Look::at(&self.previous, self.due, now_ns);
        let Look { over, mut unreported, next_ns } = Look::at(&self.flows, self.due, now_ns);
        let is_too_much = previous.over.len() + over.len() > CHANGES_PER_CALL
            || unreported.len() > CHANGES_PER_CALL;
        self.none_due_before_ns = if is_too_much { 0 } else { next_ns.min(previous.next_ns) };
        if unreported.len() > CHANGES_PER_CALL {
            // Those that are longest overdue.
            unreported.select_nth_unstable(CHANGES_PER_CALL);
            unreported.truncate(CHANGES_PER_CALL);
        }
        for (_, position) in unreported {
            if let Some(flow) = self.flows.at_mut(position) {
                flow.last_report_ns = now_ns;
                changes.push((FlowChange::Updated, flow.clone()));
            }
        }
        let left = CHANGES_PER_CALL.saturating_sub(previous.over.len());
        for (flows, over) in [
            (&mut self.previous, previous.over.into_iter().take(CHANGES_PER_CALL)),
            (&mut self.flows, over.into_iter().take(left)),
        ] {
            // The last one moves into its place.
            for (id, reason) in over {
                if let Some(flow) = flows.remove(&id) {
                    end(changes, flow, reason);
                }
            }
        }
    }

    /// Ends everything, the oldest first: portwatch stops. To be called until nothing is left.
    pub fn finish(&mut self) -> Vec<(FlowChange, Flow)> {
        let mut changes = self.displaced();
        if !self.flows.is_empty() || !self.previous.is_empty() {
            let (previous, flows) = (&mut self.previous, &mut self.flows);
            self.ending.extend(previous.drain().chain(flows.drain()));
            self.ending.sort_by_key(|flow| Reverse((flow.start_ns, flow.id)));
        }
        let rest = self.ending.len().saturating_sub(CHANGES_PER_CALL);
        for flow in self.ending.drain(rest..).rev() {
            let reason = if flow.has_ended() { EndReason::EndOfFlow } else { EndReason::ForcedEnd };
            end(&mut changes, flow, reason);
        }
        changes
    }

    /// Starts a conversation that is not going on; `slot` counts it.
    fn open(
        &mut self,
        (id, sender): (FlowId, End),
        key: &FlowKey,
        slot: u32,
        (start_ns, start_by_ns): (u64, u64),
        ports: &PortSet,
    ) -> &mut Flow {
        if self.flows.len() >= self.capacity {
            self.make_room();
        }
        self.remember(usize::try_from(slot).unwrap_or(usize::MAX), self.flows.len());
        self.unstarted.push(id);
        self.seen += 1;
        self.flows.push(Flow {
            id,
            port: watched_port(key, ports),
            opener: likely_opener(id, sender, ports),
            opening_seen: false,
            is_order_open: false,
            opening_sequence: None,
            tcp_flags: OfEnds::default(),
            cookies: OfEnds::default(),
            places: SmallVec::new(),
            start_ns,
            start_by_ns,
            last_ns: start_ns,
            direction: tally::direction(key),
            number: self.seen,
            app: None,
            is_heard_out: false,
            started: false,
            is_overtaken: false,
            last_report_ns: 0,
        })
    }

    fn displace(&mut self, flow: Flow) {
        if self.displaced.len() < MAX_DISPLACED {
            self.displaced.push(flow);
        } else {
            self.unreported_changes += if flow.started { 1 } else { 2 };
        }
    }

    /// Ends the flows that were idle longest, those that have lasted after all others: a flood of
    /// packets that go together with nothing ends no conversation. A sixteenth of the table, so that
    /// the cost of finding them is shared by many new flows.
    fn make_room(&mut self) {
        let lasts = |flow: &Flow| {
            let packets = flow.places.iter().map(|place| place.packets);
            packets.fold(0, u64::saturating_add) >= LASTING_PACKETS
        };
        let mut by_age: Vec<(bool, u64, FlowId)> =
            self.flows.iter().map(|flow| (lasts(flow), flow.last_ns, flow.id)).collect();
        let victims = (by_age.len() / 16).max(1);
        if victims < by_age.len() {
            by_age.select_nth_unstable(victims);
        }
        for (_, _, id) in by_age.into_iter().take(victims) {
            if let Some(flow) = self.flows.remove(&id) {
                self.displace(flow);
            }
        }
    }

    /// The first and the last moment that is possible for what happened then or up to a jiffy later.
    const fn within_a_jiffy_of(&self, time_ns: u64) -> (u64, u64) {
        (time_ns, time_ns.saturating_add(self.jiffy_ns))
    }

    /// The time of a packet whose jiffies are known. Never in the future.
    fn boot_time(&self, jiffies: u32, now_ns: u64) -> u64 {
        let Some((reference, reference_ns)) = self.reference else { return now_ns };
        // The lower halves differ by less than 2^31 jiffies (25 days at 1000 Hz) either way.
        let ahead = jiffies.wrapping_sub(reference).cast_signed();
        let distance_ns = u64::from(ahead.unsigned_abs()).saturating_mul(self.jiffy_ns);
        let time_ns = if ahead < 0 {
            reference_ns.saturating_sub(distance_ns)
        } else {
            reference_ns.saturating_add(distance_ns)
        };
        time_ns.min(now_ns)
    }
}

fn end(changes: &mut Vec<(FlowChange, Flow)>, mut flow: Flow, reason: EndReason) {
    if !flow.started {
        flow.started = true;
        changes.push((FlowChange::Started, flow.clone()));
    }
    changes.push((FlowChange::Ended(reason), flow));
}

/// The port the kernel counted the packet under: the lower one when both are watched.
pub(crate) fn watched_port(key: &FlowKey, ports: &PortSet) -> u16 {
    let (source, destination) = (key.source_port(), key.destination_port());
    match (ports.contains(source), ports.contains(destination)) {
        (true, false) => source,
        (false, _) => destination,
        (true, true) => source.min(destination),
    }
}

/// Who opened a conversation whose first packet nobody saw: whoever talks to the watched port.
fn likely_opener(id: FlowId, sender: End, ports: &PortSet) -> End {
    match (ports.contains(id.low.port), ports.contains(id.high.port)) {
        (true, false) => End::High,
        (false, true) => End::Low,
        _ => sender,
    }
}

#[cfg(test)]
mod tests;
