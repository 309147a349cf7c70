//! What `replay` is asked for.

use std::path::PathBuf;

use clap::Args;

use super::{Format, OBSERVE, OUTPUT, Pcap};

/// What `replay` is asked for.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct Replay {
    /// The recording, made by `watch --record`; `-` is standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What listeners are expected (TOML), instead of what the recorded run was told.
    #[arg(long, value_name = "FILE", help_heading = OBSERVE)]
    pub policy: Option<PathBuf>,
    /// How to write to stdout.
    #[arg(long, value_enum, default_value_t, help_heading = OUTPUT)]
    pub format: Format,
    /// Options of a capture.
    #[command(flatten)]
    pub pcap: Pcap,
}
