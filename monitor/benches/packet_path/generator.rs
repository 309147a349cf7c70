//! Packets made in the kernel: a device receives them as if they had come by wire.
//!
//! An XDP program in live-frame mode of `BPF_PROG_TEST_RUN` passes as many copies of a packet up the
//! stack as it is asked to, without a system call each: 3 million a second on one CPU.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};

use crate::bpf::{
    self, ADD_64, AND_32, ARRAY, CALL, EXIT, Instruction, JUMP_EQUAL, JUMP_GREATER, LOAD_32,
    LOAD_MAP, MAP_LOOKUP, MOV_64, MOV_REGISTER, OR_32, PSEUDO_MAP_FD, STORE_32, STORE_IMMEDIATE_32,
    XDP, XDP_PASS, op,
};
use crate::frames::IPV4_SOURCE;

/// Lets a device receive packets.
#[derive(Debug)]
pub(crate) struct Generator {
    program: OwnedFd,
    ifindex: u32,
    packet: Vec<u8>,
    /// Holds how many packets were made.
    _made: Option<OwnedFd>,
}

impl Generator {
    /// The same packet again and again, for a device in the thread's network namespace.
    pub(crate) fn of_packet(packet: Vec<u8>, ifindex: u32) -> io::Result<Self> {
        let pass = [op(MOV_64, 0, 0, 0, XDP_PASS), op(EXIT, 0, 0, 0, 0)];
        Ok(Self { program: bpf::load(XDP, &pass)?, ifindex, packet, _made: None })
    }

    /// Packets of `flows` IPv4 flows in turn, a power of two of at most 2^24. `lane` tells them apart
    /// from those of other generators.
    pub(crate) fn of_flows(
        packet: Vec<u8>,
        ifindex: u32,
        flows: u32,
        lane: u8,
    ) -> io::Result<Self> {
        let made = bpf::create_map(ARRAY, size_of::<u32>())?;
        let program = bpf::load(XDP, &in_turn(made.as_raw_fd(), flows.saturating_sub(1), lane))?;
        Ok(Self { program, ifindex, packet, _made: Some(made) })
    }

    /// Lets the device receive so many packets, on this CPU, now.
    pub(crate) fn send(&self, packets: u32) -> io::Result<()> {
        bpf::run_live(self.program.as_fd(), &self.packet, self.ifindex, packets)
    }
}

/// Writes the number of the packet, modulo the flows, into its source address. The lane is the last
/// byte of the address.
fn in_turn(made: RawFd, last_flow: u32, lane: u8) -> [Instruction; 21] {
    // Offsets in `struct xdp_md`, and of a key below the frame pointer.
    const DATA: i16 = 0;
    const DATA_END: i16 = 4;
    const KEY: i16 = -4;
    const FRAME: u8 = 10;
    [
        op(MOV_REGISTER, 6, 1, 0, 0),
        op(STORE_IMMEDIATE_32, FRAME, 0, KEY, 0),
        op(LOAD_MAP, 1, PSEUDO_MAP_FD, 0, made),
        op(0, 0, 0, 0, 0),
        op(MOV_REGISTER, 2, FRAME, 0, 0),
        op(ADD_64, 2, 0, 0, i32::from(KEY)),
        op(CALL, 0, 0, 0, MAP_LOOKUP),
        op(JUMP_EQUAL, 0, 0, 11, 0),
        op(LOAD_32, 1, 0, 0, 0),
        op(ADD_64, 1, 0, 0, 1),
        op(STORE_32, 0, 1, 0, 0),
        op(LOAD_32, 2, 6, DATA, 0),
        op(LOAD_32, 3, 6, DATA_END, 0),
        op(MOV_REGISTER, 4, 2, 0, 0),
        op(ADD_64, 4, 0, 0, i32::from(IPV4_SOURCE) + 4),
        op(JUMP_GREATER, 4, 3, 3, 0),
        op(AND_32, 1, 0, 0, last_flow.cast_signed()),
        op(OR_32, 1, 0, 0, (u32::from(lane) << 24).cast_signed()),
        op(STORE_32, 2, 1, IPV4_SOURCE, 0),
        op(MOV_64, 0, 0, 0, XDP_PASS),
        op(EXIT, 0, 0, 0, 0),
    ]
}
