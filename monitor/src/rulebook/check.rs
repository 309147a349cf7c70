//! `policy check`: is it a policy, what does each rule match here, and does it do what it looks like?

use std::path::PathBuf;

use jiff::civil::Date;

use super::{lint, print};
use crate::cli::{self, Format};
use crate::clock::{self, Clock};
use crate::crossview::Wanted;
use crate::failure::{self, Failure};
use crate::host::identity::Identity;
use crate::output::rules;
use crate::output::text::{self, Look};
use crate::policy::{ClientView, ListenerView, Policy, RuleKind, Written};
use crate::ports::PortSet;
use crate::report::{
    Body, FlowReport, ListenerReport, Report, Review, RuleReview, RunStarted, Verdict,
};
use crate::scan;
use crate::session::policy::PLACE;

/// The port that is watched unless another is named.
const DEFAULT_PORT: u16 = 3516;

/// Looks and says what there is to say; the exit code.
pub(super) async fn run(
    args: cli::CheckPolicy,
    identity: &Identity,
    look: &Look,
) -> Result<u8, Failure> {
    let file = args.file.unwrap_or_else(|| PathBuf::from(PLACE));
    let policy = Policy::load(&file).map_err(|error| Failure::Usage(error.to_string()))?;
    let named = (!args.port.is_empty()).then(|| cli::union(&args.port));
    let ports = named.clone().unwrap_or_else(|| ports_of(&policy));
    let mut looking = scan::Look::begin(Wanted::of(&ports), policy.clone(), identity)?;
    looking.complete(None).await;
    let today = Clock::of_host().date(clock::boot_ns());
    let seen = Seen::of(looking.take_reports());
    let host = lint::Host::new(today, named);
    let review = review(file.to_string_lossy().into_owned(), &ports, &policy, seen, &host);
    let code = if review.is_clean() { failure::DONE } else { failure::FINDINGS };
    Ok(match args.format {
        Format::Text => print(&text::review(&review, look), code),
        Format::Json => print(&rules::review(&review), code),
    })
}

/// What one look has found.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) listeners: Vec<ListenerReport>,
    pub(super) flows: Vec<FlowReport>,
    pub(super) degraded: Vec<String>,
}

impl Seen {
    pub(super) fn of(reports: Vec<Report>) -> Self {
        let mut seen = Self::default();
        for report in reports {
            match report.body {
                Body::RunStarted(RunStarted { degraded, .. }) => seen.degraded = degraded,
                Body::Listener(_, listener) => seen.listeners.push(*listener),
                Body::Flow(_, flow) => seen.flows.push(*flow),
                _ => {}
            }
        }
        seen
    }
}

/// The ports that the rules name; of a rule that names none the default one.
fn ports_of(policy: &Policy) -> PortSet {
    let ports: PortSet = policy
        .rules()
        .flat_map(|rule| {
            rule.ports()
                .cloned()
                .unwrap_or_else(|| PortSet::from(DEFAULT_PORT))
                .iter()
                .collect::<Vec<_>>()
        })
        .collect();
    if ports.iter().next().is_none() { PortSet::from(DEFAULT_PORT) } else { ports }
}

fn review(file: String, ports: &PortSet, policy: &Policy, seen: Seen, host: &lint::Host) -> Review {
    let rules: Vec<Written<'_>> = policy.rules().collect();
    let reviews = rules.iter().enumerate().map(|(position, rule)| {
        let earlier = rules.get(..position).unwrap_or_default();
        RuleReview {
            kind: rule.kind().name(),
            id: rule.id().to_owned(),
            line: rule.place(None).0,
            listeners: listeners(rule, &seen, host.today()),
            clients: clients(rule, &seen, host.today()),
            warnings: lint::warnings(rule, earlier, &seen, host),
        }
    });
    let reviews = reviews.collect();
    let is_unexpected = |flow: &FlowReport| {
        policy.has_clients()
            && ClientView::of(flow).is_some_and(|client| {
                let judgement = policy.judge_client(&client, host.today());
                matches!(judgement.verdict, Verdict::Unknown { .. })
            })
    };
    let Seen { listeners, flows, degraded } = seen;
    let is_unknown = |it: &ListenerReport| matches!(it.verdict, Verdict::Unknown { .. });
    Review {
        file,
        ports: ports.to_string(),
        rules: reviews,
        unexpected: listeners.into_iter().filter(is_unknown).collect(),
        unexpected_clients: flows.into_iter().filter(|flow| is_unexpected(flow)).collect(),
        degraded,
    }
}

fn listeners(rule: &Written<'_>, seen: &Seen, today: Date) -> Vec<ListenerReport> {
    let expects = |it: &&ListenerReport| rule.expects(&ListenerView::from(*it), today);
    seen.listeners.iter().filter(expects).cloned().collect()
}

fn clients(rule: &Written<'_>, seen: &Seen, today: Date) -> Vec<FlowReport> {
    if rule.kind() == RuleKind::Listener {
        return Vec::new();
    }
    let expects = |flow: &&FlowReport| {
        ClientView::of(flow).is_some_and(|client| rule.expects_client(&client, today))
    };
    seen.flows.iter().filter(expects).cloned().collect()
}
