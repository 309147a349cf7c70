//! Many flows: packets of known ones, packets that start one, and reading them all.

use std::hint::black_box;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use monitor::kernel::object::Settings;
use monitor_ebpf::wire::{FlowRecord, Slot};

use crate::clock;
use crate::frames;
use crate::known_flow::over_empty;
use crate::programs::{EMPTY, OURS, Programs, default_settings, nanoseconds_each};
use crate::report::Row;
use crate::rewriter::Rewriter;
use crate::spread::Spread;
use crate::{Effort, stay_on_one_cpu};

/// The most that a new flow, and a packet of one of a million flows, may cost, in nanoseconds, and
/// that reading the flow table may take, in milliseconds.
const NEW_BAR: f64 = 100.0;
const MILLION_BAR: f64 = 90.0;
const READ_BAR: f64 = 1.0;

/// As many as an address can tell apart.
const ENDLESS: u64 = 1 << 32;

/// Packets of known flows, more and more of them.
pub(crate) fn known_flows(effort: Effort) -> Result<Vec<Row>> {
    stay_on_one_cpu()?;
    Ok(vec![
        in_turn("1 k", 1 << 10, effort)?,
        in_turn("64 k", 1 << 16, effort)?,
        in_turn("1 M", 1 << 20, effort)?.at_most(MILLION_BAR),
    ])
}

/// Packets that start a flow, and reading a table full of flows.
pub(crate) fn new_flows(effort: Effort) -> Result<Vec<Row>> {
    stay_on_one_cpu()?;
    let mut rows = fill_and_read(effort)?;
    rows.push(restarts(effort)?);
    Ok(rows)
}

/// Both programs behind a rewriter each.
struct Pair {
    programs: Programs,
    empty: Rewriter,
    ours: Rewriter,
    /// New flows that leave room in the ring.
    batch: u32,
}

impl Pair {
    fn load(settings: &Settings, flows: u64) -> Result<Self> {
        let mut programs = Programs::load(settings)?;
        let empty = Rewriter::new(programs.descriptor(EMPTY)?.as_fd(), flows);
        let empty = empty.context("loading a program in front of another")?;
        let ours = Rewriter::new(programs.descriptor(OURS)?.as_fd(), flows)?;
        let record = u32::try_from(size_of::<FlowRecord>()).unwrap_or(u32::MAX);
        Ok(Self { programs, empty, ours, batch: settings.ring_bytes / record / 2 })
    }

    /// Runs ours on `packets` packets that may each start a flow.
    fn fill(&mut self, packet: &mut [u8], packets: u64) -> Result<()> {
        for _ in 0..packets.div_ceil(u64::from(self.batch)) {
            self.ours.run(packet, self.batch).context("filling the flow table")?;
            self.programs.drain();
        }
        Ok(())
    }

    /// What a packet costs more than without us, with each packet of another flow.
    fn difference(&mut self, packet: &mut [u8], repeat: u32) -> Result<f64> {
        let empty = self.empty.run(&mut packet.to_vec(), repeat)?;
        let ours = self.ours.run(packet, repeat)?;
        self.programs.drain();
        Ok(nanoseconds_each(ours, repeat) - nanoseconds_each(empty, repeat))
    }
}

/// Packets of `flows` flows in turn, in a table with four times as many slots on each CPU: at half of
/// that, one flow in seven is in a set that more want than it holds, and each of its packets starts it
/// again.
fn in_turn(name: &str, flows: u32, effort: Effort) -> Result<Row> {
    let cpus = aya::util::nr_cpus().map_err(|(_path, error)| error).context("counting CPUs")?;
    let bytes = 4 * u64::from(flows) * size_of::<Slot>() as u64 * cpus as u64;
    let what = over_empty(&format!("{name} known flows in turn, IPv4 TCP"));
    if bytes > available_memory()? / 2 {
        return Ok(Row::new(format!("{what} (too little memory)"), "ns", None));
    }
    let settings = Settings { flow_table_bytes: bytes, ..default_settings()? };
    let mut pair = Pair::load(&settings, u64::from(flows))?;
    let mut packet = frames::bare_ack();
    pair.fill(&mut packet, u64::from(flows))?;
    let mut costs = Vec::new();
    for _ in 0..effort.loads * effort.rounds {
        costs.push(pair.difference(&mut packet, effort.packets.max(flows))?);
    }
    Ok(Row::new(what, "ns", Spread::of(costs)))
}

/// Packets that each start a flow, in the default table when it is full: each hands over what it
/// replaces. Then the table is read.
fn fill_and_read(effort: Effort) -> Result<Vec<Row>> {
    let mut pair = Pair::load(&default_settings()?, ENDLESS)?;
    let table = pair.programs.flow_table()?;
    let slots = table.slots();
    let read = || {
        let before = clock::thread();
        let mut used = 0_usize;
        table
            .read(|_slot, _count| true, |reading| used += usize::from(black_box(reading).slot > 0));
        ((clock::thread().saturating_sub(before)).as_secs_f64() * 1e3, used)
    };
    let readings = |effort: Effort| {
        let (times, used): (Vec<f64>, Vec<usize>) =
            (0..effort.loads * effort.rounds).map(|_| read()).unzip();
        (Spread::of(times), used.into_iter().max().unwrap_or(0))
    };
    let (empty, _none) = readings(effort);
    let mut packet = frames::syn();
    pair.fill(&mut packet, 4 * slots as u64)?;
    let mut costs = Vec::new();
    for _ in 0..effort.loads * effort.rounds {
        costs.push(pair.difference(&mut packet, pair.batch)?);
    }
    let (full, used) = readings(effort);
    let read = |what, spread| Row::new(format!("reading {slots} slots, {what}"), "ms", spread);
    Ok(vec![
        Row::new(over_empty("new flow in a full table, IPv4 TCP SYN"), "ns", Spread::of(costs))
            .at_most(NEW_BAR),
        read("all free".to_owned(), empty).at_most(READ_BAR),
        read(format!("{used} in use"), full).at_most(READ_BAR),
    ])
}

/// Packets that each start the same flow again.
fn restarts(effort: Effort) -> Result<Row> {
    let settings = default_settings()?;
    let mut programs = Programs::load(&settings)?;
    let record = u32::try_from(size_of::<FlowRecord>()).unwrap_or(u32::MAX);
    let batch = settings.ring_bytes / record / 2;
    let packet = frames::syn_fin();
    let mut costs = Vec::new();
    for round in 0..effort.loads * effort.rounds {
        costs.push(programs.difference(&packet, batch, round % 2 == 1)?);
        programs.drain();
    }
    Ok(Row::new(over_empty("flow started again by each packet"), "ns", Spread::of(costs)))
}

fn available_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kibibytes.context("finding MemAvailable in /proc/meminfo")? * 1024)
}
