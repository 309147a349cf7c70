//! The two clocks of a measurement.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Time this thread has run. While others run on its CPU it stands still, so that a busy machine
/// disturbs a measurement only through its caches.
pub(crate) fn thread() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

/// Time that passes for everybody.
pub(crate) fn wall() -> Duration {
    duration(clock_gettime(ClockId::Monotonic))
}

/// These clocks begin at 0 and do not run backwards.
fn duration(time: Timespec) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}
