//! Packets that start a flow, beside the least that takes, and reading a table full of flows.

use std::hint::black_box;

use anyhow::Result;
use monitor::kernel::flow_table::FlowTable;

use crate::clock::Stopwatch;
use crate::frames;
use crate::known_flow::over_empty;
use crate::pair::Pair;
use crate::programs::{Programs, default_settings};
use crate::report::Row;
use crate::spread::Spread;
use crate::witness::Takes;
use crate::{Effort, stay_on_one_cpu};

/// The most that a new flow may cost, in nanoseconds, and that reading the flow table may take, in
/// milliseconds.
const NEW_BAR: f64 = 100.0;
const READ_BAR: f64 = 1.0;

/// As many as an address can tell apart.
const ENDLESS: u64 = 1 << 32;

/// Packets that start a flow, and reading a table full of flows.
pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    stay_on_one_cpu()?;
    let mut rows = fill_and_read(effort)?;
    rows.push(datagrams(effort)?);
    rows.push(restarts(effort)?);
    Ok(rows)
}

/// Packets that each start a flow, in the default table when it is full, so that each hands over what
/// it replaces; and reading that table, free and full.
fn fill_and_read(effort: Effort) -> Result<Vec<Row>> {
    let mut pair = Pair::load(&default_settings()?, ENDLESS)?;
    let table = pair.programs.flow_table()?;
    let free = read(&table, effort);

    let mut packet = frames::syn();
    pair.fill(&mut packet, 4 * table.slots() as u64)?;
    let takes = Takes::collect(&mut pair, &mut packet, ENDLESS, effort)?;
    let new = "new flow in a full table, IPv4 TCP SYN";
    let [set, record] =
        ["bare: another set of that table each time", "bare: that, and a record in the ring"];
    Ok(vec![
        takes.quiet(new, |take| take.ours).at_most(NEW_BAR),
        takes.quiet(set, |take| take.set),
        takes.quiet(record, |take| take.record),
        takes.all(new, |take| take.ours),
        takes.all(record, |take| take.record),
        free,
        read(&table, effort),
    ])
}

/// The same of UDP, where the time of more records is read.
fn datagrams(effort: Effort) -> Result<Row> {
    let mut pair = Pair::load(&default_settings()?, ENDLESS)?;
    let slots = pair.programs.flow_table()?.slots() as u64;
    let mut packet = frames::datagram(true);
    pair.fill(&mut packet, 4 * slots)?;
    let takes = Takes::collect(&mut pair, &mut packet, ENDLESS, effort)?;
    Ok(takes.quiet("new flow in a full table, IPv4 UDP", |take| take.ours).at_most(NEW_BAR))
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
