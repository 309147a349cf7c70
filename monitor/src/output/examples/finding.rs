//! Findings.

use crate::report::{
    Difference, Finding, FindingKind, FindingReport, FindingState, Indicator, NearMiss, RuleKey,
    Severity, Technique,
};

use super::START_NS;
use super::network::{expected_listener, listener};

/// The listener of the run is found.
pub(in crate::output) fn finding() -> FindingReport {
    report(FindingState::Open, unknown_listener())
}

/// More is known of it a little later.
pub(in crate::output) fn updated() -> FindingReport {
    let sentence = "it started in the ten minutes before it was found".to_owned();
    let mut finding = unknown_listener();
    finding.indicators.push(Indicator { name: "recent-start", sentence });
    FindingReport {
        last_seen_unix_ns: START_NS + 6_000_000_000,
        changes: vec!["new: it started in the ten minutes before it was found".to_owned()],
        ..report(FindingState::Updated, finding)
    }
}

/// It is gone.
pub(in crate::output) fn closed() -> FindingReport {
    let message = "The listener on tcp 0.0.0.0:3516 on all addresses is gone. It was the one of \
                   python3 (pid 4242, user root)."
        .to_owned();
    FindingReport {
        last_seen_unix_ns: START_NS + 8_000_000_000,
        ..report(FindingState::Closed, Finding { message, ..updated().finding })
    }
}

/// A gap that is back.
pub(in crate::output) fn coverage_gap() -> FindingReport {
    let message = "Traffic on interface wlan0 is not seen: nothing could be attached to it.";
    let kind = FindingKind::CoverageGap;
    let finding = Finding {
        evidence: vec!["its driver refuses TC programs".to_owned()],
        next_steps: vec!["portwatch doctor".to_owned()],
        ..Finding::new(kind, "wlan0|host|NotAttached", Severity::Medium, message.to_owned())
    };
    FindingReport { occurrences: 2, ..report(FindingState::Open, finding) }
}

pub(in crate::output) fn expired_rule() -> FindingReport {
    let message = "cardbridged (pid 812, user 998) listens on tcp 127.0.0.1:3516 in network \
                   namespace blue, and the rule card-bridge that expected it has expired.";
    let kind = FindingKind::ExpiredRule;
    let subject = "tcp|127.0.0.1:3516|blue|/usr/sbin/cardbridged";
    let sentence = "what it runs is not what package cardbridged installed".to_owned();
    let finding = Finding {
        indicators: vec![Indicator { name: "modified-executable", sentence }],
        evidence: vec!["executable: /usr/sbin/cardbridged".to_owned()],
        next_steps: vec!["portwatch policy explain 812".to_owned()],
        techniques: vec![&Technique::COMPROMISED_BINARY, &Technique::FILE_DELETION],
        listener: Some(Box::new(expected_listener())),
        ..Finding::new(kind, subject, Severity::Critical, message.to_owned())
    };
    report(FindingState::Open, finding)
}

pub(in crate::output) fn near_miss() -> NearMiss {
    let difference = |key, expected: &str, actual: &str| Difference {
        key,
        expected: expected.to_owned(),
        actual: actual.to_owned(),
        is_known: true,
    };
    NearMiss {
        rule: "card-bridge".to_owned(),
        is_change: false,
        differences: vec![
            difference(RuleKey::Address, "127.0.0.1", "0.0.0.0 (all addresses)"),
            difference(RuleKey::Exe, "/usr/sbin/cardbridged", "/usr/bin/python3.11"),
            difference(RuleKey::User, "cardbridge", "root"),
        ],
    }
}

fn unknown_listener() -> Finding {
    let message = "python3 (pid 4242, user root) listens on tcp 0.0.0.0:3516 on all addresses, and \
                   no policy rule expects it.";
    let subject = "tcp|0.0.0.0:3516|host|/usr/bin/python3.11";
    let kind = FindingKind::UnknownListener;
    let finding = Finding::new(kind, subject, Severity::High, message.to_owned());
    let evidence = [
        "the kernel named the process in the system call that opened or used the socket",
        "executable: /usr/bin/python3.11",
        "sha256: 9f2c3a0f2d5c7d1f0c7c7f4e5b8d9a6e1b2c3d4e5f60718293a4b5c6d7e8f901",
        "package: python3.11-minimal 3.11.2-6+deb12u6 (deb); the file is as it was installed",
    ];
    let next_steps = [
        "portwatch policy explain 4242",
        &format!("portwatch evidence evidence-{} --port 3516", finding.id),
        "ls -l /proc/4242/exe /proc/4242/cwd",
    ];
    Finding {
        evidence: evidence.map(str::to_owned).to_vec(),
        nearest: Some(near_miss()),
        next_steps: next_steps.map(str::to_owned).to_vec(),
        techniques: vec![&Technique::NON_STANDARD_PORT],
        listener: Some(Box::new(listener())),
        ..finding
    }
}

pub(super) fn report(state: FindingState, finding: Finding) -> FindingReport {
    FindingReport {
        state,
        first_seen_unix_ns: START_NS + 312_000_500,
        last_seen_unix_ns: START_NS + 312_000_500,
        occurrences: 1,
        changes: Vec::new(),
        finding,
    }
}
