//! What is asked of a capture.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{OUTPUT, value};
use crate::pcap::{self, Files, Limits, Target};

/// Options of a capture.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct Pcap {
    /// Write the sampled packets into a new pcapng file, each with its process; `-` is stdout.
    ///
    /// --payload says what of their payload is written, --sample what is sampled: with 1 every packet, as far as
    /// the sampling budget goes. With `-`, events go to stderr. The SHA-256 of each file is put beside it, in
    /// FILE.sha256.
    #[arg(id = "pcap", long, value_name = "FILE", help_heading = OUTPUT)]
    pub path: Option<PathBuf>,
    /// Begin a new file before one grows over this size. Files are numbered and dated:
    /// `capture.pcapng` becomes `capture_00001_20261129T072649Z.pcapng`.
    #[arg(
        id = "pcap_size",
        long = "pcap-size",
        value_name = "SIZE",
        requires = "pcap",
        value_parser = value::pcap_size,
        help_heading = OUTPUT,
    )]
    pub size: Option<u64>,
    /// Begin a new file after this time; looked at with each packet and with each report of the counters.
    #[arg(
        id = "pcap_interval",
        long = "pcap-interval",
        value_name = "TIME",
        requires = "pcap",
        value_parser = value::pcap_interval,
        help_heading = OUTPUT,
    )]
    pub interval: Option<Duration>,
    /// Keep the last N files of this capture, and remove older ones.
    #[arg(
        id = "pcap_files",
        long = "pcap-files",
        value_name = "N",
        requires = "pcap",
        allow_negative_numbers = true,
        value_parser = value::pcap_files,
        help_heading = OUTPUT,
    )]
    pub files: Option<NonZeroU32>,
}

impl Pcap {
    /// Why events cannot be JSON beside a capture on stdout.
    pub const NO_JSON: &str =
        "'--pcap -' takes stdout: write the capture to a file to have events as JSON";

    /// There is to be one.
    pub const fn is_wanted(&self) -> bool {
        self.path.is_some()
    }

    /// It takes stdout.
    pub fn is_to_stdout(&self) -> bool {
        self.path.as_deref() == Some(Path::new("-"))
    }

    /// Where it goes; makes the file. An error is a line for the user.
    pub fn target(&self, now_unix_ns: i64) -> Result<Option<Target>, String> {
        let Self { path, size, interval, files } = self;
        let Some(path) = path else { return Ok(None) };
        let limits = Limits { size: *size, interval: *interval, files: files.map(NonZeroU32::get) };
        if limits.files.is_some() && !limits.rotates() {
            let problem = "'--pcap-files' needs '--pcap-size' or '--pcap-interval'";
            return Err(problem.to_owned());
        }
        if !self.is_to_stdout() {
            let files = Files::make(path, limits, now_unix_ns)?;
            return Ok(Some(Target::Files(Box::new(files))));
        }
        if limits.rotates() {
            let problem =
                "stdout is one file: '--pcap -' takes no '--pcap-size' or '--pcap-interval'";
            return Err(problem.to_owned());
        }
        pcap::stdout().map(Some)
    }
}
