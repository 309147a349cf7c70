//! `cargo xtask check`: format, lints, documentation, structure. Each check counts like a test.

use anyhow::{Context as _, Result};

use crate::command;
use crate::tally::Tally;
use crate::{setup, structure};

/// `cargo xtask check`.
pub(crate) fn check() -> Result<Tally> {
    setup::prepare()?;
    let tally = run_checks(None);
    println!("{tally}");
    Ok(tally)
}

/// Runs the checks whose name contains `filter`, all of them although some fail.
pub(crate) fn run_checks(filter: Option<&str>) -> Tally {
    let is_wanted = |check: &&Check| filter.is_none_or(|filter| check.name.contains(filter));
    let mut tally = Tally::default();
    for check in CHECKS.iter().filter(is_wanted) {
        tally += check.run();
    }
    tally
}

struct Check {
    name: &'static str,
    perform: fn() -> Result<Outcome>,
}

enum Outcome {
    Passed,
    /// It found these faults.
    Failed(Vec<String>),
    /// It cannot be run here, for this reason.
    Skipped(&'static str),
}

impl Check {
    fn run(&self) -> Tally {
        match (self.perform)() {
            Ok(Outcome::Passed) => {
                println!("check {} ... ok", self.name);
                Tally { passed: 1, ..Tally::default() }
            }
            Ok(Outcome::Failed(faults)) => self.failed(&faults),
            Ok(Outcome::Skipped(reason)) => {
                println!("skipped: check {}: {reason}", self.name);
                Tally { skipped: 1, ..Tally::default() }
            }
            Err(error) => self.failed(&[format!("{error:#}")]),
        }
    }

    fn failed(&self, faults: &[String]) -> Tally {
        for fault in faults {
            println!("{fault}");
        }
        println!("check {} ... FAILED", self.name);
        Tally { failed: 1, ..Tally::default() }
    }
}

const CHECKS: [Check; 8] = [
    Check { name: "format", perform: format },
    Check { name: "file-purpose", perform: || faults(structure::file_purpose) },
    Check { name: "file-length", perform: || faults(structure::file_length) },
    Check { name: "module-order", perform: || faults(structure::module_order) },
    Check { name: "pipeline-inputs", perform: || faults(structure::pipeline_inputs) },
    Check { name: "clippy", perform: clippy },
    Check { name: "clippy-kernel", perform: clippy_kernel },
    Check { name: "documentation", perform: documentation },
];

fn faults(find: fn() -> Result<Vec<String>>) -> Result<Outcome> {
    let faults = find()?;
    Ok(if faults.is_empty() { Outcome::Passed } else { Outcome::Failed(faults) })
}

fn format() -> Result<Outcome> {
    if !command::succeeds(&mut command::cargo(["fmt", "--version"])) {
        return Ok(Outcome::Skipped("try `rustup component add rustfmt`"));
    }
    command::run(&mut command::cargo(["fmt", "--all", "--check"]))?;
    Ok(Outcome::Passed)
}

fn clippy() -> Result<Outcome> {
    if !has_clippy() {
        return Ok(NO_CLIPPY);
    }
    let arguments = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-Dwarnings"];
    command::run(&mut command::cargo(arguments))?;
    Ok(Outcome::Passed)
}

/// Lints the kernel programs as code for the host, since no clippy is built for the BPF target.
fn clippy_kernel() -> Result<Outcome> {
    if !has_clippy() {
        return Ok(NO_CLIPPY);
    }
    // Build scripts notice RUSTC_BOOTSTRAP: with a directory of its own, this does not make the
    // rest be built again and again.
    let target_directory = command::target_directory()?.join("clippy-kernel");
    let target_directory = target_directory.to_str().context("find the target directory")?;
    let mut clippy = command::cargo(["clippy", "--locked", "--target-dir", target_directory]);
    clippy.args(["--package=monitor-ebpf", "--bin=portwatch-ebpf", "--features=kernel"]);
    // The host would unwind, which takes more than `core`.
    clippy.args(["--", "-Dwarnings", "-Cpanic=abort"]);
    command::run(clippy.env("RUSTC_BOOTSTRAP", "1"))?;
    Ok(Outcome::Passed)
}

fn documentation() -> Result<Outcome> {
    let arguments = ["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"];
    command::run(command::cargo(arguments).env("RUSTDOCFLAGS", "-Dwarnings"))?;
    Ok(Outcome::Passed)
}

fn has_clippy() -> bool {
    command::succeeds(&mut command::cargo(["clippy", "--version"]))
}

const NO_CLIPPY: Outcome = Outcome::Skipped("try `rustup component add clippy`");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_counts_by_its_outcome() {
        let run = |perform| Check { name: "example", perform }.run();

        let passed = run(|| faults(|| Ok(Vec::new())));
        let failed = run(|| faults(|| Ok(vec!["main.rs: too long".to_owned()])));
        let stopped = run(|| faults(|| anyhow::bail!("read main.rs")));
        let skipped = run(|| Ok(Outcome::Skipped("no clippy")));

        assert_eq!(passed, Tally { passed: 1, failed: 0, skipped: 0 });
        assert_eq!(failed, Tally { passed: 0, failed: 1, skipped: 0 });
        assert_eq!(stopped, Tally { passed: 0, failed: 1, skipped: 0 });
        assert_eq!(skipped, Tally { passed: 0, failed: 0, skipped: 1 });
    }

    #[test]
    fn a_filter_that_names_no_check_runs_none() {
        assert!(run_checks(Some("no such check")).is_empty());
    }
}
