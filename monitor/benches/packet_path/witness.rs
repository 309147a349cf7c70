//! What waits for memory, measured beside a witness that does as well.
//!
//! How long memory takes depends on who else reads it, beside a virtual machine as well, and changes within
//! seconds, by more than what is measured. So each take has a witness: work that always is the same and
//! needs the same memory. The takes count beside which it took hardly longer than where all of that is in the
//! caches. What was measured has no say in that.

use std::time::Duration;

use anyhow::Result;

use crate::clock::Stopwatch;
use crate::quiet;

/// How many times as long as in the caches the witness may take beside what counts.
const LONGER: f64 = 2.5;

/// How long takes are repeated until enough of them count. Those count then beside which it took least.
const PATIENCE: Duration = Duration::from_secs(90);

/// All takes of one measurement, those first beside which the witness took least.
#[derive(Debug)]
pub(crate) struct Takes<T> {
    sorted: Vec<Take<T>>,
    wanted: usize,
}

/// What was measured, and what the witness took meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Take<T> {
    pub(crate) measured: T,
    /// In nanoseconds over the empty program.
    pub(crate) witness: f64,
}

impl<T> Takes<T> {
    /// Repeats `take` until `wanted` takes count, or as long as patience lasts. In the caches, the witness
    /// takes `cached` nanoseconds.
    pub(crate) fn collect(
        wanted: usize,
        cached: f64,
        mut take: impl FnMut() -> Result<Take<T>>,
    ) -> Result<Self> {
        let passed = Stopwatch::of_everybody();
        let mut takes = Self { sorted: Vec::new(), wanted };
        while takes.sorted.len() < wanted || takes.loud(cached) > 0 && passed.elapsed() < PATIENCE {
            takes.add(take()?);
        }
        quiet::note(takes.sorted.len().saturating_sub(wanted), takes.loud(cached));
        Ok(takes)
    }

    fn add(&mut self, take: Take<T>) {
        let place = self.sorted.partition_point(|other| other.witness <= take.witness);
        self.sorted.insert(place, take);
    }

    /// Those that count.
    pub(crate) fn quiet(&self) -> impl Iterator<Item = &Take<T>> {
        self.sorted.iter().take(self.wanted)
    }

    /// Whether they count or not.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Take<T>> {
        self.sorted.iter()
    }

    /// How many of those that count had a witness that took too long.
    fn loud(&self, cached: f64) -> usize {
        self.quiet().filter(|take| take.witness > cached * LONGER).count()
    }
}
