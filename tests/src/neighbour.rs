//! Programs of others on a device: what they do with packets, and how many they have seen.
//!
//! Assembled here by hand, so that no test needs a compiler.

use std::os::fd::OwnedFd;
use std::thread;

use aya::Ebpf;
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, SkLookup, Xdp, xdp::XdpMode};
use aya::sys::{Stats, enable_stats};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::lab::Host;

/// What a program does with every packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// TC: lets the next program decide, `TCX_NEXT`.
    Next,
    /// TC: accepts the packet and ends the chain, `TCX_PASS`.
    Accept,
    /// XDP: lets the packet go on, `XDP_PASS`.
    Pass,
    /// `sk_lookup`: leaves the choice to the kernel, `SK_PASS`.
    Leave,
    /// XDP: drops IPv4 datagrams and segments to this port, `XDP_DROP`.
    DropPort(u16),
}

/// Where among the TCX programs that are there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Before all others.
    First,
    /// After all others.
    Last,
}

/// A program on a device; gone when dropped.
#[derive(Debug)]
pub struct Neighbour {
    program: Ebpf,
    /// While it is open, the kernel counts runs.
    _counting: OwnedFd,
}

const NAME: &str = "neighbour";

impl Neighbour {
    /// Attaches to TCX, at egress or at ingress.
    pub fn on_tcx(
        host: &Host,
        device: &str,
        hook: TcAttachType,
        order: Order,
        verdict: Verdict,
    ) -> Self {
        let mut program = load("classifier", verdict);
        let order = match order {
            Order::First => LinkOrder::first(),
            Order::Last => LinkOrder::last(),
        };
        within(host, || {
            let classifier: &mut SchedClassifier = of(&mut program);
            classifier.load()?;
            classifier.attach_with_options(device, hook, TcAttachOptions::TcxOrder(order)).map(drop)
        });
        Self::counted(program)
    }

    /// Attaches to XDP, in generic mode.
    pub fn on_xdp(host: &Host, device: &str, verdict: Verdict) -> Self {
        let mut program = load("xdp", verdict);
        within(host, || {
            let xdp: &mut Xdp = of(&mut program);
            xdp.load()?;
            xdp.attach(device, XdpMode::Skb).map(drop)
        });
        Self::counted(program)
    }

    /// Attaches to the choice of sockets in a network namespace, and leaves that to the kernel.
    pub fn on_sk_lookup(host: &Host) -> Self {
        let mut program = load("sk_lookup", Verdict::Leave);
        within(host, || {
            let chooser: &mut SkLookup = of(&mut program);
            chooser.load()?;
            chooser.attach(host.namespace_file()).map(drop)
        });
        Self::counted(program)
    }

    fn counted(program: Ebpf) -> Self {
        let counting = enable_stats(Stats::RunTime).expect("let the kernel count runs");
        Self { program, _counting: counting }
    }

    /// How many packets it has seen.
    pub fn seen(&self) -> u64 {
        let program = self.program.program(NAME).expect("find a program");
        program.info().expect("ask the kernel about a program").run_count()
    }
}

fn of<'a, P>(program: &'a mut Ebpf) -> &'a mut P
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = program.program_mut(NAME).expect("find a program");
    program.try_into().expect("load a program of the kind it was made for")
}

/// Runs in the namespace of a host, on a thread of its own, since a thread stays where it has moved.
fn within(host: &Host, attach: impl FnOnce() -> Result<(), ProgramError> + Send) {
    let namespace = host.namespace_file();
    let attached = thread::scope(|scope| {
        let attaching = scope.spawn(|| {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), network)
                .expect("move into a network namespace");
            attach()
        });
        attaching.join().expect("attach a program")
    });
    attached.expect("attach a program");
}

/// An ELF object with one program, in the section that says what kind it is.
fn load(section: &str, verdict: Verdict) -> Ebpf {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let code = object.add_section(Vec::new(), section.into(), SectionKind::Text);
    let size = object.append_section_data(code, &instructions(verdict), 8);
    let length = object.section(code).data().len();
    object.add_symbol(Symbol {
        name: NAME.into(),
        value: size,
        size: length as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(code),
        flags: SymbolFlags::None,
    });
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    let bytes = object.write().expect("write an object");
    Ebpf::load(&bytes).expect("load a program")
}

/// `struct bpf_insn` after the other: opcode, registers, offset, immediate.
fn instructions(verdict: Verdict) -> Vec<u8> {
    let return_with = |value: i32| [(0xb7, 0x00, 0, value), (0x95, 0, 0, 0)];
    let instructions = match verdict {
        Verdict::Next => return_with(-1).to_vec(),
        Verdict::Accept => return_with(0).to_vec(),
        Verdict::Pass => return_with(2).to_vec(),
        Verdict::Leave => return_with(1).to_vec(),
        Verdict::DropPort(port) => [
            // r2 = data, r3 = data_end; pass what is shorter than the headers up to the ports.
            (0x61, 0x12, 0, 0),
            (0x61, 0x13, 4, 0),
            (0xbf, 0x24, 0, 0),
            (0x07, 0x04, 0, PORTS_END),
            (0x2d, 0x34, 4, 0),
            // r5 = destination port, in network order; pass others.
            (0x69, 0x25, DESTINATION_PORT, 0),
            (0x55, 0x05, 2, i32::from(port.to_be())),
        ]
        .into_iter()
        .chain(return_with(1))
        .chain(return_with(2))
        .collect(),
    };
    let bytes = |(opcode, registers, offset, immediate): (u8, u8, i16, i32)| {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = immediate.to_le_bytes();
        [opcode, registers, low, high, a, b, c, d]
    };
    instructions.into_iter().flat_map(bytes).collect()
}

/// Ethernet, IPv4 without options, source port: then the destination port.
const DESTINATION_PORT: i16 = 14 + 20 + 2;
const PORTS_END: i32 = 14 + 20 + 4;
