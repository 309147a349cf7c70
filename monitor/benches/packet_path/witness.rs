//! Packets that start a flow, measured beside a witness: the least that takes.
//!
//! How long memory takes depends on who else reads it, beside a virtual machine as well, and changes within
//! seconds, by more than what is measured. So each take has a witness: work that always is the same and
//! needs the same memory. The takes count beside which it took hardly longer than where all of that is in the
//! caches. What was measured has no say in that.

use std::time::Duration;

use anyhow::Result;

use crate::Effort;
use crate::clock::Stopwatch;
use crate::floor;
use crate::known_flow::over_empty;
use crate::pair::Pair;
use crate::quiet;
use crate::report::Row;
use crate::rewriter::Rewriter;
use crate::spread::{Spread, median};

/// How many times as long as in the caches the witness may take beside what counts.
const LONGER: f64 = 2.5;

/// How long takes are repeated until enough of them count. Those count then beside which it took least.
const PATIENCE: Duration = Duration::from_secs(90);

/// So few flows that their sets stay in the caches of a CPU.
const IN_CACHES: u64 = 1 << 8;

/// Batches of packets in a take.
const BATCHES: u32 = 8;

/// All takes of one measurement, those first beside which the witness took least.
#[derive(Debug)]
pub(crate) struct Takes {
    sorted: Vec<Take>,
    wanted: usize,
}

/// What a packet took, in nanoseconds over the empty program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Take {
    pub(crate) ours: f64,
    /// To touch a set.
    pub(crate) set: f64,
    /// To touch a set and leave a record: the witness.
    pub(crate) record: f64,
}

/// One of the costs of a take.
type Cost = fn(&Take) -> f64;

impl Take {
    fn measure(pair: &mut Pair, packet: &mut [u8], floors: &[Rewriter; 2]) -> Result<Self> {
        let [set, record] = floors;
        let batch = pair.batch;
        let mut sum = Self { ours: 0.0, set: 0.0, record: 0.0 };
        for _ in 0..BATCHES {
            sum.ours += pair.difference(packet, batch)?;
            sum.set += pair.difference_of(set, packet, batch)?;
            sum.record += pair.difference_of(record, packet, batch)?;
        }
        let mean = |sum| sum / f64::from(BATCHES);
        Ok(Self { ours: mean(sum.ours), set: mean(sum.set), record: mean(sum.record) })
    }
}

impl Takes {
    /// Repeats takes of `flows` flows in turn until enough of them count, or as long as patience lasts.
    pub(crate) fn collect(
        pair: &mut Pair,
        packet: &mut [u8],
        flows: u64,
        effort: Effort,
    ) -> Result<Self> {
        let wanted = effort.loads * effort.rounds;
        let most = LONGER * in_caches(pair, packet, wanted)?;
        let floors = floor::load(&mut pair.programs, flows)?;
        let passed = Stopwatch::of_everybody();
        let mut takes = Self { sorted: Vec::new(), wanted };
        while takes.sorted.len() < wanted || takes.loud(most) > 0 && passed.elapsed() < PATIENCE {
            takes.add(quiet::measure(|| Take::measure(pair, packet, &floors))?);
        }
        quiet::note(takes.sorted.len().saturating_sub(wanted), takes.loud(most));
        Ok(takes)
    }

    /// What counts.
    pub(crate) fn quiet(&self, what: &str, cost: Cost) -> Row {
        row(what, self.counted().map(cost).collect())
    }

    /// What everything took, whether it counts or not.
    pub(crate) fn all(&self, what: &str, cost: Cost) -> Row {
        let what = format!("{what}, however slow memory was");
        row(&what, self.sorted.iter().map(cost).collect())
    }

    fn add(&mut self, take: Take) {
        let place = self.sorted.partition_point(|other| other.record <= take.record);
        self.sorted.insert(place, take);
    }

    fn counted(&self) -> impl Iterator<Item = &Take> {
        self.sorted.iter().take(self.wanted)
    }

    /// How many of those that count had a witness that took longer.
    fn loud(&self, most: f64) -> usize {
        self.counted().filter(|take| take.record > most).count()
    }
}

/// What the witness takes where all it needs is in the caches.
fn in_caches(pair: &mut Pair, packet: &[u8], times: usize) -> Result<f64> {
    let [_set, record] = floor::load(&mut pair.programs, IN_CACHES)?;
    let batch = pair.batch;
    let mut costs = Vec::new();
    for _ in 0..times {
        let packet = &mut packet.to_vec();
        costs.push(quiet::measure(|| pair.difference_of(&record, packet, batch))?);
    }
    Ok(median(costs))
}

fn row(what: &str, costs: Vec<f64>) -> Row {
    Row::new(over_empty(what), "ns", Spread::of(costs))
}
