//! Samples: a few packets of each flow travel to user space, within a budget that a flood cannot buy.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_skb_load_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;

use monitor_ebpf::bytes::pin;
use monitor_ebpf::packet::Headers;
use monitor_ebpf::wire::{Budget, SampleRecord, kind};

use crate::config;
use crate::emit::{self, Fate, PACKET_RING};
use crate::flows::{Packet, write_key};

#[map(name = "pw_budget")]
static BUDGET: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

/// Sends the packet to user space, if this CPU's budget allows; it stands for `represents` packets.
#[inline(always)]
pub(crate) fn take(ctx: &TcContext, packet: Packet, headers: Headers, represents: u32) {
    let snaplen = config::snaplen();
    if !within_budget(&BUDGET, u64::from(config::sample_budget())) {
        emit::count(packet.program, Fate::Filtered);
        return;
    }
    let size = size_of::<SampleRecord>() + snaplen as usize;
    let Some(reserved) = emit::reserve::<SampleRecord>(&PACKET_RING, packet.program, size) else {
        return;
    };
    let record = reserved.as_mut_ptr();
    // SAFETY: the reserved record, `snaplen` bytes longer than the struct; every field is written.
    unsafe {
        (*record).header = emit::header(kind::SAMPLE, packet.program);
        write_key(&raw mut (*record).key, packet.key);
        (*record).length = packet.length;
        (*record).represents = represents;
        (*record).tcp_flags = u32::from(packet.tcp_flags);
        (*record).payload_offset = (headers.payload - headers.network) as u32;
        (*record).ifindex = packet.ifindex;
        (*record).captured = 0;
        let captured = if packet.length < snaplen { packet.length } else { snaplen };
        // The helper refuses a length of 0. Verifiers before 6.2 see that it is more only like this.
        let last = pin((captured as usize).wrapping_sub(1));
        if last < snaplen as usize {
            let data = record.add(1).cast();
            let skb = ctx.skb.skb.cast();
            if bpf_skb_load_bytes(skb, headers.network as u32, data, last as u32 + 1) == 0 {
                (*record).captured = captured;
            }
        }
    }
    reserved.submit();
}

/// Takes one out of a budget, which is whole again once every `budget_window`.
#[inline(always)]
pub(crate) fn within_budget(budget: &PerCpuArray<Budget>, whole: u64) -> bool {
    let Some(budget) = budget.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's live budget, and only one TC program runs on a CPU at a time.
    let budget = unsafe { &mut *budget };
    // SAFETY: a helper without arguments.
    let jiffies = unsafe { bpf_jiffies64() };
    if jiffies - budget.since_jiffies >= u64::from(config::budget_window()) {
        budget.since_jiffies = jiffies;
        budget.left = whole;
    }
    if budget.left == 0 {
        return false;
    }
    budget.left -= 1;
    true
}
