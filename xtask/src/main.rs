//! `cargo xtask`: set up, build, run, check and test portwatch.
//!
//! Commands are printed before they run, on stderr: stdout belongs to what is run and to the test
//! summary. `cargo build` needs none of this once `cargo xtask setup` has run.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "what is done is told on stderr; results of checks and tests are the output"
)]

mod command;
mod packages;
mod toolchain;
mod linker;
mod recipe;
mod setup;
mod run;
mod bench;
mod tally;
mod failures;
mod structure;
mod check;
mod vm;
mod test;
mod fuzz;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Set up, build, run, check and test portwatch.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build the kernel object, and remember which toolchain builds it.
    ///
    /// Says what it installs before it does. `PORTWATCH_EBPF_TOOLCHAIN`, a rustup toolchain or the
    /// path of a cargo, overrides the choice, which is kept in `.ebpf-toolchain`.
    Setup {
        /// Also install the programs that the integration tests drive.
        #[arg(long)]
        tests: bool,
    },
    /// Build portwatch.
    Build {
        /// Build with optimizations, into target/release.
        #[arg(long)]
        release: bool,
        /// Arguments for `cargo build`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Build portwatch and run it as root.
    Run {
        /// Arguments for portwatch; `watch` without any.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Check format, lints, documentation and the structure of the code.
    Check,
    /// Run the checks and all tests; the last line counts them.
    Test {
        /// Run some of the integration tests on other kernels as well, as `cargo xtask vm` does.
        ///
        /// A kernel that cannot be had here counts as a skipped test.
        #[arg(long, conflicts_with = "filter")]
        vm: bool,
        /// Run only checks and tests whose name contains this.
        filter: Option<String>,
    },
    /// Run the integration tests on other kernels, each booted under QEMU.
    ///
    /// On Debian's 5.10, 6.1, 6.12 and newest cloud kernels unless told otherwise. They are
    /// downloaded once, into target/vm, from the archive that apt uses on this machine.
    Vm(vm::Options),
    /// Feed what reads foreign bytes with anything at all, for some seconds each.
    Fuzz {
        /// Seconds for each target.
        #[arg(long, default_value = "20", value_name = "N")]
        seconds: u64,
        /// Only targets whose name contains this.
        filter: Option<String>,
    },
    /// Measure what portwatch costs; needs root. A command, not a test: it judges nothing.
    Bench {
        /// Measure only the groups that have this in their name: idle, scan, known-flow, sampled,
        /// many-flows, new-flow, veth, end-to-end, flow-table, pipeline, start, flood, active-flows,
        /// descriptors, growth.
        filter: Option<String>,
        /// Measure fewer times, to see that everything works.
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> ExitCode {
    perform(Arguments::parse().task).unwrap_or_else(|error| {
        command::say(&format!("xtask: {error:#}"));
        ExitCode::FAILURE
    })
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { tests } => setup::setup(tests)?,
        Task::Build { release, arguments } => run::build(release, &arguments)?,
        Task::Run { arguments } => return Err(run::replace_process(&arguments)),
        Task::Check => return Ok(check::check()?.exit_code()),
        Task::Test { vm, filter } => return test::test(filter.as_deref(), vm),
        Task::Vm(options) => return vm::vm(&options),
        Task::Fuzz { seconds, filter } => {
            let duration = Duration::from_secs(seconds);
            return Ok(fuzz::fuzz(filter.as_deref(), duration)?.exit_code());
        }
        Task::Bench { filter, quick } => bench::bench(quick, filter.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}
