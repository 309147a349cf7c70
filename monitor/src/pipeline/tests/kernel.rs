//! The kernel side in miniature: one set of the flow table, a ring that can be full, and the counters
//! that nothing can evict. Follows `monitor-ebpf/src/flows.rs` step by step.

use std::collections::{BTreeMap, VecDeque};

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{
    Fates, FlowKey, FlowRecord, PROGRAMS, Place, Slot, Total, WAYS, kind, program,
};
use zerocopy::FromZeros as _;

use super::scene::*;
use crate::endpoint::Direction;
use crate::kernel::tally::PortTotal;
use crate::pipeline::KernelCounts;

/// Records the ring has room for.
const RING: usize = 4;

pub(super) struct Kernel {
    pub(super) slots: [Slot; WAYS],
    pub(super) ring: VecDeque<FlowRecord>,
    unannounced: [bool; WAYS],
    totals: BTreeMap<(u16, Direction), Total>,
    fates: Fates,
    now_ns: u64,
}

impl Kernel {
    pub(super) fn new() -> Self {
        Self {
            slots: [Slot::new_zeroed(); WAYS],
            ring: VecDeque::new(),
            unannounced: [false; WAYS],
            totals: BTreeMap::new(),
            fates: Fates::default(),
            now_ns: SECOND,
        }
    }

    /// A packet passes, a jiffy after the one before.
    pub(super) fn packet(&mut self, key: FlowKey, length: u32, tcp_flags: u8) {
        self.now_ns += 4_000_000;
        let total = self.totals.entry(row(&key)).or_default();
        total.packets += 1;
        total.bytes += u64::from(length);
        let found = self.slots.iter().position(|slot| slot.count != 0 && slot.key == key);
        let ends = |way: usize| self.slots[way].tcp_flags & (tcp::FIN | tcp::RST) != 0;
        match found.filter(|way| tcp_flags & tcp::SYN == 0 || !ends(*way)) {
            Some(way) => self.hit(way, length, tcp_flags),
            None => self.start(found, key, length, tcp_flags),
        }
    }

    fn hit(&mut self, way: usize, length: u32, tcp_flags: u8) {
        let slot = &mut self.slots[way];
        slot.count += 1;
        slot.bytes += u64::from(length);
        slot.last_jiffies = jiffies(self.now_ns);
        slot.tcp_flags |= tcp_flags;
        if self.unannounced[way] {
            let (key, generation) = (slot.key, slot.generation());
            let late = FlowRecord {
                circumstances: FlowRecord::LATE,
                ..record(key, way, generation, self.now_ns)
            };
            self.unannounced[way] = !self.submit(FlowRecord { tcp_flags, ..late });
        }
    }

    fn start(&mut self, found: Option<usize>, key: FlowKey, length: u32, tcp_flags: u8) {
        let idle_longest = || (0..WAYS).min_by_key(|way| self.slots[*way].last_jiffies);
        let way = found.or_else(idle_longest).unwrap();
        let old = self.slots[way];
        let generation = old.generation() + 1;
        let announced = self.submit(FlowRecord {
            tcp_flags,
            evicted_key: old.key,
            evicted_count: old.count,
            evicted_bytes: old.bytes,
            evicted_last_jiffies: old.last_jiffies,
            evicted_tcp_flags: old.tcp_flags,
            ..record(key, way, generation, self.now_ns)
        });
        if !announced && old.count != 0 {
            let total = self.totals.entry(row(&key)).or_default();
            total.overflow_packets += 1;
            total.overflow_bytes += u64::from(length);
            return;
        }
        self.unannounced[way] = !announced;
        let (count, last_jiffies) = (generation << Slot::PACKET_BITS | 1, jiffies(self.now_ns));
        let slot = Slot { key, count, bytes: length.into(), last_jiffies, tcp_flags, ..old };
        self.slots[way] = slot;
    }

    fn submit(&mut self, record: FlowRecord) -> bool {
        self.fates.seen += 1;
        let has_room = self.ring.len() < RING;
        if has_room {
            self.ring.push_back(record);
            self.fates.submitted += 1;
        } else {
            self.fates.ring_full += 1;
        }
        has_room
    }

    pub(super) const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    pub(super) fn pass(&mut self, nanoseconds: u64) {
        self.now_ns += nanoseconds;
    }

    pub(super) fn counts(&self) -> KernelCounts {
        let total = |(&(port, direction), &total): (&(u16, Direction), &Total)| PortTotal {
            port,
            direction,
            total,
        };
        let mut fates = vec![Fates::default(); PROGRAMS.len()];
        fates[0] = self.fates;
        KernelCounts { totals: self.totals.iter().map(total).collect(), fates, aside: Vec::new() }
    }
}

fn record(key: FlowKey, way: usize, generation: u64, now_ns: u64) -> FlowRecord {
    let mut record = FlowRecord::new_zeroed();
    record.header = header(kind::FLOW, program::INGRESS, now_ns);
    record.jiffies = jiffies(now_ns);
    record.slot = u32::try_from(way).unwrap();
    record.generation = u32::try_from(generation).unwrap();
    FlowRecord { key, ..record }
}

fn jiffies(now_ns: u64) -> u32 {
    u32::try_from(now_ns / 4_000_000).unwrap()
}

/// Which total a packet counts under: of two watched ports, the lower.
fn row(key: &FlowKey) -> (u16, Direction) {
    let egress = Place(key.place).is_egress();
    let direction = if egress { Direction::Egress } else { Direction::Ingress };
    let watched = |port: &u16| [3516, 4000].contains(port);
    let port = [key.source_port(), key.destination_port()].into_iter().filter(watched).min();
    (port.unwrap(), direction)
}
