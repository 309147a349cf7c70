//! The header of an installed package, as the rpm database keeps it.
//!
//! Two numbers, of index entries and of bytes of data; the entries, each tag, type, offset into the data
//! and count; the data. All numbers are big-endian. See `lib/header.c` and `include/rpm/rpmtag.h` of rpm.

/// A header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a> {
    entries: &'a [[u8; ENTRY]],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    /// Of the blob in the database.
    pub(super) fn parse(blob: &'a [u8]) -> Option<Self> {
        let (entries, rest) = number(blob)?;
        let (_, rest) = number(rest)?;
        let length = entries.checked_mul(u32::try_from(ENTRY).ok()?)?;
        let (entries, data) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        Some(Self { entries: entries.as_chunks().0, data })
    }

    /// The text of a tag.
    pub(super) fn text(&self, tag: u32) -> Option<&'a [u8]> {
        self.texts(tag)?.next()
    }

    /// The texts of a tag.
    pub(super) fn texts(&self, tag: u32) -> Option<impl Iterator<Item = &'a [u8]>> {
        let (kind, data, count) = self.find(tag)?;
        [STRING, STRING_ARRAY, I18N_STRING]
            .contains(&kind)
            .then(|| data.split(|&byte| byte == 0).take(count))
    }

    /// The numbers of a tag.
    pub(super) fn numbers(&self, tag: u32) -> Option<impl Iterator<Item = u32>> {
        let (kind, data, count) = self.find(tag)?;
        let (numbers, _) = data.as_chunks::<4>();
        let numbers = numbers.iter().map(|bytes| u32::from_be_bytes(*bytes));
        (kind == INT32).then(|| numbers.take(count))
    }

    fn find(&self, tag: u32) -> Option<(u32, &'a [u8], usize)> {
        self.entries.iter().find_map(|entry| {
            let (its_tag, rest) = number(entry)?;
            let (kind, rest) = number(rest)?;
            let (offset, rest) = number(rest)?;
            let (count, _) = number(rest)?;
            let data = self.data.get(usize::try_from(offset).ok()?..)?;
            (its_tag == tag).then_some((kind, data, usize::try_from(count).ok()?))
        })
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

/// Bytes of an index entry.
const ENTRY: usize = 16;
/// `RPM_INT32_TYPE`.
const INT32: u32 = 4;
/// `RPM_STRING_TYPE`.
const STRING: u32 = 6;
/// `RPM_STRING_ARRAY_TYPE`.
const STRING_ARRAY: u32 = 8;
/// `RPM_I18NSTRING_TYPE`.
const I18N_STRING: u32 = 9;
