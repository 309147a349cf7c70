//! Findings: a sentence, what makes it worse, what it rests on, and what to do next. Of one that is
//! updated only what is different, and of one that is closed only that.

use crate::report::{Finding, FindingReport, FindingState, NearMiss, Severity, ViewReport};

use super::line::{Ink, Line};

/// `*` it changed; what is closed is no finding any more.
pub(super) const fn label(report: &FindingReport) -> &'static str {
    match report.state {
        FindingState::Open => "FINDING",
        FindingState::Updated => "FINDING*",
        FindingState::Closed => "RESOLVED",
    }
}

/// `high  python3 (pid 4242) listens on …  [PW1001 unknown-listener 3f9ac1d2e4b5]`, then a line for
/// each proof.
pub(super) fn block(mut line: Line<'_>, report: &FindingReport, out: &mut Vec<u8>) {
    let finding = &report.finding;
    line.put(ink(report), finding.severity.name());
    line.column(0);
    line.foreign(Ink::Strong, &finding.message);
    line.column(0);
    let kind = finding.kind;
    line.put(Ink::Faint, &format!("[{} {} {}]", kind.rule_id(), kind.name(), finding.id));
    let margin = line.continued();
    line.end(out);
    match report.state {
        FindingState::Open => {
            if report.occurrences > 1 {
                let again = format!("! it is back: found {} times so far", report.occurrences);
                item(&margin, Ink::Notable, &again, out);
            }
            proofs(&margin, finding, out);
        }
        FindingState::Updated => {
            for change in &report.changes {
                item(&margin, Ink::Notable, &format!("* {change}"), out);
            }
        }
        FindingState::Closed => {}
    }
}

fn proofs(margin: &Line<'_>, finding: &Finding, out: &mut Vec<u8>) {
    let Finding { indicators, evidence, views, nearest, next_steps, .. } = finding;
    for indicator in indicators {
        item(margin, Ink::Alarming, &format!("! {}", indicator.sentence), out);
    }
    for ViewReport { name, says } in views {
        item(margin, Ink::Plain, &format!("- {name}: {says}"), out);
    }
    for proof in evidence {
        item(margin, Ink::Plain, &format!("- {proof}"), out);
    }
    if let Some(NearMiss { rule, is_change: _, differences }) = nearest {
        item(margin, Ink::Plain, &format!("nearest rule: {rule}"), out);
        for difference in differences {
            item(margin, Ink::Plain, &format!("  - {difference}"), out);
        }
    }
    for (index, step) in next_steps.iter().enumerate() {
        let mut line = margin.continued();
        line.put(Ink::Faint, if index == 0 { "next: " } else { "      " });
        line.foreign(Ink::Name, step);
        line.end(out);
    }
}

/// The ink of a finding of that severity.
pub(super) const fn ink(report: &FindingReport) -> Ink {
    match (report.state, report.finding.severity) {
        (FindingState::Closed, _) => Ink::Good,
        (_, Severity::Low | Severity::Medium) => Ink::Notable,
        (_, Severity::High | Severity::Critical) => Ink::Alarming,
    }
}

fn item(margin: &Line<'_>, ink: Ink, text: &str, out: &mut Vec<u8>) {
    let mut line = margin.continued();
    line.foreign(ink, text);
    line.end(out);
}
