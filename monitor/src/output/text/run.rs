//! Lines of the run itself: its start and end, interfaces, counters.

use crate::endpoint::Direction;
use crate::report::{
    Counters, InterfaceChange, InterfaceReport, PolicyChange, PortCount, RunEnded, RunStarted,
};

use super::amount::{self, plural};
use super::line::{Ink, Line};
use super::summary;

/// As many interfaces are named; a container host has hundreds.
const NAMED_INTERFACES: usize = 6;

/// `watch 3516 on eth0 (tcx), lo (tcx); 9 programs attached`.
pub(super) fn started(mut line: Line<'_>, run: &RunStarted, out: &mut Vec<u8>) {
    let RunStarted { command, ports, interfaces, attached, resumed, payload, policy, degraded } =
        run;
    line.foreign(Ink::Strong, &format!("{command} {ports}"));
    if !interfaces.is_empty() {
        line.foreign(Ink::Plain, &format!(" on {}", on(interfaces)));
    }
    if !attached.is_empty() {
        line.put(Ink::Plain, &format!("; {} attached", plural(len(attached), "program")));
    }
    if let Some(policy) = policy {
        line.foreign(Ink::Plain, &format!("; policy {} ({})", policy.file, policy.rules()));
    }
    if *resumed {
        line.put(Ink::Plain, "; counts go on from the run before");
    }
    if payload.as_deref() == Some("full") {
        line.put(Ink::Notable, "; payload is shown in full, secrets included");
    }
    let margin = line.continued();
    line.end(out);
    not_seen(&margin, degraded, out);
}

/// `/etc/portwatch/policy.toml: read again; 2 listener rules in force from now on`.
pub(super) fn policy(mut line: Line<'_>, change: &PolicyChange, out: &mut Vec<u8>) {
    let ink = match change {
        PolicyChange::Reloaded(_) => Ink::Plain,
        PolicyChange::Refused { .. } => Ink::Alarming,
    };
    line.put(ink, &change.sentence());
    line.end(out);
}

/// `interrupted; 1 listener, 1 flow, 1 finding`.
pub(super) fn ended(mut line: Line<'_>, run: &RunEnded, out: &mut Vec<u8>) {
    line.foreign(Ink::Plain, &run.reason);
    line.put(Ink::Plain, &format!("; {}", summary::seen(run, "flow")));
    let margin = line.continued();
    line.end(out);
    for gap in &run.coverage_gaps {
        let mut line = margin.continued();
        line.put(Ink::Notable, "not covered: ");
        line.foreign(Ink::Plain, gap);
        line.end(out);
    }
}

/// `eth0  tcx  ifindex 2`.
pub(super) fn interface(mut line: Line<'_>, report: &InterfaceReport, out: &mut Vec<u8>) {
    let InterfaceReport { interface, netns, id: _, mode } = report;
    line.foreign(Ink::Plain, &interface.name);
    line.column(0);
    line.put(Ink::Plain, mode);
    line.column(0);
    line.put(Ink::Faint, &format!("ifindex {}", interface.ifindex));
    if netns.name.is_some() || report.is_elsewhere() {
        line.column(0);
        line.foreign(Ink::Faint, &format!("netns {netns}"));
    }
    line.end(out);
}

/// As [`InterfaceChange`].
pub(super) const fn interface_label(change: InterfaceChange) -> &'static str {
    match change {
        InterfaceChange::Attached => "IFACE+",
        InterfaceChange::Detached => "IFACE-",
    }
}

/// `3516 in 13 pkts 1.5 kB, out 9 pkts 6.8 kB  40 records, 0 lost`.
pub(super) fn counters(mut line: Line<'_>, counters: &Counters, out: &mut Vec<u8>) {
    for port in &counters.ports {
        // A port that nothing used is not worth a word every interval.
        if port.packets > 0 {
            line.put(Ink::Plain, &one_way(port));
            line.column(0);
        }
    }
    let losses = counters.losses();
    line.put(Ink::Plain, &plural(counters.records.read, "record"));
    if losses.is_empty() {
        line.put(Ink::Plain, ", 0 lost");
    } else {
        line.foreign(Ink::Alarming, &format!("; lost: {}", losses.join(", ")));
    }
    line.end(out);
}

/// The degraded parts, a line each.
pub(super) fn not_seen(margin: &Line<'_>, degraded: &[String], out: &mut Vec<u8>) {
    for sentence in degraded {
        let mut line = margin.continued();
        line.put(Ink::Notable, "degraded: ");
        line.foreign(Ink::Plain, sentence);
        line.end(out);
    }
}

fn one_way(count: &PortCount) -> String {
    let direction = match count.direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    format!("{} {direction} {}", count.port, amount::one_way((count.packets, count.bytes)))
}

fn on(interfaces: &[InterfaceReport]) -> String {
    let named = interfaces.iter().take(NAMED_INTERFACES);
    let names: Vec<_> =
        named.map(|report| format!("{} ({})", report.interface.name, report.mode)).collect();
    match interfaces.len().saturating_sub(NAMED_INTERFACES) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

fn len<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}
