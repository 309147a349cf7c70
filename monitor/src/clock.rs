//! One clock in kernel records, another on paper: boot time to Unix time.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rustix::time::{ClockId, clock_gettime};

/// Converts `CLOCK_BOOTTIME`, which records carry, to Unix time. Fixed for a run, so that two events
/// keep their order and distance even when somebody sets the wall clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Clock {
    unix_minus_boot_ns: i64,
}

impl Clock {
    /// The host's clocks now.
    pub fn of_host() -> Self {
        let (boot, unix) = (clock_gettime(ClockId::Boottime), clock_gettime(ClockId::Realtime));
        let nanoseconds = |time: rustix::time::Timespec| {
            time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
        };
        Self { unix_minus_boot_ns: nanoseconds(unix).saturating_sub(nanoseconds(boot)) }
    }

    /// Nanoseconds since the Unix epoch.
    pub fn unix_ns(self, boot_ns: u64) -> i64 {
        i64::try_from(boot_ns).unwrap_or(i64::MAX).saturating_add(self.unix_minus_boot_ns)
    }

    /// The date in UTC.
    pub fn date(self, boot_ns: u64) -> Date {
        let nanoseconds = i128::from(self.unix_ns(boot_ns));
        let timestamp = Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH);
        timestamp.to_zoned_datetime(TimeZone::UTC).date()
    }
}

/// `CLOCK_BOOTTIME` now, in nanoseconds: the time that is handed to the core, which reads no clock.
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) =
        (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
