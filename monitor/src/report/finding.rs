//! Findings: something a person should look at, from when it is found until it is so no more.

use sha2::{Digest as _, Sha256};

use super::{FlowReport, ListenerReport, NearMiss, Technique, ViewReport};

/// What kind of finding.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum FindingKind {
    /// A listener that no rule expects.
    UnknownListener,
    /// A rule expects a listener there, but somebody else is it.
    ChangedListener,
    /// What somebody on the port runs has been deleted, or never was a file.
    DeletedExecutable,
    /// Somebody talks on a watched port whom no client rule expects.
    UnknownClient,
    /// A socket that `/proc` does not show, or a process that hides.
    HiddenOwner,
    /// The port is answered by a raw or packet socket, or by none that is known.
    AnswerWithoutSocket,
    /// A rule or program sends what comes for the port elsewhere.
    RedirectedPort,
    /// Views of the same thing disagree.
    ViewMismatch,
    /// Something is not observed.
    CoverageGap,
    /// A rule would match but is past its expiry.
    ExpiredRule,
}

impl FindingKind {
    /// Every kind, in the order of their rules.
    pub const ALL: [Self; 10] = [
        Self::UnknownListener,
        Self::ChangedListener,
        Self::DeletedExecutable,
        Self::HiddenOwner,
        Self::AnswerWithoutSocket,
        Self::RedirectedPort,
        Self::ViewMismatch,
        Self::CoverageGap,
        Self::ExpiredRule,
        Self::UnknownClient,
    ];

    /// The name in `portwatch.finding.kind`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownListener => "unknown-listener",
            Self::ChangedListener => "changed-listener",
            Self::DeletedExecutable => "deleted-executable",
            Self::UnknownClient => "unknown-client",
            Self::HiddenOwner => "hidden-owner",
            Self::AnswerWithoutSocket => "answer-without-socket",
            Self::RedirectedPort => "redirected-port",
            Self::ViewMismatch => "view-mismatch",
            Self::CoverageGap => "coverage-gap",
            Self::ExpiredRule => "expired-rule",
        }
    }

    /// `rule.id` of the built-in rule.
    pub const fn rule_id(self) -> &'static str {
        match self {
            Self::UnknownListener => "PW1001",
            Self::ChangedListener => "PW1002",
            Self::DeletedExecutable => "PW1003",
            Self::HiddenOwner => "PW1004",
            Self::AnswerWithoutSocket => "PW1005",
            Self::RedirectedPort => "PW1006",
            Self::ViewMismatch => "PW1007",
            Self::CoverageGap => "PW1008",
            Self::ExpiredRule => "PW1009",
            Self::UnknownClient => "PW1010",
        }
    }

    /// `rule.name` of the built-in rule.
    pub const fn rule_name(self) -> &'static str {
        match self {
            Self::UnknownListener => "Unknown listener on a watched port",
            Self::ChangedListener => "Another listener on a watched port than expected",
            Self::DeletedExecutable => "A deleted executable uses a watched port",
            Self::UnknownClient => "Unknown client on a watched port",
            Self::HiddenOwner => "A process or its socket is hidden",
            Self::AnswerWithoutSocket => "A watched port is answered although nobody listens",
            Self::RedirectedPort => "A watched port is redirected to another",
            Self::ViewMismatch => "Views of this host disagree",
            Self::CoverageGap => "Part of this host is not observed",
            Self::ExpiredRule => "The rule that expected this listener has expired",
        }
    }
}

/// How soon somebody should look, in the four levels of Elastic's own rules.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// When there is time.
    Low,
    /// Today.
    Medium,
    /// Now.
    High,
    /// Whoever is asleep is to be woken.
    Critical,
}

impl Severity {
    /// `event.severity`.
    pub const fn number(self) -> u8 {
        match self {
            Self::Low => 21,
            Self::Medium => 47,
            Self::High => 73,
            Self::Critical => 99,
        }
    }

    /// One level up, if there is one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self::Low => Self::Medium,
            Self::Medium => Self::High,
            Self::High | Self::Critical => Self::Critical,
        }
    }

    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// A circumstance that makes a finding worse.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Indicator {
    /// The name in `portwatch.finding.indicators[]`.
    pub name: &'static str,
    /// What is so, in words.
    pub sentence: String,
}

/// Something a person should look at, as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The same for the same finding, also in other runs and after a restart of the host, where what it
    /// is about can be told to be the same.
    pub id: String,
    /// What kind.
    pub kind: FindingKind,
    /// How soon somebody should look.
    pub severity: Severity,
    /// One sentence a colleague would understand.
    pub message: String,
    /// What makes it worse.
    pub indicators: Vec<Indicator>,
    /// What it rests on, a line each.
    pub evidence: Vec<String>,
    /// What each view says, where several disagree.
    pub views: Vec<ViewReport>,
    /// The rule that came nearest.
    pub nearest: Option<NearMiss>,
    /// Commands that tell more, the most telling first. They change nothing.
    pub next_steps: Vec<String>,
    /// What an attacker would be doing, where it is one.
    pub techniques: Vec<&'static Technique>,
    /// The listener it is about.
    pub listener: Option<Box<ListenerReport>>,
    /// The flow it is about.
    pub flow: Option<Box<FlowReport>>,
}

impl Finding {
    /// A finding about `subject`: text that is the same whenever this is found again.
    pub fn new(kind: FindingKind, subject: &str, severity: Severity, message: String) -> Self {
        Self {
            id: id(kind, subject),
            kind,
            severity,
            message,
            indicators: Vec::new(),
            evidence: Vec::new(),
            views: Vec::new(),
            nearest: None,
            next_steps: Vec::new(),
            techniques: Vec::new(),
            listener: None,
            flow: None,
        }
    }
}

/// Where a finding stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FindingState {
    /// It is found, for the first time or again.
    Open,
    /// Something about it has changed that a person cares about.
    Updated,
    /// It is so no more.
    Closed,
}

impl FindingState {
    /// The name in `portwatch.finding.state`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Updated => "updated",
            Self::Closed => "closed",
        }
    }
}

/// News of a finding.
#[derive(Clone, Debug, PartialEq)]
pub struct FindingReport {
    /// Where it stands now.
    pub state: FindingState,
    /// When it was found first in this run, Unix nanoseconds.
    pub first_seen_unix_ns: i64,
    /// When it was last known to be so, Unix nanoseconds.
    pub last_seen_unix_ns: i64,
    /// How often it came up in this run: 1, and one more each time it had been gone.
    pub occurrences: u64,
    /// What is different from the report before, a line each.
    pub changes: Vec<String>,
    /// What is found. Once it is closed: what was, and in the message why it is so no more.
    pub finding: Finding,
}

/// The beginning of a hash: people compare it with their eyes.
fn id(kind: FindingKind, subject: &str) -> String {
    let hash = Sha256::digest(format!("{}|{subject}", kind.name()));
    let beginning = hash.iter().take(6).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{beginning:012x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_same_for_the_same_subject_and_kind_only() {
        let id = |kind, subject: &str| Finding::new(kind, subject, Severity::Low, String::new()).id;
        let first = id(FindingKind::UnknownListener, "tcp 127.0.0.1:3516 host /usr/bin/nc");

        assert_eq!(first, "564932cc39ad");
        assert_eq!(first, id(FindingKind::UnknownListener, "tcp 127.0.0.1:3516 host /usr/bin/nc"));
        assert_ne!(first, id(FindingKind::ExpiredRule, "tcp 127.0.0.1:3516 host /usr/bin/nc"));
        assert_ne!(first, id(FindingKind::UnknownListener, "tcp 127.0.0.1:3517 host /usr/bin/nc"));
    }

    #[test]
    fn every_kind_has_a_name_and_a_rule_of_its_own() {
        let distinct = |of: fn(FindingKind) -> &'static str| {
            FindingKind::ALL.into_iter().map(of).collect::<std::collections::BTreeSet<_>>().len()
        };

        assert_eq!(distinct(FindingKind::name), FindingKind::ALL.len());
        assert_eq!(distinct(FindingKind::rule_id), FindingKind::ALL.len());
        assert_eq!(distinct(FindingKind::rule_name), FindingKind::ALL.len());
    }

    #[test]
    fn every_kind_has_a_sigma_rule_and_a_line_in_the_reference() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let reference = std::fs::read_to_string(root.join("docs/findings.md")).unwrap();
        for kind in FindingKind::ALL {
            let file = root.join(format!("dist/sigma/{}.yml", kind.name()));
            let rule = std::fs::read_to_string(&file).unwrap_or_default();

            assert!(rule.starts_with(&format!("title: '{}'\n", kind.rule_name())), "{file:?}");
            assert!(rule.contains(&format!("portwatch.finding.kind: {}\n", kind.name())));
            assert!(reference.contains(&format!("| `{}` | {} |", kind.name(), kind.rule_id())));
        }
    }
}
