//! Lines of listeners, flows and packets.

use crate::app::Protocol;
use crate::endpoint::{Endpoint, Transport};
use crate::report::{
    FlowChange, FlowReport, ListenerChange, ListenerReport, SampleReport, Verdict,
};

use super::amount;
use super::hexdump;
use super::line::{Ink, Line};
use super::program;
use super::who;

/// `+` it came, `*` it changed, `-` it went; without a sign it was there already.
pub(super) const fn listener_label(change: ListenerChange) -> &'static str {
    match change {
        ListenerChange::Found => "LISTENER",
        ListenerChange::Opened => "LISTENER+",
        ListenerChange::Updated => "LISTENER*",
        ListenerChange::Closed => "LISTENER-",
    }
}

/// As [`listener_label`].
pub(super) const fn flow_label(change: FlowChange) -> &'static str {
    match change {
        FlowChange::Started => "FLOW+",
        FlowChange::Updated => "FLOW*",
        FlowChange::Ended(_) => "FLOW-",
    }
}

/// `tcp 0.0.0.0:3516  python3[4242] root (user)  /usr/bin/python3.11 (python3.11-minimal)  UNKNOWN`.
pub(super) fn listener(mut line: Line<'_>, listener: &ListenerReport, out: &mut Vec<u8>) {
    line.first_column(25);
    line.put(Ink::Plain, &format!("{:<3} ", listener.transport.name()));
    line.foreign(Ink::Plain, &local(listener));
    line.column(20);
    who::principal(&mut line, &listener.attribution);
    line.column(24);
    if let Some(owner) = listener.attribution.principal() {
        line.foreign(program::ink(&owner.process), &program::path(&owner.process));
        if let Some((ink, origin)) = program::origin(&owner.process) {
            line.foreign(ink, &format!(" ({origin})"));
        }
    }
    line.column(0);
    let (ink, words) = verdict(&listener.verdict);
    line.foreign(ink, &words);
    if let Some(name) = listener.netns.as_ref().and_then(|netns| netns.name.as_ref()) {
        line.column(0);
        line.foreign(Ink::Faint, &format!("netns {name}"));
    }
    if let Some(unit) = socket_unit(listener) {
        line.column(0);
        line.foreign(Ink::Faint, &format!("opened by {unit}"));
    }
    line.end(out);
}

/// `tcp 10.0.0.2:40112 > 10.0.0.1:3516  server  > 12 pkts 1.4 kB < 9 pkts 6.8 kB  6.749s …`.
pub(super) fn flow(mut line: Line<'_>, change: FlowChange, flow: &FlowReport, out: &mut Vec<u8>) {
    tuple(&mut line, flow.transport, flow.source, flow.destination);
    line.column(10);
    line.put(Ink::Plain, flow.role.map_or("", |role| role.name()));
    line.column(30);
    if flow.interfaces.is_empty() {
        // Looked up, not seen: there is a state and no count.
        line.put(Ink::Plain, flow.state.unwrap_or_default());
    } else {
        let there = (flow.source_packets, flow.source_bytes);
        let back = (flow.destination_packets, flow.destination_bytes);
        line.put(Ink::Plain, &amount::both_ways(there, back));
    }
    if change != FlowChange::Started && !flow.interfaces.is_empty() {
        line.column(6);
        let lasted = flow.last_unix_ns.saturating_sub(flow.start_unix_ns);
        line.put(Ink::Plain, &amount::lasted(lasted));
    }
    if let Some(flags) = flow.tcp_flags {
        line.column(0);
        line.put(Ink::Plain, &amount::tcp_flags(flags));
    }
    if let Some(likeness) = &flow.app {
        line.column(0);
        let is_known = likeness.protocol != Protocol::Opaque;
        line.foreign(if is_known { Ink::Strong } else { Ink::Notable }, &likeness.summary());
    }
    if let Some(nat) = nat(flow) {
        line.column(0);
        line.put(Ink::Plain, &nat);
    }
    line.column(0);
    who::both_ends(&mut line, &flow.attribution);
    if let FlowChange::Ended(reason) = change {
        line.column(0);
        line.put(Ink::Faint, reason.words());
    }
    line.end(out);
}

/// `tcp 10.0.0.2:40112 > 10.0.0.1:3516  eth0 ingress  102 B`, then what may be shown of it.
pub(super) fn sample(mut line: Line<'_>, sample: &SampleReport, out: &mut Vec<u8>) {
    tuple(&mut line, sample.transport, sample.source, sample.destination);
    line.column(0);
    line.foreign(Ink::Plain, &format!("{} ", sample.interface.name));
    line.put(Ink::Plain, sample.direction.name());
    line.column(0);
    line.put(Ink::Plain, &amount::bytes(u64::from(sample.length)));
    if sample.represents > 1 {
        line.put(Ink::Plain, &format!(", 1 of {}", sample.represents));
    }
    let shown = u64::try_from(sample.data.len()).unwrap_or(u64::MAX);
    let hidden = u64::from(sample.captured).saturating_sub(shown);
    if hidden > 0 {
        line.put(Ink::Faint, &format!(", {} not shown", amount::bytes(hidden)));
    }
    if sample.blanked > 0 {
        line.put(Ink::Faint, &format!(", {} blanked", amount::bytes(sample.blanked.into())));
    }
    let continued = line.continued();
    line.end(out);
    hexdump::lines(&continued, &sample.data, out);
}

/// `0.0.0.0%eth0:3516`, as `ss` writes a socket that is bound to an interface.
pub(super) fn local(listener: &ListenerReport) -> String {
    let Some(interface) = &listener.interface else {
        return listener.local.to_string();
    };
    let address = listener.local.to_string();
    match address.rsplit_once(':') {
        Some((ip, port)) => format!("{ip}%{interface}:{port}"),
        None => address,
    }
}

/// The `.socket` unit that opened it for a service.
pub(super) fn socket_unit(listener: &ListenerReport) -> Option<&str> {
    listener.unit.as_deref().filter(|unit| unit.ends_with(".socket"))
}

/// `nat > 10.0.3.2:22`: the ends that have another name on the other side of a translation.
fn nat(flow: &FlowReport) -> Option<String> {
    let (source, destination) = flow.nat?;
    let named = |is: Endpoint, there: Endpoint| (there != is).then(|| there.to_string());
    let ends = [named(flow.source, source), Some(">".to_owned())];
    let ends = ends.into_iter().chain([named(flow.destination, destination)]).flatten();
    Some(format!("nat {}", ends.collect::<Vec<_>>().join(" ")))
}

/// What the policy says, in words.
pub(super) fn verdict(verdict: &Verdict) -> (Ink, String) {
    match verdict {
        Verdict::Expected { rule, reason: _ } => (Ink::Good, format!("expected by {rule}")),
        Verdict::Unknown { nearest: _ } => (Ink::Alarming, "UNKNOWN".to_owned()),
    }
}

fn tuple(line: &mut Line<'_>, transport: Transport, source: Endpoint, destination: Endpoint) {
    line.first_column(40);
    line.put(Ink::Plain, &format!("{:<3} {source} > {destination}", transport.name()));
}
