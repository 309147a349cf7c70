//! One clock in kernel records, another on paper: boot time to Unix time.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

/// Converts `CLOCK_BOOTTIME`, which records carry, to Unix time. Fixed for a run, so that two events
/// keep their order and distance even when somebody sets the wall clock.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Clock {
    unix_minus_boot_ns: i64,
}

impl Clock {
    /// The host's clocks now.
    pub fn of_host() -> Self {
        let (boot, unix) = (clock_gettime(ClockId::Boottime), clock_gettime(ClockId::Realtime));
        let nanoseconds =
            |time: Timespec| time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec);
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
    nanoseconds(clock_gettime(ClockId::Boottime))
}

/// Processor time this process has used so far, over all its threads, in nanoseconds.
pub fn process_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

/// Processor time the calling thread has used so far, in nanoseconds.
pub fn thread_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * SECOND;

    #[test]
    fn two_events_keep_their_distance() {
        let clock = Clock { unix_minus_boot_ns: 1_700_000_000_000_000_000 };

        assert_eq!(clock.unix_ns(0), 1_700_000_000_000_000_000);
        assert_eq!(clock.unix_ns(7), 1_700_000_000_000_000_007);
    }

    #[test]
    fn a_wall_clock_before_the_epoch_is_negative() {
        let clock = Clock { unix_minus_boot_ns: -5 };

        assert_eq!(clock.unix_ns(3), -2);
    }

    #[test]
    fn a_time_too_far_ahead_is_the_last_there_is() {
        let clock = Clock { unix_minus_boot_ns: 1 };

        assert_eq!(clock.unix_ns(u64::MAX), i64::MAX);
    }

    #[test]
    fn a_day_begins_at_midnight_utc() {
        // 2026-09-01T00:00:00Z, ten seconds after boot.
        let clock = Clock { unix_minus_boot_ns: 1_788_220_790_000_000_000 };

        assert_eq!(clock.date(10 * SECOND - 1), date(2026, 8, 31));
        assert_eq!(clock.date(10 * SECOND), date(2026, 9, 1));
        assert_eq!(clock.date(10 * SECOND + DAY - 1), date(2026, 9, 1));
    }

    #[test]
    fn every_time_there_is_has_a_date() {
        let (first, last) = (i64::MIN, i64::MAX);

        assert_eq!(Clock { unix_minus_boot_ns: first }.date(0), date(1677, 9, 21));
        assert_eq!(Clock { unix_minus_boot_ns: last }.date(u64::MAX), date(2262, 4, 11));
    }

    #[test]
    fn the_hosts_clocks_are_tied_together() {
        let before = unix_now_ns();
        let now = Clock::of_host().unix_ns(boot_ns());
        let after = unix_now_ns();

        // The two clocks are read one after the other.
        assert!((before - SLACK_NS..=after + SLACK_NS).contains(&now), "{before} {now} {after}");
    }

    #[test]
    fn boot_time_does_not_go_back() {
        let first = boot_ns();
        let second = boot_ns();

        assert!(0 < first && first <= second, "{first} {second}");
    }

    /// Long enough for a machine that is busy with other tests.
    const SLACK_NS: i64 = 5_000_000_000;

    fn unix_now_ns() -> i64 {
        let now = clock_gettime(ClockId::Realtime);
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    }
}
