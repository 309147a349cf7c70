//! Measures what portwatch costs, on this machine, against nothing, an empty program, and others.
//!
//! What is measured, and how, is in `monitor/benches/packet_path`; here it is built and given the
//! rights that it takes.

use anyhow::Result;

use crate::{command, setup};

/// `cargo xtask bench`. The table goes to stdout, the same as JSON to `target/bench.json`. A bar that
/// is missed is marked there; only what could not be measured is a failure.
pub(crate) fn bench(quick: bool, filter: Option<&str>) -> Result<()> {
    setup::prepare()?;
    let json = command::target_directory()?.join("bench.json");
    let mut bench =
        command::cargo(["bench", "--locked", "--package=monitor", "--bench=packet_path"]);
    if !command::is_root() && command::program("sudo").is_some() {
        // Only the benchmark itself: what cargo writes stays the user's.
        bench.args(["--config", "target.'cfg(unix)'.runner='sudo'"]);
    }
    bench.arg("--").args(filter).arg("--json").arg(json);
    if quick {
        bench.arg("--quick");
    }
    command::run(&mut bench)
}
