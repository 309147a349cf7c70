//! What `policy check` and `policy explain` say to people.

use crate::output::rules::{Explained, Explanation};
use crate::policy::{Answer, Comparison};
use crate::report::{Difference, FlowChange, Review, RuleReview, Verdict, Warning};

use super::Look;
use super::amount::plural;
use super::line::{Ink, Line};
use super::network;
use super::run::not_seen;

/// Columns of the names of keys, and of whether they hold.
const KEY: usize = 15;
const HOLDS: usize = 7;

/// Each rule with what it matches here and what there is to warn about, then what no rule expects.
pub fn review(review: &Review, look: &Look) -> String {
    let mut out = Vec::new();
    let Review { file, ports, rules, unexpected, unexpected_clients, degraded } = review;
    let mut line = Line::new(look);
    line.foreign(Ink::Strong, file);
    line.put(
        Ink::Plain,
        &format!(": {}; looked at port {ports}", plural(number(rules.len()), "rule")),
    );
    line.end(&mut out);
    not_seen(&Line::new(look), degraded, &mut out);
    for rule in rules {
        out.push(b'\n');
        one_rule(rule, file, look, &mut out);
    }
    if !unexpected.is_empty() || !unexpected_clients.is_empty() {
        out.push(b'\n');
        let mut line = Line::new(look);
        line.put(Ink::Alarming, "no rule expects");
        line.end(&mut out);
    }
    for listener in unexpected {
        network::listener(Line::new(look).continued(), listener, &mut out);
    }
    for flow in unexpected_clients {
        network::flow(Line::new(look).continued(), FlowChange::Updated, flow, &mut out);
    }
    out.push(b'\n');
    let mut line = Line::new(look);
    let others = unexpected.len().saturating_add(unexpected_clients.len());
    if review.is_clean() {
        line.put(Ink::Good, "nothing to warn about, and everything there is expected");
    } else {
        let warnings = plural(number(review.warnings()), "warning");
        let others = match others {
            0 => String::new(),
            1 => "; 1 is there that no rule expects".to_owned(),
            count => format!("; {count} are there that no rule expects"),
        };
        line.put(Ink::Notable, &format!("{warnings}{others}"));
    }
    line.end(&mut out);
    text(out)
}

fn one_rule(rule: &RuleReview, file: &str, look: &Look, out: &mut Vec<u8>) {
    let RuleReview { kind, id, line: at, listeners, clients, warnings } = rule;
    let mut line = Line::new(look);
    line.put(Ink::Plain, &format!("{kind} "));
    line.foreign(Ink::Name, id);
    let here = match listeners.len().saturating_add(clients.len()) {
        0 => "nothing here now matches it".to_owned(),
        count => format!("matches {count} here now"),
    };
    line.put(Ink::Plain, &format!(" (line {at}): {here}"));
    line.end(out);
    for listener in listeners {
        network::listener(Line::new(look).continued(), listener, out);
    }
    for flow in clients {
        network::flow(Line::new(look).continued(), FlowChange::Updated, flow, out);
    }
    for Warning { line: at, column, message } in warnings {
        let mut line = Line::new(look).continued();
        line.foreign(Ink::Plain, &format!("{file}:{at}:{column}: "));
        line.put(Ink::Notable, "warning: ");
        line.foreign(Ink::Plain, message);
        line.end(out);
    }
}

/// Each listener or client with the verdict, then rule by rule and key by key why.
pub fn explanation(explanation: &Explanation, look: &Look) -> String {
    let mut out = Vec::new();
    let Explanation { file, ports, explained } = explanation;
    if explained.is_empty() {
        let mut line = Line::new(look);
        line.put(Ink::Plain, &format!("nothing listens on port {ports}"));
        line.end(&mut out);
    }
    for (position, explained) in explained.iter().enumerate() {
        if position > 0 {
            out.push(b'\n');
        }
        let answers = match explained {
            Explained::Listener(listener, answers) => {
                network::listener(Line::new(look), listener, &mut out);
                answers
            }
            Explained::Client(flow, answers) => {
                network::flow(Line::new(look), FlowChange::Updated, flow, &mut out);
                answers
            }
        };
        if let Some(Verdict::Unknown { nearest: Some(nearest) }) = explained.verdict()
            && nearest.is_change
        {
            let mut line = Line::new(look).continued();
            line.foreign(
                Ink::Alarming,
                &format!("somebody else than rule {} expects there", nearest.rule),
            );
            line.end(&mut out);
        }
        for answer in answers {
            one_answer(answer, file, look, &mut out);
        }
        if answers.is_empty() {
            let mut line = Line::new(look).continued();
            line.put(Ink::Plain, "the policy has no rules of this kind");
            line.end(&mut out);
        }
    }
    text(out)
}

fn one_answer(answer: &Answer, file: &str, look: &Look, out: &mut Vec<u8>) {
    let mut line = Line::new(look).continued();
    line.foreign(Ink::Name, &answer.rule);
    line.foreign(Ink::Faint, &format!(" ({file}:{})", answer.line));
    match (answer.expects(), answer.expired) {
        (true, _) => line.put(Ink::Good, " expects it"),
        (false, Some(day)) => line.put(Ink::Notable, &format!(" ended on {day}")),
        (false, None) => line.put(Ink::Plain, " does not match"),
    }
    line.end(out);
    for Comparison { difference, holds } in &answer.keys {
        let Difference { key, expected, actual, is_known: _ } = difference;
        let mut line = Line::new(look).continued().continued();
        line.put(Ink::Plain, "    ");
        line.first_column(KEY);
        line.put(Ink::Plain, key.name());
        line.column(HOLDS);
        if *holds {
            line.put(Ink::Good, "holds");
            line.column(0);
            line.foreign(Ink::Plain, actual);
        } else {
            line.put(Ink::Alarming, "DIFFERS");
            line.column(0);
            line.foreign(Ink::Plain, &format!("rule says {expected}, is {actual}"));
        }
        line.end(out);
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn text(out: Vec<u8>) -> String {
    // Only text went in.
    String::from_utf8(out).unwrap_or_default()
}
