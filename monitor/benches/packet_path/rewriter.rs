//! A kernel program that makes each packet one of another flow and then passes it on.
//!
//! `BPF_PROG_TEST_RUN` gives a program the same packet again and again. This one, put in front,
//! replaces the source address by the next of a sequence and calls the program behind it as a tail.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::bpf::{
    self, ADD_32, ADD_64, AND_32, CALL, EXIT, Instruction, JUMP_GREATER, LOAD_32, LOAD_MAP, MOV_64,
    MOV_REGISTER, MULTIPLY_32, PROGRAM_ARRAY, PSEUDO_MAP_FD, SCHED_CLS, STORE_32, TAIL_CALL, op,
};
use crate::clock::Stopwatch;
use crate::frames::IPV4_SOURCE;
use crate::programs::nanoseconds_each;

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
        let programs = bpf::create_map(PROGRAM_ARRAY, size_of::<RawFd>())?;
        bpf::set_program(programs.as_fd(), next)?;
        let last_flow = u32::try_from(flows.saturating_sub(1)).unwrap_or(u32::MAX);
        let program = bpf::load(SCHED_CLS, &instructions(programs.as_raw_fd(), last_flow))?;
        Ok(Self { program, _next: programs })
    }

    /// Runs both programs `repeat` times. `packet` becomes the last packet: the next run goes on there.
    pub(crate) fn run(&self, packet: &mut [u8], repeat: u32) -> io::Result<Duration> {
        let running = Stopwatch::of_thread();
        bpf::run(self.program.as_fd(), packet, repeat)?;
        Ok(running.elapsed())
    }

    /// How many nanoseconds a packet costs more behind `other` than behind this one, on the same packets.
    pub(crate) fn difference_to(
        &self,
        other: &Self,
        packet: &mut [u8],
        repeat: u32,
    ) -> io::Result<f64> {
        let here = self.run(&mut packet.to_vec(), repeat)?;
        let there = other.run(packet, repeat)?;
        Ok(nanoseconds_each(there, repeat) - nanoseconds_each(here, repeat))
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
