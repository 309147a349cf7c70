//! What `policy check` has to say.

use super::{FlowReport, ListenerReport};

/// A policy on this host.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// Its file, as the user named it. Foreign text.
    pub file: String,
    /// The ports that were looked at.
    pub ports: String,
    /// Each rule: those of listeners, then those of clients.
    pub rules: Vec<RuleReview>,
    /// Listeners that no rule expects.
    pub unexpected: Vec<ListenerReport>,
    /// Who talks although no client rule expects it, if there are client rules.
    pub unexpected_clients: Vec<FlowReport>,
    /// What was not seen, a sentence each.
    pub degraded: Vec<String>,
}

/// One rule on this host.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleReview {
    /// `listener` or `client`.
    pub kind: &'static str,
    /// Its id. Foreign text.
    pub id: String,
    /// Where it begins.
    pub line: usize,
    /// The listeners that it expects.
    pub listeners: Vec<ListenerReport>,
    /// The conversations that it expects.
    pub clients: Vec<FlowReport>,
    /// What does not do what it looks like.
    pub warnings: Vec<Warning>,
}

/// Something in a rule that does not do what it looks like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    /// Where, from 1.
    pub line: usize,
    /// Where, in characters from 1.
    pub column: usize,
    /// What, in words. Foreign text.
    pub message: String,
}

impl Review {
    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.rules.iter().map(|rule| rule.warnings.len()).sum()
    }

    /// Nothing to look at.
    pub fn is_clean(&self) -> bool {
        self.warnings() == 0 && self.unexpected.is_empty() && self.unexpected_clients.is_empty()
    }
}
