//! Which policy is in force, and what came of reading it again.

use serde::{Deserialize, Serialize};

use crate::escape::escape;

/// The policy in force.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyReport {
    /// Its file, as the user named it.
    pub file: String,
    /// Nobody named it: it is the one at its place on this host.
    pub is_default: bool,
    /// Rules about who may listen.
    pub listener_rules: usize,
    /// Rules about who may talk.
    pub client_rules: usize,
}

/// What came of reading the policy again.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum PolicyChange {
    /// It is in force from now on.
    Reloaded(PolicyReport),
    /// It is none, or may not be used: what was in force stays so.
    Refused {
        /// What stays in force, if there is a policy.
        stays: Option<PolicyReport>,
        /// Why, in one line that begins with the file's name.
        problem: String,
    },
}

impl PolicyReport {
    /// `2 listener rules, 1 client rule`.
    pub fn rules(&self) -> String {
        let plural = |count: usize, kind: &str| {
            let s = if count == 1 { "" } else { "s" };
            format!("{count} {kind} rule{s}")
        };
        let listeners = plural(self.listener_rules, "listener");
        match self.client_rules {
            0 => listeners,
            count => format!("{listeners}, {}", plural(count, "client")),
        }
    }
}

impl PolicyChange {
    /// One line for a person. Foreign text is escaped already.
    pub fn sentence(&self) -> String {
        match self {
            Self::Reloaded(policy) => {
                let file = escape(&policy.file);
                format!("{file}: read again; {} in force from now on", policy.rules())
            }
            Self::Refused { stays: Some(_), problem } => {
                format!("{problem}; the policy that was read before stays in force")
            }
            Self::Refused { stays: None, problem } => {
                format!("{problem}; still without a policy, nothing is expected")
            }
        }
    }
}
