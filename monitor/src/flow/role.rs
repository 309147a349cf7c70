//! What this host is to a flow: first decide the role, then judge.

use monitor_ebpf::packet::tcp;

use crate::endpoint::{Direction, Transport};
use crate::flow::{End, Flow};
use crate::ports::PortSet;
use crate::report::FlowRole;

/// A conversation without an answer counts as unanswered after this long.
const ANSWER_NS: u64 = 1_000_000_000;

impl Flow {
    /// The role, or `None` while an answer may still come.
    pub fn role(&self, ports: &PortSet, over: bool, now_ns: u64) -> Option<FlowRole> {
        let (source, destination) = (self.opener, self.opener.other());
        if self.is_forwarded() {
            return Some(FlowRole::Forwarded);
        }
        if self.is_refused() {
            return Some(FlowRole::Refused);
        }
        if self.is_order_open {
            return None;
        }
        if !ports.contains(self.id.endpoint(destination).port) {
            return Some(FlowRole::Ephemeral);
        }
        if self.sent_by(destination).0 == 0 {
            let waited = now_ns.saturating_sub(self.start_ns) >= ANSWER_NS;
            return (over || waited).then_some(FlowRole::Unanswered);
        }
        if self.is_local(destination) {
            Some(FlowRole::Server)
        } else if self.is_local(source) {
            Some(FlowRole::Client)
        } else {
            None
        }
    }

    /// Does a socket of this host (or of a namespace behind it) sit at this end?
    pub fn is_local(&self, end: End) -> bool {
        let sends_from_here = self.origin(end).or_else(|| self.first_place(end));
        sends_from_here.is_some_and(|place| place.direction == Direction::Egress)
            || self.stays_here(end)
    }

    /// What is sent to `end` comes in and does not go out again.
    fn stays_here(&self, end: End) -> bool {
        let comes_in =
            self.places_of(end.other()).any(|place| place.direction == Direction::Ingress);
        self.arrival(end.other()).is_some() || comes_in && !self.passes_through(end.other())
    }

    /// The packets of `sender` come into a namespace at one interface and go out at another.
    fn passes_through(&self, sender: End) -> bool {
        self.places_of(sender).filter(|place| place.direction == Direction::Ingress).any(
            |ingress| {
                self.places_of(sender).any(|egress| {
                    egress.direction == Direction::Egress
                        && egress.interface != ingress.interface
                        && egress.interface.netns() == ingress.interface.netns()
                        && egress.first_ns >= ingress.first_ns
                })
            },
        )
    }

    /// It comes and goes, and no namespace that is watched is where it begins or ends.
    fn is_forwarded(&self) -> bool {
        [End::Low, End::High].into_iter().any(|sender| {
            self.passes_through(sender)
                && self.origin(sender).is_none()
                && self.arrival(sender).is_none()
        })
    }

    /// SYN answered by RST, with no SYN-ACK: nobody listens.
    fn is_refused(&self) -> bool {
        let answer = self.tcp_flags.of(self.opener.other());
        self.id.transport == Transport::Tcp
            && self.opening_seen
            && answer & tcp::RST != 0
            && answer & tcp::SYN == 0
    }
}
