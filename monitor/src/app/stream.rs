//! The first bytes of one direction, put together from the packets that were sampled.
//!
//! Segments come in any order, several times, and from whoever can send: of bytes that were heard
//! twice the first ones count, and what was not heard is a gap that nothing is read across.

/// Bytes of one direction that are kept: the longest thing to be understood is a `ClientHello`.
pub(super) const LIMIT: usize = 2048;

/// Pieces with gaps between them. Who sends more of them is not worth listening to.
const MAX_PIECES: usize = 16;

/// Beginnings of segments that are remembered.
const MAX_STARTS: usize = 64;

/// So far apart, in either direction, segments can still be parts of one beginning.
const REACH: i64 = 1 << 16;

/// One direction of a TCP connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    /// The sequence number that positions count from.
    origin: Option<u32>,
    /// The position of the first byte there is, as far as is known.
    base: i64,
    /// In order, neither overlapping nor touching.
    pieces: Vec<Piece>,
    held: usize,
    /// Where segments began.
    starts: Vec<i64>,
}

#[derive(Clone, Debug)]
struct Piece {
    start: i64,
    bytes: Vec<u8>,
}

impl Piece {
    fn end(&self) -> i64 {
        position_behind(self.start, self.bytes.len())
    }
}

impl Stream {
    /// The other direction has said that the next byte here has this number: nothing begins later.
    pub(super) fn begins_by(&mut self, sequence: u32) {
        let position = self.position(sequence);
        if position.abs() <= REACH {
            self.base = self.base.min(position);
        }
    }

    /// Takes in what was heard of a segment that begins with this sequence number. True: some of it is
    /// new.
    pub(super) fn insert(&mut self, sequence: u32, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return false;
        }
        let start = self.position(sequence);
        if start.abs() > REACH {
            return false;
        }
        let before = self.held;
        self.base = self.base.min(start);
        if self.starts.len() < MAX_STARTS && !self.starts.contains(&start) {
            self.starts.push(start);
        }
        let end = position_behind(start, bytes.len());
        let mut from = start;
        let mut news = Vec::new();
        for piece in &self.pieces {
            if piece.end() <= from {
                continue;
            }
            if piece.start >= end {
                break;
            }
            news.push((from, piece.start));
            from = piece.end();
        }
        news.push((from, end));
        for (from, to) in news {
            self.keep(from, part(bytes, start, from, to));
        }
        self.join();
        self.held > before
    }

    /// The bytes from the first one on, up to the first gap.
    pub(super) fn prefix(&self) -> &[u8] {
        match self.pieces.first() {
            Some(first) if first.start == self.base => &first.bytes,
            _ => &[],
        }
    }

    /// The prefix, cut where segments began: what the sender wrote in one go, if it wrote slowly.
    pub(super) fn messages(&self) -> Vec<&[u8]> {
        let prefix = self.prefix();
        let mut cuts: Vec<usize> = self
            .starts
            .iter()
            .filter_map(|start| usize::try_from(start - self.base).ok())
            .filter(|cut| *cut < prefix.len())
            .chain([0])
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        let ends = cuts.iter().skip(1).copied().chain([prefix.len()]);
        let parts = cuts.iter().zip(ends).filter_map(|(from, to)| prefix.get(*from..to));
        parts.filter(|part| !part.is_empty()).collect()
    }

    /// Where in the prefix a segment lies, if it begins there.
    pub(super) fn offset(&self, sequence: u32) -> Option<usize> {
        let position = relative(self.origin?, sequence);
        let offset = usize::try_from(position - self.base).ok()?;
        (offset < self.prefix().len()).then_some(offset)
    }

    /// Nothing more can come.
    pub(super) fn is_full(&self) -> bool {
        self.held >= LIMIT
    }

    fn position(&mut self, sequence: u32) -> i64 {
        relative(*self.origin.get_or_insert(sequence), sequence)
    }

    fn keep(&mut self, start: i64, bytes: &[u8]) {
        let room = LIMIT.saturating_sub(self.held);
        let bytes = bytes.get(..room).unwrap_or(bytes);
        if bytes.is_empty() || self.pieces.len() >= MAX_PIECES {
            return;
        }
        self.held += bytes.len();
        self.pieces.push(Piece { start, bytes: bytes.to_vec() });
    }

    /// Restores the order, and makes one piece of those that touch.
    fn join(&mut self) {
        self.pieces.sort_by_key(|piece| piece.start);
        self.pieces.dedup_by(|next, piece| {
            let touches = next.start == piece.end();
            if touches {
                piece.bytes.append(&mut next.bytes);
            }
            touches
        });
    }
}

/// The first datagrams of one direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Datagrams {
    first: Vec<Vec<u8>>,
    held: usize,
}

impl Datagrams {
    /// True: it is kept.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let room = LIMIT.saturating_sub(self.held);
        let is_kept = room > 0 && self.first.len() < MAX_STARTS;
        if is_kept {
            let kept = bytes.get(..room).unwrap_or(bytes);
            self.held += kept.len();
            self.first.push(kept.to_vec());
        }
        is_kept
    }

    pub(super) fn messages(&self) -> Vec<&[u8]> {
        self.first.iter().map(Vec::as_slice).collect()
    }
}

/// How far a sequence number is ahead of another, which may be behind it.
fn relative(origin: u32, sequence: u32) -> i64 {
    i64::from(sequence.wrapping_sub(origin).cast_signed())
}

fn position_behind(start: i64, length: usize) -> i64 {
    start.saturating_add(i64::try_from(length).unwrap_or(i64::MAX))
}

/// The bytes between two positions, of a segment that begins at `start`.
fn part(bytes: &[u8], start: i64, from: i64, to: i64) -> &[u8] {
    let index = |position: i64| usize::try_from(position - start).ok();
    let range = index(from).zip(index(to));
    range.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn segments_are_put_in_order_whatever_order_they_come_in() {
        let mut stream = Stream::default();

        stream.insert(105, b"world");
        assert_eq!(stream.prefix(), b"world");
        stream.insert(100, b"hello");

        assert_eq!(stream.prefix(), b"helloworld");
        assert_eq!(stream.messages(), [b"hello".as_slice(), b"world"]);
    }

    #[test]
    fn nothing_is_read_across_a_gap() {
        let mut stream = Stream::default();

        stream.insert(100, b"ab");
        stream.insert(103, b"d");
        assert_eq!(stream.prefix(), b"ab");
        stream.insert(102, b"c");

        assert_eq!(stream.prefix(), b"abcd");
    }

    #[test]
    fn a_beginning_that_was_acknowledged_but_not_heard_is_a_gap() {
        let mut stream = Stream::default();

        stream.begins_by(100);
        stream.insert(110, b"later");

        assert_eq!(stream.prefix(), b"");
    }

    #[test]
    fn bytes_that_were_heard_first_count() {
        let mut stream = Stream::default();

        stream.insert(10, b"USER");
        stream.insert(8, b"xxEVILyy");

        assert_eq!(stream.prefix(), b"xxUSERyy");
    }

    #[test]
    fn sequence_numbers_may_begin_anew() {
        let mut stream = Stream::default();

        stream.insert(u32::MAX - 1, b"abcd");
        stream.insert(2, b"ef");

        assert_eq!(stream.prefix(), b"abcdef");
        assert_eq!(stream.offset(2), Some(4));
        assert_eq!(stream.offset(4), None);
    }

    proptest! {
        #[test]
        fn it_is_what_was_heard_first_from_the_beginning_on(
            segments in prop::collection::vec(
                (0_u32..300, prop::collection::vec(any::<u8>(), 0..40)), 0..12,
            ),
            origin in any::<u32>(),
        ) {
            let mut stream = Stream::default();
            let mut heard = BTreeMap::new();
            for (offset, bytes) in &segments {
                stream.insert(origin.wrapping_add(*offset), bytes);
                for (position, byte) in (*offset..).zip(bytes) {
                    heard.entry(position).or_insert(*byte);
                }
            }
            let first = heard.keys().next().copied().unwrap_or(0);
            let expected: Vec<u8> =
                heard.iter().zip(first..).take_while(|((at, _), it)| *at == it)
                    .map(|((_, byte), _)| *byte).collect();

            prop_assert_eq!(stream.prefix(), &expected);
            prop_assert_eq!(stream.messages().concat(), expected);
        }

        #[test]
        fn it_never_keeps_more_than_its_limit(
            segments in prop::collection::vec((any::<u32>(), 0_usize..3000), 0..40),
        ) {
            let mut stream = Stream::default();
            for (sequence, length) in segments {
                stream.insert(sequence % 100_000, &vec![7; length]);
                let held: usize = stream.pieces.iter().map(|piece| piece.bytes.len()).sum();
                prop_assert!(held <= LIMIT && held == stream.held);
                prop_assert!(stream.pieces.len() <= MAX_PIECES);
                let apart = stream.pieces.windows(2).all(|pair| pair[0].end() < pair[1].start);
                prop_assert!(apart);
            }
        }
    }
}
