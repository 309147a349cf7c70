//! How much of the processor portwatch takes: a fifth of one core, whatever others send.
//!
//! What is due is put off while the time is used up. Nothing is miscounted by it: the kernel goes on
//! counting, and what its ring has no room for counts as overflow.

use crate::clock;

/// One in so many nanoseconds may be ours.
const SHARE: i64 = 5;
/// What may be saved up for a burst: new flows by the thousand, at once.
const BURST_NS: i64 = 1_000_000_000;

/// An account of processor time.
#[derive(Debug)]
pub(super) struct Pace {
    saved_ns: i64,
    /// The time, and the processor time of this process until then, when the account was last made up.
    last: (u64, u64),
}

impl Pace {
    /// A full account, from now on.
    pub(super) fn new() -> Self {
        Self { saved_ns: BURST_NS, last: (clock::boot_ns(), clock::process_ns()) }
    }

    /// Is there time left? Asks two clocks.
    pub(super) fn has_time(&mut self) -> bool {
        self.make_up(clock::boot_ns(), clock::process_ns())
    }

    fn make_up(&mut self, now_ns: u64, used_ns: u64) -> bool {
        let (last_ns, last_used_ns) = std::mem::replace(&mut self.last, (now_ns, used_ns));
        let elapsed =
            |now: u64, before: u64| i64::try_from(now.saturating_sub(before)).unwrap_or(i64::MAX);
        let earned = elapsed(now_ns, last_ns) / SHARE;
        let used = elapsed(used_ns, last_used_ns);
        self.saved_ns = self.saved_ns.saturating_add(earned).saturating_sub(used).min(BURST_NS);
        self.saved_ns > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_is_paid_back_at_a_fifth_of_a_core() {
        let mut pace = Pace { saved_ns: BURST_NS, last: (0, 0) };

        assert!(pace.make_up(SECOND, SECOND));
        assert!(!pace.make_up(2 * SECOND, 2 * SECOND));
        assert!(!pace.make_up(4 * SECOND, 2 * SECOND));
        assert!(pace.make_up(6 * SECOND, 2 * SECOND));
    }

    #[test]
    fn no_more_than_a_burst_is_saved_up() {
        let mut pace = Pace { saved_ns: 0, last: (0, 0) };

        assert!(pace.make_up(1000 * SECOND, 0));
        assert!(!pace.make_up(1000 * SECOND, SECOND + 1));
    }
}
