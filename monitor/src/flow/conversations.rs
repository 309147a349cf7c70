//! Conversations, found by their id, lying densely in memory.

use std::hash::{BuildHasher as _, RandomState};
use std::mem;

use hashbrown::HashTable;
use hashbrown::hash_table::OccupiedEntry;

use crate::flow::{Flow, FlowId};
use crate::sys;

/// With so many, memory for the most that there can be is taken in one piece.
const MANY: usize = 8192;

/// A set of conversations. Whoever goes through it reads them in the order in which they lie in memory,
/// and each has a position, until another one is removed.
#[derive(Debug)]
pub(super) struct Conversations {
    flows: Vec<Flow>,
    /// Positions in `flows`, found by the hash of the id that is there.
    positions: HashTable<u32>,
    /// Random, so that nobody can choose ids that collide.
    hasher: RandomState,
    most: usize,
}

impl Conversations {
    /// An empty set, of which `most` conversations are expected at most.
    pub(super) fn new(most: usize) -> Self {
        let (flows, positions) = (Vec::new(), HashTable::new());
        Self { flows, positions, hasher: RandomState::new(), most }
    }

    pub(super) const fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    pub(super) fn get(&self, id: &FlowId) -> Option<&Flow> {
        self.at(self.position(id)?)
    }

    pub(super) fn get_mut(&mut self, id: &FlowId) -> Option<&mut Flow> {
        self.at_mut(self.position(id)?)
    }

    pub(super) fn position(&self, id: &FlowId) -> Option<usize> {
        if self.is_empty() {
            // Asked of the usually empty table of closed connections for every slot that is credited.
            return None;
        }
        let is_there = |&position: &u32| self.at(position as usize).is_some_and(|at| at.id == *id);
        let position = self.positions.find(self.hasher.hash_one(id), is_there)?;
        Some(*position as usize)
    }

    pub(super) fn at(&self, position: usize) -> Option<&Flow> {
        self.flows.get(position)
    }

    pub(super) fn at_mut(&mut self, position: usize) -> Option<&mut Flow> {
        self.flows.get_mut(position)
    }

    /// Adds a conversation; gives the one that had its id.
    pub(super) fn replace(&mut self, flow: Flow) -> Option<Flow> {
        let before = self.remove(&flow.id);
        self.push(flow);
        before
    }

    /// The last one moves into its position.
    pub(super) fn remove(&mut self, id: &FlowId) -> Option<Flow> {
        let position = self.position(id)?;
        let last = self.flows.len().checked_sub(1)?;
        let moves = self.flows.get(last)?.id;
        if let Some(entry) = self.entry(id, position) {
            entry.remove();
        }
        if let Some(mut entry) = self.entry(&moves, last) {
            *entry.get_mut() = number(position);
        }
        Some(self.flows.swap_remove(position))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter()
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Flow> {
        self.positions.clear();
        self.flows.drain(..)
    }

    /// Adds a conversation whose id is not there, as the last one.
    pub(super) fn push(&mut self, flow: Flow) -> &mut Flow {
        self.make_room();
        let position = self.flows.len();
        let hash = self.hasher.hash_one(flow.id);
        self.flows.push(flow);
        let (flows, hasher) = (&self.flows, &self.hasher);
        let hash_of = |&position: &u32| {
            flows.get(position as usize).map_or(0, |flow| hasher.hash_one(flow.id))
        };
        self.positions.insert_unique(hash, number(position), hash_of);
        #[expect(clippy::indexing_slicing, reason = "pushed just above")]
        &mut self.flows[position]
    }

    /// What says that a conversation is at a position.
    fn entry(&mut self, id: &FlowId, position: usize) -> Option<OccupiedEntry<'_, u32>> {
        let hash = self.hasher.hash_one(id);
        self.positions.find_entry(hash, |at| *at == number(position)).ok()
    }

    /// Moves many into memory that has room for the most and is told to be read whole.
    fn make_room(&mut self) {
        let has_room = self.flows.capacity() > self.flows.len();
        if has_room || !(MANY..self.most).contains(&self.flows.len()) {
            return;
        }
        let mut roomy = Vec::with_capacity(self.most);
        // Before the first is written, so that no small page is in the way.
        sys::prefer_huge_pages(roomy.spare_capacity_mut());
        roomy.append(&mut mem::take(&mut self.flows));
        self.flows = roomy;
    }
}

/// A position as it is stored: of more than four billion conversations the rest is not found again.
fn number(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::tests::conversation;

    proptest! {
        /// The model: a map, and each conversation where its position says.
        #[test]
        fn each_is_found_by_its_id_and_at_its_position(
            steps in prop::collection::vec((any::<bool>(), 0_u16..40), 0..200),
        ) {
            let mut set = Conversations::new(64);
            let mut model = BTreeMap::new();
            for (adds, port) in steps {
                let flow = conversation(port);
                if adds {
                    prop_assert_eq!(set.replace(flow.clone()), model.insert(flow.id, flow));
                } else {
                    prop_assert_eq!(set.remove(&flow.id), model.remove(&flow.id));
                }
                prop_assert_eq!(set.len(), model.len());
                for (id, flow) in &model {
                    prop_assert_eq!(set.get(id), Some(flow));
                    let position = set.position(id).unwrap();
                    prop_assert_eq!(set.at(position), Some(flow));
                }
            }
            prop_assert_eq!(set.iter().count(), model.len());
        }
    }

    #[test]
    fn many_keep_their_positions_when_they_move_to_more_room() {
        let mut set = Conversations::new(4 * MANY);
        let ports = 0..u16::try_from(2 * MANY).unwrap();
        for port in ports.clone() {
            set.replace(conversation(port));
        }

        assert_eq!(set.flows.capacity(), 4 * MANY);
        for port in ports {
            let id = conversation(port).id;
            assert_eq!(set.position(&id), Some(usize::from(port)));
        }
    }
}
