//! What flows are called on the other side of a translation of addresses (NAT), and who is there.

use std::collections::HashMap;

use crate::attribution::ProcessKey;
use crate::endpoint::{Endpoint, Netns};
use crate::flow::{End, Flow, FlowId};
use crate::host::conntrack::{Translated, Translator};
use crate::owner::{Attribution, Owner, Ownership};

/// Flows asked for before all that were are forgotten, and translations remembered.
const MAX: usize = 16_384;
/// Flows that are asked for at a time.
const MAX_PENDING: usize = 64;

/// A translated flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Translation {
    /// What its lower end is called on the other side.
    low: Endpoint,
    /// What its higher end is called there.
    high: Endpoint,
    /// The flow is the side before the translation.
    is_before: bool,
    /// Who translates.
    by: Translator,
    /// Where its destination is there.
    pub place: Place,
    /// Who serves there.
    pub owners: Vec<ProcessKey>,
}

/// Where an address is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// In the network namespace in which the packets are translated.
    Same,
    /// In another one.
    Other(Netns),
    /// In no namespace that has a process.
    Elsewhere,
    /// That was not asked: the destination is not translated.
    Unasked,
}

impl Translation {
    /// Of what the translator says about a flow.
    pub fn new(opener: End, there: Translated, place: Place, owners: Vec<ProcessKey>) -> Self {
        let (source, destination) = (there.ends.source, there.ends.destination);
        let (low, high) = match opener {
            End::Low => (source, destination),
            End::High => (destination, source),
        };
        let (is_before, by) = (there.was_asked_before, there.by);
        Self { low, high, is_before, by, place, owners }
    }

    /// The flow is the side before the translation.
    pub const fn is_before(&self) -> bool {
        self.is_before
    }

    /// What an end is called on the other side.
    pub const fn end(&self, end: End) -> Endpoint {
        match end {
            End::Low => self.low,
            End::High => self.high,
        }
    }

    /// `conntrack: DNAT 10.0.0.1:3516 → 10.0.3.2:22`, of each end that has another name.
    pub fn words(&self, flow: &Flow) -> String {
        let ends = [("SNAT", flow.opener), ("DNAT", flow.opener.other())];
        let translated = ends.into_iter().filter_map(|(what, end)| {
            let (here, there) = (flow.id.endpoint(end), self.end(end));
            let (before, after) = if self.is_before { (here, there) } else { (there, here) };
            (here != there).then(|| format!("{what} {before} → {after}"))
        });
        format!("{}: {}", self.by.name(), translated.collect::<Vec<_>>().join(", "))
    }

    /// The answer when somebody is there.
    pub(super) fn joined(&self, flow: &Flow, owners: Vec<Owner>) -> Attribution {
        let reason = format!("joined through {}", self.words(flow));
        let mut attribution = Attribution::of_processes(reason, owners);
        if let Place::Other(netns) = &self.place {
            attribution.reason = format!("{}, in network namespace {netns}", attribution.reason);
            attribution.ownership = Ownership::OtherNamespace;
        }
        attribution
    }

    /// The answer when nobody was found there.
    pub(super) fn to_nobody(&self, flow: &Flow) -> Attribution {
        let words = self.words(flow);
        let (ownership, reason) = match &self.place {
            Place::Other(netns) => (
                Ownership::OtherNamespace,
                format!("{words}, in network namespace {netns}; who serves there was not found"),
            ),
            Place::Elsewhere => (
                Ownership::Forwarded,
                format!("{words}, an address of no namespace of this host that has a process"),
            ),
            Place::Same | Place::Unasked => {
                (Ownership::Unknown, format!("{words}; no socket with these ends was seen either"))
            }
        };
        Attribution { ownership, reason, owners: Vec::new() }
    }
}

/// The translations of the flows that are going on; bounded.
#[derive(Debug, Default)]
pub struct Translations {
    known: HashMap<FlowId, Translation>,
    /// Which end was taken to be the opener, and whether there was an answer.
    asked: HashMap<FlowId, (End, bool)>,
    pending: usize,
}

impl Translations {
    /// That of a flow.
    pub fn get(&self, flow: &FlowId) -> Option<&Translation> {
        self.known.get(flow)
    }

    /// Is it to be asked for? Then it is as asked from now on.
    pub fn ask(&mut self, flow: &Flow) -> bool {
        if self.pending >= MAX_PENDING || self.asked.contains_key(&flow.id) {
            return false;
        }
        if self.asked.len() >= MAX {
            self.asked.clear();
        }
        self.pending = self.pending.saturating_add(1);
        self.asked.insert(flow.id, (flow.opener, false));
        true
    }

    /// An answer has come; gives the end that the question had as the opener, if there was a question.
    pub fn answered(&mut self, flow: &FlowId) -> Option<End> {
        self.pending = self.pending.saturating_sub(1);
        let (opener, is_answered) = self.asked.get_mut(flow)?;
        *is_answered = true;
        Some(*opener)
    }

    /// Has it been asked for, and answered?
    pub fn is_answered(&self, flow: &FlowId) -> bool {
        self.asked.get(flow).is_some_and(|(_, is_answered)| *is_answered)
    }

    /// Takes in a translation.
    pub fn learn(&mut self, flow: FlowId, translation: Translation) {
        if self.known.len() >= MAX {
            self.known.clear();
        }
        self.known.insert(flow, translation);
    }

    /// The flow is over: another one with its ends may be translated to somewhere else.
    pub fn forget(&mut self, flow: &FlowId) {
        self.known.remove(flow);
        self.asked.remove(flow);
    }

    /// Two entries turned out to be one process.
    pub fn rename(&mut self, from: ProcessKey, to: ProcessKey) {
        let owners = self.known.values_mut().flat_map(|translation| &mut translation.owners);
        for owner in owners.filter(|owner| **owner == from) {
            *owner = to;
        }
    }
}
