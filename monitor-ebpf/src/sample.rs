//! Samples: a few packets of each flow travel to user space, within a budget that a flood cannot buy.

use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;

use monitor_ebpf::bytes::{Bytes, pin};
use monitor_ebpf::packet::Headers;
use monitor_ebpf::wire::{Budget, SampleRecord, kind};

use crate::emit::{self, Fate, Reserved, SAMPLE_RING};
use crate::flows::{Packet, write_key};
use crate::tc::bytes;
use crate::{budget, clock, config};

#[map(name = "pw_budget")]
static BUDGET: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

/// Sends the packet to user space, if this CPU's budget allows; it stands for `represents` packets.
#[inline(always)]
pub(crate) fn take(ctx: &TcContext, packet: Packet, headers: Headers, represents: u32) {
    let snaplen = config::snaplen();
    let Some((reserved, ktime_ns)) = reserve(packet, snaplen) else {
        return;
    };
    let record = reserved.as_mut_ptr();
    // SAFETY: the reserved record, `snaplen` bytes longer than the struct; every field is written.
    unsafe {
        describe(record, ktime_ns, packet, headers, represents);
        let wanted = if packet.length < snaplen { packet.length } else { snaplen };
        let wanted = pin(wanted as usize);
        let data = record.add(1).cast();
        let in_reach = snaplen <= LOOP_MAX && wanted >= CHUNK;
        let is_copied = in_reach && copy(bytes(ctx), headers.network, data, wanted)
            || load(ctx, headers.network, data, wanted, snaplen);
        (*record).captured = if is_copied { wanted as u32 } else { 0 };
    }
    reserved.submit();
}

/// As [`take`], for one of the first packets with payload of a flow, which tell what it speaks: as
/// much of it as that takes, where that is more.
#[inline(always)]
pub(crate) fn take_head(ctx: &TcContext, packet: Packet, headers: Headers) {
    let snaplen = config::head_snaplen();
    let Some((reserved, ktime_ns)) = reserve(packet, snaplen) else {
        return;
    };
    let record = reserved.as_mut_ptr();
    // SAFETY: as in `take`.
    unsafe {
        describe(record, ktime_ns, packet, headers, 1);
        let wanted = if packet.length < snaplen { packet.length } else { snaplen };
        let wanted = pin(wanted as usize);
        let is_copied = load(ctx, headers.network, record.add(1).cast(), wanted, snaplen);
        (*record).captured = if is_copied { wanted as u32 } else { 0 };
    }
    reserved.submit();
}

/// Room for a sample of `snaplen` bytes, if this CPU's budget allows and the ring has it; and the time.
#[inline(always)]
fn reserve(packet: Packet, snaplen: u32) -> Option<(Reserved<SampleRecord>, u64)> {
    if !budget::take(&BUDGET, u64::from(config::sample_budget())) {
        emit::count(packet.program, Fate::Filtered);
        return None;
    }
    let size = size_of::<SampleRecord>() + snaplen as usize;
    // Before the ring is locked, which waits for memory: until then the processor goes ahead.
    let ktime_ns = clock::exact();
    Some((emit::reserve(&SAMPLE_RING, packet.program, size)?, ktime_ns))
}

/// Writes every field but [`SampleRecord::captured`].
///
/// # Safety
///
/// `record` is a reserved one.
#[inline(always)]
unsafe fn describe(
    record: *mut SampleRecord,
    ktime_ns: u64,
    packet: Packet,
    headers: Headers,
    represents: u32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        (*record).header = emit::header(kind::SAMPLE, packet.program, ktime_ns);
        write_key(&raw mut (*record).key, packet.key);
        (*record).length = packet.length;
        (*record).represents = represents;
        (*record).payload_offset = (headers.payload - headers.network) as u32;
    }
}

/// The most bytes that are copied in a loop, each turn of which the verifier looks at.
const LOOP_MAX: u32 = 256;

/// The farthest that an IP header is expected: the verifier wants to see a bound.
const FARTHEST: usize = 256;

/// What is copied at once: four words.
const CHUNK: usize = 4 * size_of::<u64>();

/// Copies `len` bytes of the packet from `offset` on, if they can be read directly: 9 ns less than
/// by the helper. The last chunk may overlap the one before.
///
/// # Safety
///
/// `to` has room for `len` bytes, which are at least a chunk; `snaplen` is at most [`LOOP_MAX`].
#[inline(always)]
unsafe fn copy(packet: Bytes, offset: usize, to: *mut u64, len: usize) -> bool {
    let (offset, last) = (pin(offset), pin(len - CHUNK));
    if offset > FARTHEST {
        return false;
    }
    // SAFETY: the last chunk before `len`.
    if !unsafe { copy_chunk(packet, offset + last, to.byte_add(last)) } {
        return false;
    }
    let mut copied = 0;
    // The second half follows from the first, which a verifier before 6.2 does not see.
    while copied < last && copied + CHUNK <= config::snaplen() as usize {
        // SAFETY: a chunk that begins before the last one.
        if !unsafe { copy_chunk(packet, offset + copied, to.byte_add(copied)) } {
            return false;
        }
        copied += CHUNK;
    }
    true
}

/// Copies a chunk of the packet, if it can be read directly.
///
/// # Safety
///
/// `to` has room for a chunk.
#[inline(always)]
unsafe fn copy_chunk(packet: Bytes, offset: usize, to: *mut u64) -> bool {
    let Some(chunk) = packet.window::<CHUNK>(offset) else {
        return false;
    };
    // SAFETY: the caller's contract.
    unsafe {
        to.write(chunk.raw64::<0>());
        to.add(1).write(chunk.raw64::<8>());
        to.add(2).write(chunk.raw64::<16>());
        to.add(3).write(chunk.raw64::<24>());
    }
    true
}

/// The same by the helper, which reaches everything there is of the packet.
///
/// # Safety
///
/// `to` has room for `len` bytes, which are at most `snaplen`.
#[inline(always)]
unsafe fn load(ctx: &TcContext, offset: usize, to: *mut u64, len: usize, snaplen: u32) -> bool {
    let skb = ctx.skb.skb.cast();
    // The helper refuses a length of 0. Verifiers before 6.2 see that it is more only like this.
    let last = pin(len.wrapping_sub(1));
    // SAFETY: the skb the kernel called us with, and the caller's contract.
    last < snaplen as usize
        && unsafe { bpf_skb_load_bytes(skb, offset as u32, to.cast(), last as u32 + 1) == 0 }
}
