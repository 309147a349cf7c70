//! What a policy says of a listener.

use jiff::civil::Date;

use super::Policy;
use crate::endpoint::{Endpoint, Transport};
use crate::owner::Attribution;
use crate::report::{ListenerReport, NearMiss, Verdict};

/// What of a listener a policy looks at.
#[derive(Clone, Copy, Debug)]
pub struct ListenerView<'a> {
    /// Local address and port; the unspecified address means all.
    pub local: Endpoint,
    /// TCP or UDP.
    pub transport: Transport,
    /// Who.
    pub attribution: &'a Attribution,
}

/// What a policy says of a listener.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judgement {
    /// For [`ListenerReport::verdict`]. Texts hold foreign bytes: escape before showing.
    pub verdict: Verdict,
    /// The first rule that would expect the listener, had it not expired; `None` if another does.
    pub expired: Option<String>,
}

impl<'a> From<&'a ListenerReport> for ListenerView<'a> {
    fn from(report: &'a ListenerReport) -> Self {
        Self { local: report.local, transport: report.transport, attribution: &report.attribution }
    }
}

impl Policy {
    /// Judges a listener. The first rule in the file whose keys all hold expects it; if none does,
    /// the one with the fewest keys that differ came nearest, the first in the file among equals.
    pub fn judge(&self, listener: &ListenerView<'_>, today: Date) -> Judgement {
        let mut nearest: Option<(usize, NearMiss)> = None;
        let mut expired = None;
        for rule in &self.listeners {
            let mut differences = rule.differences(listener);
            let distance = differences.len();
            match rule.expired(today) {
                None if distance == 0 => {
                    let verdict =
                        Verdict::Expected { rule: rule.id.clone(), reason: rule.reason.clone() };
                    return Judgement { verdict, expired: None };
                }
                None => {}
                Some(last_day) => {
                    differences
                        .push(format!("expires: rule ended on {last_day}, today is {today}"));
                    if distance == 0 && expired.is_none() {
                        expired = Some(rule.id.clone());
                    }
                }
            }
            if nearest.as_ref().is_none_or(|&(least, _)| distance < least) {
                nearest = Some((distance, NearMiss { rule: rule.id.clone(), differences }));
            }
        }
        let nearest = nearest.map(|(_, near_miss)| near_miss);
        Judgement { verdict: Verdict::Unknown { nearest }, expired }
    }
}

#[cfg(test)]
mod tests;
