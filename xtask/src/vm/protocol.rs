//! What a guest says over its second serial port; see `tests/vm-init`.

use crate::failures::Failures;
use crate::tally::Tally;

/// A line of a guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Line<'a> {
    /// It has come up, with this release of the kernel.
    Up(&'a str),
    /// Something is not as it should be, which may or may not matter.
    Warning(&'a str),
    /// It starts a program.
    Begin(&'a str),
    /// A program has written this.
    Output(&'a str),
    /// A test could not run: its name and the reason.
    Skipped(&'a str),
    /// A program has ended: its name and how.
    End(&'a str, &'a str),
    /// It cannot go on.
    Failed(&'a str),
    /// It has run everything.
    Done,
}

impl<'a> Line<'a> {
    /// Reads a line; `None` for noise, as a serial port that is being set up may make.
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim_end_matches('\r');
        if let Some(output) = line.strip_prefix('|') {
            return Some(Self::Output(output));
        }
        let (word, rest) = line.strip_prefix('@')?.split_once(' ')?;
        Some(match word {
            "up" => Self::Up(rest),
            "warning" => Self::Warning(rest),
            "begin" => Self::Begin(rest),
            "skipped" => Self::Skipped(rest),
            "end" => {
                let (name, end) = rest.split_once(' ')?;
                Self::End(name, end)
            }
            "failed" => Self::Failed(rest),
            "done" => Self::Done,
            _ => return None,
        })
    }
}

/// What a guest has told so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Account {
    /// The release of its kernel, once it is up.
    pub(super) release: Option<String>,
    /// Tests that ran, of all programs.
    pub(super) tally: Tally,
    /// Tests that could not run, each with its reason.
    pub(super) skipped: Vec<String>,
    /// Tests that failed.
    pub(super) failures: Failures,
    /// What else went wrong.
    pub(super) faults: Vec<String>,
    /// Everything was run.
    pub(super) is_done: bool,
    /// Tests of the running program, once it has counted them.
    of_program: Option<Tally>,
}

impl Account {
    /// Takes note of a line.
    pub(super) fn take(&mut self, line: &Line<'_>) {
        match line {
            Line::Up(release) => self.release = Some((*release).to_owned()),
            Line::Warning(_) => {}
            Line::Begin(_) => self.of_program = None,
            Line::Output(output) => {
                self.failures.hear(output);
                if let Some(tally) = Tally::of_libtest_line(output) {
                    self.of_program = Some(tally);
                }
            }
            Line::Skipped(note) => self.skipped.push((*note).to_owned()),
            Line::End(name, end) => {
                let tally = self.of_program.take().unwrap_or_default();
                self.tally += tally;
                // A program that died has not counted the test it died of.
                if *end != SUCCESS && tally.failed == 0 {
                    self.faults.push(format!("{name}: {end}"));
                }
            }
            Line::Failed(reason) => self.faults.push((*reason).to_owned()),
            Line::Done => self.is_done = true,
        }
    }

    /// The tests as they count in the end.
    pub(super) fn total(&self) -> Tally {
        let mut tally = self.tally;
        tally.reclassify_skipped(self.skipped.len());
        tally.failed = tally.failed.saturating_add(self.faults.len());
        tally
    }
}

/// How a program ends that has nothing to complain of: Rust's words for it.
const SUCCESS: &str = "exit status: 0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_tells_what_it_does() {
        let lines = [
            ("@up 5.10.0-46-cloud-amd64\r", Line::Up("5.10.0-46-cloud-amd64")),
            ("@begin counting-1a2b", Line::Begin("counting-1a2b")),
            ("|@done is what a test may print", Line::Output("@done is what a test may print")),
            ("@skipped counting::x: no nft", Line::Skipped("counting::x: no nft")),
            (
                "@end counting-1a2b signal: 9 (SIGKILL)",
                Line::End("counting-1a2b", "signal: 9 (SIGKILL)"),
            ),
            ("@done ", Line::Done),
        ];

        for (text, line) in lines {
            assert_eq!(Line::parse(text), Some(line));
        }
        assert_eq!(
            [Line::parse("\u{1b}[2J"), Line::parse("@sing loud"), Line::parse("")],
            [None, None, None]
        );
    }

    #[test]
    fn tests_of_all_programs_are_counted_and_skipped_ones_have_not_passed() {
        let account = account(&[
            "@up 6.1",
            "@begin cli-1",
            "|test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
            "@skipped cli::one: no nft",
            "@end cli-1 exit status: 0",
            "@begin loss-2",
            "|test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
            "@end loss-2 exit status: 101",
            "@done ",
        ]);

        assert_eq!(account.total(), Tally { passed: 5, failed: 2, skipped: 1 });
        assert!(account.is_done);
    }

    #[test]
    fn a_program_that_died_has_failed_although_it_counted_nothing() {
        let account = account(&["@begin cli-1", "|test a ... ok", "@end cli-1 took too long"]);

        assert_eq!(account.total(), Tally { passed: 0, failed: 1, skipped: 0 });
        assert_eq!(account.faults, ["cli-1: took too long"]);
    }

    fn account(lines: &[&str]) -> Account {
        let mut account = Account::default();
        for line in lines {
            account.take(&Line::parse(line).unwrap());
        }
        account
    }
}
