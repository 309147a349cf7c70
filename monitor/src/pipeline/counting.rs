//! Counts on the way, and the counters that leave it.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use monitor_ebpf::wire::{Fates, Header, InterfaceId, PROGRAMS, Place, aside};
use serde::{Deserialize, Serialize};
use zerocopy::FromBytes as _;

use crate::endpoint::Direction;
use crate::kernel::tally::PortTotal;
use crate::ledger::Credit;
use crate::pipeline::Pipeline;
use crate::pipeline::observed::Observed;
use crate::ports::PortSet;
use crate::report::{
    Counters, InterfaceCount, PlaceCount, PortCount, RecordCounts, RunEnded, SinkCount,
};

/// The kernel's half of the counters, read at one moment.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Kernel {
    /// Totals per port and direction.
    pub totals: Vec<PortTotal>,
    /// Fates by program, in the order of [`PROGRAMS`].
    #[serde(with = "crate::verbatim::slice")]
    pub fates: Vec<Fates>,
    /// Packets counted apart, by the indexes of [`aside`].
    pub aside: Vec<u64>,
}

/// What user space counted.
#[derive(Debug, Default)]
pub(super) struct Counting {
    read: BTreeMap<&'static str, RecordCounts>,
    undecodable: u64,
    read_in_all: u64,
    samples: u64,
    places: IndexMap<(InterfaceId, u16, Direction), (u64, u64)>,
    /// Position of the place that was credited last, where the next credit mostly goes.
    last_place: usize,
    /// What a run before this one had taken over: packets and bytes of flows, records by program.
    earlier: BTreeMap<(u16, Direction), (u64, u64)>,
    earlier_records: BTreeMap<&'static str, u64>,
    pub(super) listeners: u64,
}

impl Counting {
    pub(super) fn read(&mut self, record: &[u8]) {
        self.read_in_all += 1;
        if let Some(program) = program_of(record) {
            self.read.entry(program).or_default().read += 1;
        }
    }

    pub(super) fn undecodable(&mut self, record: &[u8]) {
        self.undecodable += 1;
        if let Some(program) = program_of(record) {
            self.read.entry(program).or_default().undecodable += 1;
        }
    }

    pub(super) const fn sampled(&mut self) {
        self.samples += 1;
    }

    pub(super) fn credit(&mut self, credit: &Credit, ports: &PortSet) {
        let place = Place(credit.key.place);
        let direction = if place.is_egress() { Direction::Egress } else { Direction::Ingress };
        let port = crate::flow::watched_port(&credit.key, ports);
        let place = (place.interface(), port, direction);
        let count = match self.places.get_index_mut(self.last_place) {
            Some((last, count)) if *last == place => count,
            _ => {
                let entry = self.places.entry(place);
                self.last_place = entry.index();
                entry.or_default()
            }
        };
        count.0 = count.0.wrapping_add(credit.packets);
        count.1 = count.1.wrapping_add(credit.bytes);
    }

    fn interfaces(&self, observed: &Observed) -> Vec<InterfaceCount> {
        let mut sorted: Vec<_> = self.places.iter().collect();
        sorted.sort_by_key(|(place, _)| **place);
        sorted
            .into_iter()
            .map(|(&(id, port, direction), &(packets, bytes))| {
                let (interface, netns) = observed.at(id);
                let place = PlaceCount { interface, netns, direction, packets, bytes };
                InterfaceCount { port, place }
            })
            .collect()
    }
}

impl Pipeline {
    /// Takes what the kernel counted and this run has not read as what the run before it had: kernel
    /// and user space stand at one moment, and both rings are empty.
    pub(super) fn take_as_earlier(&mut self, kernel: &Kernel) {
        let counting = &mut self.counting;
        let mut in_flows: BTreeMap<(u16, Direction), (u64, u64)> = BTreeMap::new();
        for (&(_, port, direction), &(packets, bytes)) in &counting.places {
            let sum = in_flows.entry((port, direction)).or_default();
            *sum = (sum.0.wrapping_add(packets), sum.1.wrapping_add(bytes));
        }
        for row in &kernel.totals {
            let place = (row.port, row.direction);
            let (packets, bytes) = in_flows.get(&place).copied().unwrap_or_default();
            let total = row.total;
            let earlier = (
                total.packets.wrapping_sub(total.overflow_packets).wrapping_sub(packets),
                total.bytes.wrapping_sub(total.overflow_bytes).wrapping_sub(bytes),
            );
            if earlier != (0, 0) {
                counting.earlier.insert(place, earlier);
            }
        }
        for (name, fates) in PROGRAMS.iter().zip(&kernel.fates) {
            let read = counting.read.get(name).map_or(0, |counts| counts.read);
            counting.earlier_records.insert(name, fates.submitted.wrapping_sub(read));
        }
    }

    /// The counters, from the kernel's half and what was counted here.
    pub fn counters(&self, kernel: &Kernel, sinks: Vec<SinkCount>) -> Counters {
        let set_aside = |index: u32| kernel.aside.get(index as usize).copied().unwrap_or(0);
        let mut programs = self.counting.read.clone();
        for (name, read) in &self.counting.earlier_records {
            if *read > 0 {
                let counts = programs.entry(name).or_default();
                counts.read = counts.read.wrapping_add(*read);
            }
        }
        for (name, fates) in PROGRAMS.iter().zip(&kernel.fates) {
            if fates.seen > 0 {
                let counts = programs.entry(name).or_default();
                counts.seen = fates.seen;
                counts.filtered = fates.filtered;
                counts.submitted = fates.submitted;
                counts.ring_full = fates.ring_full;
            }
        }
        let mut records =
            programs.values().fold(RecordCounts::default(), |sum, counts| RecordCounts {
                seen: sum.seen.wrapping_add(counts.seen),
                filtered: sum.filtered.wrapping_add(counts.filtered),
                submitted: sum.submitted.wrapping_add(counts.submitted),
                ring_full: sum.ring_full.wrapping_add(counts.ring_full),
                read: sum.read,
                undecodable: sum.undecodable,
            });
        let earlier = self.counting.earlier_records.values().fold(0_u64, |a, b| a.wrapping_add(*b));
        records.read = self.counting.read_in_all.wrapping_add(earlier);
        records.undecodable = self.counting.undecodable;
        let seen = kernel.totals.iter().filter(|row| row.total.packets > 0);
        Counters {
            ports: kernel.totals.iter().map(port_count).collect(),
            overflow: seen.filter_map(overflow_count).collect(),
            earlier: self.counting.earlier.iter().map(earlier_count).collect(),
            interfaces: self.counting.interfaces(&self.observed),
            fragments_first: set_aside(aside::FRAGMENT_FIRST),
            fragments_joined: set_aside(aside::FRAGMENT_JOINED),
            fragments_later: set_aside(aside::FRAGMENT_LATER),
            icmp_errors: set_aside(aside::ICMP_ERROR),
            tunnelled: set_aside(aside::TUNNELLED),
            unparsable: UNPARSABLE
                .iter()
                .map(|&(index, reason)| (reason, set_aside(index)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            records,
            programs,
            samples_taken: self.counting.samples,
            samples_suppressed: records.filtered,
            flows_given_up: self.hearing.given_up(),
            sinks,
        }
    }

    /// The end of the run.
    pub fn run_ended(&self, reason: &str, counters: Option<Counters>) -> RunEnded {
        RunEnded {
            reason: reason.to_owned(),
            counters,
            listeners: self.counting.listeners,
            flows: self.flows.seen(),
            findings: self.findings.total(),
            findings_open: self.findings.open(),
            findings_unfollowed: self.findings.unfollowed(),
            coverage_gaps: self.coverage_gaps(),
        }
    }

    /// Findings there were so far.
    pub const fn findings(&self) -> u64 {
        self.findings.total()
    }
}

fn program_of(record: &[u8]) -> Option<&'static str> {
    let (header, _) = Header::read_from_prefix(record).ok()?;
    PROGRAMS.get(usize::try_from(header.program).ok()?).copied()
}

fn port_count(row: &PortTotal) -> PortCount {
    PortCount {
        port: row.port,
        direction: row.direction,
        packets: row.total.packets,
        bytes: row.total.bytes,
        wire_packets: Some(row.total.packets.wrapping_add(row.total.more_wire_packets)),
        wire_bytes: Some(row.total.bytes.wrapping_add(row.total.more_wire_bytes)),
    }
}

fn earlier_count(
    (&(port, direction), &(packets, bytes)): (&(u16, Direction), &(u64, u64)),
) -> PortCount {
    PortCount { port, direction, packets, bytes, wire_packets: None, wire_bytes: None }
}

fn overflow_count(row: &PortTotal) -> Option<PortCount> {
    (row.total.overflow_packets > 0).then_some(PortCount {
        port: row.port,
        direction: row.direction,
        packets: row.total.overflow_packets,
        bytes: row.total.overflow_bytes,
        wire_packets: None,
        wire_bytes: None,
    })
}

/// Reasons in `portwatch.counters.unparsable`.
const UNPARSABLE: [(u32, &str); 7] = [
    (aside::SHORT_LINK_HEADER, "short-link-header"),
    (aside::BAD_IP_HEADER, "bad-ip-header"),
    (aside::SHORT_TRANSPORT, "short-transport-header"),
    (aside::EXTENSION_CHAIN, "extension-header-chain"),
    (aside::VLAN_STACK, "vlan-stack"),
    (aside::BAD_TUNNEL, "tunnel-content"),
    (aside::BAD_QUOTE, "icmp-quotation"),
];
