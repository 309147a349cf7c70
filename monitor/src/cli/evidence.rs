//! What `portwatch evidence` is asked for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Common, Format, LIMITS, OBSERVE, OUTPUT, union, value};
use crate::ports::PortSet;

/// What `evidence` is asked for.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Evidence {
    /// Look at what was preserved before instead.
    #[command(subcommand)]
    pub command: Option<EvidenceCommand>,
    /// Directory to write to, which must be empty or not there yet; DIR.tar must not be there either.
    #[arg(value_name = "DIR", required = true)]
    pub directory: Option<PathBuf>,
    /// Ports and ranges to observe, such as 3516,8000-8010; can be repeated. Default: those of the listener
    /// or flow, else 3516.
    #[arg(
        short,
        long = "port",
        value_name = "PORTS",
        allow_negative_numbers = true,
        help_heading = OBSERVE,
    )]
    port: Vec<PortSet>,
    /// Only this process and its parents, whether or not it is on the port.
    #[arg(long, value_name = "PID", value_parser = value::pid, group = "selection", help_heading = OBSERVE)]
    pid: Option<u32>,
    /// Only who listens at this address, such as 127.0.0.1:3516.
    #[arg(long, value_name = "ADDR", group = "selection", help_heading = OBSERVE)]
    listener: Option<SocketAddr>,
    /// Only who is at either end of this connection, such as 127.0.0.1:3516,127.0.0.1:37772.
    #[arg(long, value_name = "ADDR,ADDR", group = "selection", help_heading = OBSERVE)]
    flow: Option<Flow>,
    /// What is expected (TOML); default: /etc/portwatch/policy.toml, if that is there.
    #[arg(long, value_name = "FILE", help_heading = OBSERVE)]
    policy: Option<PathBuf>,
    /// Expect nothing, whatever policy this host has.
    #[arg(long, conflicts_with = "policy", help_heading = OBSERVE)]
    no_policy: bool,
    /// Also keep the environment of each process, which often holds passwords.
    #[arg(long, help_heading = OUTPUT)]
    pub with_environment: bool,
    /// Also capture the packets of the ports, for this time, such as 10s or 5m; Ctrl-C ends it early.
    ///
    /// A `portwatch watch` does it, which needs more rights than all else here.
    #[arg(long = "for", value_name = "TIME", value_parser = value::duration, help_heading = OBSERVE)]
    pub duration: Option<Duration>,
    /// Largest executable to copy.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256MiB",
        value_parser = value::file_size,
        help_heading = LIMITS,
    )]
    pub max_file: u64,
    /// How to write to stdout.
    #[arg(long, value_enum, default_value_t, help_heading = OUTPUT)]
    pub format: Format,
}

/// A subcommand of `evidence`.
#[derive(Clone, Debug, Eq, PartialEq, Subcommand)]
pub enum EvidenceCommand {
    /// Is it as it was when it was preserved? Takes no privileges.
    ///
    /// Holds every file against the manifest and says what is changed, missing or added, a line each. Exits
    /// with 1 if anything is, with 2 if it is no evidence. Who could change the files could have changed the
    /// manifest: compare its SHA-256 with the one you wrote down.
    Verify(VerifyEvidence),
}

/// What `evidence verify` is asked for.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct VerifyEvidence {
    /// The directory or the archive.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// Whose processes are preserved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Selection {
    /// Of everybody on the ports.
    Ports,
    /// One.
    Pid(u32),
    /// Of who listens at this address.
    Listener(SocketAddr),
    /// Of both ends of a connection.
    Flow(SocketAddr, SocketAddr),
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Flow(SocketAddr, SocketAddr);

impl FromStr for Flow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split_once(',').and_then(|(one, other)| {
            let end = |text: &str| text.trim().parse().ok();
            Some(Self(end(one)?, end(other)?))
        });
        ends.ok_or_else(|| {
            "write both ends, such as 127.0.0.1:3516,127.0.0.1:37772 or [::1]:3516,[::1]:37772"
                .to_owned()
        })
    }
}

impl Evidence {
    /// Whose processes are preserved.
    pub const fn selection(&self) -> Selection {
        match (self.pid, self.listener, self.flow) {
            (Some(pid), _, _) => Selection::Pid(pid),
            (_, Some(address), _) => Selection::Listener(address),
            (_, _, Some(Flow(one, other))) => Selection::Flow(one, other),
            _ => Selection::Ports,
        }
    }

    /// Options of all subcommands.
    pub fn common(&self) -> Common {
        let selected = match self.selection() {
            Selection::Listener(address) => vec![address.port()],
            Selection::Flow(one, other) => vec![one.port(), other.port()],
            Selection::Ports | Selection::Pid(_) => vec![3516],
        };
        let ports = match &*self.port {
            [] => selected.into_iter().filter(|port| *port != 0).collect(),
            ports => union(ports),
        };
        let (policy, no_policy) = (self.policy.clone(), self.no_policy);
        Common { port: vec![ports], policy, no_policy, format: self.format }
    }
}
