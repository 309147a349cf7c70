//! Active flows: what it costs user space to read the kernel's flow table and to follow them.
//!
//! The flows are spread over all CPUs, as those of a host are, and each has a new packet whenever the
//! table is read.

use std::hint::black_box;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use monitor::clock::boot_ns;
use monitor::kernel::classifiers::Classifiers as _;
use monitor::kernel::flow_table::FlowTable;
use monitor::kernel::object::{Object, Settings};
use monitor::pipeline::Pipeline;
use monitor::session::{Brought, Readers};
use monitor_ebpf::wire::Slot;

use crate::Effort;
use crate::clock::Stopwatch;
use crate::frames::{self, IPV4_SOURCE};
use crate::process::{own_cpus, stay_on};
use crate::programs::{OURS, default_settings};
use crate::report::Row;
use crate::rewriter::Rewriter;
use crate::scene;
use crate::spread::Spread;

/// The most that reading 64 k active flows may take, in milliseconds.
const READ_BAR: f64 = 1.0;
/// A pipeline reports the start of a flow after this time, also when it does not know whose it is.
const PATIENCE: Duration = Duration::from_millis(300);
/// Flows that the default table is made for.
pub(crate) const MANY: u32 = 1 << 16;

/// Active flows, more and more of them, in a table that has two slots for each, and at least the
/// default one.
pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, flows) in [("1", 1), ("1 k", 1 << 10), ("64 k", MANY), ("1 M", 1 << 20)] {
        let mut followed = Followed::load(flows, 2)?;
        let (table, bytes) = (followed.table_bytes >> 20, size_of::<Slot>());
        let costs = followed.costs(effort.turns)?;
        let used = followed.used;
        let what = format!("reading {name} active flows ({used} in a table of {table} MiB)");
        let row = Row::new(what, "ms", Spread::of(costs.reading));
        rows.push(if flows == MANY { row.at_most(READ_BAR) } else { row });
        if flows <= MANY {
            let what =
                format!("reading {name} active flows and crediting each to its conversation");
            rows.push(Row::new(what, "ms", Spread::of(costs.crediting)));
        }
        if flows == MANY {
            let slot = u32::try_from(bytes).map_or(0.0, f64::from);
            rows.push(Row::new("kernel memory of a flow", "B", Spread::of(vec![slot])));
            let what = format!("user space's memory of a flow, {name} flows");
            rows.push(Row::new(what, "B", Spread::of(vec![followed.memory_each])));
        }
    }
    Ok(rows)
}

/// Milliseconds of each reading.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    /// What is news, copied out of the table.
    pub(crate) reading: Vec<f64>,
    /// The same, and on to the conversations: what `watch` does.
    pub(crate) crediting: Vec<f64>,
}

/// A loaded kernel side with active flows, and a pipeline that follows them.
pub(crate) struct Followed {
    _object: Object,
    table: FlowTable,
    readers: Readers,
    pipeline: Pipeline,
    /// What makes the flows of each CPU, with the last packet there.
    makers: Vec<(usize, Rewriter, Vec<u8>)>,
    flows_each: u32,
    /// Packets that leave room in the ring if each starts a flow.
    batch: u32,
    table_bytes: u64,
    /// Slots in use.
    used: usize,
    /// Bytes of the pipeline for each flow.
    memory_each: f64,
}

impl Followed {
    /// Starts so many flows, a power of two, in a table of at least the default size with so many slots for
    /// each: the fewer, the more flows push out each other.
    pub(crate) fn load(flows: u32, slots_each: u64) -> Result<Self> {
        let cpus = own_cpus()?;
        let slots = slots_each * u64::from(flows) * size_of::<Slot>() as u64;
        let usual = default_settings()?;
        let table_bytes = slots.max(usual.flow_table_bytes);
        // Flows are what is measured here, not samples.
        let settings = Settings { flow_table_bytes: table_bytes, sample_every: 0, ..usual };
        let mut object = Object::load(&settings)?;
        let table = object.flow_table()?;
        let readers = Readers::new(&mut object, false)?;
        let lanes = u32::try_from(cpus.len()).unwrap_or(1).next_power_of_two();
        let flows_each = (flows / lanes).max(1);
        let program = object.classifier(OURS)?.fd().context("finding a program")?;
        let mut makers = Vec::new();
        let mut left = flows;
        for (lane, cpu) in (0_u8..).zip(&cpus) {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(flows_each);
            let maker = Rewriter::new(program.as_fd(), flows_each.into());
            let mut packet = frames::bare_ack();
            // Each CPU has flows of its own: another destination.
            if let Some(byte) = packet.get_mut(usize::try_from(IPV4_SOURCE)? + 7) {
                *byte = lane;
            }
            makers.push((*cpu, maker.context("loading a program in front of another")?, packet));
        }
        let pipeline = scene::pipeline(readers.slots())?;
        let batch = u32::try_from(readers.flow_records() / 2)?;
        let mut followed = Self {
            _object: object,
            table,
            readers,
            pipeline,
            makers,
            flows_each,
            batch,
            table_bytes,
            used: 0,
            memory_each: 0.0,
        };
        let before = scene::heap();
        followed.touch()?;
        followed.credit();
        // Their starts are reported now, so that only following them is measured.
        thread::sleep(PATIENCE);
        while followed.credit() > 0 {}
        let heap = u32::try_from(scene::heap().saturating_sub(before)).unwrap_or(u32::MAX);
        followed.memory_each = f64::from(heap) / f64::from(flows);
        Ok(followed)
    }

    /// What readings cost, each after a packet of every flow.
    pub(crate) fn costs(&mut self, readings: usize) -> Result<Costs> {
        let mut costs = Costs::default();
        for _ in 0..readings {
            self.touch()?;
            let running = Stopwatch::of_thread();
            self.used = self.read();
            costs.reading.push(running.elapsed().as_secs_f64() * 1e3);
            let running = Stopwatch::of_thread();
            self.credit();
            costs.crediting.push(running.elapsed().as_secs_f64() * 1e3);
        }
        Ok(costs)
    }

    /// A packet of each flow.
    fn touch(&mut self) -> Result<()> {
        let (flows, batch) = (self.flows_each, self.batch);
        for (cpu, maker, packet) in &mut self.makers {
            stay_on(&[*cpu])?;
            let mut left = flows;
            while left > 0 {
                let packets = left.min(batch);
                maker.run(packet, packets).context("making flows")?;
                while self.readers.read_packets(&mut self.pipeline, boot_ns()) == Brought::Part {}
                left -= packets;
            }
        }
        Ok(())
    }

    /// Copies what is news out of the table: how many slots that are.
    fn read(&self) -> usize {
        const AT_ONCE: usize = 256;
        let mut news = Vec::with_capacity(AT_ONCE);
        let mut count = 0;
        for start in (0..self.table.slots()).step_by(AT_ONCE) {
            let is_news = |slot, count| !self.pipeline.is_current(slot, count);
            self.table.read_part(start..start + AT_ONCE, is_news, |reading| news.push(reading));
            count += black_box(&news).len();
            news.clear();
        }
        count
    }

    /// Reads the table as `watch` does: how many reports come of it.
    fn credit(&mut self) -> usize {
        self.readers.read_table(&mut self.pipeline, boot_ns());
        self.pipeline.take_reports().len()
    }
}
