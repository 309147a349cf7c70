//! What Wireshark asks an external capture program: extcap(4).

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::{OUTPUT, Payload, value};
use crate::ports::PortSet;

/// What Wireshark asks for.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
#[command(group = ArgGroup::new("question").multiple(false), next_help_heading = OUTPUT)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of Wireshark's")]
pub struct Extcap {
    /// Which interfaces are there?
    #[arg(long, group = "question")]
    pub extcap_interfaces: bool,
    /// Which link types has the interface?
    #[arg(long, group = "question", requires = "extcap_interface")]
    pub extcap_dlts: bool,
    /// Which options has the interface?
    #[arg(long, group = "question", requires = "extcap_interface")]
    pub extcap_config: bool,
    /// Capture into `--fifo`.
    #[arg(long, group = "question", requires = "extcap_interface", requires = "fifo")]
    pub capture: bool,
    /// Write the script that Wireshark calls into its folder of such scripts, or into DIR.
    #[arg(long, group = "question", value_name = "DIR", num_args = 0..=1)]
    pub install: Option<Option<PathBuf>>,
    /// The interface that is meant.
    #[arg(long, value_name = "NAME")]
    pub extcap_interface: Option<String>,
    /// A filter; without `--capture`, whether it is valid.
    #[arg(long, value_name = "FILTER")]
    pub extcap_capture_filter: Option<String>,
    /// Version of the asking Wireshark.
    #[arg(long, value_name = "VERSION")]
    pub extcap_version: Option<String>,
    /// Where to write the capture to.
    #[arg(long, value_name = "PATH")]
    pub fifo: Option<PathBuf>,
    /// Ports and ranges to observe.
    #[arg(long = "port", value_name = "PORTS", default_value = "3516")]
    pub port: Vec<PortSet>,
    /// Sample one in N packets.
    #[arg(long, value_name = "N", default_value = "1", value_parser = value::pcap_sample)]
    pub sample: u32,
    /// How much of a packet's payload to show.
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub payload: Payload,
}
