//! When a conversation is over, or due for another report; and a look at all for which it is time.

use crate::flow::conversations::Conversations;
use crate::flow::{Flow, FlowId};
use crate::report::EndReason;

/// How long a closed connection waits for the packets that are still under way.
const LINGER_NS: u64 = 1_000_000_000;

/// When something about a conversation is to be reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) idle_timeout_ns: u64,
    pub(super) update_interval_ns: u64,
}

impl Due {
    /// When it will be over, if no packet comes.
    fn end_ns(self, flow: &Flow) -> u64 {
        let patience_ns = if flow.has_ended() { LINGER_NS } else { u64::MAX };
        flow.last_ns.saturating_add(patience_ns.min(self.idle_timeout_ns))
    }

    /// When it has been active for another interval since it was last reported.
    fn report_ns(self, flow: &Flow) -> u64 {
        if flow.started && flow.last_ns > flow.last_report_ns {
            flow.last_report_ns.saturating_add(self.update_interval_ns)
        } else {
            u64::MAX
        }
    }

    /// Whichever of both comes first.
    pub(super) fn next_ns(self, flow: &Flow) -> u64 {
        self.end_ns(flow).min(self.report_ns(flow))
    }
}

/// What a look at all conversations found.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) over: Vec<(FlowId, EndReason)>,
    /// When it was last reported, and its position.
    pub(super) unreported: Vec<(u64, usize)>,
    /// When something of the others is due.
    pub(super) next_ns: u64,
}

impl Look {
    pub(super) fn at(flows: &Conversations, due: Due, now_ns: u64) -> Self {
        let mut look = Self { over: Vec::new(), unreported: Vec::new(), next_ns: u64::MAX };
        for (position, flow) in flows.iter().enumerate() {
            let (end_ns, report_ns) = (due.end_ns(flow), due.report_ns(flow));
            if end_ns <= now_ns {
                let is_done = flow.has_ended() && now_ns.saturating_sub(flow.last_ns) >= LINGER_NS;
                let reason = if is_done { EndReason::EndOfFlow } else { EndReason::IdleTimeout };
                look.over.push((flow.id, reason));
            } else if report_ns <= now_ns {
                look.unreported.push((flow.last_report_ns, position));
                look.next_ns = look.next_ns.min(end_ns);
            } else {
                look.next_ns = look.next_ns.min(end_ns).min(report_ns);
            }
        }
        look
    }
}
