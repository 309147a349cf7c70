//! What portwatch costs: a packet, its way through a host, the flow table, user space, the commands;
//! and how that grows.
//!
//! Run by `cargo xtask bench`; needs root. Costs are differences to an empty program taken in pairs,
//! and what is told of them is the median, so that a machine with other work to do still gives
//! numbers that can be compared.

#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "the table is the output; what is being measured is told on stderr"
)]

mod clock;
mod quiet;
mod spread;
mod report;
mod frames;
mod programs;
mod known_flow;
mod sampled;
mod bpf;
mod rewriter;
mod process;
mod floor;
mod pair;
mod witness;
mod many_flows;
mod new_flows;
mod commands;
mod generator;
mod cable;
mod observer;
mod veth;
mod beside;
mod scene;
mod following;
mod userspace;
mod load;
mod descriptors;
mod growth;

use std::path::PathBuf;
use std::process::ExitCode;
use std::{fs, thread};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;

use crate::report::{Report, Row};

/// What portwatch costs.
#[derive(Parser)]
struct Arguments {
    /// Measure only the groups whose name contains this.
    filter: Option<String>,
    /// Measure fewer times, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Also write the numbers to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Hold this many descriptors until stdin ends: what the bench starts itself for.
    #[arg(long, hide = true, value_name = "N")]
    hold: Option<u32>,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How often things are measured.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Times the programs are loaded anew. Where a program comes to lie in memory changes its cost by
    /// a nanosecond, and the kernel places it at random.
    loads: usize,
    /// Rounds with each load.
    rounds: usize,
    /// Packets a program sees in one round.
    packets: u32,
    /// Seconds for what has to be waited for; `watch` looks at its processes every five.
    seconds: u64,
    /// Runs of a command.
    runs: usize,
    /// Rounds in which observers of the same traffic take turns.
    turns: usize,
}

const THOROUGH: Effort =
    Effort { loads: 7, rounds: 3, packets: 300_000, seconds: 5, runs: 11, turns: 12 };
const QUICK: Effort =
    Effort { loads: 2, rounds: 2, packets: 50_000, seconds: 1, runs: 3, turns: 2 };

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.hold.map_or_else(|| measure(&arguments), descriptors::hold) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "loading kernel programs takes root");
    let effort = if arguments.quick { QUICK } else { THOROUGH };
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let groups = || GROUPS.iter().filter(|group| group.name.contains(filter));
    ensure!(groups().next().is_some(), "no group has `{filter}` in its name");
    let mut report = Report::start(arguments.quick)?;
    for group in groups() {
        eprintln!("measuring: {}", group.name);
        // A thread of its own: it moves to one CPU, and what it starts would inherit that.
        let measured = thread::spawn(move || {
            quiet::listen();
            (group.measure)(effort)
        });
        let measured = measured.join();
        report.add(measured.map_err(|_panic| anyhow!("measuring {} panicked", group.name))??);
    }
    report.end()?;
    print!("{report}");
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report).context("writing JSON")?;
        fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
        println!("as JSON: {}", path.display());
    }
    Ok(())
}

/// What is measured together.
struct Group {
    name: &'static str,
    measure: fn(Effort) -> Result<Vec<Row>>,
}

const GROUPS: [Group; 15] = [
    Group { name: "idle", measure: commands::idle },
    Group { name: "scan", measure: commands::scan },
    Group { name: "known-flow", measure: known_flow::measure },
    Group { name: "sampled", measure: sampled::measure },
    Group { name: "many-flows", measure: many_flows::measure },
    Group { name: "new-flow", measure: new_flows::measure },
    Group { name: "veth", measure: veth::measure },
    Group { name: "end-to-end", measure: beside::measure },
    Group { name: "flow-table", measure: following::measure },
    Group { name: "pipeline", measure: userspace::measure },
    Group { name: "start", measure: load::start },
    Group { name: "flood", measure: load::flood },
    Group { name: "active-flows", measure: load::active },
    Group { name: "descriptors", measure: descriptors::measure },
    Group { name: "growth", measure: growth::measure },
];

/// Binds this thread to the last of its CPUs: most interrupts go to the first.
pub(crate) fn stay_on_one_cpu() -> Result<()> {
    process::stay_on(&[process::one_apart()?.0])
}
