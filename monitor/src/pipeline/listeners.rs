//! Listeners: found, opened, updated, closed; and the finding when nobody expects one.

use std::collections::{HashMap, HashSet};

use crate::attribution::Socket;
use crate::endpoint::{Endpoint, Transport};
use crate::owner::{Integrity, Owner, Process};
use crate::pipeline::{Pipeline, evidence};
use crate::policy::ListenerView;
use crate::report::{
    Body, FindingKind, FindingReport, ListenerChange, ListenerReport, NearMiss, Verdict,
};

/// A listener is reported when everything about it is known, or after this long.
pub(super) const PATIENCE_NS: u64 = 500_000_000;

/// What was reported of listeners.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// Open listeners by cookie, as last reported.
    reported: HashMap<u64, ListenerReport>,
    /// Changed, but not everything is known yet; since when.
    waiting: HashMap<u64, u64>,
    /// What findings were about: the same listener again is no news. Bounded: whoever names their
    /// processes anew each time is told of again, and does not fill our memory.
    found_before: HashSet<Identity>,
    /// Findings about the open listeners: a name that becomes known later is no second one.
    found_now: HashMap<u64, HashSet<FindingKind>>,
}

/// Identities remembered before all are forgotten.
const MAX_IDENTITIES: usize = 16_384;

impl Listeners {
    /// The listener is closed; true if it had been reported.
    fn forget(&mut self, cookie: u64) -> bool {
        self.found_now.remove(&cookie);
        self.reported.remove(&cookie).is_some()
    }

    /// Is a finding of this kind about this listener news?
    fn is_news(&mut self, cookie: u64, identity: Identity) -> bool {
        if self.found_before.len() >= MAX_IDENTITIES {
            self.found_before.clear();
        }
        let new_here = self.found_now.entry(cookie).or_default().insert(identity.0);
        self.found_before.insert(identity) && new_here
    }
}

/// What makes two listeners the same to a person.
type Identity = (FindingKind, Transport, Endpoint, Option<u64>, String);

impl Pipeline {
    /// Reports what changed and is settled, or has waited long enough; with `all`, everything.
    pub(super) fn report_listeners(&mut self, now_ns: u64, all: bool) {
        for cookie in self.known.sockets.take_changed() {
            self.listeners.waiting.entry(cookie).or_insert(now_ns);
        }
        let mut ready: Vec<u64> = Vec::new();
        for (&cookie, &since_ns) in &self.listeners.waiting {
            let waited = all || now_ns.saturating_sub(since_ns) >= PATIENCE_NS;
            let settled = self
                .known
                .sockets
                .get(cookie)
                .is_none_or(|socket| self.known.of_socket(socket).settled);
            if waited || settled {
                ready.push(cookie);
            }
        }
        ready.sort_unstable();
        for cookie in ready {
            self.listeners.waiting.remove(&cookie);
            if let Some(socket) = self.known.sockets.get(cookie).cloned() {
                self.report_listener(&socket, now_ns);
            }
        }
    }

    fn report_listener(&mut self, socket: &Socket, now_ns: u64) {
        let Some((report, expired)) = self.listener_report(socket, now_ns) else { return };
        if !socket.listens {
            // A datagram socket that was connected: from now on only one peer can reach it.
            if self.listeners.forget(socket.cookie) {
                let time_ns = socket.closed_ns.unwrap_or(now_ns);
                self.report(time_ns, Body::Listener(ListenerChange::Closed, Box::new(report)));
            }
            return;
        }
        let before = self.listeners.reported.get(&socket.cookie);
        let change = match before {
            None if socket.found => Some((ListenerChange::Found, now_ns)),
            None => Some((ListenerChange::Opened, socket.since_ns)),
            // The last change of a closed listener is part of the report that it is closed.
            Some(before) if *before != report && socket.closed_ns.is_none() => {
                Some((ListenerChange::Updated, now_ns))
            }
            Some(_) => None,
        };
        if let Some((change, time_ns)) = change {
            if change != ListenerChange::Updated {
                self.counting.listeners += 1;
            }
            self.listeners.reported.insert(socket.cookie, report.clone());
            self.report(time_ns, Body::Listener(change, Box::new(report.clone())));
            self.judge(&report, expired.as_deref(), now_ns);
        }
        if let Some(closed_ns) = socket.closed_ns
            && self.listeners.forget(socket.cookie)
        {
            self.known.sockets.no_longer_listens(socket.cookie);
            self.report(closed_ns, Body::Listener(ListenerChange::Closed, Box::new(report)));
        }
    }

    fn listener_report(
        &self,
        socket: &Socket,
        now_ns: u64,
    ) -> Option<(ListenerReport, Option<String>)> {
        let local = socket.local?;
        let attribution = self.known.of_socket(socket).attribution;
        let view = ListenerView { local, transport: socket.transport, attribution: &attribution };
        let judgement = self.policy.judge(&view, self.clock.date(now_ns));
        let report = ListenerReport {
            local,
            transport: socket.transport,
            family: socket.family,
            netns: socket.netns.clone(),
            interface: (socket.interface != 0)
                .then(|| self.observed.name(socket.netns.as_ref(), socket.interface)),
            cookie: socket.cookie,
            attribution,
            verdict: judgement.verdict,
        };
        Some((report, judgement.expired))
    }

    /// Reports a finding for a listener that no rule expects, once.
    fn judge(&mut self, report: &ListenerReport, expired: Option<&str>, now_ns: u64) {
        let Verdict::Unknown { nearest } = &report.verdict else { return };
        let owner = report.attribution.principal();
        let name = owner.map(|owner| name(&owner.process)).unwrap_or_default();
        let netns = report.netns.as_ref().map(|netns| netns.inode);
        let (kind, nearest) = match expired {
            Some(_) => (FindingKind::ExpiredRule, nearest.clone()),
            None => (FindingKind::UnknownListener, nearest.clone()),
        };
        let identity = (kind, report.transport, report.local, netns, name);
        if !self.listeners.is_news(report.cookie, identity) {
            return;
        }
        let finding = FindingReport {
            kind,
            severity: severity(report),
            message: sentence(report, owner, expired, nearest.as_ref()),
            evidence: evidence::of_listener(report, owner, self.clock.unix_ns(now_ns)),
            nearest,
            listener: Some(Box::new(report.clone())),
        };
        self.find(finding, now_ns);
    }
}

/// ECS severities as Elastic's own rules use them.
pub(super) const MEDIUM: u8 = 47;
pub(super) const HIGH: u8 = 73;
pub(super) const CRITICAL: u8 = 99;

fn severity(report: &ListenerReport) -> u8 {
    let tampered = |process: &Process| {
        let package = process.packaging.package();
        process.deleted || package.is_some_and(|it| it.integrity == Integrity::Modified)
    };
    if report.attribution.owners.iter().any(|owner| tampered(&owner.process)) {
        CRITICAL
    } else if report.local.ip.is_loopback() {
        MEDIUM
    } else {
        HIGH
    }
}

/// One sentence a colleague would understand.
fn sentence(
    report: &ListenerReport,
    owner: Option<&Owner>,
    expired: Option<&str>,
    nearest: Option<&NearMiss>,
) -> String {
    let who = match owner {
        Some(owner) => {
            let process = &owner.process;
            let user = process.user.clone().or_else(|| process.uid.map(|uid| format!("uid {uid}")));
            let user = user.map(|user| format!(", user {user}")).unwrap_or_default();
            let gone = if owner.exited { ", exited" } else { "" };
            format!("{} (pid {}{user}{gone})", name(process), process.pid)
        }
        None => "Something no process can be named for".to_owned(),
    };
    let place = if report.on_all_addresses() { " on all addresses" } else { "" };
    let netns = match report.netns.as_ref().and_then(|netns| netns.name.as_ref()) {
        Some(name) => format!(" in network namespace {name}"),
        None => String::new(),
    };
    let listens = match report.transport {
        Transport::Tcp => "listens",
        Transport::Udp => "receives datagrams",
    };
    let transport = report.transport.name();
    let local = report.local;
    let why = match (expired, nearest) {
        (Some(rule), _) => format!("the rule {rule} that expected it has expired"),
        (None, Some(nearest)) => {
            let differences: Vec<String> =
                nearest.differences.iter().map(ToString::to_string).collect();
            let differences = differences.join("; ");
            format!("the nearest rule is {}, but {differences}", nearest.rule)
        }
        (None, None) => "no policy rule expects it".to_owned(),
    };
    format!("{who} {listens} on {transport} {local}{place}{netns}, and {why}.")
}

pub(super) fn name(process: &Process) -> String {
    if process.name.is_empty() { "an unnamed process".to_owned() } else { process.name.clone() }
}
