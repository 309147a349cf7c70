//! What `doctor` looked at: `portwatch.check.*`.

use serde::Serialize;

use crate::report::CheckReport;

use super::document::{Document, known};

impl<'a> Document<'a> {
    /// One thing that `doctor` looked at.
    pub(super) fn check(&mut self, check: &'a CheckReport) {
        let CheckReport { part, name, subject, outcome, expected, seen, evidence } = check;
        self.message = known(subject);
        self.portwatch.check = Some(CheckFields {
            part: part.name(),
            name,
            outcome: outcome.words(),
            expected: known(expected),
            seen: known(seen),
            evidence,
        });
    }
}

/// `portwatch.check.*`.
#[derive(Debug, Serialize)]
pub(super) struct CheckFields<'a> {
    part: &'static str,
    name: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<&'a str>,
    evidence: &'a [String],
}
