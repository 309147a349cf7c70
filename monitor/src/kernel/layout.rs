//! How the hand-made per-CPU arrays are laid out: the flow table, the ring of flow records and the totals.

use std::ops::Range;

use monitor_ebpf::wire::{self, BESIDE, FlowRecord, WAYS};

/// Slots of sets that lie beside each other.
const GROUP: usize = BESIDE as usize * WAYS;

/// How the hand-made per-CPU arrays are laid out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Layout {
    /// CPUs the kernel may ever have.
    pub(super) cpus: u32,
    /// Sets per CPU in the flow table; a power of two.
    pub(super) sets: u32,
    /// Rows per CPU in the totals.
    pub(super) total_rows: u32,
    /// Records per CPU in the ring of flow records; a power of two.
    pub(super) flow_ring: u32,
    /// Bytes of the ring of samples; a power of two of at least a page.
    pub(super) sample_ring_bytes: u32,
}

impl Layout {
    /// A table of at most `flow_table_bytes` over `cpus` CPUs, totals for `ports` ports, and rings of
    /// `ring_bytes`: half of them for samples, half for flow records, but a page for each at least.
    pub(super) fn new(cpus: u32, flow_table_bytes: u64, ports: u32, ring_bytes: u32) -> Self {
        let cpus = cpus.max(1);
        let page = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
        let half = (ring_bytes / 2).max(page);
        Self {
            cpus,
            sets: share(flow_table_bytes, cpus, size_of::<wire::Set>()).clamp(BESIDE, 1 << 24),
            total_rows: ports * 2,
            flow_ring: share(half.into(), cpus, size_of::<FlowRecord>()),
            sample_ring_bytes: half,
        }
    }

    /// Slots of the flow table over all CPUs.
    pub(super) const fn slots(self) -> usize {
        self.cpus as usize * self.slots_of_cpu()
    }

    const fn slots_of_cpu(self) -> usize {
        self.sets as usize * WAYS
    }

    /// Where the flow of a slot may be counted: the set that its hash chooses and those beside, of each CPU.
    pub(super) fn beside(self, slot: u32) -> impl Iterator<Item = Range<usize>> + use<> {
        let part = self.slots_of_cpu();
        let first = slot as usize % part / GROUP * GROUP;
        (first..self.slots()).step_by(part).map(|first| first..first + GROUP)
    }
}

/// How many things of `size` bytes each CPU has in `bytes` over all CPUs: a power of two, at least one.
fn share(bytes: u64, cpus: u32, size: usize) -> u32 {
    let each = bytes / u64::from(cpus) / size as u64;
    1 << u32::try_from(each).unwrap_or(u32::MAX).max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_table_takes_no_more_memory_than_asked_for() {
        for (cpus, bytes) in [(1, 1 << 16), (2, 8 << 20), (3, 8 << 20), (128, 16 << 20)] {
            let layout = Layout::new(cpus, bytes, 1, 1 << 20);

            assert!(layout.slots() as u64 * 64 <= bytes, "{cpus} CPUs, {bytes} bytes: {layout:?}");
            assert!(layout.sets.is_power_of_two());
        }
    }

    #[test]
    fn a_table_for_more_cpus_than_memory_still_has_all_sets_beside_each_other() {
        assert_eq!(Layout::new(4096, 1 << 16, 1, 1 << 20).sets, BESIDE);
    }

    #[test]
    fn a_flow_may_be_counted_in_sixteen_slots_of_each_cpu() {
        let layout = Layout::new(2, 256 * 64, 1, 1 << 20);
        assert_eq!(layout.slots(), 256);

        let of_first: Vec<_> = layout.beside(37).collect();
        let of_second: Vec<_> = layout.beside(128 + 37).collect();

        assert_eq!(of_first, [32..48, 160..176]);
        assert_eq!(of_second, of_first);
    }

    #[test]
    fn the_rings_take_no_more_memory_than_asked_for() {
        for (cpus, bytes) in [(1, 1 << 13), (2, 8 << 20), (3, 1 << 20), (128, 64 << 20)] {
            let layout = Layout::new(cpus, 1 << 20, 1, bytes);
            let records = u64::from(cpus * layout.flow_ring) * size_of::<FlowRecord>() as u64;

            assert!(
                records + u64::from(layout.sample_ring_bytes) <= u64::from(bytes),
                "{layout:?}"
            );
            assert!(layout.flow_ring.is_power_of_two());
        }
    }

    #[test]
    fn the_smallest_rings_are_a_page_of_samples_and_a_record_for_each_cpu() {
        let layout = Layout::new(4096, 1 << 20, 1, 1 << 12);

        assert_eq!(layout.sample_ring_bytes as usize, rustix::param::page_size());
        assert_eq!(layout.flow_ring, 1);
    }
}
