//! Findings: a sentence, then what it rests on.

use crate::report::{FindingReport, NearMiss};

use super::line::{Ink, Line};

/// `high  python3 (pid 4242) listens on …  [PW1001 unknown-listener]`, then a line for each proof.
pub(super) fn block(mut line: Line<'_>, finding: &FindingReport, out: &mut Vec<u8>) {
    let FindingReport { kind, severity, message, evidence, nearest, listener: _ } = finding;
    line.put(ink(finding), severity_name(*severity));
    line.column(0);
    line.foreign(Ink::Strong, message);
    line.column(0);
    line.put(Ink::Faint, &format!("[{} {}]", kind.rule_id(), kind.name()));
    let margin = line.continued();
    line.end(out);
    for proof in evidence {
        item(&margin, &format!("- {proof}"), out);
    }
    if let Some(NearMiss { rule, is_change: _, differences }) = nearest {
        item(&margin, &format!("nearest rule: {rule}"), out);
        for difference in differences {
            item(&margin, &format!("  - {difference}"), out);
        }
    }
}

/// The ink of a finding of that severity.
pub(super) const fn ink(finding: &FindingReport) -> Ink {
    if finding.severity > 47 { Ink::Alarming } else { Ink::Notable }
}

/// The names Elastic gives to ranges of `event.severity`.
const fn severity_name(severity: u8) -> &'static str {
    match severity {
        0..=21 => "low",
        22..=47 => "medium",
        48..=73 => "high",
        _ => "critical",
    }
}

fn item(margin: &Line<'_>, text: &str, out: &mut Vec<u8>) {
    let mut line = margin.continued();
    line.foreign(Ink::Plain, text);
    line.end(out);
}
