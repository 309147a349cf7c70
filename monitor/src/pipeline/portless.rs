//! Sockets that get or send packets of a watched port without being on it: reported, and a finding where
//! somebody unknown waits for certain packets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::attribution::ProcessKey;
use crate::host::shown::Task;
use crate::owner::{Attribution, Evidence, Integrity, Owner, Role};
use crate::pipeline::findings::Ground;
use crate::pipeline::indicators::{self, Case};
use crate::pipeline::listeners::PATIENCE_NS;
use crate::pipeline::{Pipeline, evidence, judgement, next_steps};
use crate::report::{
    Body, Finding, FindingKind, PortlessFilter, PortlessReport, PortlessSocket, Severity, Technique,
};

/// Sockets that are known at a time: far more than are told of in one look.
const MAX_FOLLOWED: usize = 4096;

/// Those that are there, and those that wait for the names of their processes, and since when.
#[derive(Debug, Default)]
pub(super) struct Portless {
    /// By cookie; `None`: it has sent packets before it was found.
    there: BTreeMap<u64, Option<PortlessSocket>>,
    waiting: Vec<(PortlessSocket, Vec<ProcessKey>, u64)>,
}

impl Pipeline {
    /// Takes in sockets without a port, each with all who hold it.
    pub(super) fn found_portless(&mut self, found: Vec<(PortlessSocket, Vec<Task>)>, now_ns: u64) {
        for (socket, holders) in found {
            if self.portless.there.len() < MAX_FOLLOWED {
                self.portless.there.insert(socket.cookie, Some(socket.clone()));
            }
            let holders =
                holders.iter().map(|task| self.known.processes.present(task.pid, now_ns)).collect();
            self.portless.waiting.push((socket, holders, now_ns));
        }
    }

    /// Is this socket known as it is now? Somebody may have changed what filters it.
    pub fn knows_portless(&self, socket: &PortlessSocket) -> bool {
        let known = self.portless.there.get(&socket.cookie);
        known.is_some_and(|known| known.as_ref() == Some(socket))
    }

    /// A socket without a port was seen to answer: that it goes is of interest.
    pub(super) fn follow_portless(&mut self, cookie: u64) {
        if self.portless.there.len() < MAX_FOLLOWED {
            self.portless.there.entry(cookie).or_default();
        }
    }

    /// Of those that are known, the ones that are not among all there are now.
    pub fn missing_portless(&self, there: &BTreeSet<u64>) -> Vec<u64> {
        let known = self.portless.there.keys().copied();
        known.filter(|cookie| !there.contains(cookie)).collect()
    }

    /// Takes in that such sockets are closed.
    pub(super) fn portless_gone(&mut self, cookies: &[u64], now_ns: u64) {
        for &cookie in cookies {
            self.portless.there.remove(&cookie);
            self.close_portless(cookie, now_ns);
        }
    }

    fn close_portless(&mut self, cookie: u64, now_ns: u64) {
        let why = "The socket through which it got or sent packets is closed.";
        self.resolve_others(Ground::Stranger(cookie), &[], why, now_ns);
    }

    /// Reports those whose processes are known by now, or have not become known in time.
    pub(super) fn report_portless(&mut self, now_ns: u64, all: bool) {
        for (socket, holders, since_ns) in std::mem::take(&mut self.portless.waiting) {
            let waited = all || now_ns.saturating_sub(since_ns) >= PATIENCE_NS;
            if waited || holders.iter().all(|key| self.known.processes.is_settled(*key)) {
                self.report_portless_socket(socket, &holders, now_ns);
            } else {
                self.portless.waiting.push((socket, holders, since_ns));
            }
        }
    }

    fn report_portless_socket(
        &mut self,
        socket: PortlessSocket,
        holders: &[ProcessKey],
        now_ns: u64,
    ) {
        let owner = |key: &ProcessKey| {
            let (process, exited) = self.known.processes.get(*key)?;
            let process = Arc::clone(process);
            Some(Owner {
                side: None,
                role: Role::Holder,
                evidence: Evidence::Observed,
                exited,
                replaced: false,
                process,
            })
        };
        let owners: Vec<Owner> = holders.iter().filter_map(owner).collect();
        let attribution = if owners.is_empty() {
            Attribution::unknown("no process has a descriptor of it")
        } else {
            Attribution::of_processes("the process has a descriptor of the socket", owners)
        };
        let finding = self.judge_portless(&socket, &attribution, now_ns);
        let cookie = socket.cookie;
        let report = PortlessReport { socket, attribution };
        self.report(now_ns, Body::Portless(Box::new(report)));
        if let Some(finding) = finding {
            self.find(finding, Ground::Stranger(cookie), now_ns);
            // It may have gone while its processes were asked for.
            if !self.portless.there.contains_key(&cookie) {
                self.close_portless(cookie, now_ns);
            }
        }
    }

    /// A finding where the filter is after certain packets and whoever runs is not what a package of this
    /// host has installed: capture tools and DHCP clients are.
    fn judge_portless(
        &self,
        socket: &PortlessSocket,
        attribution: &Attribution,
        now_ns: u64,
    ) -> Option<Finding> {
        let filter = socket.filter.as_ref().filter(|filter| filter.reach.is_pointed())?;
        let owner = attribution.principal();
        let is_installed = |owner: &Owner| {
            let package = owner.process.packaging.package();
            package.is_some_and(|package| package.integrity == Integrity::Unmodified)
        };
        if owner.is_some_and(is_installed) {
            return None;
        }
        let message = format!(
            "{} gets packets through a {} whose filter {}: it can answer without listening.",
            judgement::who(owner),
            socket.kind,
            filter.reach.words()
        );
        let now_unix_ns = self.clock.unix_ns(now_ns);
        let case = Case::of(attribution, now_unix_ns, self.own_netns());
        let (indicators, mut techniques) = indicators::all(&case);
        techniques.insert(0, &Technique::TRAFFIC_SIGNALING);
        let severity = indicators::severity(Severity::High, &indicators);
        let program = owner.map(|owner| judgement::program(&owner.process)).unwrap_or_default();
        let subject = format!("{}|{}|{program}", socket.kind.name(), filter.reach.name());
        let mut lines = of_filter(filter);
        lines.extend(owner.into_iter().flat_map(|owner| evidence::of_owner(owner, now_unix_ns)));
        let mut next_steps = vec!["ss --packet --raw -p -e --bpf".to_owned()];
        next_steps.extend(owner.into_iter().flat_map(|it| next_steps::of_process(&it.process)));
        let kind = FindingKind::AnswerWithoutSocket;
        Some(Finding {
            indicators,
            evidence: lines,
            next_steps,
            techniques,
            ..Finding::new(kind, &subject, severity, message)
        })
    }
}

fn of_filter(filter: &PortlessFilter) -> Vec<String> {
    let mut lines = Vec::new();
    if !filter.payload.is_empty() {
        lines.push(format!("its filter compares the payload with {}", filter.payload.join(", ")));
    }
    if !filter.instructions.is_empty() {
        lines.push(format!("its filter: {}", filter.instructions.join("; ")));
    }
    lines
}
