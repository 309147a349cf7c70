//! How costs grow when the work doubles: twice is linear, and nothing should grow faster.

use anyhow::Result;

use crate::Effort;
use crate::commands::time_scan;
use crate::descriptors::Holders;
use crate::following::Followed;
use crate::report::Row;
use crate::spread::{Spread, median};
use crate::userspace;

/// Linear, and what caches and the noise of one measurement add.
const BAR: f64 = 2.5;

/// Each of two amounts of work in turn, again and again.
pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let rounds = effort.runs;
    let row = |what: &str, ratios| {
        Row::new(format!("twice as many {what}"), "×", Spread::of(ratios)).at_most(BAR)
    };
    // So large that hardly a flow pushes out another.
    let slots_each = 8;
    let mut few = Followed::load(1 << 15, slots_each)?;
    let mut many = Followed::load(1 << 16, slots_each)?;
    let (mut reading, mut crediting) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (once, twice) = (few.costs(3)?, many.costs(3)?);
        reading.push(median(twice.reading) / median(once.reading));
        crediting.push(median(twice.crediting) / median(once.crediting));
    }
    let samples = ratios(rounds, 25_000, |count| Ok(userspace::samples(count)?.used))?;
    let connections = ratios(rounds, 20_000, |count| Ok(userspace::connections(count)?.used))?;
    Ok(vec![
        row("active flows (32 k → 64 k): reading the flow table", reading),
        row("active flows (32 k → 64 k): crediting them", crediting),
        row("samples (25 k → 50 k): from record to JSON", samples),
        row("connections (20 k → 40 k): from record to JSON", connections),
        row("open descriptors (50 k → 100 k): scan", descriptors(rounds)?),
    ])
}

fn ratios(rounds: usize, count: u32, cost: impl Fn(u32) -> Result<f64>) -> Result<Vec<f64>> {
    (0..rounds).map(|_| Ok(cost(2 * count)? / cost(count)?)).collect()
}

fn descriptors(rounds: usize) -> Result<Vec<f64>> {
    const FEW: u32 = 50_000;
    let mut ratios = Vec::new();
    let _few = Holders::start(FEW)?;
    for _ in 0..rounds {
        let once = time_scan()?;
        let _as_many_more = Holders::start(FEW)?;
        ratios.push(time_scan()? / once);
    }
    Ok(ratios)
}
