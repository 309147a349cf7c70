//! Bytes that others chose, read from front to back: what is not there is `None`, never a panic.

use std::fmt::Write as _;

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Everything that was not read yet.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// As many of `count` bytes as there are.
    pub(super) fn take_up_to(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, the most significant first.
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Three bytes, likewise.
    pub(super) fn u24(&mut self) -> Option<usize> {
        let [high, middle, low] = self.array()?;
        usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()
    }

    /// Four bytes, likewise.
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// What one byte of length announces.
    pub(super) fn counted_by_u8(&mut self) -> Option<&'a [u8]> {
        let count = self.u8()?;
        self.take(usize::from(count))
    }

    /// What two bytes of length announce.
    pub(super) fn counted_by_u16(&mut self) -> Option<&'a [u8]> {
        let count = self.u16()?;
        self.take(usize::from(count))
    }

    /// What comes before the first `end`, which is read as well.
    pub(super) fn until(&mut self, end: u8) -> Option<&'a [u8]> {
        let position = self.rest.iter().position(|byte| *byte == end)?;
        let before = self.take(position)?;
        self.take(1)?;
        Some(before)
    }
}

/// All pairs of bytes as numbers; an odd byte at the end is no number.
pub(super) fn numbers(bytes: &[u8]) -> Vec<u16> {
    let (pairs, _odd) = bytes.as_chunks::<2>();
    pairs.iter().copied().map(u16::from_be_bytes).collect()
}

/// The first line, without its end; `None` while it has not come to one.
pub(super) fn line(bytes: &[u8]) -> Option<&[u8]> {
    let line = Reader::new(bytes).until(b'\n')?;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// All lines that have come to an end.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(move || {
        let line = reader.until(b'\n')?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    })
}

/// At most so many bytes as text; what is not UTF-8 is `\xNN`.
pub(super) fn text(bytes: &[u8], most: usize) -> String {
    let mut text = String::new();
    for chunk in bytes.get(..most).unwrap_or(bytes).utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _written = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Letters, digits, signs and spaces of ASCII, and nothing else.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// Does it begin so, in any case of its letters?
pub(super) fn begins(bytes: &[u8], beginning: &str) -> bool {
    let head = bytes.get(..beginning.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(beginning.as_bytes()))
}

/// Is it in there?
pub(super) fn has(bytes: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(bytes, what).is_some()
}
