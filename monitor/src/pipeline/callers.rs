//! Who talks on the watched ports, where the policy says who may: a finding for whom no rule expects.
//!
//! A finding is about a process, by what it runs and as whom, and the address it talks to; or about the
//! address of another host. Beyond some of a kind they are one finding with their number: who comes from
//! thousands of addresses makes a number, not thousands of findings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use monitor_ebpf::packet::tcp;

use crate::endpoint::Transport;
use crate::flow::{Flow, FlowId};
use crate::owner::{Attribution, Owner, Process, Role, Side};
use crate::pipeline::findings::Ground;
use crate::pipeline::indicators::{self, Case};
use crate::pipeline::{Pipeline, evidence, judgement, next_steps};
use crate::policy::{ClientView, Judgement};
use crate::report::{
    Finding, FindingKind, FlowChange, FlowReport, FlowRole, NearMiss, Severity, Technique, Verdict,
};

/// A client is judged when everything about it is known, or after this long.
const PATIENCE_NS: u64 = 1_500_000_000;
/// Flows that wait for that; others are judged when they are next reported.
const MAX_WAITING: usize = 4096;
/// Addresses of one kind of client that have findings of their own, and those that are told apart at all.
const ALONE: usize = 16;
const MAX_ADDRESSES: usize = 16_384;
/// What else is found about flows, which a policy has no say in.
const OTHERS: &[FindingKind] = &[FindingKind::DeletedExecutable];
/// Kinds of clients that are told apart.
const MAX_KINDS: usize = 256;

/// What is known of clients that no rule expects.
#[derive(Debug, Default)]
pub(super) struct Callers {
    /// Flows that have started, and since when their clients are being looked up.
    waiting: BTreeMap<FlowId, u64>,
    unexpected: BTreeMap<Kind, Addresses>,
}

/// What makes clients the same to a person, their addresses aside: port, transport, and of those on this
/// host what they run and as whom.
type Kind = (u16, Transport, Option<String>);

/// The addresses of one kind of client.
#[derive(Debug, Default)]
struct Addresses {
    alone: BTreeSet<IpAddr>,
    beyond: BTreeSet<IpAddr>,
}

/// What is to be found of a client.
enum Found {
    /// It alone.
    Alone,
    /// It is one of so many.
    OneOf(usize),
    /// It is one of many, which is found already.
    Known,
}

impl Callers {
    fn meet(&mut self, kind: &Kind, address: IpAddr) -> Found {
        if !self.unexpected.contains_key(kind) && self.unexpected.len() >= MAX_KINDS {
            return Found::Known;
        }
        let Addresses { alone, beyond } = self.unexpected.entry(kind.clone()).or_default();
        if alone.contains(&address) {
            return Found::Alone;
        }
        if alone.len() < ALONE {
            alone.insert(address);
            return Found::Alone;
        }
        if beyond.len() >= MAX_ADDRESSES || !beyond.insert(address) {
            return Found::Known;
        }
        match beyond.len() {
            // Each time there are twice as many.
            more if more.is_power_of_two() => Found::OneOf(ALONE + more),
            _ => Found::Known,
        }
    }
}

impl Pipeline {
    /// Everybody is to be judged by another policy.
    pub(super) fn judge_callers_anew(&mut self) {
        self.callers = Callers::default();
    }

    /// A flow has started: its client is judged once it is known.
    pub(super) fn await_caller(&mut self, flow: &Flow, now_ns: u64) {
        if self.policy.has_clients() && self.callers.waiting.len() < MAX_WAITING {
            self.callers.waiting.insert(flow.id, now_ns);
        }
    }

    /// Judges the clients that are known by now, or have not become known in time.
    pub(super) fn report_callers(&mut self, now_ns: u64) {
        for (id, since_ns) in std::mem::take(&mut self.callers.waiting) {
            // One that is over was judged when that was reported.
            let Some(flow) = self.flows.get(&id).cloned() else { continue };
            let has_waited = now_ns.saturating_sub(since_ns) >= PATIENCE_NS;
            let role = flow.role(&self.ports, false, now_ns);
            let is_known = role.is_some() && self.known.of_flow(&flow, role).settled;
            if is_known || has_waited {
                let report = self.flow_report(&flow, false, now_ns);
                self.judge_call(&flow, FlowChange::Updated, &report, now_ns);
            } else {
                self.callers.waiting.insert(id, since_ns);
            }
        }
    }

    /// Judges the client of a flow that is reported.
    pub(super) fn judge_call(
        &mut self,
        flow: &Flow,
        change: FlowChange,
        report: &FlowReport,
        now_ns: u64,
    ) {
        // Who has not even acknowledged our answer may have given any address as its own.
        let acknowledged = flow.tcp_flags.of(flow.opener) & tcp::ACK != 0;
        let is_proven = report.role != Some(FlowRole::Server)
            || report.transport == Transport::Udp
            || acknowledged;
        if change != FlowChange::Started && is_proven {
            self.judge_caller(flow.id, report, now_ns);
        }
    }

    /// Judges a client, if the policy says who may be one.
    pub(super) fn judge_caller(&mut self, id: FlowId, report: &FlowReport, now_ns: u64) {
        if !self.policy.has_clients() {
            return;
        }
        let Some(client) = ClientView::of(report) else { return };
        let judgement = self.policy.judge_client(&client, self.clock.date(now_ns));
        if let Verdict::Expected { rule, .. } = &judgement.verdict {
            let (who, there) = (who(report), there(report));
            let why = format!("{who} talks to {there}, and the client rule {rule} expects it now.");
            self.resolve_others(Ground::Flow(id), OTHERS, &why, now_ns);
            return;
        }
        let kind = (client.port, client.transport, client.is_here.then(|| program(report)));
        let (ground, subject, message) = match self.callers.meet(&kind, client.remote) {
            Found::Known => return,
            Found::Alone => {
                let message =
                    format!("{} talks to {}, and {}.", who(report), there(report), why(&judgement));
                (Ground::Flow(id), client.remote.to_string(), message)
            }
            Found::OneOf(count) => {
                let ground = Ground::Clients(client.port, client.transport, client.is_here);
                (ground, "many".to_owned(), crowd(report, &client, count))
            }
        };
        let (port, transport, program) = kind;
        let program = program.unwrap_or_default();
        let subject = format!("{port}|{}|{program}|{subject}", transport.name());
        let about = (&*subject, message);
        let finding = self.client_finding(report, &client, &judgement, about, now_ns);
        self.find(finding, ground, now_ns);
    }

    fn client_finding(
        &self,
        report: &FlowReport,
        client: &ClientView<'_>,
        judgement: &Judgement,
        (subject, message): (&str, String),
        now_ns: u64,
    ) -> Finding {
        let now_unix_ns = self.clock.unix_ns(now_ns);
        let owners: Vec<Owner> = owners(report).cloned().collect();
        let owner = principal(report);
        let case = Attribution { owners, ..report.attribution.clone() };
        let case = Case::of(&case, now_unix_ns, self.own_netns());
        let (indicators, mut techniques) = indicators::all(&case);
        let severity = indicators::severity(Severity::Medium, &indicators);
        if client.is_here {
            techniques.insert(0, &Technique::NON_STANDARD_PORT);
        }
        let mut evidence = vec![report.attribution.reason.clone()];
        evidence.extend(owner.into_iter().flat_map(|it| evidence::of_owner(it, now_unix_ns)));
        let mut steps = Vec::new();
        if let Some(Owner { process, .. }) = owner {
            steps.push(format!("portwatch policy explain {}", process.pid));
            steps.extend(next_steps::of_process(process));
        }
        steps.push(format!("portwatch scan --port {}", client.port));
        Finding {
            indicators,
            evidence,
            nearest: match &judgement.verdict {
                Verdict::Unknown { nearest } => nearest.clone(),
                Verdict::Expected { .. } => None,
            },
            next_steps: steps,
            techniques,
            flow: Some(Box::new(report.clone())),
            ..Finding::new(FindingKind::UnknownClient, subject, severity, message)
        }
    }
}

/// The processes that called, where they are on this host.
fn owners(report: &FlowReport) -> impl Iterator<Item = &Owner> {
    report.attribution.owners.iter().filter(|owner| owner.side == Some(Side::Source))
}

/// The one to name: who let go of it only if nobody else is known.
fn principal(report: &FlowReport) -> Option<&Owner> {
    owners(report).find(|owner| owner.role != Role::Releaser).or_else(|| owners(report).next())
}

/// What the client of this host runs, and as whom.
fn program(report: &FlowReport) -> String {
    let Some(owner) = principal(report) else { return String::new() };
    let process: &Process = &owner.process;
    let user = process.user.clone().or_else(|| process.uid.map(|uid| uid.to_string()));
    format!("{} as {}", judgement::program(process), user.unwrap_or_default())
}

/// `curl (pid 4242, user alice)`, or the address of another host.
fn who(report: &FlowReport) -> String {
    match principal(report) {
        None if report.role == Some(FlowRole::Server) => report.source.ip.to_string(),
        owner => judgement::who(owner),
    }
}

/// `tcp 10.0.0.1:3516`.
fn there(report: &FlowReport) -> String {
    format!("{} {}", report.transport.name(), report.destination)
}

fn crowd(report: &FlowReport, client: &ClientView<'_>, count: usize) -> String {
    let (transport, port, who) = (client.transport.name(), client.port, who(report));
    if client.is_here {
        format!(
            "{who} has talked to {count} addresses or more on {transport} port {port} to which no client \
             rule expects it to."
        )
    } else {
        format!(
            "{count} addresses or more that no client rule expects have talked to {transport} port {port} \
             of this host; the last one seen is {who}."
        )
    }
}

fn why(judgement: &Judgement) -> String {
    let nearest = match &judgement.verdict {
        Verdict::Unknown { nearest } => nearest.as_ref(),
        Verdict::Expected { .. } => None,
    };
    match (&judgement.expired, nearest) {
        (Some(rule), _) => format!("the client rule {rule} that expected it has expired"),
        (None, Some(NearMiss { rule, differences, .. })) => {
            let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
            format!("the nearest client rule is {rule}, but {}", differences.join("; "))
        }
        (None, None) => "no client rule expects it".to_owned(),
    }
}
