//! How the hand-made per-CPU arrays are laid out: the flow table and the totals.

use monitor_ebpf::wire::{self, WAYS};

/// How the hand-made per-CPU arrays are laid out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Layout {
    /// CPUs the kernel may ever have.
    pub(super) cpus: u32,
    /// Sets per CPU in the flow table; a power of two.
    pub(super) sets: u32,
    /// Rows per CPU in the totals.
    pub(super) total_rows: u32,
}

impl Layout {
    /// A table of at most `flow_table_bytes` over `cpus` CPUs, and totals for `ports` ports.
    pub(super) fn new(cpus: u32, flow_table_bytes: u64, ports: u32) -> Self {
        let per_cpu = flow_table_bytes / u64::from(cpus.max(1)) / size_of::<wire::Set>() as u64;
        // The hash shifts by 64 minus the logarithm: one set would be a shift by the full width.
        let sets = u32::try_from(per_cpu).unwrap_or(u32::MAX).clamp(2, 1 << 24);
        Self { cpus: cpus.max(1), sets: 1 << sets.ilog2(), total_rows: ports * 2 }
    }

    /// Slots of the flow table over all CPUs.
    pub(super) const fn slots(self) -> usize {
        self.cpus as usize * self.sets as usize * WAYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_table_takes_no_more_memory_than_asked_for() {
        for (cpus, bytes) in [(1, 1 << 16), (2, 8 << 20), (3, 8 << 20), (128, 16 << 20)] {
            let layout = Layout::new(cpus, bytes, 1);

            assert!(layout.slots() as u64 * 64 <= bytes, "{cpus} CPUs, {bytes} bytes: {layout:?}");
            assert!(layout.sets.is_power_of_two());
        }
    }

    #[test]
    fn a_table_for_more_cpus_than_memory_still_has_two_sets_each() {
        assert_eq!(Layout::new(4096, 1 << 16, 1).sets, 2);
    }
}
