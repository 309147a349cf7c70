//! Which tests failed and why, from what libtest prints: told once more where everything ends, since a
//! run prints much after the first failure.

use std::collections::BTreeMap;
use std::fmt;

/// As much of a panic's message as the end of a run repeats, in characters.
const MESSAGE: usize = 300;

/// Hears the output of test programs, one after the other.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Failures {
    /// The tests that failed.
    failed: Vec<String>,
    /// Tests that libtest may be listing as failed: only those right before its result are that list.
    listed: Option<Vec<String>>,
    /// Where and why threads panicked first. A test's thread bears its name.
    panics: BTreeMap<String, String>,
    /// The thread whose message is the next line.
    panicking: Option<String>,
}

impl Failures {
    /// Takes note of a line.
    pub(crate) fn hear(&mut self, line: &str) {
        if let Some(panic) = self.panicking.take().and_then(|name| self.panics.get_mut(&name)) {
            panic.extend([' '].into_iter().chain(line.chars().take(MESSAGE)));
        }
        if let Some((thread, place)) = panic_of(line) {
            self.panics.entry(thread.to_owned()).or_insert_with(|| {
                self.panicking = Some(thread.to_owned());
                place.to_owned()
            });
        }
        self.hear_list(line);
    }

    fn hear_list(&mut self, line: &str) {
        if line == "failures:" {
            self.listed = Some(Vec::new());
        } else if line.starts_with("test result: ") {
            self.failed.extend(self.listed.take().into_iter().flatten());
        } else if let Some(listed) = &mut self.listed
            && !line.is_empty()
        {
            match line.strip_prefix("    ").filter(|name| !name.contains(' ')) {
                Some(name) => listed.push(name.to_owned()),
                None => self.listed = None,
            }
        }
    }
}

/// The thread's name and the place, from `thread 'NAME' (ID) panicked at PLACE:`.
fn panic_of(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("thread '")?.split_once('\'')?;
    let (_, place) = rest.split_once(" panicked at ")?;
    Some((name, place))
}

/// A line for each test.
impl fmt::Display for Failures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.failed {
            match self.panics.get(name) {
                Some(panic) => writeln!(formatter, "FAILED: {name}: {panic}")?,
                None => writeln!(formatter, "FAILED: {name}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_failed_is_told_with_the_first_reason_of_each() {
        let output = "
running 3 tests
test counts ... ok
test attack::floods ... sent 100
FAILED
test closes ... FAILED

failures:

---- attack::floods stdout ----

thread 'attack::floods' (1764) panicked at tests/tests/attack.rs:193:9:
4.09s of 6.1s
stack backtrace:
   0: __rustc::rust_begin_unwind
    aligned::like::a::name
thread 'attack::floods' (1764) panicked at library/core/src/panicking.rs:233:5:
panic in a destructor during cleanup

---- closes stdout ----
Error: \"no such device\"

failures:
    attack::floods
    closes

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s
";
        let mut failures = Failures::default();
        for line in output.lines() {
            failures.hear(line);
        }

        let told = "FAILED: attack::floods: tests/tests/attack.rs:193:9: 4.09s of 6.1s\n\
                    FAILED: closes\n";
        assert_eq!(failures.to_string(), told);
    }
}
