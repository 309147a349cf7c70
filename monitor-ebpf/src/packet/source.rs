//! Where the parser reads from: a slice in tests and fuzzing, a copy of a packet's head in the kernel.

/// A packet, however it is stored.
pub trait Source {
    /// `LEN` bytes from `offset` on, or `None` where the packet ends before.
    fn view<const LEN: usize>(&mut self, offset: usize) -> Option<View<'_, LEN>>;

    /// The same number. In the kernel the verifier no longer knows anything about it: paths that
    /// differ only in such a number are then verified once, not one by one.
    fn blur(&mut self, number: usize) -> usize;

    /// Takes the sequence number of a TCP packet, as it lies there. Hardly anybody asks for it, and what
    /// is passed on takes room on a stack that is full.
    fn note_sequence(&mut self, _sequence: u32) {}
}

impl Source for &[u8] {
    fn view<const LEN: usize>(&mut self, offset: usize) -> Option<View<'_, LEN>> {
        self.get(offset..)?.first_chunk().map(View)
    }

    fn blur(&mut self, number: usize) -> usize {
        number
    }
}

/// `LEN` bytes of a packet.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, const LEN: usize>(pub &'a [u8; LEN]);

#[expect(clippy::indexing_slicing, reason = "bounds are checked at compile time")]
impl<const LEN: usize> View<'_, LEN> {
    /// The byte at `OFFSET`.
    #[inline(always)]
    #[must_use]
    pub const fn u8<const OFFSET: usize>(self) -> u8 {
        const { assert!(OFFSET < LEN) }
        self.0[OFFSET]
    }

    /// Two bytes at `OFFSET`, most significant first.
    #[inline(always)]
    #[must_use]
    pub const fn u16<const OFFSET: usize>(self) -> u16 {
        const { assert!(OFFSET + 2 <= LEN) }
        u16::from_be_bytes([self.0[OFFSET], self.0[OFFSET + 1]])
    }

    /// Four bytes at `OFFSET`, most significant first.
    #[inline(always)]
    #[must_use]
    pub const fn u32<const OFFSET: usize>(self) -> u32 {
        u32::from_be(self.raw32::<OFFSET>())
    }

    /// Four bytes at `OFFSET` as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn raw32<const OFFSET: usize>(self) -> u32 {
        const { assert!(OFFSET + 4 <= LEN) }
        let bytes = self.0;
        u32::from_ne_bytes([bytes[OFFSET], bytes[OFFSET + 1], bytes[OFFSET + 2], bytes[OFFSET + 3]])
    }

    /// Eight bytes at `OFFSET` as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn raw64<const OFFSET: usize>(self) -> u64 {
        const { assert!(OFFSET + 8 <= LEN) }
        let bytes = self.0;
        u64::from_ne_bytes([
            bytes[OFFSET],
            bytes[OFFSET + 1],
            bytes[OFFSET + 2],
            bytes[OFFSET + 3],
            bytes[OFFSET + 4],
            bytes[OFFSET + 5],
            bytes[OFFSET + 6],
            bytes[OFFSET + 7],
        ])
    }
}
