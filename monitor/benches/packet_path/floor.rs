//! The least that a new flow takes: a set anywhere in the flow table, and a record in the ring.
//!
//! A few instructions that do nothing else, in portwatch's own maps. What they cost is what the machine
//! takes for it: most of it goes by as memory is waited for.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use monitor_ebpf::wire::{FlowRecord, Set, Slot};

use crate::bpf::{
    self, ADD_32, ADD_64, ADD_REGISTER, CALL, EXIT, Instruction, JUMP_NOT_EQUAL, JUMP_NOT_LESS,
    LOAD_32, LOAD_64, LOAD_MAP, MAP_LOOKUP, MOV_64, MOV_REGISTER, MULTIPLY_32, NO_WAKE_UP,
    PSEUDO_MAP_FD, RING_RESERVE, RING_SUBMIT, SCHED_CLS, SHIFT_RIGHT_32, STORE_32, STORE_64, op,
};
use crate::frames::IPV4_SOURCE;

/// The sets of one CPU in the flow table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    /// The flow table.
    pub(crate) table: BorrowedFd<'a>,
    /// The first set.
    pub(crate) first: u32,
    /// How many there are; a power of two.
    pub(crate) sets: u32,
}

/// Loads a program that reads the set that a packet's source address chooses, and writes to it; with a
/// `ring`, it then leaves a record there.
pub(crate) fn load(part: Part<'_>, ring: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let mut instructions = visit_a_set(part);
    instructions.extend(ring.into_iter().flat_map(leave_a_record));
    instructions.extend([op(MOV_64, 0, 0, 0, -1), op(EXIT, 0, 0, 0, 0)]);
    bpf::load(SCHED_CLS, &instructions)
}

fn visit_a_set(part: Part<'_>) -> Vec<Instruction> {
    // Odd; the upper bits of the product are well mixed.
    const MULTIPLIER: u32 = 0x9e37_79b1;
    // Offsets in `struct __sk_buff`.
    const DATA: i16 = 76;
    const DATA_END: i16 = 80;
    let unused_bits = u32::BITS.saturating_sub(part.sets.ilog2());
    let mut instructions = vec![
        op(MOV_64, 0, 0, 0, -1),
        op(LOAD_32, 2, 1, DATA, 0),
        op(LOAD_32, 3, 1, DATA_END, 0),
        op(MOV_REGISTER, 4, 2, 0, 0),
        op(ADD_64, 4, 0, 0, i32::from(IPV4_SOURCE) + 4),
        op(JUMP_NOT_LESS, 3, 4, 1, 0),
        op(EXIT, 0, 0, 0, 0),
        op(LOAD_32, 5, 2, IPV4_SOURCE, 0),
        op(MULTIPLY_32, 5, 0, 0, MULTIPLIER.cast_signed()),
        op(SHIFT_RIGHT_32, 5, 0, 0, unused_bits.cast_signed()),
        op(ADD_32, 5, 0, 0, part.first.cast_signed()),
        op(STORE_32, 10, 5, -4, 0),
        op(LOAD_MAP, 1, PSEUDO_MAP_FD, 0, part.table.as_raw_fd()),
        op(0, 0, 0, 0, 0),
        op(MOV_REGISTER, 2, 10, 0, 0),
        op(ADD_64, 2, 0, 0, -4),
        op(CALL, 0, 0, 0, MAP_LOOKUP),
        op(JUMP_NOT_EQUAL, 0, 0, 1, 0),
        op(EXIT, 0, 0, 0, 0),
        op(MOV_64, 8, 0, 0, 0),
    ];
    for slot in words::<Set>(size_of::<Slot>()) {
        instructions.extend([op(LOAD_64, 9, 0, slot, 0), op(ADD_REGISTER, 8, 9, 0, 0)]);
    }
    instructions.push(op(STORE_64, 0, 8, 0, 0));
    instructions
}

fn leave_a_record(ring: BorrowedFd<'_>) -> Vec<Instruction> {
    let mut instructions = vec![
        op(LOAD_MAP, 1, PSEUDO_MAP_FD, 0, ring.as_raw_fd()),
        op(0, 0, 0, 0, 0),
        op(MOV_64, 2, 0, 0, i32::try_from(size_of::<FlowRecord>()).unwrap_or(i32::MAX)),
        op(MOV_64, 3, 0, 0, 0),
        op(CALL, 0, 0, 0, RING_RESERVE),
        op(JUMP_NOT_EQUAL, 0, 0, 1, 0),
        op(EXIT, 0, 0, 0, 0),
    ];
    instructions.extend(words::<FlowRecord>(size_of::<u64>()).map(|at| op(STORE_64, 0, 8, at, 0)));
    instructions.extend([
        op(MOV_REGISTER, 1, 0, 0, 0),
        op(MOV_64, 2, 0, 0, NO_WAKE_UP),
        op(CALL, 0, 0, 0, RING_SUBMIT),
    ]);
    instructions
}

/// Offsets in a `T`, so many bytes apart.
fn words<T>(step: usize) -> impl Iterator<Item = i16> {
    (0..size_of::<T>()).step_by(step).map_while(|offset| i16::try_from(offset).ok())
}
