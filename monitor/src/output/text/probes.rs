//! Flows that nobody answered or that were refused, when there are many: one line for each source and
//! interval instead of thousands. Documents (`--format json`) have every flow.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::report::{FlowChange, FlowReport, FlowRole, SampleReport};

use super::amount::{grouped, plural};
use super::line::{Ink, Line};

/// Such flows that are shown one by one in an interval: of one source, and of all.
const SHOWN_OF_SOURCE: u64 = 16;
const SHOWN: u64 = 64;
/// Sources that are counted one by one in an interval, and those of them that get a line.
const MAX_SOURCES: usize = 4096;
const MAX_LINES: usize = 8;
/// Ports that are counted one by one for a source.
const MAX_PORTS: usize = 4096;

/// What was not shown since the last interval.
#[derive(Clone, Debug, Default)]
pub(super) struct Probes {
    by_source: HashMap<IpAddr, Source>,
    /// Of sources beyond [`MAX_SOURCES`].
    others: Source,
    /// Such flows of all sources, shown or not.
    seen: u64,
}

#[derive(Clone, Debug, Default)]
struct Source {
    seen: u64,
    /// Flows, of those that were not shown.
    hidden: u64,
    refused: u64,
    unanswered: u64,
    ports: BTreeSet<u16>,
}

impl Probes {
    /// Is this flow one of too many, to be told as a number?
    pub(super) fn hides(&mut self, change: FlowChange, flow: &FlowReport) -> bool {
        let is_probe = match flow.role {
            // What comes from the port is nobody's probe.
            None => flow.destination.port == flow.port,
            role => matches!(role, Some(FlowRole::Refused | FlowRole::Unanswered)),
        };
        if !is_probe || change == FlowChange::Updated {
            return false;
        }
        let starts = u64::from(change == FlowChange::Started);
        self.seen += starts;
        let seen = self.seen;
        let source = self.source(flow.source.ip);
        source.seen += starts;
        if source.seen <= SHOWN_OF_SOURCE && seen <= SHOWN {
            return false;
        }
        source.hidden += starts;
        if change != FlowChange::Started {
            match flow.role {
                Some(FlowRole::Refused) => source.refused += 1,
                _ => source.unanswered += 1,
            }
        }
        if source.ports.len() < MAX_PORTS {
            source.ports.insert(flow.destination.port);
        }
        true
    }

    /// Is this packet from somebody whose flows are hidden?
    pub(super) fn hides_sample(&self, sample: &SampleReport) -> bool {
        self.by_source.get(&sample.source.ip).is_some_and(|source| source.hidden > 0)
    }

    /// The lines of an interval that is over: those with most flows first.
    pub(super) fn take(&mut self) -> Vec<Told> {
        let Self { by_source, others, seen: _ } = std::mem::take(self);
        let mut sources: Vec<(IpAddr, Source)> =
            by_source.into_iter().filter(|(_, source)| source.is_hidden()).collect();
        sources.sort_by_key(|(ip, source)| (std::cmp::Reverse(source.hidden), *ip));
        let rest = sources.split_off(sources.len().min(MAX_LINES));
        let mut told: Vec<Told> =
            sources.into_iter().map(|(ip, source)| Told { from: ip.to_string(), source }).collect();
        let from = match (rest.len(), others.is_hidden()) {
            (0, false) => return told,
            (count, false) => plural(number(count), "more source"),
            (count, true) => format!("more than {count} more sources"),
        };
        let source = rest.into_iter().fold(others, |sum, (_, source)| sum.and(source));
        told.push(Told { from, source });
        told
    }

    fn source(&mut self, ip: IpAddr) -> &mut Source {
        if self.by_source.len() >= MAX_SOURCES && !self.by_source.contains_key(&ip) {
            return &mut self.others;
        }
        self.by_source.entry(ip).or_default()
    }
}

impl Source {
    const fn is_hidden(&self) -> bool {
        self.hidden > 0 || self.refused > 0 || self.unanswered > 0
    }

    fn and(mut self, mut other: Self) -> Self {
        self.ports.append(&mut other.ports);
        Self {
            seen: self.seen + other.seen,
            hidden: self.hidden + other.hidden,
            refused: self.refused + other.refused,
            unanswered: self.unanswered + other.unanswered,
            ports: self.ports,
        }
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Told {
    from: String,
    source: Source,
}

/// `203.0.113.9: 1502 more flows not shown, to 3 ports  ended: 1482 refused, 20 unanswered`.
pub(super) fn probes(mut line: Line<'_>, told: &Told, out: &mut Vec<u8>) {
    let Told { from, source } = told;
    let ports = match source.ports.len() {
        1 => source.ports.first().map(|port| format!("port {port}")).unwrap_or_default(),
        count if count >= MAX_PORTS => format!("at least {} ports", grouped(number(count))),
        count => plural(number(count), "port"),
    };
    line.put(
        Ink::Notable,
        &format!("{from}: {} not shown, to {ports}", plural(source.hidden, "more flow")),
    );
    let ends = [(source.refused, "refused"), (source.unanswered, "unanswered")];
    let ends: Vec<String> = ends
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", grouped(count)))
        .collect();
    if !ends.is_empty() {
        line.column(0);
        line.put(Ink::Plain, &format!("ended: {}", ends.join(", ")));
    }
    line.end(out);
}
