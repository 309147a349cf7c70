//! A conversation as far as it was sampled: what both sides have said, and what that looks like.

use serde::{Deserialize, Serialize};

use crate::endpoint::Transport;

use super::classify::{self, Said, Talk};
use super::stream::{Datagrams, Stream};
use super::{Confidence, Likeness, Protocol, Segment, Speaker, mask};

/// Segments that are taken in; whoever has not been understood by then will not be.
const MAX_SEGMENTS: u32 = 96;

/// Segments that are still taken in once it is certain: those of an answer may come twice.
const AFTERTHOUGHTS: u32 = 8;

/// What was heard of a conversation.
#[derive(Clone, Debug)]
pub struct Conversation {
    transport: Transport,
    /// It began while it was listened to.
    is_from_start: bool,
    source: Side,
    destination: Side,
    first: Option<Speaker>,
    taken: u32,
    certain_at: Option<u32>,
    likeness: Option<Likeness>,
}

#[derive(Clone, Debug, Default)]
struct Side {
    stream: Stream,
    datagrams: Datagrams,
    first_length: usize,
}

impl Conversation {
    /// One of which nothing was heard yet. `is_from_start`: its first packet was seen, so that what
    /// comes first is its beginning.
    pub fn new(transport: Transport, is_from_start: bool) -> Self {
        Self {
            transport,
            is_from_start,
            source: Side::default(),
            destination: Side::default(),
            first: None,
            taken: 0,
            certain_at: None,
            likeness: None,
        }
    }

    /// Takes in what one side has said. True: the likeness has changed.
    pub fn take(&mut self, speaker: Speaker, segment: &Segment<'_>) -> bool {
        self.taken = self.taken.saturating_add(1);
        if self.first.is_none() {
            self.first = Some(speaker);
        }
        let (own, other) = match speaker {
            Speaker::Source => (&mut self.source, &mut self.destination),
            Speaker::Destination => (&mut self.destination, &mut self.source),
        };
        if own.first_length == 0 {
            own.first_length = segment.length;
        }
        let is_heard = match segment.numbers {
            Some((sequence, acknowledged)) => {
                other.stream.begins_by(acknowledged);
                own.stream.insert(sequence, segment.payload)
            }
            None => own.datagrams.push(segment.payload),
        };
        // Most are seen at several places, on loopback devices all.
        if !is_heard && self.likeness.is_some() {
            return false;
        }
        let first = self.first.filter(|_| self.is_from_start);
        let talk = Talk { client: self.source.said(), server: self.destination.said(), first };
        let likeness = classify::classify(&talk, self.transport, self.is_from_start);
        let is_news = likeness.is_some() && likeness != self.likeness;
        if is_news {
            self.likeness = likeness;
        }
        let is_certain = |likeness: &Likeness| likeness.confidence == Some(Confidence::Certain);
        if self.likeness.as_ref().is_some_and(is_certain) {
            self.certain_at.get_or_insert(self.taken);
        }
        is_news
    }

    /// What it looks like by now.
    pub const fn likeness(&self) -> Option<&Likeness> {
        self.likeness.as_ref()
    }

    /// Nothing that may come would change that.
    pub fn is_settled(&self) -> bool {
        let listens_on = self.likeness.as_ref().is_some_and(|likeness| {
            matches!(likeness.protocol, Protocol::Vpcd | Protocol::Iso7816 | Protocol::PcscLite)
        });
        let is_understood =
            self.certain_at.is_some_and(|at| self.taken >= at.saturating_add(AFTERTHOUGHTS));
        let is_full = self.source.stream.is_full() && self.destination.stream.is_full();
        self.taken >= MAX_SEGMENTS || is_full || is_understood && !listens_on
    }

    /// The payload of a segment that was taken in, with everything blanked that may be a secret: only
    /// what is understood is shown, and its place in the conversation has to be known for that.
    pub fn masked(&self, speaker: Speaker, segment: &Segment<'_>) -> Masked {
        let Some(likeness) = &self.likeness else { return Masked::default() };
        let side = match speaker {
            Speaker::Source => &self.source,
            Speaker::Destination => &self.destination,
        };
        let offset = segment.numbers.and_then(|(sequence, _)| side.stream.offset(sequence));
        let Some(offset) = offset else { return Masked::default() };
        let prefix = side.stream.prefix();
        let shown = mask::shown(likeness, speaker, self.first, prefix);
        let behind = shown.get(offset..).unwrap_or_default();
        let heard = prefix.get(offset..).unwrap_or_default();
        let (mut masked, mut visible) = (Masked::default(), 0);
        for ((may_show, heard), sent) in behind.iter().zip(heard).zip(segment.payload) {
            // Of what was sent twice and differs, only the first was understood.
            let is_shown = *may_show && heard == sent;
            masked.bytes.push(if is_shown { *sent } else { 0 });
            if is_shown {
                visible = masked.bytes.len();
            }
            masked.blanked.push(!is_shown);
        }
        masked.bytes.truncate(visible);
        masked.blanked.truncate(visible);
        masked
    }
}

/// The beginning of a payload, up to the last byte that may be shown.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Masked {
    /// With 0 in place of what may be a secret.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// Where that is so.
    pub blanked: Vec<bool>,
}

impl Side {
    fn said(&self) -> Said<'_> {
        let of_datagrams = self.datagrams.messages();
        let (bytes, messages) = match of_datagrams.first() {
            Some(first) => (*first, of_datagrams),
            None => (self.stream.prefix(), self.stream.messages()),
        };
        Said { bytes, messages, first_length: self.first_length }
    }
}
