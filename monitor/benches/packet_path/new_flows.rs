//! Packets that start a flow, beside the least that takes, and reading a table full of flows.

use std::hint::black_box;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use monitor::kernel::flow_table::FlowTable;

use crate::clock::Stopwatch;
use crate::floor::{self, Part, Ring};
use crate::frames;
use crate::known_flow::over_empty;
use crate::pair::Pair;
use crate::process::one_apart;
use crate::programs::{OURS, Programs, default_settings};
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

/// As many as an address can tell apart.
const ENDLESS: u64 = 1 << 32;

/// So few that their sets stay in the caches of a CPU.
const IN_CACHES: u64 = 1 << 8;

/// Batches of packets in a take.
const BATCHES: u32 = 8;

/// Packets that start a flow, and reading a table full of flows.
pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    stay_on_one_cpu()?;
    let mut rows = fill_and_read(effort)?;
    rows.push(restarts(effort)?);
    Ok(rows)
}

/// Packets of more flows than the default table has room for, in turn: nearly each replaces another flow.
pub(crate) fn replacing_each_other(name: &str, flows: u32, effort: Effort) -> Result<Vec<Row>> {
    let settings = default_settings()?;
    let mut pair = Pair::load(&settings, u64::from(flows))?;
    let mut packet = frames::bare_ack();
    pair.fill(&mut packet, u64::from(flows))?;
    let costs = Costs::measure(&mut pair, &mut packet, u64::from(flows), effort)?;
    let what =
        format!("{name} flows in turn, flow table of {} MiB", settings.flow_table_bytes >> 20);
    Ok(vec![costs.quiet(&what, Costs::OURS).at_most(MILLION_BAR), costs.all(&what, Costs::OURS)])
}

/// Packets that each start a flow, in the default table when it is full, so that each hands over what
/// it replaces; and reading that table, free and full.
fn fill_and_read(effort: Effort) -> Result<Vec<Row>> {
    let mut pair = Pair::load(&default_settings()?, ENDLESS)?;
    let table = pair.programs.flow_table()?;
    let free = read(&table, effort);

    let mut packet = frames::syn();
    pair.fill(&mut packet, 4 * table.slots() as u64)?;
    let costs = Costs::measure(&mut pair, &mut packet, ENDLESS, effort)?;
    let new = "new flow in a full table, IPv4 TCP SYN";
    let [set, record] =
        ["bare: another set of that table each time", "bare: that, and a record in the ring"];
    Ok(vec![
        costs.quiet(new, Costs::OURS).at_most(NEW_BAR),
        costs.quiet(set, Costs::SET),
        costs.quiet(record, Costs::RECORD),
        costs.all(new, Costs::OURS),
        costs.all(record, Costs::RECORD),
        free,
        read(&table, effort),
    ])
}

/// What packets cost that start a flow, and beside it the least that takes.
struct Costs(Takes<NewFlow>);

/// What a packet that starts a flow takes, in nanoseconds over the empty program. The witness is what a set
/// and a record take.
#[derive(Clone, Copy, Debug)]
struct NewFlow {
    ours: f64,
    /// To touch a set.
    set: f64,
}

/// One of the costs of a take.
type Cost = fn(&Take<NewFlow>) -> f64;

impl Costs {
    const OURS: Cost = |take| take.measured.ours;
    const SET: Cost = |take| take.measured.set;
    const RECORD: Cost = |take| take.witness;

    /// What they are for packets of `flows` flows in turn.
    fn measure(pair: &mut Pair, packet: &mut [u8], flows: u64, effort: Effort) -> Result<Self> {
        let wanted = effort.loads * effort.rounds;
        let batch = pair.batch;
        let [_set, cached] = floors(pair, IN_CACHES)?;
        let mut costs = Vec::new();
        for _ in 0..wanted {
            let packet = &mut packet.to_vec();
            costs.push(quiet::measure(|| pair.difference_of(&cached, packet, batch))?);
        }
        let cached = Spread::of(costs).map_or(0.0, |spread| spread.median);
        let [set, record] = floors(pair, flows)?;
        let takes = Takes::collect(wanted, cached, || {
            quiet::measure(|| {
                let mut sum = [0.0; 3];
                for _ in 0..BATCHES {
                    let costs = [
                        pair.difference(packet, batch)?,
                        pair.difference_of(&set, packet, batch)?,
                        pair.difference_of(&record, packet, batch)?,
                    ];
                    for (sum, cost) in sum.iter_mut().zip(costs) {
                        *sum += cost;
                    }
                }
                let [ours, set, witness] = sum.map(|sum| sum / f64::from(BATCHES));
                Ok(Take { measured: NewFlow { ours, set }, witness })
            })
        })?;
        Ok(Self(takes))
    }

    /// Where the memory was quiet.
    fn quiet(&self, what: &str, cost: Cost) -> Row {
        Row::new(over_empty(what), "ns", Spread::of(self.0.quiet().map(cost).collect()))
    }

    /// However slow it was.
    fn all(&self, what: &str, cost: Cost) -> Row {
        let what = format!("{what}, however slow memory was");
        Row::new(over_empty(&what), "ns", Spread::of(self.0.all().map(cost).collect()))
    }
}

/// What does only what a new flow cannot do without: with a set of the flow table, and with that and
/// the ring.
fn floors(pair: &mut Pair, flows: u64) -> Result<[Rewriter; 2]> {
    let mut map = |name| pair.programs.map(OURS, name);
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
        let program = floor::load(table, ring).context("loading a program of few instructions")?;
        Ok(Rewriter::new(program.as_fd(), flows)?)
    };
    Ok([behind(None)?, behind(Some(ring))?])
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
