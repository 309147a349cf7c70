//! An empty program and ours, on packets of which each is of another flow.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use monitor::kernel::object::Settings;

use crate::programs::{EMPTY, OURS, Programs};
use crate::rewriter::Rewriter;

/// Both programs behind a rewriter each.
pub(crate) struct Pair {
    pub(crate) programs: Programs,
    empty: Rewriter,
    ours: Rewriter,
    /// New flows that leave room in the ring.
    pub(crate) batch: u32,
}

impl Pair {
    pub(crate) fn load(settings: &Settings, flows: u64) -> Result<Self> {
        let mut programs = Programs::load(settings)?;
        let empty = Rewriter::new(programs.descriptor(EMPTY)?.as_fd(), flows);
        let empty = empty.context("loading a program in front of another")?;
        let ours = Rewriter::new(programs.descriptor(OURS)?.as_fd(), flows)?;
        let batch = programs.batch();
        Ok(Self { programs, empty, ours, batch })
    }

    /// Runs ours on `packets` packets that may each start a flow.
    pub(crate) fn fill(&mut self, packet: &mut [u8], packets: u64) -> Result<()> {
        for _ in 0..packets.div_ceil(u64::from(self.batch)) {
            self.ours.run(packet, self.batch).context("filling the flow table")?;
            self.programs.drain();
        }
        Ok(())
    }

    /// What a packet costs more than without us, with each packet of another flow.
    pub(crate) fn difference(&mut self, packet: &mut [u8], repeat: u32) -> Result<f64> {
        let cost = self.empty.difference_to(&self.ours, packet, repeat)?;
        self.programs.drain();
        Ok(cost)
    }

    /// The same of another program in our place.
    pub(crate) fn difference_of(
        &mut self,
        other: &Rewriter,
        packet: &mut [u8],
        repeat: u32,
    ) -> Result<f64> {
        let cost = self.empty.difference_to(other, packet, repeat)?;
        self.programs.drain();
        Ok(cost)
    }

    /// The same for more packets than there is room in the ring, if each starts a flow.
    pub(crate) fn difference_in_batches(&mut self, packet: &mut [u8], repeat: u32) -> Result<f64> {
        let batches = repeat.div_ceil(self.batch);
        let costs: Result<Vec<f64>> =
            (0..batches).map(|_| self.difference(packet, self.batch)).collect();
        Ok(costs?.iter().sum::<f64>() / f64::from(batches))
    }
}
