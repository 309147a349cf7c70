//! The two clocks of a measurement.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Measures time from its making on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    clock: ClockId,
    start: Duration,
}

impl Stopwatch {
    /// Measures the time this thread runs. While others run on its CPU it stands still, so that a
    /// busy machine disturbs a measurement through its caches only.
    pub(crate) fn of_thread() -> Self {
        Self::of(ClockId::ThreadCPUTime)
    }

    /// Measures the time that all threads of this process run.
    pub(crate) fn of_process() -> Self {
        Self::of(ClockId::ProcessCPUTime)
    }

    /// Measures the time that passes for everybody.
    pub(crate) fn of_everybody() -> Self {
        Self::of(ClockId::Monotonic)
    }

    /// The time since it was made.
    pub(crate) fn elapsed(self) -> Duration {
        now(self.clock).saturating_sub(self.start)
    }

    fn of(clock: ClockId) -> Self {
        Self { clock, start: now(clock) }
    }
}

fn now(clock: ClockId) -> Duration {
    // Both begin at 0 and do not run backwards.
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}
