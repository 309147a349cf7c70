//! What `portwatch policy` is asked for.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Common, Format, LIMITS, OBSERVE, OUTPUT, value};
use crate::ports::PortSet;

/// A subcommand of `policy`.
#[derive(Clone, Debug, Eq, PartialEq, Subcommand)]
pub enum PolicyCommand {
    /// Write a policy from what is there, for you to review.
    ///
    /// One rule for each listener, as specific as can be: unit, package and executable, or the hash of
    /// what no package has installed; with the evidence as a comment, and an expiry in 90 days. What was
    /// deleted, has no file, or can be written by others than root is not learned, and the comment says
    /// so. Needs the rights of `scan`, with --for those of `watch`.
    #[command(after_long_help = "\
Example: learn for a day, then read what was learned.

    portwatch policy learn --for 24h -o policy.toml")]
    Learn(LearnPolicy),
    /// Validate a policy, say what each rule matches on this host now, and warn about rules that do not
    /// do what they look like.
    ///
    /// Rules that can never match, that an earlier one makes useless, that match more than they look, or
    /// that expire soon. Exits with 1 if there is a warning or a listener that no rule expects, with 2 if
    /// it is no policy.
    #[command(after_long_help = "\
Example: will this one do on this host?

    portwatch policy check policy.toml")]
    Check(CheckPolicy),
    /// Say rule by rule and key by key why a listener or a client is expected, or why not.
    #[command(after_long_help = "\
Example: why is pid 4242 not expected?

    portwatch policy explain 4242 --policy policy.toml")]
    Explain(ExplainPolicy),
}

/// What `policy learn` is asked for.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct LearnPolicy {
    /// Ports and ranges to observe, such as 3516,8000-8010; can be repeated.
    #[arg(
        short,
        long = "port",
        value_name = "PORTS",
        default_value = "3516",
        allow_negative_numbers = true,
        help_heading = OBSERVE,
    )]
    pub port: Vec<PortSet>,
    /// Watch for this time instead of looking once, such as 10m or 24h; an interrupt ends it early.
    #[arg(long = "for", value_name = "TIME", value_parser = value::duration, help_heading = LIMITS)]
    pub duration: Option<Duration>,
    /// Also write who talks, as `[[client]]` rules.
    #[arg(long, help_heading = OUTPUT)]
    pub clients: bool,
    /// File to write to, which must not be there yet; default: stdout.
    #[arg(short, long, value_name = "FILE", help_heading = OUTPUT)]
    pub output: Option<PathBuf>,
}

/// What `policy check` is asked for.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct CheckPolicy {
    /// The policy; default: /etc/portwatch/policy.toml.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Ports to look at; default: those that the rules name, and 3516 for rules that name none.
    #[arg(
        short,
        long = "port",
        value_name = "PORTS",
        allow_negative_numbers = true,
        help_heading = OBSERVE,
    )]
    pub port: Vec<PortSet>,
    /// How to write to stdout.
    #[arg(long, value_enum, default_value_t, help_heading = OUTPUT)]
    pub format: Format,
}

/// What `policy explain` is asked for.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct ExplainPolicy {
    /// A process by its pid, or a listener by its address, such as 127.0.0.1:3516; default: every
    /// listener.
    #[arg(value_name = "PID|ADDR")]
    pub subject: Option<Subject>,
    /// Options of all subcommands.
    #[command(flatten)]
    pub common: Common,
}

/// What is to be explained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject {
    /// All that a process listens on and talks to.
    Pid(u32),
    /// A listener.
    Address(std::net::SocketAddr),
}

impl std::str::FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.parse(), text.parse()) {
            (Ok(pid @ 1..), _) => Ok(Self::Pid(pid)),
            (_, Ok(address)) => Ok(Self::Address(address)),
            _ => Err("write a pid, or an address and port such as 127.0.0.1:3516 or [::1]:3516"
                .to_owned()),
        }
    }
}
