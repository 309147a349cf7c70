//! `cargo xtask fuzz`: each fuzz target of `fuzz/` for some seconds, with the inputs that were kept.
//!
//! The compiler is told directly what `cargo fuzz --sanitizer none` tells it, so that neither that
//! program nor a nightly compiler is needed: everything fuzzed here is safe code, whose faults are
//! panics. What libFuzzer finds it leaves in `fuzz/artifacts`.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::command;
use crate::setup;
use crate::tally::Tally;

/// Edges that were taken, counted in the program itself, and the operands of comparisons: what libFuzzer
/// steers by. Arithmetic that overflows is a fault.
const INSTRUMENTED: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Coverflow-checks -Cdebug-assertions";

/// The longest input: longer than anything that a bound of ours lets in at once.
const LONGEST: &str = "-max_len=65536";

/// Builds the targets whose name contains `filter` and runs each for `duration`; a target counts like a
/// test.
pub(crate) fn fuzz(filter: Option<&str>, duration: Duration) -> Result<Tally> {
    setup::prepare()?;
    let root = command::workspace().join("fuzz");
    let targets = targets(&root.join("fuzz_targets"), filter)?;
    ensure!(!targets.is_empty(), "no fuzz target has such a name");
    let mut build = command::cargo(["build", "--release", "--locked"]);
    build.current_dir(&root).env("RUSTFLAGS", INSTRUMENTED);
    // Within the workspace's, whose kernel object is carried here as well.
    let target_directory = command::target_directory()?.join("fuzz");
    build.arg("--target-dir").arg(&target_directory);
    // Named, so that the flags do not reach build scripts.
    let host = host()?;
    build.arg(format!("--target={host}"));
    build.args(targets.iter().map(|target| format!("--bin={target}")));
    command::run(&mut build)?;
    let programs = target_directory.join(host).join("release");
    let mut tally = Tally::default();
    // A target keeps one CPU busy.
    let at_once = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    for some in targets.chunks(at_once) {
        let outcomes: Vec<_> = thread::scope(|scope| {
            let (programs, root) = (&programs, &root);
            let start = |target| scope.spawn(move || run(programs, root, target, duration));
            let running: Vec<_> = some.iter().map(String::as_str).map(start).collect();
            running.into_iter().map(ScopedJoinHandle::join).collect()
        });
        for (target, outcome) in some.iter().zip(outcomes) {
            tally += report(target, outcome.unwrap_or_else(|_| Err(anyhow!("it panicked"))));
        }
    }
    println!("{tally}");
    Ok(tally)
}

/// Says how a target did, and counts it.
fn report(target: &str, outcome: Result<u64>) -> Tally {
    match outcome {
        Ok(inputs) => {
            println!("fuzz {target} ... ok, {inputs} inputs");
            Tally { passed: 1, ..Tally::default() }
        }
        Err(error) => {
            println!("fuzz {target} ... FAILED\nFAILED: fuzz {target}: {error:#}");
            Tally { failed: 1, ..Tally::default() }
        }
    }
}

/// Runs a target; the number of inputs that it survived.
fn run(programs: &Path, root: &Path, target: &str, duration: Duration) -> Result<u64> {
    let directory = |kind: &str| -> Result<PathBuf> {
        let path = root.join(kind).join(target);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    };
    let artifacts = directory("artifacts")?;
    let mut fuzzer = Command::new(programs.join(target));
    fuzzer.arg(format!("-max_total_time={}", duration.as_secs()));
    fuzzer.args([LONGEST, "-timeout=10", "-rss_limit_mb=1024", "-verbosity=0"]);
    fuzzer.arg("-print_final_stats=1");
    fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display()));
    // What it finds new goes into the first, and is not committed; the second is.
    fuzzer.arg(directory("corpus")?);
    let seeds = root.join("seeds").join(target);
    fuzzer.args(seeds.exists().then_some(seeds));
    let line = command::line(&fuzzer);
    command::say(&format!("$ {line}"));
    let output = fuzzer.output().with_context(|| format!("start `{line}`"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{line}`: {}: {}", output.status, told.trim());
    inputs(&told).with_context(|| format!("`{line}` does not say how many inputs it had"))
}

/// How many inputs a target had, by the statistics at its end.
fn inputs(told: &str) -> Option<u64> {
    let mut lines = told.lines();
    lines.find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?.trim().parse().ok()
}

/// The targets, in the order of their names.
fn targets(directory: &Path, filter: Option<&str>) -> Result<Vec<String>> {
    let reading = || format!("read {}", directory.display());
    let mut targets = Vec::new();
    for entry in fs::read_dir(directory).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if filter.is_none_or(|filter| name.contains(filter)) {
            targets.push(name.to_owned());
        }
    }
    targets.sort_unstable();
    Ok(targets)
}

/// The triple of this machine, as the compiler calls it.
fn host() -> Result<String> {
    let version = command::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("find the host in `rustc -vV`")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_inputs_is_read_from_the_statistics() {
        let told =
            "INFO: seed corpus\nstat::number_of_executed_units: 2980962\nstat::peak_rss_mb: 27";

        assert_eq!(inputs(told), Some(2_980_962));
        assert_eq!(inputs("INFO: seed corpus"), None);
    }

    #[test]
    fn targets_are_the_files_there_are() {
        let directory = command::workspace().join("fuzz/fuzz_targets");

        assert!(targets(&directory, None).unwrap().contains(&"packet".to_owned()));
        assert_eq!(targets(&directory, Some("packe")).unwrap(), ["packet"]);
        assert_eq!(targets(&directory, Some("no such")).unwrap(), [""; 0]);
    }
}
