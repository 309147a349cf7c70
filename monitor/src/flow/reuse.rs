//! Ports that are used again: one connection ends, the next begins, and neither may get what is the other's.

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::FlowRecord;
use smallvec::SmallVec;

use crate::flow::{End, Flow, FlowId, FlowTable, PlaceTally};
use crate::ledger::Tenure;

/// A connection that may be over: its ports come up again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Doubt {
    /// Which.
    pub flow: FlowId,
    /// Where the kernel counted its packets, as far as is known.
    pub counted: SmallVec<[Tenure; 2]>,
}

impl Flow {
    /// It is closed, or its ports belong to another by now.
    pub(super) const fn has_ended(&self) -> bool {
        self.is_closed() || self.is_overtaken
    }

    /// Does a SYN of this end begin another connection? That the other side has closed this one, too, may
    /// be in a slot that was not read yet.
    const fn is_over(&self, sender: End) -> bool {
        self.has_ended() || self.tcp_flags.of(sender) & tcp::FIN != 0
    }

    /// Does this record of a SYN begin another connection on the ports of this one, which is over?
    pub(super) fn is_followed_by(&self, record: &FlowRecord, sender: End) -> bool {
        self.may_be_followed_by(record, sender) && self.is_over(sender)
    }

    /// Is this record of a SYN one that may begin another connection? It is from a place where packets of this
    /// one were counted before; and not of the same SYN, which was sent again and seen by another CPU.
    fn may_be_followed_by(&self, record: &FlowRecord, sender: End) -> bool {
        // The kernel starts a flow again in its own slot only behind what ends it.
        let is_elsewhere = record.evicted_count == 0 || record.evicted_key != record.key;
        let is_same =
            is_elsewhere && self.opener == sender && self.opening_sequence == Some(record.sequence);
        !is_same && was_here(self, record)
    }
}

impl FlowTable {
    /// The connection that is known by the ports of this record, if the record opens one and nothing says yet
    /// that the known one is over.
    pub fn in_doubt(&self, record: &FlowRecord) -> Option<Doubt> {
        if !opens(record) {
            return None;
        }
        let (id, sender) = FlowId::of(&record.key);
        let known = self.flows.get(&id)?;
        let is_doubtful = known.may_be_followed_by(record, sender) && !known.is_over(sender);
        let counted = || known.places.iter().map(PlaceTally::tenure).collect();
        is_doubtful.then(|| Doubt { flow: id, counted: counted() })
    }

    /// Another connection on the same ports is known to come after this one.
    pub fn overtaken(&mut self, id: &FlowId) {
        if let Some(flow) = self.flows.get_mut(id) {
            flow.is_overtaken = true;
        }
    }

    /// The ports of a closed connection are in use again: it waits aside for its last packets.
    pub(super) fn retire(&mut self, id: FlowId) {
        let Some(mut closed) = self.flows.remove(&id) else { return };
        closed.is_overtaken = true;
        if let Some(older) = self.previous.replace(closed) {
            self.displace(older);
        }
    }
}

/// Does this record tell of the first packet of a TCP connection?
pub(super) const fn opens(record: &FlowRecord) -> bool {
    let is_late = record.circumstances & FlowRecord::LATE != 0;
    !is_late && tcp::opens(record.tcp_flags)
}

/// Were packets of this flow counted where this record is from, and before it? A reading of the table may
/// have come before the record.
fn was_here(flow: &Flow, record: &FlowRecord) -> bool {
    let (_, sender) = FlowId::of(&record.key);
    let here = flow.known_place(&record.key, sender);
    here.is_some_and(|place| place.tenure() != Tenure::announced_by(record))
}
