//! The programs of one network namespace other than ours: they say which it is and go on to the
//! classifiers, which are loaded once for all namespaces.
//!
//! Some fifteen instructions each, written here by hand, since nothing but a number differs: loading the
//! classifiers again for each namespace would take the kernel's verifier half a second every time. The
//! detour takes a packet a few nanoseconds.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, loaded_programs};

use crate::kernel::classifiers::{CLASSIFIERS, Classifiers};
use crate::sys::bpf::{self, Instruction};

/// The maps that lead to the classifiers.
#[derive(Debug)]
pub struct Ways {
    /// `pw_here`: the number of the namespace, for each CPU.
    pub(super) here: OwnedFd,
    /// `pw_gates`: the classifiers, in the order of [`CLASSIFIERS`].
    pub(super) gates: OwnedFd,
}

/// The programs of one namespace, loaded when an interface needs them.
#[derive(Debug)]
pub struct Gate {
    ways: Arc<Ways>,
    netns: u32,
    programs: HashMap<&'static str, SchedClassifier>,
}

impl Gate {
    /// The gate of the namespace with this number, which is not 0.
    #[must_use]
    pub fn new(ways: &Arc<Ways>, netns: u32) -> Self {
        Self { ways: Arc::clone(ways), netns, programs: HashMap::new() }
    }

    fn load(&self, name: &'static str, index: i32) -> Result<SchedClassifier> {
        let netns = i32::try_from(self.netns).context("numbering a namespace")?;
        let instructions = instructions(&self.ways, netns, index);
        // Its own name: `bpftool` and our cleaning up know it by that.
        let (program, id) = bpf::load_classifier(name, &instructions)
            .with_context(|| format!("loading {name} of another network namespace"))?;
        // aya takes over what is loaded only by its number; until it has, `program` keeps it.
        let info = loaded_programs()
            .filter_map(Result::ok)
            .find(|info| info.id() == id)
            .with_context(|| format!("finding {name} again, which takes CAP_SYS_ADMIN"))?;
        let classifier = SchedClassifier::from_program_info(info, name.into());
        drop(program);
        classifier.with_context(|| format!("taking over {name}"))
    }
}

impl Classifiers for Gate {
    fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let (index, name) = (0_i32..)
            .zip(CLASSIFIERS)
            .find(|(_, known)| *known == name)
            .with_context(|| format!("there is no classifier {name}"))?;
        if !self.programs.contains_key(name) {
            let program = self.load(name, index)?;
            self.programs.insert(name, program);
        }
        self.programs.get_mut(name).with_context(|| format!("{name} is not loaded"))
    }
}

/// Leaves the number where the classifiers look for it, and goes on to one of them. Should that fail,
/// the packet goes on unseen.
fn instructions(ways: &Ways, netns: i32, index: i32) -> [Instruction; 17] {
    let (here, gates) = (ways.here.as_fd().as_raw_fd(), ways.gates.as_fd().as_raw_fd());
    let [here, here_high] = load_map(1, here);
    let [gates, gates_high] = load_map(2, gates);
    [
        // The context outlives calls in r6.
        op(MOV_REGISTER, 6, 1, 0, 0),
        op(CALL, 0, 0, 0, GET_SMP_PROCESSOR_ID),
        op(STORE_REGISTER_32, 10, 0, KEY, 0),
        here,
        here_high,
        op(MOV_REGISTER, 2, 10, 0, 0),
        op(ADD, 2, 0, 0, i32::from(KEY)),
        op(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        op(JUMP_IF_EQUAL, 0, 0, 6, 0),
        op(STORE_32, 0, 0, 0, netns),
        op(MOV_REGISTER, 1, 6, 0, 0),
        gates,
        gates_high,
        op(MOV, 3, 0, 0, index),
        op(CALL, 0, 0, 0, TAIL_CALL),
        // TC_ACT_UNSPEC.
        op(MOV, 0, 0, 0, -1),
        op(EXIT, 0, 0, 0, 0),
    ]
}

const fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
}

/// The address of a map, which takes the room of two instructions.
const fn load_map(destination: u8, map: RawFd) -> [Instruction; 2] {
    const PSEUDO_MAP_FD: u8 = 1;
    [op(LOAD_64, destination, PSEUDO_MAP_FD, 0, map), op(0, 0, 0, 0, 0)]
}

/// Where the key of the look-up lies on the stack.
const KEY: i16 = -4;

// Operations: include/uapi/linux/bpf_common.h and bpf.h.
const ADD: u8 = 0x07;
const JUMP_IF_EQUAL: u8 = 0x15;
const LOAD_64: u8 = 0x18;
const STORE_32: u8 = 0x62;
const STORE_REGISTER_32: u8 = 0x63;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const MOV: u8 = 0xb7;
const MOV_REGISTER: u8 = 0xbf;

// Helpers, by their numbers in bpf.h.
const MAP_LOOKUP_ELEM: i32 = 1;
const GET_SMP_PROCESSOR_ID: i32 = 8;
const TAIL_CALL: i32 = 12;
