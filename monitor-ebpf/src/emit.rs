//! The way out: records leave through ring buffers, and every record has a counted fate.
//!
//! Flows, samples and sockets have rings of their own, so that a flood of packets cannot push out the
//! record of a listener. That of flows is in `flow_ring`.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::{bpf_ringbuf_reserve, bpf_ringbuf_submit};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use core::marker::PhantomData;
use core::ptr;

use monitor_ebpf::wire::{Fates, Header, PROGRAMS, WIRE_VERSION, program};

/// Samples. Never wakes its reader: a wake-up costs the packet path 6 µs, so user space
/// looks every few milliseconds instead.
#[map(name = "pw_sample_ring")]
pub(crate) static SAMPLE_RING: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// What happened to sockets. Wakes its reader, who has to look at a process before it is gone.
#[map(name = "pw_socket_ring")]
pub(crate) static SOCKET_RING: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

#[map(name = "pw_fates")]
static FATES: PerCpuArray<Fates> = PerCpuArray::with_max_entries(PROGRAMS.len() as u32, 0);

/// What became of a record.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    Filtered,
    Submitted,
    RingFull,
}

/// A reserved record, to be filled and submitted.
pub(crate) struct Reserved<T> {
    record: *mut T,
    program: u32,
    flags: u64,
    _owns: PhantomData<T>,
}

impl<T> Reserved<T> {
    /// Where to write the record. Not initialised: write every field.
    #[inline(always)]
    pub(crate) const fn as_mut_ptr(&self) -> *mut T {
        self.record
    }

    /// Hands the record to user space.
    #[inline(always)]
    pub(crate) fn submit(self) {
        // SAFETY: `record` came from `bpf_ringbuf_reserve` and is given up here, once.
        unsafe { bpf_ringbuf_submit(self.record.cast(), self.flags) };
        count(self.program, Fate::Submitted);
    }
}

/// Reserves `size` bytes for a `T` and what follows it; counts the loss where the ring is full.
/// `size` is a constant to the verifier.
#[inline(always)]
pub(crate) fn reserve<T>(ring: &RingBuf, program: u32, size: usize) -> Option<Reserved<T>> {
    let is_sample_ring = ptr::eq(ring, &raw const SAMPLE_RING);
    // SAFETY: a ring buffer map; the verifier checks the size and that the record is submitted.
    let record = unsafe {
        bpf_ringbuf_reserve(ptr::from_ref(ring).cast_mut().cast(), size as u64, 0).cast::<T>()
    };
    if record.is_null() {
        count(program, Fate::RingFull);
        return None;
    }
    let flags = if is_sample_ring { u64::from(BPF_RB_NO_WAKEUP) } else { 0 };
    Some(Reserved { record, program, flags, _owns: PhantomData })
}

/// The common prefix of a record.
#[inline(always)]
pub(crate) const fn header(kind: u16, program: u32, ktime_ns: u64) -> Header {
    Header { version: WIRE_VERSION, kind, program, ktime_ns }
}

/// Counts a record as seen and as what became of it.
#[inline(always)]
pub(crate) fn count(program: u32, fate: Fate) {
    let Some(fates) = FATES.get_ptr_mut(program) else {
        return;
    };
    // SAFETY: `fates` is this CPU's live row of a program, and `program` is the one that runs.
    unsafe {
        add_one(&raw mut (*fates).seen, program);
        let counter = match fate {
            Fate::Filtered => &raw mut (*fates).filtered,
            Fate::Submitted => &raw mut (*fates).submitted,
            Fate::RingFull => &raw mut (*fates).ring_full,
        };
        add_one(counter, program);
    }
}

/// Counts one more, atomically only where that is needed: an atomic addition waits until all that was
/// written before has reached the cache, 5 ns each where a packet has just written to a cold record.
///
/// # Safety
///
/// `counter` is in the live row of `program`, which runs, on this CPU.
#[inline(always)]
unsafe fn add_one(counter: *mut u64, program: u32) {
    // SAFETY: the caller's contract. A TC program runs with bottom halves off, so that nothing else
    // writes its row meanwhile; any other can be preempted by itself.
    unsafe {
        if matches!(program, program::INGRESS | program::EGRESS) {
            counter.write_volatile(counter.read_volatile() + 1);
        } else {
            atomic_add(counter, 1);
        }
    }
}

/// Adds atomically. The BPF target has no `AtomicU64::fetch_add`.
///
/// # Safety
///
/// `counter` points into a live map value.
#[inline(always)]
unsafe fn atomic_add(counter: *mut u64, value: u64) {
    // SAFETY: one `BPF_ATOMIC | BPF_ADD` instruction on the word the caller vouches for.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counter} + 0) += {value}",
            counter = in(reg) counter,
            value = in(reg) value,
        );
    }
}
