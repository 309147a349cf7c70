//! What `doctor` looked at: a line a check, how it came out first.

use std::sync::Arc;

use crate::report::{Body, CheckOutcome, CheckPart, CheckReport, Report, RunEnded};

use super::Look;
use super::amount::plural;
use super::line::{Ink, Line};

/// Columns of how it came out, and of the names.
const OUTCOME: usize = 11;
const NAME: usize = 15;

/// Renders the reports of `doctor`; other reports than checks and the end are left out.
pub fn checks(reports: &[Arc<Report>], look: &Look) -> String {
    let mut out = Vec::new();
    let mut heading = |part: CheckPart, words: &str| {
        let mut line = Line::new(look);
        line.put(Ink::Strong, words);
        line.end(&mut out);
        for report in reports {
            match &report.body {
                Body::Check(report) if report.part == part => {
                    let mut line = Line::new(look);
                    line.put(Ink::Plain, "  ");
                    check(line, report, &mut out);
                }
                _ => {}
            }
        }
    };
    heading(CheckPart::Host, "this host");
    heading(CheckPart::SelfTest, "self-test: decoys in a network namespace of their own");
    for report in reports {
        if let Body::RunEnded(ended) = &report.body {
            verdict(Line::new(look), ended, &mut out);
        }
    }
    // Only text went in.
    String::from_utf8(out).unwrap_or_default()
}

/// `ok           brief-client     a client that …: pid 4242, opener (exact)`.
pub(super) fn check(mut line: Line<'_>, report: &CheckReport, out: &mut Vec<u8>) {
    let CheckReport { part: _, name, subject, outcome, expected, seen, evidence } = report;
    let (ink, word) = outcome_word(*outcome);
    line.first_column(OUTCOME);
    line.put(ink, word);
    line.column(NAME);
    line.put(Ink::Name, name);
    line.column(0);
    line.foreign(Ink::Plain, subject);
    if !seen.is_empty() {
        line.foreign(Ink::Plain, &format!(": {seen}"));
    }
    let margin = line.continued();
    line.end(out);
    if outcome.is_gap() {
        let expected = (!expected.is_empty()).then(|| format!("expected {expected}"));
        for sentence in expected.iter().chain(evidence) {
            let mut line = margin.continued();
            line.foreign(Ink::Notable, &format!("- {sentence}"));
            line.end(out);
        }
    }
}

const fn outcome_word(outcome: CheckOutcome) -> (Ink, &'static str) {
    match outcome {
        CheckOutcome::Ok => (Ink::Good, "ok"),
        CheckOutcome::Degraded => (Ink::Notable, "degraded"),
        CheckOutcome::Missed => (Ink::Alarming, "MISSED"),
        CheckOutcome::NotDone => (Ink::Alarming, "not done"),
        CheckOutcome::NotApplicable => (Ink::Faint, "-"),
    }
}

/// `all seen`, or what is missed.
fn verdict(mut line: Line<'_>, ended: &RunEnded, out: &mut Vec<u8>) {
    if ended.findings == 0 {
        line.put(Ink::Good, &ended.reason);
    } else {
        line.put(Ink::Alarming, &plural(ended.findings, "gap"));
        // The line of each has said the rest.
        let names = ended.coverage_gaps.iter().filter_map(|gap| gap.split(' ').next());
        line.foreign(Ink::Plain, &format!(": {}", names.collect::<Vec<_>>().join(", ")));
    }
    line.end(out);
}
