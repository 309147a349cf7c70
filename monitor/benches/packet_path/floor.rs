//! The least that a new flow takes: a set anywhere in the flow table, and a record in the ring of its CPU.
//!
//! A few instructions that do nothing else, in portwatch's own maps. What they cost is what the machine
//! takes for it: most of it goes by as memory is waited for.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use monitor_ebpf::wire::{FlowRecord, Set, Slot};

use crate::bpf::{
    self, ADD_32, ADD_64, ADD_REGISTER, AND_64, CALL, EXIT, Instruction, JUMP_NOT_EQUAL,
    JUMP_NOT_EQUAL_REGISTER, JUMP_NOT_LESS, LOAD_32, LOAD_64, LOAD_MAP, MAP_LOOKUP, MOV_64,
    MOV_REGISTER, MULTIPLY_32, PSEUDO_MAP_FD, SCHED_CLS, SHIFT_RIGHT_32, STORE_32, STORE_64,
    SUBTRACT_REGISTER, op,
};
use crate::frames::IPV4_SOURCE;
use crate::process::{one_apart, possible_cpus};
use crate::programs::{OURS, Programs};
use crate::rewriter::Rewriter;

/// What a packet of `flows` flows in turn needs of the maps of `programs` to start a flow, behind a rewriter
/// each: a set of the flow table, and that and a record in the ring.
pub(crate) fn load(programs: &mut Programs, flows: u64) -> Result<[Rewriter; 2]> {
    let mut map = |name| programs.map(OURS, name);
    let (table, records, ends) = (map("pw_flows")?, map("pw_flow_ring")?, map("pw_flow_ends")?);
    let [table_fd, records_fd, ends_fd] = [table.fd()?, records.fd()?, ends.fd()?];
    let (cpu, _others) = one_apart()?;
    let (cpus, cpu) = (u32::try_from(possible_cpus()?)?, u32::try_from(cpu)?);
    let part = |map, entries: u32| {
        let length = entries / cpus;
        Part { map, first: cpu * length, length }
    };
    let table = part(table_fd.as_fd(), table.max_entries());
    let ring = Ring {
        ends: part(ends_fd.as_fd(), ends.max_entries()),
        records: part(records_fd.as_fd(), records.max_entries()),
    };
    let behind = |ring| -> Result<Rewriter> {
        let program = visitor(table, ring).context("loading a program of few instructions")?;
        Ok(Rewriter::new(program.as_fd(), flows)?)
    };
    Ok([behind(None)?, behind(Some(ring))?])
}

/// What one CPU has of a map that is laid out by hand.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    /// The map.
    map: BorrowedFd<'a>,
    /// The first entry.
    first: u32,
    /// How many there are; a power of two.
    length: u32,
}

/// The ring of flow records of one CPU.
#[derive(Clone, Copy, Debug)]
struct Ring<'a> {
    /// How far it is written and read: an entry.
    ends: Part<'a>,
    /// The records.
    records: Part<'a>,
}

/// Loads a program that reads the set that a packet's source address chooses, and writes it back; with a
/// `ring`, it then leaves a record there.
fn visitor(table: Part<'_>, ring: Option<Ring<'_>>) -> io::Result<OwnedFd> {
    let mut instructions = visit_a_set(table);
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
    let unused_bits = u32::BITS.saturating_sub(part.length.ilog2());
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
    ];
    instructions.extend(look_up(part.map, 5));
    instructions.push(op(MOV_64, 8, 0, 0, 0));
    for slot in words::<Set>(size_of::<Slot>()) {
        instructions.extend([op(LOAD_64, 9, 0, slot, 0), op(ADD_REGISTER, 8, 9, 0, 0)]);
    }
    // As it was: known flows are to stay known.
    instructions.extend([op(LOAD_64, 9, 0, 0, 0), op(STORE_64, 0, 9, 0, 0)]);
    instructions
}

/// Without a look whether there is room: whoever runs this leaves some.
fn leave_a_record(ring: Ring<'_>) -> Vec<Instruction> {
    const ENDS: u8 = 6;
    const WRITTEN: u8 = 7;
    // Offsets in `RingEnds`.
    const FIRST: i16 = 8;
    const READ: i16 = 64;
    let Ring { ends, records } = ring;
    let mut instructions = vec![op(MOV_64, 5, 0, 0, ends.first.cast_signed())];
    instructions.extend(look_up(ends.map, 5));
    instructions.extend([
        op(MOV_REGISTER, ENDS, 0, 0, 0),
        op(LOAD_64, WRITTEN, ENDS, 0, 0),
        op(LOAD_64, 5, ENDS, READ, 0),
        op(JUMP_NOT_EQUAL_REGISTER, WRITTEN, 5, 1, 0),
        op(STORE_64, ENDS, WRITTEN, FIRST, 0),
        op(LOAD_64, 9, ENDS, FIRST, 0),
        op(MOV_REGISTER, 5, WRITTEN, 0, 0),
        op(SUBTRACT_REGISTER, 5, 9, 0, 0),
        op(AND_64, 5, 0, 0, records.length.wrapping_sub(1).cast_signed()),
        op(ADD_64, 5, 0, 0, records.first.cast_signed()),
    ]);
    instructions.extend(look_up(records.map, 5));
    instructions.extend(words::<FlowRecord>(size_of::<u64>()).map(|at| op(STORE_64, 0, 8, at, 0)));
    instructions.extend([op(ADD_64, WRITTEN, 0, 0, 1), op(STORE_64, ENDS, WRITTEN, 0, 0)]);
    instructions
}

/// Finds the entry of an array whose index is in a register; the program ends where there is none.
fn look_up(map: BorrowedFd<'_>, index: u8) -> [Instruction; 8] {
    [
        op(STORE_32, 10, index, -4, 0),
        op(LOAD_MAP, 1, PSEUDO_MAP_FD, 0, map.as_raw_fd()),
        op(0, 0, 0, 0, 0),
        op(MOV_REGISTER, 2, 10, 0, 0),
        op(ADD_64, 2, 0, 0, -4),
        op(CALL, 0, 0, 0, MAP_LOOKUP),
        op(JUMP_NOT_EQUAL, 0, 0, 1, 0),
        op(EXIT, 0, 0, 0, 0),
    ]
}

/// Offsets in a `T`, so many bytes apart.
fn words<T>(step: usize) -> impl Iterator<Item = i16> {
    (0..size_of::<T>()).step_by(step).map_while(|offset| i16::try_from(offset).ok())
}
