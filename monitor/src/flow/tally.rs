//! Counts per place: every interface and direction a flow was seen at, additive, and the one place
//! per direction of the conversation that counts each packet once.

use monitor_ebpf::wire::{FlowKey, InterfaceId, Place};

use crate::endpoint::{Direction, LOOPBACK_IFINDEX};
use crate::flow::{End, Flow};
use crate::ledger::Tenure;

/// Packets of one end of a flow at one place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PlaceTally {
    /// The interface.
    pub interface: InterfaceId,
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
    /// Where the kernel counted them last, a [`Tenure`]: side by side with the above it takes eight bytes
    /// less, of each place of each flow.
    slot: u32,
    generation: u16,
}

impl PlaceTally {
    /// Where the kernel counted its packets last.
    pub const fn tenure(&self) -> Tenure {
        Tenure { slot: self.slot, generation: self.generation }
    }
}

fn is_at(key: &FlowKey, sender: End) -> impl Fn(&PlaceTally) -> bool + use<> {
    let (interface, direction) = (Place(key.place).interface(), direction(key));
    move |place| {
        place.interface == interface && place.direction == direction && place.sender == sender
    }
}

fn is_egress(place: &PlaceTally) -> bool {
    place.direction == Direction::Egress
}

const fn is_same_netns(one: &PlaceTally, other: &PlaceTally) -> bool {
    one.interface.netns() == other.interface.netns()
}

/// The direction a key was seen in.
pub(super) const fn direction(key: &FlowKey) -> Direction {
    if Place(key.place).is_egress() { Direction::Egress } else { Direction::Ingress }
}

impl Flow {
    /// The tally of the place where `key` was seen.
    pub(super) fn place(
        &mut self,
        key: &FlowKey,
        sender: End,
        Tenure { slot, generation }: Tenure,
        now_ns: u64,
    ) -> &mut PlaceTally {
        let index = self.places.iter().position(is_at(key, sender)).unwrap_or_else(|| {
            self.places.push(PlaceTally {
                interface: Place(key.place).interface(),
                direction: direction(key),
                sender,
                packets: 0,
                bytes: 0,
                first_ns: now_ns,
                slot,
                generation,
            });
            self.places.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just above")]
        let place = &mut self.places[index];
        place.first_ns = place.first_ns.min(now_ns);
        (place.slot, place.generation) = (slot, generation);
        place
    }

    /// As [`place`](Self::place), if it was seen there before.
    pub(super) fn known_place(&self, key: &FlowKey, sender: End) -> Option<&PlaceTally> {
        let is_here = is_at(key, sender);
        self.places.iter().find(|place| is_here(place))
    }

    /// Where the packets of an end are counted once: nearest to the local socket that sent or gets
    /// them. What a local socket sends is first seen at egress; of what comes in, the place seen last
    /// is nearest to the receiver.
    pub fn counted_at(&self, sender: End) -> Option<&PlaceTally> {
        let first = self.first_place(sender)?;
        let sent = self.origin(sender).or(Some(first).filter(|place| is_egress(place)));
        sent.or_else(|| self.arrival(sender)).or_else(|| {
            self.places_of(sender)
                .filter(|place| !is_egress(place))
                .max_by_key(|place| place.first_ns)
        })
    }

    /// Where the packets of an end leave a namespace that they did not come into: there they were made.
    pub(super) fn origin(&self, sender: End) -> Option<&PlaceTally> {
        let comes_in = |out: &PlaceTally| {
            self.places_of(sender).any(|place| !is_egress(place) && is_same_netns(place, out))
        };
        let made = self.places_of(sender).filter(|place| is_egress(place) && !comes_in(place));
        made.min_by_key(|place| place.first_ns)
    }

    /// Where the packets of an end come into a namespace that they do not leave again: there they were
    /// for somebody.
    pub(super) fn arrival(&self, sender: End) -> Option<&PlaceTally> {
        let goes_on = |into: &PlaceTally| {
            self.places_of(sender).any(|place| is_egress(place) && is_same_netns(place, into))
        };
        let stays = self.places_of(sender).filter(|place| !is_egress(place) && !goes_on(place));
        stays.max_by_key(|place| place.first_ns)
    }

    /// The only namespace it was seen in, by number, if it was seen on its loopback device and nowhere
    /// else.
    pub fn stays_inside(&self) -> Option<u32> {
        let mut interfaces = self.places.iter().map(|place| place.interface);
        let first =
            interfaces.next().filter(|interface| interface.ifindex() == LOOPBACK_IFINDEX)?;
        interfaces.all(|interface| interface == first).then(|| first.netns())
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
