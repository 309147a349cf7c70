//! The way out for flow records: a ring for each CPU, in memory that user space maps.
//!
//! In a flood every packet leaves a record. The kernel's own ring buffer takes a lock for each, which all
//! CPUs share, and waits twice until everything written before has reached the cache: half of what a new
//! flow costs. Only one TC program writes the ring of its CPU at a time, so that nothing has to wait.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

use monitor_ebpf::wire::{FlowRecord, RingEnds};

use crate::config;
use crate::emit::{Fate, count};

/// `cpu * flow_ring + (number - first) % flow_ring`; sized by the loader.
#[map(name = "pw_flow_ring")]
static RECORDS: Array<FlowRecord> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// One for each CPU; sized by the loader.
#[map(name = "pw_flow_ends")]
static ENDS: Array<RingEnds> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Room for a record, to be filled and submitted.
pub(crate) struct Reserved {
    record: *mut FlowRecord,
    ends: *mut RingEnds,
    program: u32,
}

impl Reserved {
    /// Where to write the record. It holds an old one: write every field.
    #[inline(always)]
    pub(crate) const fn as_mut_ptr(&self) -> *mut FlowRecord {
        self.record
    }

    /// Hands the record to user space.
    #[inline(always)]
    pub(crate) fn submit(self) {
        // SAFETY: the live ends of this CPU's ring. Volatile keeps the store behind those to the record;
        // on a processor that could still turn them around, the reader waits for them.
        unsafe {
            let written = &raw mut (*self.ends).written;
            written.write_volatile(written.read_volatile() + 1);
        }
        count(self.program, Fate::Submitted);
    }
}

/// Room in the ring of `cpu`, on which `program` runs; counts the loss where there is none.
#[inline(always)]
pub(crate) fn reserve(cpu: u32, program: u32) -> Option<Reserved> {
    let room = find_room(cpu);
    if room.is_none() {
        count(program, Fate::RingFull);
    }
    let (record, ends) = room?;
    Some(Reserved { record, ends, program })
}

#[inline(always)]
fn find_room(cpu: u32) -> Option<(*mut FlowRecord, *mut RingEnds)> {
    let ends = ENDS.get_ptr_mut(cpu)?;
    // SAFETY: the live ends of this CPU's ring, of which user space writes `read` meanwhile.
    let place = unsafe {
        let written = (*ends).written;
        let unread = written.wrapping_sub((&raw const (*ends).read).read_volatile());
        if unread == 0 {
            (*ends).first = written;
        }
        if unread >= u64::from(config::flow_ring()) {
            return None;
        }
        written.wrapping_sub((*ends).first) as u32 & (config::flow_ring() - 1)
    };
    Some((RECORDS.get_ptr_mut(cpu * config::flow_ring() + place)?, ends))
}
