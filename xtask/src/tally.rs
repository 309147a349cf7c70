//! How many checks and tests passed, failed and were skipped.

use std::fmt;
use std::ops::AddAssign;
use std::process::ExitCode;

/// The outcomes of checks or tests, counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    /// How many did what they should.
    pub(crate) passed: usize,
    /// How many did not.
    pub(crate) failed: usize,
    /// How many could not be run here.
    pub(crate) skipped: usize,
}

impl Tally {
    /// The counts in a line by which libtest ends, such as
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`.
    pub(crate) fn of_libtest_line(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |what: &str| {
            let mut counts = counts.split("; ").filter_map(|count| count.split_once(' '));
            counts.find(|(_, word)| *word == what)?.0.parse().ok()
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("ignored")?,
        })
    }

    /// Counts as skipped what libtest counted as passed, since it knows no skipping at run time.
    pub(crate) fn reclassify_skipped(&mut self, count: usize) {
        let count = count.min(self.passed);
        self.passed = self.passed.saturating_sub(count);
        self.skipped = self.skipped.saturating_add(count);
    }

    /// Whether nothing was run at all.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Success unless something failed.
    pub(crate) fn exit_code(self) -> ExitCode {
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self { passed, failed, skipped } = other;
        self.passed = self.passed.saturating_add(passed);
        self.failed = self.failed.saturating_add(failed);
        self.skipped = self.skipped.saturating_add(skipped);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(formatter, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_libtest_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; \
                    7 filtered out; finished in 0.01s";

        let tally = Tally::of_libtest_line(line);

        assert_eq!(tally, Some(Tally { passed: 12, failed: 3, skipped: 1 }));
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(Tally::of_libtest_line("test result_is_counted ... ok"), None);
        assert_eq!(Tally::of_libtest_line("test result: ok. all 3 passed"), None);
        assert_eq!(Tally::of_libtest_line(""), None);
    }

    #[test]
    fn a_skipped_test_did_not_pass() {
        let mut tally = Tally { passed: 5, failed: 1, skipped: 0 };

        tally.reclassify_skipped(2);

        assert_eq!(tally, Tally { passed: 3, failed: 1, skipped: 2 });
    }

    #[test]
    fn no_more_tests_are_skipped_than_passed() {
        let mut tally = Tally { passed: 1, failed: 0, skipped: 0 };

        tally.reclassify_skipped(2);

        assert_eq!(tally, Tally { passed: 0, failed: 0, skipped: 1 });
    }

    #[test]
    fn tallies_add_up_to_the_closing_line() {
        let mut tally = Tally { passed: 1, failed: 0, skipped: 2 };

        tally += Tally { passed: 10, failed: 3, skipped: 0 };

        assert_eq!(tally.to_string(), "11 passed, 3 failed, 2 skipped");
    }
}
