//! What the options of a watch come to.

use anyhow::Result;

use crate::cli;
use crate::clock::Clock;
use crate::endpoint::Netns;
use crate::failure::Failure;
use crate::host::netns;
use crate::interfaces::Wanted;
use crate::kernel::interface::Hook;
use crate::kernel::object::{self, Object};
use crate::pipeline::{Payload, Settings};
use crate::policy::Policy;
use crate::privilege::Work;
use crate::report::{InterfaceReport, PolicyReport, RunStarted};

/// Whether what was asked for can be done.
pub(super) fn check(args: &cli::Watch) -> Result<(), Failure> {
    check_interfaces(args)?;
    check_capture(args)
}

fn check_capture(args: &cli::Watch) -> Result<(), Failure> {
    let problem = if args.pcap.is_wanted() && args.sample == 0 {
        "'--pcap' writes what is sampled, and '--sample 0' turns that off"
    } else if !args.pcap.is_to_stdout() {
        return Ok(());
    } else if args.common.format == cli::Format::Json {
        cli::Pcap::NO_JSON
    } else if !args.command.is_empty() {
        "'--pcap -' takes stdout, where a command would write as well"
    } else {
        return Ok(());
    };
    Err(Failure::Usage(problem.to_owned()))
}

fn check_interfaces(args: &cli::Watch) -> Result<(), Failure> {
    let wanted = &args.interfaces;
    if wanted.is_empty() {
        return Ok(());
    }
    let there_are = crate::interfaces::names(args.netns == cli::NetnsScope::All)?;
    match wanted.iter().find(|name| !there_are.contains(name)) {
        None => Ok(()),
        Some(missing) => {
            let names: Vec<_> =
                there_are.iter().map(|name| crate::escape::escape(name).into_owned()).collect();
            Err(Failure::Usage(format!(
                "no interface {}; there are {}",
                crate::escape::quote(missing),
                names.join(", ")
            )))
        }
    }
}

/// What is left to do once everything is attached; makes the programs ready for interfaces to come.
pub(super) fn work(args: &cli::Watch, object: &mut Object) -> Work {
    if args.interfaces.is_empty() {
        object.verify_classifiers();
    }
    Work {
        asks_for_bpf: object.asks_for_bpf(),
        enters_namespaces: netns::marks_need_entering(),
        has_command: !args.command.is_empty(),
        binds_ports: false,
        preserves: false,
        observes_namespaces: args.netns == cli::NetnsScope::All,
    }
}

pub(super) fn kernel_settings(args: &cli::Watch) -> object::Settings {
    object::Settings {
        ports: args.common.ports(),
        ring_bytes: args.ring_size,
        flow_table_bytes: args.flow_table,
        sample_every: u16::try_from(args.sample).unwrap_or(u16::MAX),
        snaplen: u16::try_from(args.snaplen).unwrap_or(u16::MAX),
    }
}

pub(super) fn settings(
    args: &cli::Watch,
    policy: Policy,
    slots: usize,
    netns: Netns,
) -> Result<Settings> {
    Ok(Settings {
        ports: args.common.ports(),
        policy,
        payload: payload(args.payload),
        snaplen: usize::try_from(args.snaplen).unwrap_or(usize::MAX),
        interval: args.interval,
        idle_timeout: args.idle_timeout,
        slots,
        jiffy_ns: object::jiffy_ns()?,
        netns,
        clock: Clock::of_host(),
        names_ends: args.pcap.is_wanted(),
    })
}

/// How the run begins, with what was found then: interfaces, programs that are attached, and what is
/// not seen.
pub(super) fn started(
    args: &cli::Watch,
    (interfaces, attached, degraded): (Vec<InterfaceReport>, Vec<(String, String)>, Vec<String>),
    resumed: bool,
    policy: Option<PolicyReport>,
) -> RunStarted {
    RunStarted {
        command: "watch".into(),
        ports: args.common.ports().to_string(),
        interfaces,
        attached,
        resumed,
        payload: Some(payload(args.payload).name().into()),
        policy,
        degraded,
    }
}

pub(super) fn wanted(args: &cli::Watch) -> Wanted {
    Wanted {
        interfaces: args.interfaces.clone(),
        hook: hook(args.attach),
        everywhere: args.netns == cli::NetnsScope::All,
    }
}

const fn payload(shown: cli::Payload) -> Payload {
    match shown {
        cli::Payload::None => Payload::None,
        cli::Payload::Masked => Payload::Masked,
        cli::Payload::Full => Payload::Full,
    }
}

const fn hook(mode: cli::AttachMode) -> Hook {
    match mode {
        cli::AttachMode::Auto => Hook::Auto,
        cli::AttachMode::Tcx => Hook::Tcx,
        cli::AttachMode::Clsact => Hook::Clsact,
    }
}
