//! Rare diagnostics, off the packet path: the first, second, fourth, eighth… of each kind on a CPU, so
//! that nobody can flood the log.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

/// What can be worth a line in the log.
#[derive(Clone, Copy)]
pub(crate) enum Diagnostic {
    /// The kernel refused to tell about state changes of a socket.
    StateUnseen,
    /// `pw_sockets` has no room.
    SocketsFull,
}

#[map(name = "pw_diagnostics")]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Counts it; true when it is due to be logged.
#[inline(always)]
pub(crate) fn is_due(diagnostic: Diagnostic) -> bool {
    let Some(count) = COUNTS.get_ptr_mut(diagnostic as u32) else {
        return false;
    };
    // SAFETY: this CPU's live counter. Being preempted in between costs or adds a line, no more.
    let count = unsafe {
        *count += 1;
        *count
    };
    count.is_power_of_two()
}
