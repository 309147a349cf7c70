//! Waiting until the machine is quiet.
//!
//! What runs on the other thread of a core, beside a virtual machine as well, makes the same instructions take
//! up to twice as long, for seconds at a time. So a measurement of nanoseconds stands between two looks at
//! work that never changes, and is taken again unless both took hardly longer than it ever did. What was
//! measured has no say in that. The work is arithmetic only: to read memory would empty the caches for what
//! is measured then.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::clock::Stopwatch;

/// How long the work may take, in per cent of the shortest time.
const MOST: u64 = 120;

/// How long the whole bench waits for quiet. What is measured after that counts however loud it was.
const PATIENCE: Duration = Duration::from_mins(4);

/// How often the work is done to learn how long it takes.
const LOOKS: usize = 500;

/// The shortest time that the work ever took, in nanoseconds.
static SHORTEST: AtomicU64 = AtomicU64::new(u64::MAX);
static WAITED_NS: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);
static AGAIN: AtomicU64 = AtomicU64::new(0);
static LOUD: AtomicU64 = AtomicU64::new(0);

/// How quiet it was.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Told {
    /// Measurements that asked for quiet.
    pub(crate) taken: u64,
    /// How often one of them was taken again.
    pub(crate) again: u64,
    /// How many count although it was loud.
    pub(crate) loud: u64,
}

/// How quiet it was until now.
pub(crate) fn told() -> Told {
    let [taken, again, loud] = [&TAKEN, &AGAIN, &LOUD].map(|count| count.load(Ordering::Relaxed));
    Told { taken, again, loud }
}

/// Notes that of the measurements so many were the same one taken again, and that so many count although it
/// was loud.
pub(crate) fn note(again: usize, loud: usize) {
    TAKEN.fetch_sub(again as u64, Ordering::Relaxed);
    AGAIN.fetch_add(again as u64, Ordering::Relaxed);
    LOUD.fetch_add(loud as u64, Ordering::Relaxed);
}

/// Learns how long the work takes, as far as it is quiet by now.
pub(crate) fn listen() {
    for _ in 0..LOOKS {
        is_quiet();
    }
}

/// Measures once it is quiet, and again until it was quiet before and after.
pub(crate) fn measure<T>(mut measurement: impl FnMut() -> Result<T>) -> Result<T> {
    TAKEN.fetch_add(1, Ordering::Relaxed);
    loop {
        let passed = Stopwatch::of_everybody();
        let is_patient = WAITED_NS.load(Ordering::Relaxed) < nanoseconds(PATIENCE);
        let was_quiet = is_quiet();
        if was_quiet || !is_patient {
            let measured = measurement()?;
            let was_quiet = is_quiet() && was_quiet;
            if was_quiet || !is_patient {
                LOUD.fetch_add(u64::from(!was_quiet), Ordering::Relaxed);
                return Ok(measured);
            }
            AGAIN.fetch_add(1, Ordering::Relaxed);
        }
        WAITED_NS.fetch_add(nanoseconds(passed.elapsed()), Ordering::Relaxed);
    }
}

/// Does the work, and tells whether it took hardly longer than ever.
fn is_quiet() -> bool {
    let running = Stopwatch::of_thread();
    mix();
    let took = nanoseconds(running.elapsed());
    let shortest = SHORTEST.fetch_min(took, Ordering::Relaxed).min(took);
    took.saturating_mul(100) <= shortest.saturating_mul(MOST)
}

/// Keeps all of a core busy that computes, which another thread on it then has to share, for half a
/// millisecond.
fn mix() {
    let [mut one, mut two, mut three, mut four, mut five, mut six] = [1_u64, 2, 3, 4, 5, 6];
    for turn in 0..600_000 {
        one = one.wrapping_add(two ^ turn);
        two = two.wrapping_add(three ^ turn);
        three = three.wrapping_add(four ^ turn);
        four = four.wrapping_add(five ^ turn);
        five = five.wrapping_add(six ^ turn);
        six = six.wrapping_add(one ^ turn);
    }
    black_box([one, two, three, four, five, six]);
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
