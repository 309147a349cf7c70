//! `portwatch.counters`: everything counted, and everything lost.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::report::{Counters, InterfaceCount, PortCount, RecordCounts, SinkCount};

use super::document::Document;
use super::network::PlaceFields;

impl<'a> Document<'a> {
    /// The counters, every interval and at the end.
    pub(super) fn counters(&mut self, counters: &'a Counters) {
        self.portwatch.counters = Some(CounterFields::of(counters));
    }
}

/// `portwatch.counters.*`.
#[derive(Debug, Serialize)]
pub(super) struct CounterFields<'a> {
    ports: Vec<PortFields>,
    overflow: Vec<PortFields>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<PortFields>,
    interfaces: Vec<PlaceFields<'a>>,
    fragments: FragmentFields,
    icmp_errors: u64,
    tunnelled: u64,
    unparsable: &'a BTreeMap<&'static str, u64>,
    records: RecordFields,
    programs: BTreeMap<&'static str, RecordFields>,
    samples: SampleCounts,
    sinks: Vec<SinkFields<'a>>,
}

impl<'a> CounterFields<'a> {
    fn of(counters: &'a Counters) -> Self {
        let Counters {
            ports,
            overflow,
            earlier,
            interfaces,
            fragments_first,
            fragments_joined,
            fragments_later,
            icmp_errors,
            tunnelled,
            unparsable,
            records,
            programs,
            samples_taken,
            samples_suppressed,
            flows_given_up,
            sinks,
        } = counters;
        Self {
            ports: ports.iter().map(PortFields::of).collect(),
            overflow: overflow.iter().map(PortFields::of).collect(),
            earlier: earlier.iter().map(PortFields::of).collect(),
            interfaces: interfaces.iter().map(interface).collect(),
            fragments: FragmentFields {
                first: *fragments_first,
                later_joined: *fragments_joined,
                later: *fragments_later,
            },
            icmp_errors: *icmp_errors,
            tunnelled: *tunnelled,
            unparsable,
            records: RecordFields::of(records),
            programs: programs.iter().map(|(name, it)| (*name, RecordFields::of(it))).collect(),
            samples: SampleCounts {
                taken: *samples_taken,
                suppressed: *samples_suppressed,
                flows_given_up: *flows_given_up,
            },
            sinks: sinks.iter().map(SinkFields::of).collect(),
        }
    }
}

fn interface(count: &InterfaceCount) -> PlaceFields<'_> {
    let InterfaceCount { port, place } = count;
    PlaceFields::of(place, Some(*port))
}

#[derive(Debug, Serialize)]
struct PortFields {
    port: u16,
    direction: &'static str,
    packets: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    wire_packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wire_bytes: Option<u64>,
}

impl PortFields {
    const fn of(count: &PortCount) -> Self {
        let PortCount { port, direction, packets, bytes, wire_packets, wire_bytes } = *count;
        let direction = direction.name();
        Self { port, direction, packets, bytes, wire_packets, wire_bytes }
    }
}

#[derive(Debug, Serialize)]
struct FragmentFields {
    first: u64,
    later_joined: u64,
    later: u64,
}

#[derive(Debug, Serialize)]
struct RecordFields {
    seen: u64,
    filtered: u64,
    submitted: u64,
    ring_full: u64,
    read: u64,
    undecodable: u64,
}

impl RecordFields {
    const fn of(counts: &RecordCounts) -> Self {
        let RecordCounts { seen, filtered, submitted, ring_full, read, undecodable } = *counts;
        Self { seen, filtered, submitted, ring_full, read, undecodable }
    }
}

#[derive(Debug, Serialize)]
struct SampleCounts {
    taken: u64,
    suppressed: u64,
    flows_given_up: u64,
}

#[derive(Debug, Serialize)]
struct SinkFields<'a> {
    name: &'a str,
    delivered: u64,
    lost: u64,
}

impl<'a> SinkFields<'a> {
    fn of(count: &'a SinkCount) -> Self {
        let SinkCount { name, delivered, lost } = count;
        Self { name, delivered: *delivered, lost: *lost }
    }
}
