//! What is found about who talks on a watched port, and how: he runs what has been deleted, or it looks
//! like what no service is for.

use crate::app::{Confidence, Protocol};
use crate::flow::{End, FlowId};
use crate::owner::{Owner, Process, Side};
use crate::pipeline::findings::Ground;
use crate::pipeline::indicators::{self, Case};
use crate::pipeline::judgement::{program, who};
use crate::pipeline::{Pipeline, evidence, next_steps};
use crate::report::{Finding, FindingKind, FlowReport, FlowRole, ListenerReport, Severity};

impl Pipeline {
    /// Takes in what is found about a flow. Once it is over, that is so no more.
    pub(super) fn judge_flow(
        &mut self,
        id: FlowId,
        found: Option<Finding>,
        over: bool,
        now_ns: u64,
    ) {
        let ground = Ground::Flow(id);
        if let Some(finding) = found {
            self.find(finding, ground, now_ns);
        }
        if over {
            let (low, high) = (id.endpoint(End::Low), id.endpoint(End::High));
            let transport = id.transport.name();
            let why = format!("The {transport} conversation between {low} and {high} is over.");
            self.resolve_others(ground, &[], &why, now_ns);
        }
    }

    /// Takes in what a conversation looks like: of the listeners that serve it, findings may be worse.
    pub(super) fn hear_of(&mut self, report: &FlowReport, now_ns: u64) {
        let Some(protocol) = no_service(report) else { return };
        let mut serve: Vec<u64> = self
            .open_reports()
            .filter(|listener| serves(listener, report))
            .map(|listener| listener.cookie)
            .collect();
        serve.sort_unstable();
        for cookie in serve {
            if self.speaks(cookie, protocol)
                && let Some((listener, expired)) = self.reported_listener(cookie, now_ns)
            {
                self.judge(&listener, expired.as_deref(), now_ns);
            }
        }
    }

    /// Somebody at one end runs what has been deleted.
    pub(super) fn found_at_ends(
        &self,
        id: FlowId,
        report: &FlowReport,
        now_ns: u64,
    ) -> Option<Finding> {
        let deleted =
            |owner: &&Owner| owner.process.deleted && !self.has_listener(report, &owner.process);
        let owner = report.attribution.owners.iter().find(deleted)?;
        let process = &*owner.process;
        let why = indicators::deleted(process)?;
        let kind = FindingKind::DeletedExecutable;
        let found_ns = self.findings.first_seen_ns(Ground::Flow(id), kind);
        let found_unix_ns = self.clock.unix_ns(found_ns.unwrap_or(now_ns));
        let case = Case::of_owner(owner, found_unix_ns, self.own_netns());
        let (indicators, techniques) = indicators::all(&case);
        let severity = indicators::severity(Severity::Low, &indicators);
        let (does, transport) = (does(owner.side), report.transport.name());
        let (source, destination) = (report.source, report.destination);
        let message =
            format!("{} {does} {transport} {source} > {destination}, and {why}.", who(Some(owner)));
        let side = owner.side.map_or("", Side::name);
        let subject = format!("{transport}|{}|{side}|{}", report.port, program(process));
        let mut finding = Finding::new(kind, &subject, severity, message);
        finding.indicators = indicators;
        finding.techniques = techniques;
        finding.evidence = vec![report.attribution.reason.clone()];
        finding.evidence.extend(evidence::of_owner(owner, found_unix_ns));
        finding.next_steps = next_steps::of_talker(owner, report.port, &finding.id);
        finding.flow = Some(Box::new(report.clone()));
        Some(finding)
    }

    /// The same program has a listener on the port: then that is a finding already.
    fn has_listener(&self, flow: &FlowReport, process: &Process) -> bool {
        let is_same = |owner: &Owner| {
            (&owner.process.executable, &owner.process.sha256)
                == (&process.executable, &process.sha256)
        };
        self.open_reports().any(|listener| {
            listener.local.port == flow.port
                && listener.transport == flow.transport
                && listener.attribution.owners.iter().any(is_same)
        })
    }
}

/// What a conversation looks like for sure enough, if that is what somebody else runs commands by or goes
/// on through.
fn no_service(report: &FlowReport) -> Option<Protocol> {
    let app = report.app.as_ref()?;
    let is_sure = app.confidence.is_some_and(|confidence| confidence >= Confidence::Likely);
    let is_none = matches!(app.protocol, Protocol::Shell | Protocol::Socks);
    (is_sure && is_none && report.role == Some(FlowRole::Server)).then_some(app.protocol)
}

/// Somebody who has the listener is at the end of the conversation that was called.
fn serves(listener: &ListenerReport, flow: &FlowReport) -> bool {
    let is_at_the_end = |process: &Process| {
        flow.attribution.owners.iter().any(|owner| {
            owner.side == Some(Side::Destination)
                && (owner.process.pid, owner.process.start_ticks)
                    == (process.pid, process.start_ticks)
        })
    };
    (listener.transport, listener.local.port) == (flow.transport, flow.destination.port)
        && listener.attribution.owners.iter().any(|owner| is_at_the_end(&owner.process))
}

const fn does(side: Option<Side>) -> &'static str {
    match side {
        Some(Side::Source) => "has opened",
        Some(Side::Destination) | None => "serves",
    }
}
