//! Packets of many flows in turn, nearly all of them known.

use anyhow::{Context as _, Result};
use monitor::kernel::object::Settings;
use monitor_ebpf::wire::Slot;

use crate::frames;
use crate::known_flow::over_empty;
use crate::pair::Pair;
use crate::process::possible_cpus;
use crate::programs::default_settings;
use crate::quiet;
use crate::report::Row;
use crate::spread::Spread;
use crate::witness::Takes;
use crate::{Effort, stay_on_one_cpu};

const MILLION: u32 = 1 << 20;

/// The most that a packet of one of so many may cost, in nanoseconds.
const MILLION_BAR: f64 = 90.0;

/// How often each of them comes before it is measured: more often than a flow has packets that lasts.
const ROUNDS: u64 = 72;

/// Packets of known flows, more and more of them.
pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    stay_on_one_cpu()?;
    let usual = default_settings()?.flow_table_bytes;
    // With twice as many slots as flows, one flow in seven would be in a set that more want than it
    // holds, and each of its packets would start it again.
    let roomy = 4 * u64::from(MILLION) * size_of::<Slot>() as u64 * possible_cpus()? as u64;
    let mut rows = vec![
        in_turn("1 k", 1 << 10, usual, effort)?,
        in_turn("16 k", 1 << 14, usual, effort)?,
        in_turn("64 k", 1 << 16, usual, effort)?,
    ];
    rows.extend(replacing_each_other(effort)?);
    rows.push(in_turn("1 M", MILLION, roomy, effort)?);
    Ok(rows)
}

/// Packets of `flows` flows in turn.
fn in_turn(name: &str, flows: u32, table_bytes: u64, effort: Effort) -> Result<Row> {
    let what = over_empty(&named(name, table_bytes));
    if table_bytes > available_memory()? / 2 {
        return Ok(Row::new(format!("{what} (too little memory)"), "ns", None));
    }
    let settings = Settings { flow_table_bytes: table_bytes, ..default_settings()? };
    let mut pair = Pair::load(&settings, u64::from(flows))?;
    let mut packet = frames::bare_ack();
    pair.fill(&mut packet, u64::from(flows))?;
    let mut costs = Vec::new();
    for _ in 0..effort.loads * effort.rounds {
        costs.push(quiet::measure(|| pair.difference_in_batches(&mut packet, effort.packets))?);
    }
    Ok(Row::new(what, "ns", Spread::of(costs)))
}

/// Packets of a million flows in turn in the default table: nearly each replaces another flow. Long enough before
/// that the others are there to last, and a set is full for whoever comes.
fn replacing_each_other(effort: Effort) -> Result<[Row; 2]> {
    let settings = default_settings()?;
    let flows = u64::from(MILLION);
    let mut pair = Pair::load(&settings, flows)?;
    let mut packet = frames::bare_ack();
    pair.fill(&mut packet, flows * ROUNDS)?;
    let takes = Takes::collect(&mut pair, &mut packet, flows, effort)?;
    let what = named("1 M", settings.flow_table_bytes);
    let quiet = takes.quiet(&what, |take| take.ours).at_most(MILLION_BAR);
    Ok([quiet, takes.all(&what, |take| take.ours)])
}

fn named(flows: &str, table_bytes: u64) -> String {
    format!("{flows} flows in turn, flow table of {} MiB", table_bytes >> 20)
}

fn available_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kibibytes.context("finding MemAvailable in /proc/meminfo")? * 1024)
}
