//! Findings: `rule`, `threat`, the sentence, and what it rests on.

use serde::Serialize;

use crate::report::{FindingKind, FindingReport, NearMiss};

use super::document::{Document, Rule, known};

impl<'a> Document<'a> {
    /// A finding, with all that is known of the listener it is about.
    pub(super) fn finding(&mut self, finding: &'a FindingReport) {
        let FindingReport { kind, severity, message, evidence, nearest, listener } = finding;
        if let Some(listener) = listener {
            self.listener(listener);
        }
        self.event.severity = Some(*severity);
        self.message = known(message);
        self.rule =
            Some(Rule { id: kind.rule_id(), name: Some(kind.rule_name()), description: None });
        self.threat = Threat::of(*kind);
        self.portwatch.finding = Some(FindingFields {
            kind: kind.name(),
            evidence,
            nearest_rule: nearest.as_ref().map(|NearMiss { rule, .. }| rule.as_str()),
            differences: nearest.as_ref().map(|NearMiss { differences, .. }| {
                differences.iter().map(ToString::to_string).collect()
            }),
        });
    }
}

/// `portwatch.finding.*`.
#[derive(Debug, Serialize)]
pub(super) struct FindingFields<'a> {
    kind: &'static str,
    evidence: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest_rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<Vec<String>>,
}

/// `threat.*`: the technique an attacker would be using.
#[derive(Debug, Serialize)]
pub(super) struct Threat {
    framework: &'static str,
    technique: Technique,
}

#[derive(Debug, Serialize)]
struct Technique {
    id: [&'static str; 1],
    name: [&'static str; 1],
}

impl Threat {
    /// The technique of a finding, where it has one.
    fn of(kind: FindingKind) -> Option<Self> {
        let (id, name) = match kind {
            FindingKind::UnknownListener => ("T1571", "Non-Standard Port"),
            _ => return None,
        };
        let technique = Technique { id: [id], name: [name] };
        Some(Self { framework: "MITRE ATT&CK", technique })
    }
}
