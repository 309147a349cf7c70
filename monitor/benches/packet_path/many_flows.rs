//! Many flows: packets of known ones, packets that start one, and reading them all.

use std::hint::black_box;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use monitor::kernel::flow_table::FlowTable;
use monitor::kernel::object::Settings;
use monitor_ebpf::wire::Slot;

use crate::clock::Stopwatch;
use crate::floor::{self, Part, Ring};
use crate::frames;
use crate::known_flow::over_empty;
use crate::process::one_apart;
use crate::programs::{EMPTY, OURS, Programs, default_settings};
use crate::quiet;
use crate::report::Row;
use crate::rewriter::Rewriter;
use crate::spread::Spread;
use crate::witness::{Take, Takes};
use crate::{Effort, stay_on_one_cpu};

/// The most that a new flow, and a packet of one of a million flows, may cost, in nanoseconds, and
/// that reading the flow table may take, in milliseconds.
const NEW_BAR: f64 = 100.0;
const MILLION_BAR: f64 = 90.0;
const READ_BAR: f64 = 1.0;

const MILLION: u32 = 1 << 20;
/// As many as an address can tell apart.
const ENDLESS: u64 = 1 << 32;

/// Packets of known flows, more and more of them.
pub(crate) fn known_flows(effort: Effort) -> Result<Vec<Row>> {
    stay_on_one_cpu()?;
    let usual = default_settings()?.flow_table_bytes;
    let cpus = aya::util::nr_cpus().map_err(|(_path, error)| error).context("counting CPUs")?;
    // With twice as many slots as flows, one flow in seven would be in a set that more want than it
    // holds, and each of its packets would start it again.
    let roomy = 4 * u64::from(MILLION) * size_of::<Slot>() as u64 * cpus as u64;
    Ok(vec![
        in_turn("1 k", 1 << 10, usual, effort)?,
        in_turn("16 k", 1 << 14, usual, effort)?,
        in_turn("64 k", 1 << 16, usual, effort)?,
        in_turn("1 M", MILLION, usual, effort)?.at_most(MILLION_BAR),
        in_turn("1 M", MILLION, roomy, effort)?,
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
        let batch = programs.batch();
        Ok(Self { programs, empty, ours, batch })
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
        let cost = self.empty.difference_to(&self.ours, packet, repeat)?;
        self.programs.drain();
        Ok(cost)
    }

    /// The same of another program in our place.
    fn difference_of(&mut self, other: &Rewriter, packet: &mut [u8], repeat: u32) -> Result<f64> {
        let cost = self.empty.difference_to(other, packet, repeat)?;
        self.programs.drain();
        Ok(cost)
    }

    /// What does only what a new flow cannot do without: with a set of the flow table, and with that and
    /// the ring.
    fn floors(&mut self, flows: u64) -> Result<[Rewriter; 2]> {
        let mut map = |name| self.programs.map(OURS, name);
        let (table, records, ends) = (map("pw_flows")?, map("pw_flow_ring")?, map("pw_flow_ends")?);
        let [table_fd, records_fd, ends_fd] = [table.fd()?, records.fd()?, ends.fd()?];
        let cpus = aya::util::nr_cpus().map_err(|(_path, error)| error).context("counting CPUs")?;
        let (cpu, _others) = one_apart()?;
        let (cpus, cpu) = (u32::try_from(cpus)?, u32::try_from(cpu)?);
        let part = |map, entries: u32| {
            let length = entries / cpus;
            Part { map, first: cpu * length, length }
        };
        let table = part(table_fd.as_fd(), table.max_entries());
        let ring = Ring {
            ends: part(ends_fd.as_fd(), ends.max_entries()),
            records: part(records_fd.as_fd(), records.max_entries()),
        };
        let behind = |ring| -> Result<Rewriter> {
            let program =
                floor::load(table, ring).context("loading a program of few instructions")?;
            Ok(Rewriter::new(program.as_fd(), flows)?)
        };
        Ok([behind(None)?, behind(Some(ring))?])
    }

    /// The same for more packets than there is room in the ring, if each starts a flow.
    fn difference_in_batches(&mut self, packet: &mut [u8], repeat: u32) -> Result<f64> {
        let batches = repeat.div_ceil(self.batch);
        let costs: Result<Vec<f64>> =
            (0..batches).map(|_| self.difference(packet, self.batch)).collect();
        Ok(costs?.iter().sum::<f64>() / f64::from(batches))
    }
}

/// Packets of `flows` flows in turn.
fn in_turn(name: &str, flows: u32, table_bytes: u64, effort: Effort) -> Result<Row> {
    let what = format!("{name} flows in turn, flow table of {} MiB", table_bytes >> 20);
    let what = over_empty(&what);
    if table_bytes > available_memory()? / 2 {
        return Ok(Row::new(format!("{what} (too little memory)"), "ns", None));
    }
    let settings = Settings { flow_table_bytes: table_bytes, ..default_settings()? };
    let mut pair = Pair::load(&settings, u64::from(flows))?;
    let [set, _record] = pair.floors(u64::from(flows))?;
    let mut packet = frames::bare_ack();
    pair.fill(&mut packet, u64::from(flows))?;
    let takes = Takes::collect(effort.loads * effort.rounds, || {
        quiet::measure(|| {
            let measured = pair.difference_in_batches(&mut packet, effort.packets)?;
            let witness = pair.difference_of(&set, &mut packet, effort.packets)?;
            Ok(Take { measured, witness })
        })
    })?;
    Ok(Row::new(what, "ns", Spread::of(takes.quiet().map(|take| take.measured).collect())))
}

/// Packets that each start a flow, in the default table when it is full, so that each hands over what
/// it replaces; and reading that table, free and full.
fn fill_and_read(effort: Effort) -> Result<Vec<Row>> {
    let mut pair = Pair::load(&default_settings()?, ENDLESS)?;
    let floors = pair.floors(ENDLESS)?;
    let table = pair.programs.flow_table()?;
    let free = read(&table, effort);

    let mut packet = frames::syn();
    pair.fill(&mut packet, 4 * table.slots() as u64)?;
    let takes = Takes::collect(effort.loads * effort.rounds, || {
        quiet::measure(|| {
            let ours = pair.difference(&mut packet, pair.batch)?;
            let [set, record] = &floors;
            let mut of = |floor| pair.difference_of(floor, &mut packet, pair.batch);
            let (set, witness) = (of(set)?, of(record)?);
            Ok(Take { measured: NewFlow { ours, set }, witness })
        })
    })?;
    let row = |what: &str, costs| Row::new(over_empty(what), "ns", Spread::of(costs));
    let quiet = |cost: fn(&Take<NewFlow>) -> f64| takes.quiet().map(cost).collect();
    let all = |cost: fn(&Take<NewFlow>) -> f64| takes.all().map(cost).collect();
    let new = "new flow in a full table, IPv4 TCP SYN";
    let [set, record] =
        ["bare: another set of that table each time", "bare: that, and a record in the ring"];
    Ok(vec![
        row(new, quiet(|take| take.measured.ours)).at_most(NEW_BAR),
        row(set, quiet(|take| take.measured.set)),
        row(record, quiet(|take| take.witness)),
        row(&format!("{new}, however slow memory was"), all(|take| take.measured.ours)),
        row(&format!("{record}, however slow memory was"), all(|take| take.witness)),
        free,
        read(&table, effort),
    ])
}

/// What a packet that starts a flow takes.
#[derive(Clone, Copy)]
struct NewFlow {
    ours: f64,
    /// The least: to touch a set.
    set: f64,
}

/// Reads every slot.
fn read(table: &FlowTable, effort: Effort) -> Row {
    let mut times = Vec::new();
    let mut used = 0_usize;
    for _ in 0..effort.loads * effort.rounds {
        used = 0;
        let running = Stopwatch::of_thread();
        table.read(
            |_slot, _count| true,
            |reading| used += black_box(usize::from(reading.content.count > 0)),
        );
        times.push(running.elapsed().as_secs_f64() * 1e3);
    }
    let what = format!("reading {} slots, {used} in use", table.slots());
    Row::new(what, "ms", Spread::of(times)).at_most(READ_BAR)
}

/// Packets that each start the same flow again.
fn restarts(effort: Effort) -> Result<Row> {
    let settings = default_settings()?;
    let mut programs = Programs::load(&settings)?;
    let batch = programs.batch();
    let packet = frames::syn_fin();
    let mut costs = Vec::new();
    for round in 0..effort.loads * effort.rounds {
        costs.push(programs.difference_in_quiet(&packet, batch, round % 2 == 1)?);
    }
    Ok(Row::new(over_empty("flow started again by each packet"), "ns", Spread::of(costs)))
}

fn available_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kibibytes.context("finding MemAvailable in /proc/meminfo")? * 1024)
}
