//! What is attached to a device: TCX programs, qdiscs, filters and rules, ours and those of others.

use std::thread;

use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::lab::Host;
use crate::process::{is_installed, succeed};
use crate::skip;

/// Names of the TCX programs on a device, those of ingress, then those of egress, in their order.
///
/// `None`, noted as skipped, where the kernel has no TCX.
pub fn tcx_programs(host: &Host, device: &str) -> Option<Vec<String>> {
    let programs = tcx(host, device);
    if programs.is_none() {
        skip("this kernel has no TCX");
    }
    let name = |program: &ProgramInfo| program.name_as_str().unwrap_or("").to_owned();
    programs.map(|programs| programs.iter().map(name).collect())
}

/// Their numbers; none where the kernel has no TCX.
pub fn tcx_program_ids(host: &Host, device: &str) -> Vec<u32> {
    tcx(host, device).iter().flatten().map(ProgramInfo::id).collect()
}

fn tcx(host: &Host, device: &str) -> Option<Vec<ProgramInfo>> {
    let namespace = host.namespace_file();
    let device = device.to_owned();
    // A thread of its own: it stays in the namespace it has moved into.
    let looking = thread::spawn(move || {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), network)
            .expect("move into a network namespace");
        let both = [TcAttachType::Ingress, TcAttachType::Egress];
        both.map(|hook| SchedClassifier::query_tcx(&device, hook))
    });
    let mut found = Vec::new();
    for programs in looking.join().expect("look at TCX programs") {
        match programs {
            Ok((_revision, programs)) => found.extend(programs),
            Err(error) if is_unsupported(&error) => return None,
            Err(error) => panic!("look at TCX programs: {error}"),
        }
    }
    Some(found)
}

fn is_unsupported(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    let errno = Errno::from_io_error(&error.io_error);
    matches!(errno, Some(Errno::INVAL | Errno::OPNOTSUPP))
}

/// Everything that others have put on a device, as its tools show it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Guests {
    /// `tc qdisc show`.
    pub qdiscs: String,
    /// `tc filter show` of both hooks.
    pub filters: String,
    /// `nft list ruleset`, without its counters.
    pub rules: String,
}

impl Guests {
    /// Puts a qdisc, a filter on each clsact hook and a rule on a device.
    ///
    /// `None`, noted as skipped, without the tools for it.
    pub fn settle(host: &Host, device: &str) -> Option<Self> {
        if !is_installed("tc") || !is_installed("nft") {
            return None;
        }
        let tc = |line: &str| succeed(host.command("tc").args(line.split_whitespace()));
        tc(&format!("qdisc add dev {device} root tbf rate 4gbit burst 1mb latency 50ms"));
        tc(&format!("qdisc add dev {device} clsact"));
        for hook in ["ingress", "egress"] {
            // Classic BPF, since it needs no compiler: matches nothing, so that everything passes.
            let filter = ["filter", "add", "dev", device, hook, "pref", "40", "protocol", "all"];
            let program = ["bpf", "bytecode", "1,6 0 0 0"];
            succeed(host.command("tc").args(filter).args(program));
        }
        let rule = format!(
            "table netdev guest {{ chain in {{ type filter hook ingress device {device} \
             priority 0; udp dport 9 drop; }}; }}"
        );
        succeed(host.command("nft").arg(rule));
        Some(Self::on(host, device))
    }

    /// What is on a device now.
    pub fn on(host: &Host, device: &str) -> Self {
        let tc = |line: &str| succeed(host.command("tc").args(line.split_whitespace()));
        let filters = |hook: &str| tc(&format!("filter show dev {device} {hook}"));
        Self {
            qdiscs: tc(&format!("qdisc show dev {device}")),
            filters: [filters("ingress"), filters("egress")].concat(),
            rules: succeed(host.command("nft").args(["-s", "list", "ruleset"])),
        }
    }
}
