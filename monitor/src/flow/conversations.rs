//! Conversations, found by their id, lying densely in memory.

use std::hash::{Hash, Hasher};

use indexmap::map::MutableKeys as _;
use indexmap::map::raw_entry_v1::RawEntryApiV1 as _;
use indexmap::{Equivalent, IndexMap};

use crate::flow::{Flow, FlowId};

/// A set of conversations. Whoever goes through it reads them in the order in which they lie in memory,
/// and each has a position, until another one is removed.
#[derive(Debug, Default)]
pub(super) struct Conversations(IndexMap<ById, ()>);

/// A conversation is what its id says: the id is not stored once more as a key.
#[derive(Debug)]
struct ById(Flow);

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl Equivalent<ById> for FlowId {
    fn equivalent(&self, other: &ById) -> bool {
        *self == other.0.id
    }
}

impl Conversations {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, id: &FlowId) -> bool {
        self.0.contains_key(id)
    }

    pub(super) fn get(&self, id: &FlowId) -> Option<&Flow> {
        self.0.get_key_value(id).map(|(by_id, ())| &by_id.0)
    }

    pub(super) fn get_mut(&mut self, id: &FlowId) -> Option<&mut Flow> {
        self.0.get_full_mut2(id).map(|(_, by_id, ())| &mut by_id.0)
    }

    pub(super) fn position(&self, id: &FlowId) -> Option<usize> {
        self.0.get_index_of(id)
    }

    pub(super) fn at(&self, position: usize) -> Option<&Flow> {
        self.0.get_index(position).map(|(by_id, ())| &by_id.0)
    }

    pub(super) fn at_mut(&mut self, position: usize) -> Option<&mut Flow> {
        self.0.get_index_mut2(position).map(|(by_id, ())| &mut by_id.0)
    }

    /// The conversation of that id, which is made if there is none.
    pub(super) fn get_or_insert_with(
        &mut self,
        id: &FlowId,
        flow: impl FnOnce() -> Flow,
    ) -> &mut Flow {
        let entry = self.0.raw_entry_mut_v1().from_key(id);
        let (by_id, ()) = entry.or_insert_with(|| (ById(flow()), ()));
        &mut by_id.0
    }

    /// Adds a conversation; gives the one that had its id.
    pub(super) fn replace(&mut self, flow: Flow) -> Option<Flow> {
        let before = self.remove(&flow.id);
        self.0.insert(ById(flow), ());
        before
    }

    /// The last one moves into its position.
    pub(super) fn remove(&mut self, id: &FlowId) -> Option<Flow> {
        self.0.swap_remove_entry(id).map(|(by_id, ())| by_id.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.0.keys().map(|by_id| &by_id.0)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Flow> {
        self.0.drain(..).map(|(by_id, ())| by_id.0)
    }
}
