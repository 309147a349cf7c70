//! In which network namespace a packet is, where that is not the one portwatch runs in.
//!
//! Nothing of an skb tells it on all kernels. So each namespace has small programs of its own, which user
//! space makes (`monitor/src/kernel/gate.rs`): they leave the number of the namespace here and go on to
//! the classifier by a tail call. Packets of portwatch's own namespace take no such detour.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, ProgramArray};

use monitor_ebpf::wire::GATES;

/// Where those programs go on; filled by the loader.
#[map(name = "pw_gates")]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(GATES.len() as u32, 0);

/// The number that was left, for each CPU; sized by the loader. A cache line each.
#[map(name = "pw_here")]
static HERE: Array<[u32; 16]> = Array::with_max_entries(1, 0);

/// The number of the namespace the packet is in; `None` if nothing was left.
#[inline(always)]
pub(crate) fn here(cpu: u32) -> Option<u32> {
    let here = HERE.get_ptr(cpu)?;
    // SAFETY: a live map value of this CPU, written just before by the program that came here.
    let number = unsafe { (*here)[0] };
    (number != 0).then_some(number)
}
