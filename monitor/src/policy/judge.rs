//! What a policy says of a listener and of a client, and why.

use jiff::civil::Date;

use super::Policy;
use super::rule::{Comparison, Rule};
use super::subject::{ClientView, ListenerView, Subject};
use crate::report::{Difference, NearMiss, RuleKey, Verdict};

/// What a policy says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judgement {
    /// For the report. Texts hold foreign bytes: escape before showing.
    pub verdict: Verdict,
    /// The first rule that would expect it, had it not expired; `None` if another does.
    pub expired: Option<String>,
}

/// One rule beside a listener or a client: why it expects it, or why not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The rule's id.
    pub rule: String,
    /// Where it begins in its file.
    pub line: usize,
    /// Every key that was given.
    pub keys: Vec<Comparison>,
    /// Its last day, if that is over.
    pub expired: Option<Date>,
}

impl Answer {
    /// The rule expects it.
    pub fn expects(&self) -> bool {
        self.expired.is_none() && self.keys.iter().all(|key| key.holds)
    }
}

impl Policy {
    /// Judges a listener. The first rule in the file whose keys all hold expects it.
    ///
    /// If none does, the nearest is told: one that is about this very port and address and differs only
    /// in who it has to be, else the one with the fewest keys that differ; among equals the first.
    pub fn judge(&self, listener: &ListenerView<'_>, today: Date) -> Judgement {
        judge(&self.listeners, &Subject::listener(listener), today)
    }

    /// Judges who talks on a watched port, likewise.
    pub fn judge_client(&self, client: &ClientView<'_>, today: Date) -> Judgement {
        judge(&self.clients, &Subject::client(client), today)
    }

    /// Every listener rule beside a listener, in the order of the file.
    pub fn explain(&self, listener: &ListenerView<'_>, today: Date) -> Vec<Answer> {
        self.answers(&self.listeners, &Subject::listener(listener), today)
    }

    /// Every client rule beside who talks on a watched port, likewise.
    pub fn explain_client(&self, client: &ClientView<'_>, today: Date) -> Vec<Answer> {
        self.answers(&self.clients, &Subject::client(client), today)
    }

    fn answers(&self, rules: &[Rule], subject: &Subject<'_>, today: Date) -> Vec<Answer> {
        let answer = |rule: &Rule| Answer {
            rule: rule.id.clone(),
            line: self.places.at(rule.offset).0,
            keys: rule.compare(subject),
            expired: rule.expired(today),
        };
        rules.iter().map(answer).collect()
    }
}

fn judge(rules: &[Rule], subject: &Subject<'_>, today: Date) -> Judgement {
    let mut expired = None;
    for rule in rules.iter().filter(|rule| rule.holds(subject)) {
        if rule.expired(today).is_none() {
            let verdict = Verdict::Expected { rule: rule.id.clone(), reason: rule.reason.clone() };
            return Judgement { verdict, expired: None };
        }
        expired = expired.or_else(|| Some(rule.id.clone()));
    }
    let misses = rules.iter().map(|rule| miss(rule, subject, today));
    let nearest = misses.min_by_key(|(distance, miss)| (!miss.is_change, *distance));
    Judgement { verdict: Verdict::Unknown { nearest: nearest.map(|(_, miss)| miss) }, expired }
}

/// By how many keys a rule misses, and by which. That it has expired is told, but no distance.
fn miss(rule: &Rule, subject: &Subject<'_>, today: Date) -> (usize, NearMiss) {
    let keys = rule.compare(subject);
    let is_known =
        rule.names_place() || keys.iter().any(|key| key.holds && key.difference.key.is_identity());
    let differs = |key: Comparison| (!key.holds).then_some(key.difference);
    let mut differences: Vec<Difference> = keys.into_iter().filter_map(differs).collect();
    let distance = differences.len();
    let is_change = is_known
        && differences.iter().all(|it| it.key.is_identity())
        && differences.iter().any(|it| it.is_known)
        && rule.expired(today).is_none();
    if let Some(last_day) = rule.expired(today) {
        let (expected, actual) = (last_day.to_string(), today.to_string());
        differences.push(Difference { key: RuleKey::Expires, expected, actual, is_known: true });
    }
    (distance, NearMiss { rule: rule.id.clone(), is_change, differences })
}

#[cfg(test)]
mod tests;
