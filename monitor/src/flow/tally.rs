//! Counts per place: every interface and direction a flow was seen at, additive, and the one place
//! per direction of the conversation that counts each packet once.

use monitor_ebpf::wire::{FlowKey, Place};

use crate::endpoint::Direction;
use crate::flow::{End, Flow};

/// Packets of one end of a flow at one place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PlaceTally {
    /// Interface index.
    pub ifindex: u32,
    /// Direction at the interface.
    pub direction: Direction,
    /// The end that sent them.
    pub sender: End,
    /// Packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
    /// When the first was seen here.
    pub first_ns: u64,
}

/// The direction a key was seen in.
pub(super) const fn direction(key: &FlowKey) -> Direction {
    if Place(key.place).is_egress() { Direction::Egress } else { Direction::Ingress }
}

impl Flow {
    /// The tally of the place where `key` was seen.
    pub(super) fn place(&mut self, key: &FlowKey, sender: End, now_ns: u64) -> &mut PlaceTally {
        let (ifindex, direction) = (Place(key.place).ifindex(), direction(key));
        let is_here = |place: &PlaceTally| {
            place.ifindex == ifindex && place.direction == direction && place.sender == sender
        };
        let index = self.places.iter().position(is_here).unwrap_or_else(|| {
            let place =
                PlaceTally { ifindex, direction, sender, packets: 0, bytes: 0, first_ns: now_ns };
            self.places.push(place);
            self.places.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just above")]
        let place = &mut self.places[index];
        place.first_ns = place.first_ns.min(now_ns);
        place
    }

    /// Where the packets of an end are counted once: nearest to the local socket that sent or gets
    /// them. What a local socket sends is first seen at egress; of what comes in, the place seen last
    /// is nearest to the receiver.
    pub fn counted_at(&self, sender: End) -> Option<&PlaceTally> {
        let first = self.first_place(sender)?;
        if first.direction == Direction::Egress {
            return Some(first);
        }
        self.places_of(sender)
            .filter(|place| place.direction == Direction::Ingress)
            .max_by_key(|place| place.first_ns)
    }

    /// Where the packets of an end were seen first.
    pub(super) fn first_place(&self, sender: End) -> Option<&PlaceTally> {
        self.places_of(sender).min_by_key(|place| place.first_ns)
    }

    /// All places where packets of an end were seen.
    pub(super) fn places_of(&self, sender: End) -> impl Iterator<Item = &PlaceTally> {
        self.places.iter().filter(move |place| place.sender == sender)
    }

    /// Packets and IP bytes an end sent, each counted once.
    pub fn sent_by(&self, sender: End) -> (u64, u64) {
        self.counted_at(sender).map_or((0, 0), |place| (place.packets, place.bytes))
    }
}
