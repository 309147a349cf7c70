//! `bpf(2)` for what aya has no call for: programs of a few instructions, written by hand, and runs of
//! them with more options.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Loads a program of this type.
pub(crate) fn load(kind: u32, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut command = LoadProgram {
        kind,
        instructions_length: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        rest: [0; 4],
    };
    descriptor(bpf(BPF_PROG_LOAD, &mut command)?)
}

/// Creates a map of this type with keys of 32 bits.
pub(crate) fn create_map(kind: u32, value_size: usize) -> io::Result<OwnedFd> {
    let mut create = CreateMap {
        kind,
        key_size: u32::try_from(size_of::<u32>()).unwrap_or(0),
        value_size: u32::try_from(value_size).unwrap_or(0),
        max_entries: 1,
    };
    descriptor(bpf(BPF_MAP_CREATE, &mut create)?)
}

/// Puts a program into an array of programs, at index 0.
pub(crate) fn set_program(map: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (key, value) = (0_u32, program.as_raw_fd());
    let mut update = UpdateMap {
        map: map.as_raw_fd(),
        padding: 0,
        key: (&raw const key).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut update)?;
    Ok(())
}

/// Runs a program `repeat` times on a packet, which becomes the last packet it made.
pub(crate) fn run(program: BorrowedFd<'_>, packet: &mut [u8], repeat: u32) -> io::Result<()> {
    let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
    let mut command = TestRun {
        program: program.as_raw_fd(),
        input_length: length,
        output_length: length,
        input: packet.as_ptr().expose_provenance() as u64,
        output: packet.as_mut_ptr().expose_provenance() as u64,
        repeat,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut command)?;
    Ok(())
}

/// Lets an XDP program decide on `repeat` copies of a packet as if the device had received them: what
/// it passes goes up the stack. Linux 5.18.
pub(crate) fn run_live(
    program: BorrowedFd<'_>,
    packet: &[u8],
    ifindex: u32,
    repeat: u32,
) -> io::Result<()> {
    let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
    let context =
        XdpContext { data_end: length, ingress_ifindex: ifindex, ..XdpContext::default() };
    let mut command = TestRun {
        program: program.as_raw_fd(),
        input_length: length,
        input: packet.as_ptr().expose_provenance() as u64,
        repeat,
        context_length: u32::try_from(size_of::<XdpContext>()).unwrap_or(0),
        context: (&raw const context).expose_provenance() as u64,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut command)?;
    Ok(())
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
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// One instruction.
pub(crate) const fn op(
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
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

#[derive(Default)]
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
    context_length: u32,
    context_output_length: u32,
    context: u64,
    context_output: u64,
    flags: u32,
    cpu: u32,
    /// Zero: as many at a time as the kernel likes.
    batch: u32,
    padding: u32,
}

/// `struct xdp_md`.
#[derive(Default)]
#[repr(C)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

// `include/uapi/linux/bpf.h`.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
pub(crate) const ARRAY: u32 = 2;
pub(crate) const PROGRAM_ARRAY: u32 = 3;
pub(crate) const SCHED_CLS: u32 = 3;
pub(crate) const XDP: u32 = 6;
pub(crate) const XDP_PASS: i32 = 2;
pub(crate) const PSEUDO_MAP_FD: u8 = 1;
pub(crate) const MAP_LOOKUP: i32 = 1;
pub(crate) const TAIL_CALL: i32 = 12;
pub(crate) const ADD_32: u8 = 0x04;
pub(crate) const ADD_64: u8 = 0x07;
pub(crate) const ADD_REGISTER: u8 = 0x0f;
pub(crate) const JUMP_EQUAL: u8 = 0x15;
pub(crate) const LOAD_MAP: u8 = 0x18;
pub(crate) const SUBTRACT_REGISTER: u8 = 0x1f;
pub(crate) const MULTIPLY_32: u8 = 0x24;
pub(crate) const JUMP_GREATER: u8 = 0x2d;
pub(crate) const JUMP_NOT_LESS: u8 = 0x3d;
pub(crate) const OR_32: u8 = 0x44;
pub(crate) const AND_32: u8 = 0x54;
pub(crate) const JUMP_NOT_EQUAL: u8 = 0x55;
pub(crate) const AND_64: u8 = 0x57;
pub(crate) const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
pub(crate) const LOAD_32: u8 = 0x61;
pub(crate) const STORE_IMMEDIATE_32: u8 = 0x62;
pub(crate) const STORE_32: u8 = 0x63;
pub(crate) const SHIFT_RIGHT_32: u8 = 0x74;
pub(crate) const LOAD_64: u8 = 0x79;
pub(crate) const STORE_64: u8 = 0x7b;
pub(crate) const CALL: u8 = 0x85;
pub(crate) const EXIT: u8 = 0x95;
pub(crate) const MOV_64: u8 = 0xb7;
pub(crate) const MOV_REGISTER: u8 = 0xbf;
