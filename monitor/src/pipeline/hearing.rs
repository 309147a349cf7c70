//! What flows look like: the samples of their first packets, put together and classified.
//!
//! Classification is in memory and the same whatever `--payload` says. What a flow looked like stays with
//! the flow; its bytes are forgotten once that cannot change any more.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use monitor_ebpf::wire::SampleRecord;
use serde::{Deserialize, Serialize};

use crate::app::{Confidence, Conversation, Likeness, Masked, Segment, Speaker};
use crate::endpoint::Transport;
use crate::flow::{End, Flow, FlowId};
use crate::pipeline::Pipeline;

/// Flows that are listened to at once: with some 4 KiB each, what is kept of them stays small. Most are
/// understood within a packet or two of either side.
const MAX_CONVERSATIONS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// What came of listening to a sample.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Impression {
    /// What its flow looks like from now on, if that is news.
    pub likeness: Option<Arc<Likeness>>,
    /// What may be shown of its payload with `--payload masked`.
    pub shown: Masked,
    /// Flows that had to make room for it before it was certain what they speak.
    pub given_up: u64,
}

/// Flows that are being listened to.
#[derive(Debug)]
pub(super) struct Hearing {
    conversations: LruCache<FlowId, Heard>,
    given_up: u64,
}

#[derive(Debug)]
struct Heard {
    /// [`Flow::number`]: the same ends may have begun anew.
    number: u64,
    opener: End,
    /// Where datagrams of either end are listened to: each is seen at several places.
    places: [Option<u32>; 2],
    conversation: Conversation,
}

impl Heard {
    fn of(flow: &Flow) -> Self {
        let transport = flow.id.transport;
        // UDP has no beginning: it is what was heard first.
        let is_from_start = flow.opening_seen || transport == Transport::Udp;
        let conversation = Conversation::new(transport, is_from_start);
        Self { number: flow.number, opener: flow.opener, places: [None; 2], conversation }
    }

    fn is_of(&self, flow: &Flow) -> bool {
        self.number == flow.number && self.opener == flow.opener
    }

    /// Is this the place where datagrams of the speaker are listened to?
    fn is_at(&mut self, place: u32, speaker: Speaker) -> bool {
        let [source, destination] = &mut self.places;
        let known = if speaker == Speaker::Source { source } else { destination };
        *known.get_or_insert(place) == place
    }
}

impl Hearing {
    pub(super) fn new() -> Self {
        Self { conversations: LruCache::new(MAX_CONVERSATIONS), given_up: 0 }
    }

    /// Flows that had to make room before it was certain what they speak.
    pub(super) const fn given_up(&self) -> u64 {
        self.given_up
    }

    /// The flow is over.
    pub(super) fn forget(&mut self, flow: &Flow) {
        if self.conversations.peek(&flow.id).is_some_and(|heard| heard.number == flow.number) {
            self.conversations.pop(&flow.id);
        }
    }
}

impl Pipeline {
    /// Listens to what was sampled of a packet. Nothing but whom it listens to changes by that.
    pub(super) fn listen(&mut self, sample: &SampleRecord, data: &[u8]) -> Impression {
        let (id, sender) = FlowId::of(&sample.key);
        // The ring was full when it was announced, or it has ended.
        let Some(flow) = self.flows.get_mut(&id).filter(|flow| !flow.is_heard_out) else {
            return Impression::default();
        };
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (offset, length) = (size(sample.payload_offset), size(sample.length));
        let Some(segment) = Segment::of(data, offset, length, id.transport) else {
            return Impression::default();
        };
        let speaker = if sender == flow.opener { Speaker::Source } else { Speaker::Destination };
        let heard = self.hearing.conversations.pop(&id).filter(|heard| heard.is_of(flow));
        let mut heard = heard.unwrap_or_else(|| Heard::of(flow));
        let is_twin = id.transport == Transport::Udp && !heard.is_at(sample.key.place, speaker);
        let is_news = !is_twin && heard.conversation.take(speaker, &segment);
        let likeness = heard.conversation.likeness().filter(|_| is_news).cloned().map(Arc::new);
        let shown = heard.conversation.masked(speaker, &segment);
        flow.is_heard_out = heard.conversation.is_settled();
        let mut given_up = 0;
        if !flow.is_heard_out
            && let Some((other, made_room)) = self.hearing.conversations.push(id, heard)
        {
            given_up = u64::from(self.give_up(&other, &made_room));
        }
        Impression { likeness, shown, given_up }
    }

    /// Takes in what came of listening.
    pub(super) fn believe(&mut self, id: &FlowId, impression: &Impression) {
        self.hearing.given_up = self.hearing.given_up.saturating_add(impression.given_up);
        if let (Some(likeness), Some(flow)) = (&impression.likeness, self.flows.get_mut(id)) {
            flow.app = Some(Arc::clone(likeness));
        }
    }

    /// Too many flows are listened to: what this one looks like by now is all that will be known.
    /// True: it was not certain.
    fn give_up(&mut self, id: &FlowId, heard: &Heard) -> bool {
        let Some(flow) = self.flows.get_mut(id).filter(|flow| flow.number == heard.number) else {
            return false;
        };
        flow.is_heard_out = true;
        let is_certain = |likeness: &Likeness| likeness.confidence == Some(Confidence::Certain);
        !heard.conversation.likeness().is_some_and(is_certain)
    }
}
