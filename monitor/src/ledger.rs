//! Turns what the kernel's flow table and its eviction records show into credits: packets and bytes
//! that were not known before, each credited exactly once.
//!
//! A slot lives through generations, one per flow it held. Its counters are seen by reading the table,
//! and once more in the record that hands them over when the next flow takes the slot. Either may come
//! first; the ledger remembers what it has credited for which generation.

use std::collections::HashMap;

use monitor_ebpf::wire::{FlowKey, FlowRecord, Slot};

/// A flow's time in a slot of the kernel's table: another flow, or the next one with the same key, is
/// another generation there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tenure {
    /// Index of the slot: whose packets it counted last time, it likely counts again.
    pub slot: u32,
    /// [`Slot::generation`].
    pub generation: u16,
}

/// Packets and bytes of one flow key that were not known before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Credit {
    /// Whose.
    pub key: FlowKey,
    /// Where the kernel counted them.
    pub tenure: Tenure,
    /// How many packets.
    pub packets: u64,
    /// How many IP bytes.
    pub bytes: u64,
    /// Low 32 bits of the kernel's jiffies at the last packet.
    pub last_jiffies: u32,
    /// All TCP flags seen in that slot so far.
    pub tcp_flags: u8,
}

impl Tenure {
    /// That of the flow that a record announces.
    pub fn announced_by(record: &FlowRecord) -> Self {
        Self::new(record.slot, record.generation.into())
    }

    /// That of the flow that a slot holds.
    pub fn of(slot: u32, content: &Slot) -> Self {
        Self::new(slot, content.generation())
    }

    fn new(slot: u32, generation: u64) -> Self {
        Self { slot, generation: u16::try_from(generation).unwrap_or(u16::MAX) }
    }
}

/// What was credited for a slot.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Credited {
    /// Generation and packets, as in [`Slot::count`].
    count: u64,
    bytes: u64,
}

impl Credited {
    const fn generation(self) -> u64 {
        self.count >> Slot::PACKET_BITS
    }

    const fn packets(self) -> u64 {
        self.count & Slot::PACKET_MASK
    }
}

/// Slots in a page, which is as large as the kernel's.
const PAGE: usize = 256;

/// What was credited for each slot; memory only for those that were in use. A table may be of
/// gigabytes, and a recording may say so of any.
#[derive(Debug)]
struct Pages {
    pages: Vec<Option<Box<[Credited; PAGE]>>>,
}

impl Pages {
    fn new(slots: usize) -> Self {
        Self { pages: vec![None; slots.div_ceil(PAGE)] }
    }

    /// `None` beyond the table.
    fn get(&self, slot: u32) -> Option<Credited> {
        let slot = slot as usize;
        let page = self.pages.get(slot / PAGE)?;
        let held = page.as_deref().and_then(|page| page.get(slot % PAGE)).copied();
        Some(held.unwrap_or_default())
    }

    fn get_mut(&mut self, slot: u32) -> Option<&mut Credited> {
        let slot = slot as usize;
        let page = self.pages.get_mut(slot / PAGE)?;
        page.get_or_insert_with(|| Box::new([Credited::default(); PAGE])).get_mut(slot % PAGE)
    }
}

/// What was credited for every slot of the table.
#[derive(Debug)]
pub struct Ledger {
    credited: Pages,
    /// Generations that were read from the table and then replaced; their hand-over is still in the
    /// ring. Never more than records fit into the ring.
    handed_over: HashMap<(u32, u64), Credited>,
}

impl Ledger {
    /// A ledger for a table of `slots` slots.
    pub fn new(slots: usize) -> Self {
        Self { credited: Pages::new(slots), handed_over: HashMap::new() }
    }

    /// Would reading this slot tell nothing new? `count` is its [`Slot::count`].
    pub fn is_current(&self, slot: u32, count: u64) -> bool {
        self.credited.get(slot).is_some_and(|credited| credited.count == count)
    }

    /// Was this flow of the slot announced by a record that was not taken yet? What a reading of the slot
    /// shows may then be of another connection than is known by the same ports.
    pub fn awaits_record(&self, slot: u32, content: &Slot) -> bool {
        content.head_samples & Slot::UNANNOUNCED == 0
            && self.credited.get(slot).is_some_and(|it| it.generation() != content.generation())
    }

    /// Credits what a reading of the table shows.
    pub fn read(&mut self, slot: u32, content: &Slot) -> Option<Credit> {
        let credited = self.credited.get_mut(slot)?;
        let before = *credited;
        *credited = Credited { count: content.count, bytes: content.bytes };
        let known = if before.generation() == content.generation() {
            before
        } else {
            if before.count != 0 {
                self.handed_over.insert((slot, before.generation()), before);
            }
            Credited::default()
        };
        let credit = Credit {
            key: content.key,
            tenure: Tenure::of(slot, content),
            packets: content.packets().wrapping_sub(known.packets()),
            bytes: content.bytes.wrapping_sub(known.bytes),
            last_jiffies: content.last_jiffies,
            tcp_flags: content.tcp_flags,
        };
        (credit.packets != 0 || credit.bytes != 0).then_some(credit)
    }

    /// Takes note of the flow that has the slot of this record, and credits what the slot held before.
    pub fn taken(&mut self, record: &FlowRecord) -> Option<Credit> {
        let evicted = Credited { count: record.evicted_count, bytes: record.evicted_bytes };
        let slot = self.credited.get_mut(record.slot)?;
        let before = *slot;
        // Unless a reading came first.
        if before.count == 0 || before.generation() == evicted.generation() {
            *slot = Credited { count: u64::from(record.generation) << Slot::PACKET_BITS, bytes: 0 };
        }
        if evicted.count == 0 {
            return None;
        }
        let known = if before.generation() == evicted.generation() {
            before
        } else {
            self.handed_over.remove(&(record.slot, evicted.generation())).unwrap_or_default()
        };
        let credit = Credit {
            key: record.evicted_key,
            tenure: Tenure::new(record.slot, evicted.generation()),
            packets: evicted.packets().wrapping_sub(known.packets()),
            bytes: evicted.bytes.wrapping_sub(known.bytes),
            last_jiffies: record.evicted_last_jiffies,
            tcp_flags: record.evicted_tcp_flags,
        };
        (credit.packets != 0 || credit.bytes != 0).then_some(credit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::FromZeros as _;

    #[test]
    fn a_second_reading_credits_only_what_came_since() {
        let mut ledger = Ledger::new(4);

        assert_eq!(packets(ledger.read(1, &slot(1, 10))), 10);
        assert!(ledger.is_current(1, slot(1, 10).count));
        assert_eq!(ledger.read(1, &slot(1, 10)), None);
        assert_eq!(packets(ledger.read(1, &slot(1, 12))), 2);
    }

    #[test]
    fn a_hand_over_credits_only_what_no_reading_saw() {
        let mut ledger = Ledger::new(4);
        ledger.read(1, &slot(1, 10));

        assert_eq!(packets(ledger.taken(&hand_over(1, 1, 15))), 5);
        assert_eq!(packets(ledger.read(1, &slot(2, 3))), 3);
    }

    #[test]
    fn a_hand_over_may_arrive_after_the_next_flow_was_read() {
        let mut ledger = Ledger::new(4);
        ledger.read(1, &slot(1, 10));
        assert_eq!(packets(ledger.read(1, &slot(2, 3))), 3);

        assert_eq!(packets(ledger.taken(&hand_over(1, 1, 15))), 5);
        assert_eq!(packets(ledger.read(1, &slot(2, 4))), 1);
        assert!(ledger.handed_over.is_empty());
    }

    #[test]
    fn a_flow_that_came_and_went_between_two_readings_is_credited_whole() {
        let mut ledger = Ledger::new(4);

        assert_eq!(packets(ledger.taken(&hand_over(1, 1, 7))), 7);
    }

    #[test]
    fn what_is_read_of_a_flow_before_its_record_waits_for_it() {
        let mut ledger = Ledger::new(4);
        let unannounced = Slot { head_samples: Slot::UNANNOUNCED, ..slot(1, 2) };

        let before = ledger.awaits_record(1, &slot(1, 2));
        ledger.taken(&FlowRecord { generation: 1, ..hand_over(1, 0, 0) });
        let after = ledger.awaits_record(1, &slot(1, 2));

        assert_eq!((before, after), (true, false));
        assert_eq!(packets(ledger.read(1, &slot(1, 2))), 2);
        assert!(ledger.awaits_record(1, &slot(2, 1)));
        assert!(!ledger.awaits_record(2, &unannounced), "no record is on its way");
    }

    #[test]
    fn a_record_that_comes_late_changes_nothing_of_what_was_read() {
        let mut ledger = Ledger::new(4);
        ledger.read(1, &slot(1, 2));

        ledger.taken(&FlowRecord { generation: 1, ..hand_over(1, 0, 0) });

        assert!(ledger.is_current(1, slot(1, 2).count));
    }

    proptest! {
        /// The naive model: whatever order readings and hand-overs arrive in, every packet of every
        /// generation is credited once.
        #[test]
        fn every_packet_is_credited_exactly_once(
            lives in prop::collection::vec((1_u64..100, prop::collection::vec(0_u64..100, 0..4)), 1..20),
            delay in 0_usize..5,
        ) {
            let mut ledger = Ledger::new(1);
            let mut in_ring = Vec::new();
            let (mut credited, mut counted) = (0, 0);
            for (generation, (first, more)) in (1_u64..).zip(&lives) {
                if generation > 1 {
                    in_ring.push(hand_over(0, generation - 1, counted));
                }
                counted = *first;
                for step in more {
                    credited += packets(ledger.read(0, &slot(generation, counted)));
                    counted += step;
                }
                if in_ring.len() > delay {
                    for record in in_ring.drain(..) {
                        credited += packets(ledger.taken(&record));
                    }
                }
            }
            for record in in_ring.drain(..) {
                credited += packets(ledger.taken(&record));
            }
            let last = u64::try_from(lives.len()).unwrap();
            credited += packets(ledger.read(0, &slot(last, counted)));
            let all: u64 = lives.iter().map(|(first, more)| first + more.iter().sum::<u64>()).sum();
            prop_assert_eq!(credited, all);
            prop_assert!(ledger.handed_over.is_empty());
        }
    }

    fn packets(credit: Option<Credit>) -> u64 {
        credit.map_or(0, |credit| {
            assert_eq!(credit.bytes, credit.packets * 100);
            credit.packets
        })
    }

    fn slot(generation: u64, packets: u64) -> Slot {
        let mut slot = Slot::new_zeroed();
        slot.count = generation << Slot::PACKET_BITS | packets;
        slot.bytes = packets * 100;
        slot
    }

    fn hand_over(slot: u32, generation: u64, packets: u64) -> FlowRecord {
        let mut record = FlowRecord::new_zeroed();
        record.slot = slot;
        record.evicted_count = generation << Slot::PACKET_BITS | packets;
        record.evicted_bytes = packets * 100;
        record
    }
}
