//! A capture file, as tshark and capinfos read it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Finished, finish, is_installed, succeed};

/// A capture file.
#[derive(Clone, Debug)]
pub struct Pcapng {
    path: PathBuf,
}

/// A packet in it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Captured {
    /// Seconds since the epoch, with nine digits behind the point.
    pub time: String,
    /// Name of the interface.
    pub interface: String,
    /// 1 in, 2 out.
    pub direction: String,
    /// Bytes it had.
    pub length: String,
    /// Bytes that are there.
    pub captured: String,
    /// Packets that are missing before it.
    pub dropped: String,
    /// Source port of TCP or UDP.
    pub source_port: String,
    /// Flags of TCP.
    pub tcp_flags: String,
    /// All comments, each ended by a `;`.
    pub comments: String,
}

/// What tshark is asked for, in the order of [`Captured`].
const FIELDS: [&str; 10] = [
    "frame.time_epoch",
    "frame.interface_name",
    "frame.packet_flags_direction",
    "frame.len",
    "frame.cap_len",
    "frame.drop_count",
    "tcp.srcport",
    "udp.srcport",
    "tcp.flags",
    "frame.comment",
];

impl Pcapng {
    /// A capture file; `None`, noted as skipped, without the programs to read it.
    pub fn open(path: &Path) -> Option<Self> {
        let can_read = is_installed("tshark") && is_installed("capinfos");
        can_read.then(|| Self { path: path.to_owned() })
    }

    /// The options for [`Captured::parse`].
    pub fn fields() -> Vec<String> {
        let options = ["-n", "-T", "fields", "-E", "separator=/t", "-E", "aggregator=;"];
        let fields = FIELDS.into_iter().flat_map(|field| ["-e", field]);
        options.into_iter().chain(fields).map(str::to_owned).collect()
    }

    /// Its packets.
    pub fn packets(&self) -> Vec<Captured> {
        let told = self.tshark(&Self::fields());
        told.lines().map(Captured::parse).collect()
    }

    /// What capinfos says of it, which refuses a file that is broken.
    pub fn info(&self) -> String {
        succeed(Command::new("capinfos").arg(&self.path))
    }

    /// The statistics of its interfaces, as `name = number`.
    pub fn statistics(&self) -> Vec<String> {
        let options = ["-X", "read_format:MIME Files Format", "-V"].map(str::to_owned);
        let told = self.tshark(&options);
        let lines = told.lines().filter_map(|line| line.trim().strip_prefix("Option: Number of "));
        lines.map(str::to_owned).collect()
    }

    fn tshark(&self, options: &[String]) -> String {
        succeed(Command::new("tshark").arg("-r").arg(&self.path).args(options))
    }

    /// What `sha256sum -c` says of it.
    pub fn check_sum(&self) -> Finished {
        let name = self.path.file_name().expect("the name of a capture").to_string_lossy();
        let directory = self.path.parent().expect("the directory of a capture");
        let mut check = Command::new("sha256sum");
        finish(check.current_dir(directory).arg("-c").arg(format!("{name}.sha256")))
    }
}

impl Captured {
    /// Reads a line that tshark wrote for [`Pcapng::fields`].
    pub fn parse(line: &str) -> Self {
        let mut values = line.split('\t').map(str::to_owned);
        let mut next = || values.next().unwrap_or_default();
        let (time, interface, direction) = (next(), next(), next());
        let (length, captured, dropped) = (next(), next(), next());
        let (tcp, udp) = (next(), next());
        let source_port = if tcp.is_empty() { udp } else { tcp };
        let (tcp_flags, comments) = (next(), next());
        Self {
            time,
            interface,
            direction,
            length,
            captured,
            dropped,
            source_port,
            tcp_flags,
            comments,
        }
    }
}
