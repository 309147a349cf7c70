//! Reads the kernel's flow table through `mmap`: no system call, a few hundred microseconds for
//! a hundred thousand slots.

use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use monitor_ebpf::wire::Slot;
use serde::{Deserialize, Serialize};

use crate::kernel::layout::Layout;
use crate::sys::Mapping;

const WORDS: usize = size_of::<Slot>() / size_of::<u64>();
/// Position of [`Slot::count`] among the words of a slot.
const COUNT: usize = std::mem::offset_of!(Slot, count) / size_of::<u64>();

/// The flow table, read-only.
#[derive(Debug)]
pub struct FlowTable {
    mapping: Mapping,
    layout: Layout,
}

/// A slot as it stood at one moment.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reading {
    /// Index of the slot.
    pub slot: u32,
    /// Its content.
    #[serde(with = "crate::verbatim")]
    pub content: Slot,
}

impl FlowTable {
    pub(super) fn new(map: &MapData, layout: Layout) -> Result<Self> {
        let slots = layout.slots();
        let mapping = Mapping::new(map.fd().as_fd(), slots * WORDS).context("mapping pw_flows")?;
        Ok(Self { mapping, layout })
    }

    /// How many slots there are, over all CPUs.
    pub const fn slots(&self) -> usize {
        self.layout.slots()
    }

    /// The slots in which the flow of a slot may be counted, on each CPU.
    pub fn beside(&self, slot: u32) -> impl Iterator<Item = Range<usize>> + use<> {
        self.layout.beside(slot)
    }

    /// What a slot holds now.
    pub fn get(&self, slot: u32) -> Option<Slot> {
        let (mut content, slot) = (None, slot as usize);
        self.read_part(slot..slot + 1, |_, _| true, |reading| content = Some(reading.content));
        content
    }

    /// Hands every slot to `each` whose count `has_changed` says is news.
    ///
    /// A slot that the kernel rewrites at this very moment is passed over: it will be news next time,
    /// and what it held before travels through the ring.
    pub fn read(&self, has_changed: impl Fn(u32, u64) -> bool, each: impl FnMut(Reading)) {
        self.read_part(0..self.slots(), has_changed, each);
    }

    /// As [`read`](Self::read), of a part of the slots only.
    pub fn read_part(
        &self,
        slots: Range<usize>,
        has_changed: impl Fn(u32, u64) -> bool,
        mut each: impl FnMut(Reading),
    ) {
        let part =
            self.mapping.words().get(slots.start * WORDS..slots.end.min(self.slots()) * WORDS);
        let first = u32::try_from(slots.start).unwrap_or(u32::MAX);
        for (slot, words) in (first..).zip(part.unwrap_or_default().chunks_exact(WORDS)) {
            let Some(count) = words.get(COUNT) else { continue };
            let before = count.load(Ordering::Acquire);
            if before == 0 || !has_changed(slot, before) {
                continue;
            }
            if let Some(content) = consistent(words, count) {
                each(Reading { slot, content });
            }
        }
    }
}

/// The slot, if it belonged to the same flow before and after it was read.
fn consistent(words: &[AtomicU64], count: &AtomicU64) -> Option<Slot> {
    let mut copy = [0_u64; WORDS];
    let generation_before = count.load(Ordering::Acquire) >> Slot::PACKET_BITS;
    for (to, from) in copy.iter_mut().zip(words) {
        *to = from.load(Ordering::Relaxed);
    }
    fence(Ordering::Acquire);
    let generation_after = count.load(Ordering::Relaxed) >> Slot::PACKET_BITS;
    let content: Slot = zerocopy::transmute!(copy);
    let same = generation_before == generation_after && content.generation() == generation_before;
    (same && generation_before != 0).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_is_being_rewritten_is_passed_over() {
        let words: [AtomicU64; WORDS] = Default::default();

        assert_eq!(consistent(&words, &words[COUNT]), None);

        words[COUNT].store(3 << Slot::PACKET_BITS | 7, Ordering::Relaxed);
        words[COUNT + 1].store(700, Ordering::Relaxed);
        let slot = consistent(&words, &words[COUNT]).unwrap();
        assert_eq!((slot.generation(), slot.packets(), slot.bytes), (3, 7, 700));
    }
}
