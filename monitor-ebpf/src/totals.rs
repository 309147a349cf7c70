//! Exact totals per watched port and direction, and the packets that are no flow traffic.
//!
//! Rows are laid out per CPU by hand in plain arrays: a look-up is then inlined on every kernel, and
//! user space reads them through `mmap`. Only one TC program runs on a CPU at a time (both hooks run
//! with bottom halves off), so plain additions lose nothing.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};

use monitor_ebpf::wire::{Total, aside};

use crate::config;

/// `cpu * total_rows + row * 2 + egress`; sized by the loader.
#[map(name = "pw_totals")]
static TOTALS: Array<Total> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Port to row. Filled by the loader; only read for watched ports.
#[map(name = "pw_rows")]
static ROWS: Array<[u16; 65536]> = Array::with_max_entries(1, 0);

#[map(name = "pw_aside")]
static ASIDE: PerCpuArray<u64> = PerCpuArray::with_max_entries(aside::COUNT, 0);

/// The row of this CPU, port and direction.
#[inline(always)]
pub(crate) fn row(cpu: u32, port: u16, egress: bool) -> Option<*mut Total> {
    let row = if config::only_port() == 0 {
        let rows = ROWS.get_ptr(0)?;
        // SAFETY: a live map value; a u16 cannot leave the array.
        unsafe { (*rows)[port as usize] }
    } else {
        0
    };
    TOTALS.get_ptr_mut(cpu * config::total_rows() + u32::from(row) * 2 + u32::from(egress))
}

/// Counts one packet of `length` IP bytes, of which `header` are repeated in each of `segments`.
///
/// # Safety
///
/// `total` came from [`row`] in this run of the program.
#[inline(always)]
pub(crate) unsafe fn add(total: *mut Total, length: u32, header: u32, segments: u32) {
    // SAFETY: by the caller's contract; nothing else runs TC programs on this CPU meanwhile.
    let total = unsafe { &mut *total };
    total.packets += 1;
    total.bytes += u64::from(length);
    if segments > 1 {
        let more = u64::from(segments - 1);
        total.more_wire_packets += more;
        total.more_wire_bytes += more * u64::from(header);
    }
}

/// Counts one packet that found no room in the flow table.
///
/// # Safety
///
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn add_overflow(total: *mut Total, length: u32) {
    // SAFETY: as in `add`.
    let total = unsafe { &mut *total };
    total.overflow_packets += 1;
    total.overflow_bytes += u64::from(length);
}

/// Counts one packet apart.
#[inline(always)]
pub(crate) fn set_aside(reason: u32) {
    if let Some(counter) = ASIDE.get_ptr_mut(reason) {
        // SAFETY: this CPU's live counter; as in `add`.
        unsafe { *counter += 1 };
    }
}
