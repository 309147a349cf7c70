//! A packet's bytes, read only after a comparison with their end: what the verifier demands of a
//! kernel program, and what keeps a test on the host inside its buffer.

/// A packet as an address range: what `__sk_buff` offers as `data` and `data_end`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    start: usize,
    end: usize,
}

/// `LEN` bytes of a packet that are known to be there.
#[derive(Clone, Copy, Debug)]
pub struct Window<const LEN: usize> {
    address: usize,
}

impl Bytes {
    /// The bytes from `start` up to and not including `end`.
    ///
    /// # Safety
    ///
    /// Every byte of the range stays readable while the value and its windows live.
    #[inline(always)]
    #[must_use]
    pub const unsafe fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// `LEN` bytes from `offset` on, or `None` where the packet ends before.
    #[inline(always)]
    #[must_use]
    pub fn window<const LEN: usize>(self, offset: usize) -> Option<Window<LEN>> {
        let address = pin(self.start + offset);
        (address + LEN <= self.end).then_some(Window { address })
    }
}

impl<const LEN: usize> Window<LEN> {
    /// The byte at `OFFSET`.
    #[inline(always)]
    #[must_use]
    pub fn u8<const OFFSET: usize>(self) -> u8 {
        self.load::<u8, OFFSET>()
    }

    /// Two bytes at `OFFSET`, which the network sends most significant first.
    #[inline(always)]
    #[must_use]
    pub fn u16<const OFFSET: usize>(self) -> u16 {
        u16::from_be(self.load::<u16, OFFSET>())
    }

    /// Four bytes at `OFFSET` as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub fn raw32<const OFFSET: usize>(self) -> u32 {
        self.load::<u32, OFFSET>()
    }

    /// Eight bytes at `OFFSET` as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub fn raw64<const OFFSET: usize>(self) -> u64 {
        self.load::<u64, OFFSET>()
    }

    #[inline(always)]
    fn load<T: Copy, const OFFSET: usize>(self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= LEN) }
        let pointer = (self.address + OFFSET) as *const T;
        // LLVM splits unaligned loads into byte loads on BPF, although every JIT we run on loads
        // unaligned words at full speed.
        #[cfg(target_arch = "bpf")]
        // SAFETY: `window` found `LEN` bytes at `address`, by the contract of `new` they are
        // readable, and `T` ends within them.
        unsafe {
            *pointer
        }
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: as above.
        unsafe {
            pointer.read_unaligned()
        }
    }
}

/// Keeps LLVM from computing an address or an offset a second time: the verifier knows that it is in
/// bounds only for the register that was compared.
#[inline(always)]
#[must_use]
#[cfg_attr(not(target_arch = "bpf"), expect(clippy::missing_const_for_fn, reason = "asm on BPF"))]
pub fn pin(address: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let pinned;
        // SAFETY: moves one register to another. It has to be an instruction: without one, the line
        // information would name the same instruction twice, which the kernel refuses.
        unsafe {
            core::arch::asm!(
                "{pinned} = {address}",
                pinned = lateout(reg) pinned,
                address = in(reg) address,
                options(nomem, nostack, pure),
            );
        }
        pinned
    }
    #[cfg(not(target_arch = "bpf"))]
    address
}

/// The highest bit of a number, 0 or 1. Pinned on both sides: of what LLVM knows to be a comparison it makes
/// a branch, which processors guess wrong and which doubles the ways that the verifier follows.
#[inline(always)]
#[must_use]
pub fn highest_bit(number: u64) -> u64 {
    in_order(in_order(number) >> 63)
}

/// As [`pin`], and what is written before it is done before: LLVM would read everything first, and there is
/// too little stack to keep it.
#[inline(always)]
#[must_use]
#[cfg_attr(not(target_arch = "bpf"), expect(clippy::missing_const_for_fn, reason = "asm on BPF"))]
pub fn in_order(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let pinned;
        // SAFETY: moves one register to another.
        unsafe {
            core::arch::asm!(
                "{pinned} = {number}",
                pinned = lateout(reg) pinned,
                number = in(reg) number,
                options(nostack),
            );
        }
        pinned
    }
    #[cfg(not(target_arch = "bpf"))]
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_where_the_packet_ends() {
        let packet = [1_u8, 2, 3, 4];
        let start = packet.as_ptr().expose_provenance();
        // SAFETY: `packet` outlives `bytes`.
        let bytes = unsafe { Bytes::new(start, start + packet.len()) };

        assert_eq!(bytes.window::<2>(1).map(Window::u16::<0>), Some(0x0203));
        assert_eq!(bytes.window::<4>(0).map(Window::u8::<3>), Some(4));
        assert!(bytes.window::<4>(1).is_none());
        assert!(bytes.window::<1>(4).is_none());
    }
}
