//! `cargo xtask test`: the checks, then every unit and integration test, counted in one line; with
//! `--vm` also some on other kernels.
//!
//! Integration tests drive the program named by `PORTWATCH_BIN`, one at a time, since they share
//! the host's ports and namespaces. One that cannot run here adds a line `name: reason` to the file
//! named by `PORTWATCH_SKIPPED`.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::command::{self, say};
use crate::failures::Failures;
use crate::tally::Tally;
use crate::{check, setup, vm};

/// `cargo xtask test`.
pub(crate) fn test(filter: Option<&str>, on_other_kernels: bool) -> Result<ExitCode> {
    setup::prepare()?;
    setup::prepare_tests();
    let mut tally = check::run_checks(filter);
    let is_check = filter.is_some() && !tally.is_empty();
    let mut failures = Failures::default();
    let tests = run_tests(filter, &mut failures)?;
    tally += tests;
    if on_other_kernels {
        tally += vm::run_selection().unwrap_or_else(|error| failure(&format!("{error:#}")));
    }
    println!("{failures}{tally}");
    if tests.is_empty() && !is_check {
        say("xtask: no test ran");
        return Ok(ExitCode::FAILURE);
    }
    Ok(tally.exit_code())
}

fn run_tests(filter: Option<&str>, failures: &mut Failures) -> Result<Tally> {
    let skipped = SkippedTests::none_yet(command::target_directory()?.join("skipped-tests"))?;
    if let Err(error) = command::run(&mut command::cargo(command::EVERYTHING)) {
        return Ok(failure(&format!("{error:#}")));
    }
    let mut units = command::cargo(["test", "--locked", "--no-fail-fast", "--workspace"]);
    units.args(["--lib", "--bins", "--"]).args(filter);
    let mut tally = run_libtest(units.env("PORTWATCH_SKIPPED", &skipped.path), failures)?;
    tally += run_integration_tests(filter, &skipped.path, failures)?;
    tally.reclassify_skipped(skipped.report()?);
    Ok(tally)
}

fn run_integration_tests(
    filter: Option<&str>,
    skipped: &Path,
    failures: &mut Failures,
) -> Result<Tally> {
    let portwatch = command::development_directory()?.join("portwatch");
    let mut tests = command::cargo(["test", "--locked", "--no-fail-fast", "--workspace"]);
    tests.args(["--test=*", "--", "--test-threads=1"]).args(filter);
    tests.env("PORTWATCH_BIN", portwatch).env("PORTWATCH_SKIPPED", skipped);
    run_libtest(&mut tests, failures)
}

/// Runs `cargo test`, hands its output on and counts by the lines that close each program's tests.
fn run_libtest(command: &mut Command, failures: &mut Failures) -> Result<Tally> {
    let line = command::line(command);
    say(&format!("$ {line}"));
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("start `{line}`"))?;
    let mut tally = Tally::default();
    let output = child.stdout.take().map(BufReader::new).into_iter();
    // Tests may print bytes that are no text.
    for bytes in output.flat_map(|output| output.split(b'\n')) {
        let bytes = bytes.with_context(|| format!("read the output of `{line}`"))?;
        let text = String::from_utf8_lossy(&bytes);
        println!("{text}");
        failures.hear(&text);
        tally += Tally::of_libtest_line(&text).unwrap_or_default();
    }
    let status = child.wait().with_context(|| format!("wait for `{line}`"))?;
    if !status.success() && tally.failed == 0 {
        // It did not compile, or a program died before it closed its tests.
        tally += failure(&format!("`{line}`: {status}"));
    }
    Ok(tally)
}

fn failure(reason: &str) -> Tally {
    println!("FAILED: {reason}");
    Tally { failed: 1, ..Tally::default() }
}

/// The file in which tests note that they could not run.
struct SkippedTests {
    path: PathBuf,
}

impl SkippedTests {
    fn none_yet(path: PathBuf) -> Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(Self { path }),
        }
    }

    /// Prints a line for each test that could not run, and gives their number.
    fn report(&self) -> Result<usize> {
        let notes = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            notes => notes.with_context(|| format!("read {}", self.path.display()))?,
        };
        let notes = notes.lines().filter(|note| !note.is_empty());
        Ok(notes.inspect(|note| println!("skipped: {note}")).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_tests_is_counted() {
        let mut failures = Failures::default();
        let output = &mut shell(
            "printf 'failures:\\n    closes\\n\\n'
             echo 'test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out'
             printf 'not text: \\377\\n'
             echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out'
             exit 101",
        );
        let tally = run_libtest(output, &mut failures);

        assert_eq!(failures.to_string(), "FAILED: closes\n");
        assert_eq!(tally.unwrap(), Tally { passed: 4, failed: 2, skipped: 1 });
    }

    #[test]
    fn tests_that_do_not_compile_have_failed() {
        let tally = run_libtest(&mut shell("exit 101"), &mut Failures::default());

        assert_eq!(tally.unwrap(), Tally { passed: 0, failed: 1, skipped: 0 });
    }

    #[test]
    fn tests_note_that_they_could_not_run() {
        let path = std::env::temp_dir().join(format!("portwatch-skipped-{}", std::process::id()));
        fs::write(&path, "left over: from before\n").unwrap();

        let skipped = SkippedTests::none_yet(path).unwrap();
        let before = skipped.report().unwrap();
        fs::write(&skipped.path, "vlan::tagged: no nft\nroot: not root\n").unwrap();
        let after = skipped.report().unwrap();
        fs::remove_file(&skipped.path).unwrap();

        assert_eq!((before, after), (0, 2));
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }
}
