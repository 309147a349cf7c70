//! Findings: `rule`, `threat`, the sentence, what it rests on, and what to do next.

use serde::Serialize;

use crate::report::{
    Finding, FindingReport, FindingState, FlowChange, Indicator, NearMiss, Technique, ViewReport,
};

use super::document::{Document, Rule, Time, known};

impl<'a> Document<'a> {
    /// A finding, with all that is known of the listener or flow it is about.
    pub(super) fn finding(&mut self, report: &'a FindingReport) {
        let FindingReport {
            state,
            first_seen_unix_ns,
            last_seen_unix_ns,
            occurrences,
            changes,
            finding,
        } = report;
        if let Some(listener) = &finding.listener {
            self.listener(listener);
        }
        if let Some(flow) = &finding.flow {
            self.flow(FlowChange::Updated, flow);
        }
        let kind = finding.kind;
        self.event.severity = Some(finding.severity.number());
        self.message = known(&finding.message);
        self.rule =
            Some(Rule { id: kind.rule_id(), name: Some(kind.rule_name()), description: None });
        self.threat = Threat::of(&finding.techniques);
        let Finding { id, indicators, evidence, views, nearest, next_steps, .. } = finding;
        let sentences = indicators.iter().map(|Indicator { sentence, .. }| sentence.as_str());
        self.portwatch.finding = Some(FindingFields {
            id,
            kind: kind.name(),
            state: state.name(),
            first_seen: Time(*first_seen_unix_ns),
            last_seen: Time(*last_seen_unix_ns),
            occurrences: *occurrences,
            changes: (*state == FindingState::Updated).then_some(changes),
            indicators: indicators.iter().map(|indicator| indicator.name).collect(),
            evidence: sentences.chain(evidence.iter().map(String::as_str)).collect(),
            views: views.iter().map(ViewFields::of).collect(),
            nearest_rule: nearest.as_ref().map(|NearMiss { rule, .. }| rule.as_str()),
            differences: nearest.as_ref().map(|NearMiss { differences, .. }| {
                differences.iter().map(ToString::to_string).collect()
            }),
            next_steps,
        });
    }
}

/// `portwatch.finding.*`.
#[derive(Debug, Serialize)]
pub(super) struct FindingFields<'a> {
    id: &'a str,
    kind: &'static str,
    state: &'static str,
    first_seen: Time,
    last_seen: Time,
    occurrences: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<&'a [String]>,
    indicators: Vec<&'static str>,
    /// The words of the indicators first.
    evidence: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    views: Vec<ViewFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest_rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<Vec<String>>,
    next_steps: &'a [String],
}

/// `portwatch.finding.views[]`.
#[derive(Debug, Serialize)]
struct ViewFields<'a> {
    name: &'a str,
    says: &'a str,
}

impl<'a> ViewFields<'a> {
    fn of(view: &'a ViewReport) -> Self {
        let ViewReport { name, says } = view;
        Self { name, says }
    }
}

/// `threat.*`: what an attacker would be doing.
#[derive(Debug, Serialize)]
pub(super) struct Threat {
    framework: &'static str,
    tactic: Names,
    technique: Techniques,
}

/// Ids and their names, in the same order.
#[derive(Debug, Default, Serialize)]
struct Names {
    #[serde(rename = "id", skip_serializing_if = "Vec::is_empty")]
    ids: Vec<&'static str>,
    #[serde(rename = "name", skip_serializing_if = "Vec::is_empty")]
    names: Vec<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Techniques {
    #[serde(flatten)]
    names: Names,
    #[serde(skip_serializing_if = "Names::is_empty")]
    subtechnique: Names,
}

impl Threat {
    /// `None` where nothing fits.
    fn of(found: &[&'static Technique]) -> Option<Self> {
        if found.is_empty() {
            return None;
        }
        let (mut tactic, mut technique) = (Names::default(), Techniques::default());
        for found in found {
            technique.names.add(found.technique);
            if let Some(subtechnique) = found.subtechnique {
                technique.subtechnique.add(subtechnique);
            }
            found.tactics.iter().for_each(|name| tactic.add(*name));
        }
        Some(Self { framework: "MITRE ATT&CK", tactic, technique })
    }
}

impl Names {
    fn add(&mut self, (id, name): (&'static str, &'static str)) {
        if !self.ids.contains(&id) {
            self.ids.push(id);
            self.names.push(name);
        }
    }

    const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
