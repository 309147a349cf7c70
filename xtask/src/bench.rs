//! `cargo xtask bench`: measures what portwatch costs, on this machine, against an empty program.

use anyhow::Result;

use crate::{command, setup};

/// Runs the measurement. The table goes to stdout, the same as JSON to `target/bench.json`.
pub(crate) fn bench(quick: bool, filter: Option<&str>) -> Result<()> {
    setup::prepare()?;
    let json = command::target_directory()?.join("bench.json");
    let mut bench = command::cargo(["bench", "--locked", "--package=monitor"]);
    bench.args(["--bench=packet_path", "--"]).args(filter);
    bench.arg("--json").arg(json);
    if quick {
        bench.arg("--quick");
    }
    command::run(&mut bench)
}
