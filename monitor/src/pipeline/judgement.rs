//! What is found about a listener: that nobody expects it, or nobody any more.

use std::os::unix::ffi::OsStrExt as _;

use crate::endpoint::{Netns, Transport};
use crate::escape::text_from_bytes;
use crate::owner::{Owner, Ownership, Process};
use crate::pipeline::findings::Ground;
use crate::pipeline::indicators::{self, Case};
use crate::pipeline::{Pipeline, evidence, next_steps};
use crate::report::{Finding, FindingKind, ListenerReport, NearMiss, Severity, Technique, Verdict};

impl Pipeline {
    /// Finds what there is to find about a listener, and that the rest is so no more. `expired` is the
    /// rule that would expect it.
    pub(super) fn judge(&mut self, report: &ListenerReport, expired: Option<&str>, now_ns: u64) {
        let ground = Ground::Listener(report.cookie);
        let unexpected = self.unexpected(report, expired, now_ns);
        let found: Vec<Finding> =
            unexpected.into_iter().chain(self.deleted(report, now_ns)).collect();
        let kinds: Vec<FindingKind> = found.iter().map(|finding| finding.kind).collect();
        for finding in found {
            self.find(finding, ground, now_ns);
        }
        let listens = listens(report);
        let who = who_has(report, report.attribution.principal());
        let why = match &report.verdict {
            Verdict::Expected { rule, .. } => {
                format!("{who} {listens}, and the rule {rule} expects it now.")
            }
            Verdict::Unknown { .. } => format!("{who} {listens}, which is another finding now."),
        };
        self.resolve_others(ground, &kinds, &why, now_ns);
    }

    /// The listener is gone, and what was found about it is so no more.
    pub(super) fn judge_closed(&mut self, report: &ListenerReport, now_ns: u64) {
        let place = place(report);
        let was = who_has(report, report.attribution.principal());
        let why = format!("The listener on {place} is gone. It was the one of {was}.");
        let heirs = self.resolve_others(Ground::Listener(report.cookie), &[], &why, now_ns);
        for heir in heirs {
            let Ground::Listener(cookie) = heir else { continue };
            if let Some((report, expired)) = self.reported_listener(cookie, now_ns) {
                self.judge(&report, expired.as_deref(), now_ns);
            }
        }
    }

    fn unexpected(
        &self,
        report: &ListenerReport,
        expired: Option<&str>,
        now_ns: u64,
    ) -> Option<Finding> {
        let Verdict::Unknown { nearest } = &report.verdict else { return None };
        let changed = nearest.as_ref().filter(|nearest| nearest.is_change);
        let (kind, base) = match (expired, changed) {
            (Some(_), _) => (FindingKind::ExpiredRule, Severity::Medium),
            (None, Some(_)) => (FindingKind::ChangedListener, Severity::High),
            (None, None) if report.local.ip.is_loopback() => {
                (FindingKind::UnknownListener, Severity::Medium)
            }
            (None, None) => (FindingKind::UnknownListener, Severity::High),
        };
        let why = match (expired, nearest) {
            (Some(rule), _) => format!("the rule {rule} that expected it has expired"),
            (None, Some(NearMiss { rule, differences, is_change: true })) => {
                let differences: Vec<String> =
                    differences.iter().map(ToString::to_string).collect();
                format!("the rule {rule} expects somebody else there: {}", differences.join("; "))
            }
            (None, Some(NearMiss { rule, differences, .. })) => {
                let differences: Vec<String> =
                    differences.iter().map(ToString::to_string).collect();
                format!("the nearest rule is {rule}, but {}", differences.join("; "))
            }
            (None, None) => "no policy rule expects it".to_owned(),
        };
        let owner = report.attribution.principal();
        let mut finding = self.about(report, kind, base, (owner, &why), now_ns);
        finding.nearest.clone_from(nearest);
        finding.techniques.insert(0, &Technique::NON_STANDARD_PORT);
        Some(finding)
    }

    /// What somebody who has the listener runs has been deleted, or never was a file. Whether a rule
    /// expects that does not matter; the indicators say how bad it is.
    fn deleted(&self, report: &ListenerReport, now_ns: u64) -> Option<Finding> {
        let case = Case::of(&report.attribution, 0, 0);
        let owner = case.owner(|process| process.deleted)?;
        let why = indicators::deleted(&owner.process)?;
        let kind = FindingKind::DeletedExecutable;
        Some(self.about(report, kind, Severity::Low, (Some(owner), &why), now_ns))
    }

    /// A finding about a listener, with all that is known of it: `owner` is who does what, and `why`
    /// that is one.
    fn about(
        &self,
        report: &ListenerReport,
        kind: FindingKind,
        base: Severity,
        (owner, why): (Option<&Owner>, &str),
        now_ns: u64,
    ) -> Finding {
        let found_ns = self.findings.first_seen_ns(Ground::Listener(report.cookie), kind);
        let found_unix_ns = self.clock.unix_ns(found_ns.unwrap_or(now_ns));
        let case = Case::of(&report.attribution, found_unix_ns, self.own_netns());
        let spoken = self.spoken_with(report.cookie);
        let (indicators, techniques) = indicators::all(&case.with_listener(report, spoken));
        let severity = indicators::severity(base, &indicators);
        let message = format!("{} {}, and {why}.", who_has(report, owner), listens(report));
        let mut finding = Finding::new(kind, &self.subject(report), severity, message);
        finding.indicators = indicators;
        finding.techniques = techniques;
        finding.evidence = evidence::of_listener(report, owner, found_unix_ns);
        finding.next_steps = next_steps::of_listener(report, &finding.id, self.own_netns());
        finding.listener = Some(Box::new(report.clone()));
        finding
    }

    /// What makes two listeners the same to a person: where they listen, and what program they are. What
    /// init has is the same whether somebody serves there just now or not.
    fn subject(&self, report: &ListenerReport) -> String {
        let netns = report.netns.as_ref().map_or_else(String::new, |netns| self.whose(netns));
        let init = report.attribution.owners.iter().find(|owner| owner.is_init_holding());
        let principal = init.or_else(|| report.attribution.principal());
        let program = principal.map(|owner| program(&owner.process)).unwrap_or_default();
        format!("{}|{}|{netns}|{program}", report.transport.name(), report.local)
    }

    /// A name of a network namespace that outlives a restart of the host, where it has one.
    pub(super) fn whose(&self, netns: &Netns) -> String {
        if netns.inode == self.own_netns() { "host".to_owned() } else { netns.to_string() }
    }

    /// The namespace that portwatch runs in.
    pub(super) fn own_netns(&self) -> u64 {
        self.known.observed.get(&0).copied().unwrap_or_default()
    }
}

/// Who has a listener: the kernel, or this process.
fn who_has(report: &ListenerReport, owner: Option<&Owner>) -> String {
    match report.attribution.ownership {
        Ownership::Kernel => "The kernel itself".to_owned(),
        _ => who(owner),
    }
}

/// `cardbridged (pid 4712, user root)`.
pub(super) fn who(owner: Option<&Owner>) -> String {
    let Some(owner) = owner else {
        return "Something no process can be named for".to_owned();
    };
    let process = &owner.process;
    let user = process.user.clone().or_else(|| process.uid.map(|uid| format!("uid {uid}")));
    let user = user.map(|user| format!(", user {user}")).unwrap_or_default();
    let gone = if owner.exited { ", exited" } else { "" };
    format!("{} (pid {}{user}{gone})", name(process), process.pid)
}

pub(super) fn name(process: &Process) -> String {
    if process.name.is_empty() { "an unnamed process".to_owned() } else { process.name.clone() }
}

/// What runs, as far as it is the same after a restart.
pub(super) fn program(process: &Process) -> String {
    match &process.executable {
        Some(path) => text_from_bytes(path.as_os_str().as_bytes()).into_owned(),
        None => process.name.clone(),
    }
}

/// `listens on tcp 0.0.0.0:3516 on all addresses`.
fn listens(report: &ListenerReport) -> String {
    let verb = match report.transport {
        Transport::Tcp => "listens",
        Transport::Udp => "receives datagrams",
    };
    format!("{verb} on {}", place(report))
}

fn place(report: &ListenerReport) -> String {
    let all = if report.on_all_addresses() { " on all addresses" } else { "" };
    let netns = match report.netns.as_ref().and_then(|netns| netns.name.as_ref()) {
        Some(name) => format!(" in network namespace {name}"),
        None => String::new(),
    };
    format!("{} {}{all}{netns}", report.transport.name(), report.local)
}
