//! A kernel program that makes each packet one of another flow and then passes it on.
//!
//! `BPF_PROG_TEST_RUN` gives a program the same packet again and again. This one, put in front,
//! replaces the source address by the next of a sequence and calls the program behind it as a tail.
//! aya loads programs from object files only, so that these few instructions are loaded by hand.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::frames::IPV4_SOURCE;

/// The program, in front of another one.
#[derive(Debug)]
pub(crate) struct Rewriter {
    program: OwnedFd,
    /// Holds the program behind.
    _next: OwnedFd,
}

impl Rewriter {
    /// A rewriter in front of `next` that goes through `flows` flows, a power of two.
    pub(crate) fn new(next: BorrowedFd<'_>, flows: u64) -> io::Result<Self> {
        let programs = program_array(next)?;
        let last_flow = u32::try_from(flows.saturating_sub(1)).unwrap_or(u32::MAX);
        let program = load(&instructions(programs.as_raw_fd(), last_flow))?;
        Ok(Self { program, _next: programs })
    }

    /// Runs both programs `repeat` times. `packet` becomes the last packet: the next run goes on there.
    pub(crate) fn run(&self, packet: &mut [u8], repeat: u32) -> io::Result<Duration> {
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let mut command = TestRun {
            program: self.program.as_raw_fd(),
            result: 0,
            input_length: length,
            output_length: length,
            input: packet.as_ptr().expose_provenance() as u64,
            output: packet.as_mut_ptr().expose_provenance() as u64,
            repeat,
            duration: 0,
            rest: [0; 5],
        };
        let running = Stopwatch::of_thread();
        bpf(BPF_PROG_TEST_RUN, &mut command)?;
        Ok(running.elapsed())
    }
}

/// The next of a sequence that visits each number up to `last_flow` once before it begins again: a
/// linear congruential generator, which has the full period modulo every power of two.
fn instructions(programs: RawFd, last_flow: u32) -> [Instruction; 18] {
    const MULTIPLIER: i32 = 1_664_525;
    const INCREMENT: i32 = 1_013_904_223;
    // Offsets in `struct __sk_buff`.
    const DATA: i16 = 76;
    const DATA_END: i16 = 80;
    let op = |code, destination: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    };
    [
        op(MOV_REGISTER, 6, 1, 0, 0),
        op(LOAD_32, 2, 1, DATA, 0),
        op(LOAD_32, 3, 1, DATA_END, 0),
        op(MOV_REGISTER, 4, 2, 0, 0),
        op(ADD_64, 4, 0, 0, i32::from(IPV4_SOURCE) + 4),
        op(JUMP_GREATER, 4, 3, 10, 0),
        op(LOAD_32, 5, 2, IPV4_SOURCE, 0),
        op(MULTIPLY_32, 5, 0, 0, MULTIPLIER),
        op(ADD_32, 5, 0, 0, INCREMENT),
        op(AND_32, 5, 0, 0, last_flow.cast_signed()),
        op(STORE_32, 2, 5, IPV4_SOURCE, 0),
        op(MOV_REGISTER, 1, 6, 0, 0),
        op(LOAD_MAP, 2, PSEUDO_MAP_FD, 0, programs),
        op(0, 0, 0, 0, 0),
        op(MOV_64, 3, 0, 0, 0),
        op(CALL, 0, 0, 0, TAIL_CALL),
        op(MOV_64, 0, 0, 0, -1),
        op(EXIT, 0, 0, 0, 0),
    ]
}

/// An array of programs with this one in it.
fn program_array(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let word = u32::try_from(size_of::<u32>()).unwrap_or(0);
    let mut create =
        CreateMap { kind: PROGRAM_ARRAY, key_size: word, value_size: word, max_entries: 1 };
    let map = descriptor(bpf(BPF_MAP_CREATE, &mut create)?)?;
    let (key, value) = (0_u32, program.as_raw_fd());
    let mut update = UpdateMap {
        map: map.as_raw_fd(),
        padding: 0,
        key: (&raw const key).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut update)?;
    Ok(map)
}

fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut command = LoadProgram {
        kind: SCHED_CLS,
        instructions_length: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        rest: [0; 4],
    };
    descriptor(bpf(BPF_PROG_LOAD, &mut command)?)
}

/// `bpf(2)`. `attributes` begins as the member of `union bpf_attr` that belongs to `command` does.
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attributes`, and what they point
    // to: buffers of the callers, with their lengths, that live until the call returns.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for the caller, who has no other owner for it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// `struct bpf_insn`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

#[repr(C)]
struct CreateMap {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct UpdateMap {
    map: RawFd,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct LoadProgram {
    kind: u32,
    instructions_length: u32,
    instructions: u64,
    license: u64,
    /// No log, no version, no flags.
    rest: [u64; 4],
}

#[repr(C)]
struct TestRun {
    program: RawFd,
    result: u32,
    input_length: u32,
    output_length: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration: u32,
    /// No context, no flags.
    rest: [u64; 5],
}

// `include/uapi/linux/bpf.h`.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const PROGRAM_ARRAY: u32 = 3;
const SCHED_CLS: u32 = 3;
const PSEUDO_MAP_FD: u8 = 1;
const TAIL_CALL: i32 = 12;
const ADD_32: u8 = 0x04;
const ADD_64: u8 = 0x07;
const LOAD_MAP: u8 = 0x18;
const MULTIPLY_32: u8 = 0x24;
const JUMP_GREATER: u8 = 0x2d;
const AND_32: u8 = 0x54;
const LOAD_32: u8 = 0x61;
const STORE_32: u8 = 0x63;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const MOV_64: u8 = 0xb7;
const MOV_REGISTER: u8 = 0xbf;
