//! What the packet path hands over: flow records and samples, in the order in which they were made.

use std::fmt;

use aya::maps::{MapData, RingBuf};
use monitor_ebpf::wire::Header;
use zerocopy::FromBytes as _;

use crate::kernel::flow_ring::FlowRing;

/// The rings of flow records, and that of samples.
pub struct PacketRings {
    samples: RingBuf<MapData>,
    flows: FlowRing,
    /// The sample that was taken last.
    sample: Vec<u8>,
    /// It has this time, and waits for the flow records before it.
    waits_since_ns: Option<u64>,
}

impl fmt::Debug for PacketRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketRings").field("flows", &self.flows).finish_non_exhaustive()
    }
}

impl PacketRings {
    pub(super) const fn new(samples: RingBuf<MapData>, flows: FlowRing) -> Self {
        Self { samples, flows, sample: Vec::new(), waits_since_ns: None }
    }

    /// The next record. A sample comes after the record that announces its flow.
    pub fn take(&mut self) -> Option<&[u8]> {
        if self.waits_since_ns.is_none() {
            self.take_sample();
        }
        if self.take_flow() {
            return Some(self.flows.taken());
        }
        self.waits_since_ns.take().map(|_| self.sample.as_slice())
    }

    /// Lets the kernel write where records were taken.
    pub fn give_back(&self) {
        self.flows.give_back();
    }

    /// How many flow records of one CPU there is room for.
    pub const fn flow_records(&self) -> usize {
        self.flows.capacity()
    }

    fn take_sample(&mut self) {
        let Some(sample) = self.samples.next() else { return };
        self.sample.clear();
        self.sample.extend_from_slice(&sample);
        // What is no record is for whoever decodes it to say.
        let time = Header::read_from_prefix(&sample).map_or(0, |(header, _)| header.ktime_ns);
        self.waits_since_ns = Some(time);
        // Whatever was announced before the sample was made is there by now.
        self.flows.look();
    }

    fn take_flow(&mut self) -> bool {
        let until_ns = self.waits_since_ns.unwrap_or(u64::MAX);
        if self.flows.take(until_ns) {
            return true;
        }
        if self.waits_since_ns.is_some() {
            return false;
        }
        self.flows.look();
        self.flows.take(until_ns)
    }
}
