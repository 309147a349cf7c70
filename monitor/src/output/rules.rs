//! What `policy check` and `policy explain` say to programs: one JSON object a line. docs/policy.md has
//! the fields.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Serializer;

use super::ecs::json::Visible;
use crate::owner::Attribution;
use crate::policy::{Answer, Comparison};
use crate::report::{FlowReport, ListenerReport, Review, RuleReview, Verdict, Warning};

/// Why each of these is expected, or why not.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The policy. Foreign text.
    pub file: String,
    /// The ports that were looked at.
    pub ports: String,
    /// What was found.
    pub explained: Vec<Explained>,
}

/// A listener or a client beside every rule of its kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Explained {
    /// A listener.
    Listener(Box<ListenerReport>, Vec<Answer>),
    /// A conversation, and what the rules say of who began it.
    Client(Box<FlowReport>, Vec<Answer>),
}

impl Explained {
    /// What the policy says of a listener; of clients the answers tell.
    pub fn verdict(&self) -> Option<&Verdict> {
        match self {
            Self::Listener(listener, _) => Some(&listener.verdict),
            Self::Client(..) => None,
        }
    }

    fn answers(&self) -> &[Answer] {
        match self {
            Self::Listener(_, answers) | Self::Client(_, answers) => answers,
        }
    }
}

/// A line for each rule, then one for what no rule expects.
pub fn review(review: &Review) -> String {
    let mut out = Vec::new();
    for rule in &review.rules {
        let RuleReview { kind, id, line, listeners, clients, warnings } = rule;
        let matches = subjects(listeners, clients);
        let warnings = warnings.iter().map(WarningFields::of).collect();
        let rule =
            RuleFields { file: &review.file, line: *line, kind, rule: id, matches, warnings };
        append(&rule, &mut out);
    }
    append(
        &SummaryFields {
            file: &review.file,
            ports: &review.ports,
            warnings: review.warnings(),
            unexpected: subjects(&review.unexpected, &review.unexpected_clients),
            degraded: &review.degraded,
        },
        &mut out,
    );
    text(out)
}

/// A line for each listener or client.
pub fn explanation(explanation: &Explanation) -> String {
    let mut out = Vec::new();
    for explained in &explanation.explained {
        let answers = explained.answers();
        let rules = answers.iter().map(AnswerFields::of).collect();
        let (kind, subject) = match explained {
            Explained::Listener(listener, _) => ("listener", SubjectFields::listener(listener)),
            Explained::Client(flow, _) => ("client", SubjectFields::client(flow)),
        };
        let expected_by = answers.iter().find(|it| it.expects()).map(|it| it.rule.as_str());
        let verdict = if expected_by.is_some() { "expected" } else { "unknown" };
        let file = &explanation.file;
        append(&ExplainedFields { file, kind, subject, verdict, expected_by, rules }, &mut out);
    }
    text(out)
}

#[derive(Debug, Serialize)]
struct RuleFields<'a> {
    file: &'a str,
    line: usize,
    kind: &'a str,
    rule: &'a str,
    matches: Vec<SubjectFields<'a>>,
    warnings: Vec<WarningFields<'a>>,
}

#[derive(Debug, Serialize)]
struct WarningFields<'a> {
    line: usize,
    column: usize,
    message: &'a str,
}

impl<'a> WarningFields<'a> {
    fn of(warning: &'a Warning) -> Self {
        let Warning { line, column, message } = warning;
        Self { line: *line, column: *column, message }
    }
}

#[derive(Debug, Serialize)]
struct SummaryFields<'a> {
    file: &'a str,
    ports: &'a str,
    warnings: usize,
    unexpected: Vec<SubjectFields<'a>>,
    degraded: &'a [String],
}

/// A listener, or a conversation.
#[derive(Debug, Serialize)]
struct SubjectFields<'a> {
    transport: &'static str,
    ip: IpAddr,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

impl<'a> SubjectFields<'a> {
    fn listener(listener: &'a ListenerReport) -> Self {
        let (local, transport) = (listener.local, listener.transport.name());
        let (pid, name) = who(&listener.attribution);
        Self { transport, ip: local.ip, port: local.port, remote: None, pid, name }
    }

    /// The end that was called, and who called.
    fn client(flow: &'a FlowReport) -> Self {
        let (to, transport) = (flow.destination, flow.transport.name());
        let (pid, name) = who(&flow.attribution);
        Self { transport, ip: to.ip, port: to.port, remote: Some(flow.source.ip), pid, name }
    }
}

#[derive(Debug, Serialize)]
struct ExplainedFields<'a> {
    file: &'a str,
    kind: &'static str,
    #[serde(flatten)]
    subject: SubjectFields<'a>,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_by: Option<&'a str>,
    rules: Vec<AnswerFields<'a>>,
}

#[derive(Debug, Serialize)]
struct AnswerFields<'a> {
    rule: &'a str,
    line: usize,
    expects: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    keys: Vec<KeyFields<'a>>,
}

#[derive(Debug, Serialize)]
struct KeyFields<'a> {
    key: &'static str,
    holds: bool,
    rule: &'a str,
    actual: &'a str,
}

impl<'a> AnswerFields<'a> {
    fn of(answer: &'a Answer) -> Self {
        let key = |Comparison { difference, holds }: &'a Comparison| KeyFields {
            key: difference.key.name(),
            holds: *holds,
            rule: &difference.expected,
            actual: &difference.actual,
        };
        Self {
            rule: &answer.rule,
            line: answer.line,
            expects: answer.expects(),
            ended: answer.expired.map(|day| day.to_string()),
            keys: answer.keys.iter().map(key).collect(),
        }
    }
}

fn subjects<'a>(
    listeners: &'a [ListenerReport],
    flows: &'a [FlowReport],
) -> Vec<SubjectFields<'a>> {
    let listeners = listeners.iter().map(SubjectFields::listener);
    listeners.chain(flows.iter().map(SubjectFields::client)).collect()
}

fn who(attribution: &Attribution) -> (Option<u32>, Option<&str>) {
    let process = attribution.principal().map(|owner| &owner.process);
    (process.map(|it| it.pid), process.map(|it| it.name.as_str()))
}

fn append(value: &impl Serialize, out: &mut Vec<u8>) {
    let start = out.len();
    // Only a map whose keys are no text could fail.
    if value.serialize(&mut Serializer::with_formatter(&mut *out, Visible)).is_err() {
        out.truncate(start);
        return;
    }
    out.push(b'\n');
}

fn text(out: Vec<u8>) -> String {
    String::from_utf8(out).unwrap_or_default()
}
