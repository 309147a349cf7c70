//! The flow table: set-associative, one part per CPU, a plain mmapable array.
//!
//! A hit costs a hash, a look-up that the verifier inlines and one cache line; a hash map would cost
//! 40 ns more. No packet is lost to an eviction: a slot is rewritten only after its counters left in
//! a submitted record, otherwise the new flow's packet counts as overflow.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use aya_ebpf::programs::TcContext;

use core::hint::cold_path;

use monitor_ebpf::bytes::pin;
use monitor_ebpf::eviction::{idle_longest, idle_longest_beside};
use monitor_ebpf::key::{self, Key, Words};
use monitor_ebpf::packet::tcp;
use monitor_ebpf::search::{find, find_beside, key_of};
use monitor_ebpf::wire::{BESIDE, FlowKey, FlowRecord, Set, Slot, WAYS, kind};

use crate::{clock, config, emit, flow_ring};

/// `cpu * sets + set`; sized by the loader.
#[map(name = "pw_flows")]
static FLOWS: Array<Set> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// One packet, as the flow table sees it.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) key: Key,
    pub(crate) words: Words,
    pub(crate) cpu: u32,
    pub(crate) length: u32,
    pub(crate) tcp_flags: u8,
    pub(crate) has_payload: bool,
    pub(crate) program: u32,
}

/// What [`account`] asks the caller to do next.
#[derive(Clone, Copy)]
pub(crate) enum Accounted {
    /// Counted in its flow.
    Followed,
    /// Counted in its flow; the packet is to be sampled and stands for this many.
    Sample(u32),
    /// Counted in its flow; it is one of the first with payload, which are sampled at greater length.
    Head,
    /// There was no room: count it as overflow.
    Overflow,
}

/// Counts the packet in its flow, which may be new. `sequence` reads its sequence number, as it lies in the
/// packet; it is asked only where a SYN starts a flow.
#[inline(always)]
pub(crate) fn account(
    ctx: &TcContext,
    packet: Packet,
    sequence: impl FnOnce() -> u32,
) -> Accounted {
    let hash = key::hash(packet.key, packet.words, config::hash_multiplier);
    let mut index = packet.cpu * config::sets() + (hash >> config::set_shift()) as u32;
    let Some(set) = FLOWS.get_ptr_mut(index) else {
        return Accounted::Overflow;
    };
    // SAFETY: a helper without arguments; the verifier inlines it as a load.
    let jiffies = unsafe { bpf_jiffies64() };
    // SAFETY: a live set of this CPU, which no other program writes meanwhile: TC programs run with
    // bottom halves off, so neither preemption nor a softirq can come between.
    let mut set = unsafe { &mut *set };
    let mut found = find(set, packet.key, packet.words);
    let mut way = found;
    if found == WAYS {
        cold_path();
        let mut room = idle_longest(set, jiffies as u32);
        way = room.way;
        let mut beside = 1;
        let mut is_full =
            room.is_active && room.others_last && clock::may_search(packet.cpu, jiffies);
        while beside < BESIDE && is_full {
            let Some(next) = FLOWS.get_ptr_mut(index ^ beside) else {
                break;
            };
            // SAFETY: as above; the set lies in the same part.
            let next = unsafe { &*next };
            let elsewhere = find_beside(next, packet.key, packet.words);
            room = idle_longest_beside(next, jiffies as u32);
            if elsewhere < WAYS || !room.is_active {
                index ^= beside;
                found = elsewhere;
                way = if found < WAYS { found } else { room.way };
                break;
            }
            is_full = room.others_last;
            beside += 1;
        }
        if beside == BESIDE {
            clock::searched_in_vain(packet.cpu, jiffies);
        }
        // Looked up once more, which takes less of the stack than to keep it meanwhile.
        let Some(chosen) = FLOWS.get_ptr_mut(index) else {
            return Accounted::Overflow;
        };
        // SAFETY: as above.
        set = unsafe { &mut *chosen };
    }
    // Masked, so that the verifier sees the bound, and pinned, so that LLVM keeps the mask.
    let slot = &mut set.ways[pin(way) & (WAYS - 1)];
    let place = Place { slot: index * WAYS as u32 + way as u32, jiffies };
    if found < WAYS && !starts_again(slot, packet) {
        hit(ctx, packet, slot, place)
    } else {
        cold_path();
        start(ctx, packet, slot, place, sequence)
    }
}

/// Which slot, and when.
#[derive(Clone, Copy)]
struct Place {
    slot: u32,
    jiffies: u64,
}

/// Writes a key word by word. Volatile: LLVM would make one `memmove` or `memset` of it, which BPF
/// calls, 10 ns each, and which takes a copy of the key on the stack of every packet.
///
/// # Safety
///
/// `to` can be written and is aligned to 8.
#[inline(always)]
pub(crate) unsafe fn write_key(to: *mut FlowKey, key: Key) {
    let words = to.cast::<u64>();
    // SAFETY: `FlowKey` is five words; the rest is the caller's contract.
    unsafe {
        words.write_volatile(key[0]);
        words.add(1).write_volatile(key[1]);
        words.add(2).write_volatile(key[2]);
        words.add(3).write_volatile(key[3]);
        words.add(4).write_volatile(key[4]);
    }
}

/// The same ports again after the connection ended: a flow of its own. Whoever opens a connection has not
/// acknowledged anything of it, so an ACK is of one before, whose FIN another CPU may have counted.
#[inline(always)]
const fn starts_again(slot: &Slot, packet: Packet) -> bool {
    let of_one_before = tcp::FIN | tcp::RST | !packet.tcp_flags & tcp::ACK;
    packet.tcp_flags & tcp::SYN != 0 && slot.tcp_flags & of_one_before != 0
}

/// Counts a packet of a known flow.
#[inline(always)]
fn hit(ctx: &TcContext, packet: Packet, slot: &mut Slot, place: Place) -> Accounted {
    slot.bytes += u64::from(packet.length);
    slot.last_jiffies = place.jiffies as u32;
    slot.tcp_flags |= packet.tcp_flags;
    let count = &raw mut slot.count;
    // SAFETY: part of the slot; volatile keeps it behind the other stores, so that a reader who sees
    // the packet counted sees its bytes and flags as well.
    unsafe { count.write_volatile(count.read() + 1) };
    if slot.head_samples != 0 {
        cold_path();
        if slot.head_samples & Slot::UNANNOUNCED != 0
            && announce(ctx, packet, None, place, slot.generation() as u32, || 0)
        {
            slot.head_samples &= !Slot::UNANNOUNCED;
        }
        if packet.has_payload && slot.head_samples & Slot::MAX_HEAD_SAMPLES != 0 {
            slot.head_samples -= 1;
            return Accounted::Head;
        }
    }
    if config::sample_every() != 0 {
        slot.until_sample = slot.until_sample.wrapping_sub(1);
        if slot.until_sample == 0 {
            cold_path();
            slot.until_sample = config::sample_every() as u16;
            return Accounted::Sample(config::sample_every());
        }
    }
    Accounted::Followed
}

/// Gives a slot to a new flow, handing its old content over first.
#[inline(always)]
fn start(
    ctx: &TcContext,
    packet: Packet,
    slot: &mut Slot,
    place: Place,
    sequence: impl FnOnce() -> u32,
) -> Accounted {
    let generation = next_generation(slot);
    let announced = announce(ctx, packet, Some(slot), place, generation, sequence);
    if !announced && slot.count != 0 {
        return Accounted::Overflow;
    }
    let count = &raw mut slot.count;
    // A reader that sees count 0 looks again later: until the last store the words are nobody's.
    // SAFETY: the words lie in the slot; volatile keeps the stores in this order.
    unsafe {
        count.write_volatile(0);
        write_key(&raw mut slot.key, packet.key);
        slot.bytes = u64::from(packet.length);
        slot.last_jiffies = place.jiffies as u32;
        slot.tcp_flags = packet.tcp_flags;
        slot.until_sample = config::sample_every() as u16;
        slot.head_samples = config::head_samples() as u8;
        if !announced {
            slot.head_samples |= Slot::UNANNOUNCED;
        }
        count.write_volatile(u64::from(generation) << Slot::PACKET_BITS | 1);
    }
    if packet.has_payload && config::head_samples() != 0 {
        slot.head_samples -= 1;
        return Accounted::Head;
    }
    // Every packet is every packet.
    if config::sample_every() == 1 { Accounted::Sample(1) } else { Accounted::Followed }
}

/// The generation after the slot's; never 0.
#[inline(always)]
const fn next_generation(slot: &Slot) -> u32 {
    let next = slot.generation() as u32 + 1;
    if next >> Slot::GENERATION_BITS == 0 { next } else { 1 }
}

/// The cookie of the packet's socket: at egress, and at ingress where the packet has not left the host,
/// the sending one's. 0 for a packet that has none, for which asking would cost as much.
#[inline(always)]
fn cookie(ctx: &TcContext) -> u64 {
    let skb = ctx.skb.skb;
    // SAFETY: the skb the kernel called us with.
    unsafe {
        if (*skb).__bindgen_anon_2.sk.is_null() { 0 } else { bpf_get_socket_cookie(skb.cast()) }
    }
}

/// Submits the [`FlowRecord`] of a new flow, with the content of the slot it takes if it starts now.
#[inline(always)]
fn announce(
    ctx: &TcContext,
    packet: Packet,
    evicted: Option<&Slot>,
    place: Place,
    generation: u32,
    sequence: impl FnOnce() -> u32,
) -> bool {
    let Some(reserved) = flow_ring::reserve(packet.cpu, packet.program) else {
        return false;
    };
    // Of UDP only the time tells which of two CPUs had the question and which the answer.
    let time = clock::within_a_jiffy(packet.cpu, place.jiffies, packet.tcp_flags == 0);
    let cookie = cookie(ctx);
    let sequence = if tcp::opens(packet.tcp_flags) { sequence() } else { 0 };
    let record = reserved.as_mut_ptr();
    // SAFETY: the reserved record; every field is written.
    unsafe {
        (*record).header = emit::header(kind::FLOW, packet.program, time.ktime_ns);
        (*record).cookie = cookie;
        (*record).slot = place.slot;
        (*record).generation = generation;
        write_key(&raw mut (*record).key, packet.key);
        (*record).tcp_flags = packet.tcp_flags;
        let late = if evicted.is_none() { FlowRecord::LATE } else { 0 };
        let early = if time.is_early { FlowRecord::EARLY } else { 0 };
        (*record).circumstances = late | early;
        (*record).sequence = sequence;
        (*record).jiffies = place.jiffies as u32;
        let evicted_key = &raw mut (*record).evicted_key;
        if let Some(slot) = evicted {
            write_key(evicted_key, key_of(slot));
            (*record).evicted_count = slot.count;
            (*record).evicted_bytes = slot.bytes;
            (*record).evicted_last_jiffies = slot.last_jiffies;
            (*record).evicted_tcp_flags = slot.tcp_flags;
        } else {
            write_key(evicted_key, [0; 5]);
            (*record).evicted_count = 0;
            // Volatile, for the same reason as in `write_key`.
            (&raw mut (*record).evicted_bytes).write_volatile(0);
            (*record).evicted_last_jiffies = 0;
            (*record).evicted_tcp_flags = 0;
        }
    }
    reserved.submit();
    true
}
