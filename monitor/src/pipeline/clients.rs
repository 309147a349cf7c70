//! What is found about who talks on a watched port: that what he runs has been deleted.

use crate::flow::{End, FlowId};
use crate::owner::{Owner, Process, Side};
use crate::pipeline::findings::Ground;
use crate::pipeline::indicators::{self, Case};
use crate::pipeline::judgement::{program, who};
use crate::pipeline::{Pipeline, evidence, next_steps};
use crate::report::{Finding, FindingKind, FlowReport, Severity};

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

const fn does(side: Option<Side>) -> &'static str {
    match side {
        Some(Side::Source) => "has opened",
        Some(Side::Destination) | None => "serves",
    }
}
