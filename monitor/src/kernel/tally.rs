//! Reads what the kernel counted: totals per port, fates of records, packets counted apart.

use std::fmt;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, PerCpuArray};
use monitor_ebpf::wire::{Fates, PROGRAMS, Total, aside};
use serde::{Deserialize, Serialize};

use crate::endpoint::Direction;
use crate::kernel::layout::Layout;
use crate::sys::Mapping;

const WORDS: usize = size_of::<Total>() / size_of::<u64>();
const FATE_WORDS: usize = size_of::<Fates>() / size_of::<u64>();

/// The kernel's counters, read-only.
pub struct Tally {
    totals: Mapping,
    layout: Layout,
    ports: Vec<u16>,
    fates: PerCpuArray<MapData, [u64; FATE_WORDS]>,
    aside: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// Totals of one port in one direction over all CPUs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PortTotal {
    /// The watched port.
    pub port: u16,
    /// Direction.
    pub direction: Direction,
    /// The counters.
    #[serde(with = "crate::verbatim")]
    pub total: Total,
}

impl Tally {
    pub(super) fn new(
        totals: &MapData,
        fates: PerCpuArray<MapData, [u64; FATE_WORDS]>,
        aside: PerCpuArray<MapData, u64>,
        layout: Layout,
        ports: Vec<u16>,
    ) -> Result<Self> {
        let rows = layout.cpus as usize * layout.total_rows as usize;
        let totals =
            Mapping::new(totals.fd().as_fd(), rows * WORDS).context("mapping pw_totals")?;
        Ok(Self { totals, layout, ports, fates, aside })
    }

    /// The totals, in order of port and direction, ports without a packet included.
    pub fn totals(&self) -> Vec<PortTotal> {
        let mut totals = Vec::with_capacity(self.ports.len() * 2);
        for (row, &port) in (0_usize..).zip(&self.ports) {
            for (offset, direction) in [(0, Direction::Ingress), (1, Direction::Egress)] {
                totals.push(PortTotal { port, direction, total: self.sum(row * 2 + offset) });
            }
        }
        totals
    }

    /// Packets over all ports, directions and CPUs.
    pub fn packets(&self) -> u64 {
        let rows = self.totals.words().chunks_exact(WORDS);
        rows.filter_map(|row| row.first())
            .fold(0, |sum, packets| sum.wrapping_add(packets.load(Ordering::Relaxed)))
    }

    fn sum(&self, row: usize) -> Total {
        let mut sum = [0_u64; WORDS];
        for cpu in 0..self.layout.cpus as usize {
            let start = (cpu * self.layout.total_rows as usize + row) * WORDS;
            let words = self.totals.words().get(start..start + WORDS).unwrap_or_default();
            for (sum, word) in sum.iter_mut().zip(words) {
                *sum = sum.wrapping_add(word.load(Ordering::Relaxed));
            }
        }
        zerocopy::transmute!(sum)
    }

    /// What became of the records of each program, in the order of [`PROGRAMS`].
    pub fn fates(&self) -> Result<Vec<Fates>> {
        (0_u32..)
            .zip(PROGRAMS)
            .map(|(index, name)| {
                let values = self
                    .fates
                    .get(&index, 0)
                    .with_context(|| format!("reading the fates of {name}"))?;
                let sum = values.iter().fold([0_u64; FATE_WORDS], |mut sum, value| {
                    for (sum, value) in sum.iter_mut().zip(value) {
                        *sum = sum.wrapping_add(*value);
                    }
                    sum
                });
                Ok(zerocopy::transmute!(sum))
            })
            .collect()
    }

    /// Packets counted apart, by the indexes of [`aside`].
    pub fn aside(&self) -> Result<Vec<u64>> {
        (0..aside::COUNT)
            .map(|index| {
                let values = self.aside.get(&index, 0).context("reading pw_aside")?;
                Ok(values.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value)))
            })
            .collect()
    }
}
