//! The policy: `portwatch.policy.*`, and what came of reading it again.

use serde::Serialize;

use crate::report::{PolicyChange, PolicyReport};

use super::document::{Document, Failed, known};

impl<'a> Document<'a> {
    /// The policy in force.
    pub(super) fn policy(&mut self, policy: &'a PolicyReport) {
        let PolicyReport { file, is_default, listener_rules, client_rules } = policy;
        self.portwatch.policy = Some(PolicyFields {
            file,
            default: *is_default,
            listener_rules: *listener_rules,
            client_rules: *client_rules,
        });
    }

    /// What came of reading it again.
    pub(super) fn policy_change(&mut self, change: &'a PolicyChange) {
        match change {
            PolicyChange::Reloaded(policy) => {
                self.event.outcome = Some("success");
                self.policy(policy);
            }
            PolicyChange::Refused { stays, problem } => {
                self.event.outcome = Some("failure");
                self.error = known(problem).map(|message| Failed { message });
                if let Some(policy) = stays {
                    self.policy(policy);
                }
            }
        }
    }
}

/// `portwatch.policy.*`.
#[derive(Debug, Serialize)]
pub(super) struct PolicyFields<'a> {
    file: &'a str,
    default: bool,
    listener_rules: usize,
    client_rules: usize,
}
