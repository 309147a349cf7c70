//! The command line: what can be asked for. Doc comments are the help; values are checked here.
//!
//! Only what works is offered: an option of a later stage is unknown, not ignored.

mod evidence;
mod exit;
mod extcap;
mod pcap;
mod replay;
mod policy;
mod value;

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, FromArgMatches as _, Parser, Subcommand, ValueEnum};

pub use self::evidence::{Evidence, EvidenceCommand, Selection, VerifyEvidence};
pub use self::exit::Exit;
pub use self::extcap::Extcap;
pub use self::pcap::Pcap;
pub use self::policy::{CheckPolicy, ExplainPolicy, LearnPolicy, PolicyCommand, Subject};
pub use self::replay::Replay;
use crate::ports::PortSet;

/// Who and what is really on this port of this Linux host, with proof.
#[derive(Clone, Debug, Eq, Parser, PartialEq)]
#[command(
    name = "portwatch",
    version,
    arg_required_else_help = false,
    max_term_width = 100,
    after_long_help = "\
Example: who is on port 3516 right now?

    portwatch scan

Exit codes: 0 done and nothing unexpected, 1 findings, 2 usage or bad policy, 3 this host cannot be
observed, 4 records were lost and --fail-on-loss was given, 5 an output failed while running."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// When to colour.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        help_heading = OUTPUT,
    )]
    pub color: Color,
    /// Say more on stderr; twice for debugging, three times for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = OUTPUT)]
    pub verbose: u8,
}

/// A subcommand.
#[derive(Clone, Debug, Eq, PartialEq, Subcommand)]
pub enum Command {
    /// One look: every listener and connection on the port, and who owns it.
    ///
    /// Looks at every network namespace of the host, says of each listener whether the policy
    /// expects it, and exits with 1 if one is not expected.
    #[command(after_long_help = "\
Example: what is on the ports of the card reader, as JSON for jq?

    portwatch scan --port 3516,35963 --format json | jq -c .process")]
    Scan(Scan),
    /// Live: attach to the kernel and report until stopped.
    ///
    /// Nothing that passes is changed or held up. What could not be reported is counted and said at
    /// the end.
    #[command(after_long_help = "\
Example: who talks to port 3516 while the test suite runs? Exits as the test suite does.

    portwatch watch --policy policy.toml -- make test")]
    Watch(Box<Watch>),
    /// Go through a recorded run again: the same events, on any host, without privileges.
    ///
    /// What was recorded by `watch --record` is reported as it was then, with its times. Where the recording
    /// ends before the run did, the last event says so.
    #[command(after_long_help = "\
Example: what would another policy have said of last night?

    portwatch replay night.pwrec --policy policy.toml")]
    Replay(Replay),
    /// Preserve what there is on the port, before it vanishes: executables, processes, sockets, rules.
    ///
    /// Writes DIR and, for handing on, DIR.tar: what `scan` sees as events, what each process runs (also
    /// deleted or without a file), its files in /proc and those of its parents, and the tables and rules of
    /// every network namespace, with a manifest that has the SHA-256 of each. Nothing on the host is changed
    /// and nothing is run. That something could not be obtained is said there, and no error.
    #[command(after_long_help = "\
Example: preserve what a finding is about, and see later that nobody has changed it.

    portwatch evidence case-17 --port 3516
    portwatch evidence verify case-17.tar")]
    Evidence(Box<Evidence>),
    /// Can this host be observed, with what, and what would be missed?
    ///
    /// Says what this kernel offers, then proves it: decoys in a network namespace of their own listen,
    /// connect and send, and a real `portwatch watch` must see and name each. Takes a few seconds, and
    /// leaves nothing behind. Exits with 1 if anything is missed.
    Doctor(Doctor),
    /// What a port is registered for, what that is worth, and what to check.
    ///
    /// The registry is part of the program: nobody is asked, and no rights are needed.
    #[command(after_long_help = "\
Example: what is 3516 for, and what else should I look at?

    portwatch explain 3516")]
    Explain(Explain),
    /// Write, validate and explain what is expected on this host.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Be an interface of Wireshark's: answers what it asks of an external capture program.
    ///
    /// `portwatch extcap --install` makes Wireshark ask.
    #[command(hide = true)]
    Extcap(Extcap),
    /// Play one of the processes that `doctor` must see; steps come on standard input.
    #[command(hide = true)]
    Decoy,
    /// As `decoy`, but serves the one connection that is its standard input.
    #[command(hide = true)]
    DecoyWorker,
    /// Remove what `watch --pin` left in the kernel.
    ///
    /// Programs, counters and links of every network namespace; nothing of anybody else. That there is
    /// nothing is no error.
    Detach,
}

/// What `scan` is asked for.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct Scan {
    /// Options of all subcommands.
    #[command(flatten)]
    pub common: Common,
    /// Also try to bind each port, in every network namespace: what nobody lists may be taken all the same.
    ///
    /// Each is bound for an instant, without listening: a server that starts in that very instant finds it
    /// taken. Other tools see it, a running `portwatch watch` too.
    #[arg(long, help_heading = OBSERVE)]
    pub probe_bind: bool,
}

/// What `doctor` is asked for.
#[derive(Args, Clone, Copy, Debug, Eq, PartialEq)]
pub struct Doctor {
    /// How to write to stdout.
    #[arg(long, value_enum, default_value_t, help_heading = OUTPUT)]
    pub format: Format,
}

/// What `explain` is asked for.
#[derive(Args, Clone, Copy, Debug, Eq, PartialEq)]
pub struct Explain {
    /// The port.
    #[arg(
        value_name = "PORT",
        default_value = "3516",
        allow_negative_numbers = true,
        value_parser = value::port,
    )]
    pub port: u16,
    /// How to write to stdout.
    #[arg(long, value_enum, default_value_t, help_heading = OUTPUT)]
    pub format: Format,
}

/// Options of all subcommands.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct Common {
    /// Ports and ranges to observe, such as 3516,8000-8010; can be repeated.
    #[arg(
        short,
        long = "port",
        value_name = "PORTS",
        default_value = "3516",
        allow_negative_numbers = true,
        help_heading = OBSERVE,
    )]
    port: Vec<PortSet>,
    /// What is expected (TOML); default: /etc/portwatch/policy.toml, if that is there.
    ///
    /// Without a policy no listener is expected. A file that others than root can write is refused, and
    /// so is one in a directory that they can write. SIGHUP makes `watch` read it again.
    #[arg(long, value_name = "FILE", help_heading = OBSERVE)]
    pub policy: Option<PathBuf>,
    /// Expect nothing, whatever policy this host has.
    #[arg(long, conflicts_with = "policy", help_heading = OBSERVE)]
    pub no_policy: bool,
    /// How to write to stdout.
    #[arg(long, value_enum, default_value_t, help_heading = OUTPUT)]
    pub format: Format,
}

/// What `watch` is asked for.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct Watch {
    /// Options of all subcommands.
    #[command(flatten)]
    pub common: Common,
    /// Interface to observe; can be repeated. Default: all, also those that appear later.
    #[arg(
        short,
        long = "interface",
        value_name = "NAME",
        value_parser = value::interface,
        help_heading = OBSERVE,
    )]
    pub interfaces: Vec<String>,
    /// Whose interfaces to observe. Listeners and owners are seen in all namespaces anyway.
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "WHICH",
        conflicts_with = "pin",
        help_heading = OBSERVE,
    )]
    pub netns: NetnsScope,
    /// How to attach to interfaces.
    #[arg(long, value_enum, default_value_t, value_name = "HOW", help_heading = OBSERVE)]
    pub attach: AttachMode,
    /// Sample one in N packets, after the first of each flow that carry payload; 0 turns sampling
    /// off.
    #[arg(
        long,
        value_name = "N",
        default_value = "1000",
        allow_negative_numbers = true,
        value_parser = value::sample,
        help_heading = OBSERVE,
    )]
    pub sample: u32,
    /// Bytes to keep of a sampled packet, from its IP header on.
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "128",
        allow_negative_numbers = true,
        value_parser = value::snaplen,
        help_heading = OBSERVE,
    )]
    pub snaplen: u32,
    /// How much of a sampled packet's payload to show.
    #[arg(long, value_enum, default_value_t, value_name = "HOW", help_heading = OUTPUT)]
    pub payload: Payload,
    /// Time between two reports of an active flow and of the counters.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = value::interval,
        help_heading = OUTPUT,
    )]
    pub interval: Duration,
    /// Descriptor to write a newline to and close, once everything is attached.
    #[arg(
        long,
        value_name = "FD",
        allow_negative_numbers = true,
        value_parser = value::descriptor,
        help_heading = OUTPUT,
    )]
    pub ready_fd: Option<RawFd>,
    /// Go on counting when portwatch ends; the next `watch --pin` takes over without a gap.
    ///
    /// Needs TCX and a BPF file system at /sys/fs/bpf. `portwatch detach` ends it.
    #[arg(long, help_heading = OBSERVE)]
    pub pin: bool,
    /// Record the run into a new file, for `portwatch replay`.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub record: Option<PathBuf>,
    /// Options of a capture.
    #[command(flatten)]
    pub pcap: Pcap,
    /// Exit with 1 if there were findings.
    #[arg(long, help_heading = OUTPUT)]
    pub fail_on_finding: bool,
    /// Exit with 4 if records were lost.
    #[arg(long, help_heading = OUTPUT)]
    pub fail_on_loss: bool,
    /// Stop after this time, such as 500ms, 10s, 5m or 1h30m.
    #[arg(long = "for", value_name = "TIME", value_parser = value::duration, help_heading = LIMITS)]
    pub duration: Option<Duration>,
    /// Stop after this many events.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = value::count,
        help_heading = LIMITS,
    )]
    pub count: Option<NonZeroU64>,
    /// Time without a packet after which a flow has ended.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        value_parser = value::idle_timeout,
        help_heading = LIMITS,
    )]
    pub idle_timeout: Duration,
    /// Memory between kernel and portwatch, a power of two; more rides out longer bursts.
    ///
    /// Half of it is for samples, and half for new flows, over all CPUs.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "8MiB",
        value_parser = value::ring_size,
        help_heading = LIMITS,
    )]
    pub ring_size: u32,
    /// Memory of the kernel's flow table, over all CPUs; more counts more flows one by one.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "8MiB",
        value_parser = value::flow_table,
        help_heading = LIMITS,
    )]
    pub flow_table: u64,
    /// Command to run; portwatch stops when it ends and exits as it did.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// How to write to stdout.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// One ECS document per line.
    Json,
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Also into a file or pipe.
    Always,
    /// Not at all.
    Never,
}

/// How much of a sampled packet's payload to show.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Payload {
    /// Nothing of it.
    None,
    /// Headers only: smart-card commands carry PINs in clear text.
    #[default]
    Masked,
    /// All that was captured, secrets included.
    Full,
}

/// Whose interfaces to observe.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum NetnsScope {
    /// Those of the network namespace portwatch runs in.
    #[default]
    Host,
    /// Those of every network namespace, also of namespaces that appear later.
    All,
}

/// How to attach to interfaces.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum AttachMode {
    /// By TCX where the kernel has it (6.6), else by clsact.
    #[default]
    Auto,
    /// By TCX or not at all.
    Tcx,
    /// By a filter on the clsact qdisc.
    Clsact,
}

impl Common {
    /// The ports to observe.
    pub fn ports(&self) -> PortSet {
        union(&self.port)
    }
}

impl Scan {
    /// As `policy learn` looks.
    pub const fn for_learning(port: Vec<PortSet>) -> Self {
        let common = Common { port, policy: None, no_policy: true, format: Format::Text };
        Self { common, probe_bind: false }
    }
}

impl Watch {
    /// As `policy learn --for` watches.
    pub fn for_learning(port: Vec<PortSet>, duration: Duration) -> Result<Self, clap::Error> {
        let mut watch = Self::of(&["--no-policy", "--sample", "0"], port)?;
        watch.duration = Some(duration);
        Ok(watch)
    }

    /// As Wireshark captures.
    pub fn for_wireshark(
        port: Vec<PortSet>,
        sample: u32,
        payload: Payload,
    ) -> Result<Self, clap::Error> {
        let mut watch = Self::of(&["--pcap", "-"], port)?;
        (watch.sample, watch.payload) = (sample, payload);
        Ok(watch)
    }

    fn of(options: &[&str], port: Vec<PortSet>) -> Result<Self, clap::Error> {
        let command = Self::augment_args(clap::Command::new("watch").no_binary_name(true));
        let mut watch = Self::from_arg_matches(&command.try_get_matches_from(options)?)?;
        watch.common.port = port;
        Ok(watch)
    }
}

/// All ports of these lists.
pub fn union(lists: &[PortSet]) -> PortSet {
    lists.iter().flat_map(PortSet::iter).collect()
}

/// Reads the command line; the first argument is the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    Cli::try_parse_from(args).map_err(|error| exit::fold(&error))
}

const OBSERVE: &str = "Observe";
const OUTPUT: &str = "Output";
const LIMITS: &str = "Limits";

#[cfg(test)]
mod tests;
