//! What such a program is made of: instructions, and the ELF object that they travel in.

use aya::Ebpf;
use object::write::{Object, Relocation, Symbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope, elf,
};

use super::Verdict;

/// Name of the program, and of the map of sockets that it may have.
pub(super) const NAME: &str = "neighbour";
pub(super) const SOCKETS: &str = "sockets";

/// Loads an ELF object with one program, in the section that says what kind it is.
pub(super) fn load(section: &str, verdict: Verdict) -> Ebpf {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let code = object.add_section(Vec::new(), section.into(), SectionKind::Text);
    let instructions = instructions(verdict);
    let start = object.append_section_data(code, &bytes(&instructions), 8);
    let length = object.section(code).data().len();
    add_symbol(&mut object, NAME, SymbolKind::Text, (start, length), code);
    let loads = |(instruction, _): &(&Instruction, u64)| instruction.0 == LOAD_LONG;
    let of_map = instructions.iter().zip(0_u64..).find(loads);
    if let (Verdict::Steer(_), Some((_, place))) = (verdict, of_map) {
        let symbol = add_map(&mut object);
        let flags = RelocationFlags::Elf { r_type: elf::R_BPF_64_64 };
        let relocation = Relocation { offset: place * 8, symbol, addend: 0, flags };
        object.add_relocation(code, relocation).expect("refer to a map");
    }
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    let bytes = object.write().expect("write an object");
    Ebpf::load(&bytes).expect("load a program")
}

/// A map with room for one socket: `struct bpf_map_def`.
fn add_map(object: &mut Object<'_>) -> SymbolId {
    let section = object.add_section(Vec::new(), b"maps".to_vec(), SectionKind::Data);
    let [kind, key, value, entries, flags] = [BPF_MAP_TYPE_SOCKMAP, 4, 4, 1, 0];
    let definition = [kind, key, value, entries, flags, 0, 0].map(u32::to_le_bytes).concat();
    let start = object.append_section_data(section, &definition, 8);
    add_symbol(object, SOCKETS, SymbolKind::Data, (start, definition.len()), section)
}

fn add_symbol(
    object: &mut Object<'_>,
    name: &str,
    kind: SymbolKind,
    (start, length): (u64, usize),
    section: object::write::SectionId,
) -> SymbolId {
    object.add_symbol(Symbol {
        name: name.into(),
        value: start,
        size: length as u64,
        kind,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    })
}

/// Opcode, registers (source and destination, four bits each), offset, immediate.
type Instruction = (u8, u8, i16, i32);

fn instructions(verdict: Verdict) -> Vec<Instruction> {
    match verdict {
        Verdict::Next => end_with(-1).to_vec(),
        Verdict::Accept => end_with(0).to_vec(),
        Verdict::Pass => end_with(2).to_vec(),
        Verdict::Leave => end_with(1).to_vec(),
        Verdict::DropPort(port) => drop_port(port, (0, 4), end_with(1), end_with(2)),
        Verdict::DropPortOnTc(port) => drop_port(port, (76, 80), end_with(2), end_with(-1)),
        Verdict::Steer(port) => steer(port),
        Verdict::AnswerOnTc(port) => {
            // r1 = ifindex, r2 = 0: out where it came in.
            let redirect = [(0x61, 0x61, 40, 0), (0xb7, 0x02, 0, 0), (0x85, 0, 0, BPF_REDIRECT)];
            let redirect = redirect.into_iter().chain([EXIT]).collect();
            answer(port, (76, 80), redirect, end_with(-1))
        }
        Verdict::Hide(pid) => hide(pid),
        Verdict::AnswerOnXdp(port) => answer(port, (0, 4), end_with(3).to_vec(), end_with(2)),
    }
}

/// Drops what is for the port. `offsets` of the first byte and the end of a packet in the context.
fn drop_port(
    port: u16,
    (data, end): (i16, i16),
    drop: [Instruction; 2],
    otherwise: [Instruction; 2],
) -> Vec<Instruction> {
    let ours = [
        // r2 = data, r3 = data_end; leave what is shorter than the headers up to the ports.
        (0x61, 0x12, data, 0),
        (0x61, 0x13, end, 0),
        (0xbf, 0x24, 0, 0),
        (0x07, 0x04, 0, PORTS_END),
        (0x2d, 0x34, 4, 0),
        // r5 = destination port, in network order; leave others.
        (0x69, 0x25, DESTINATION_PORT, 0),
        (0x55, 0x05, 2, network_order(port)),
    ];
    ours.into_iter().chain(drop).chain(otherwise).collect()
}

/// Gives connections to the port to the socket in the map.
fn steer(port: u16) -> Vec<Instruction> {
    let steer = [
        // r6 = context; r2 = local port, in host order; leave others.
        (0xbf, 0x16, 0, 0),
        (0x61, 0x12, 60, 0),
        (0x55, 0x02, 14, i32::from(port)),
        // The key, zero, on the stack.
        (0x62, 0x0a, -4, 0),
        (0xbf, 0xa2, 0, 0),
        (0x07, 0x02, 0, -4),
        (LOAD_LONG, 0x01, 0, 0),
        (0, 0, 0, 0),
        (0x85, 0, 0, BPF_MAP_LOOKUP_ELEM),
        (0x15, 0x00, 7, 0),
        // r7 = socket.
        (0xbf, 0x07, 0, 0),
        (0xbf, 0x61, 0, 0),
        (0xbf, 0x72, 0, 0),
        (0xb7, 0x03, 0, 0),
        (0x85, 0, 0, BPF_SK_ASSIGN),
        (0xbf, 0x71, 0, 0),
        (0x85, 0, 0, BPF_SK_RELEASE),
    ];
    steer.into_iter().chain(end_with(1)).collect()
}

/// Turns a datagram to the port round, so that it is its own answer: no checksum changes by that. `offsets` of
/// the first byte and the end of a packet in the context.
fn answer(
    port: u16,
    (data, end): (i16, i16),
    answer: Vec<Instruction>,
    otherwise: [Instruction; 2],
) -> Vec<Instruction> {
    let swap = |width: u8, one: i16, other: i16| {
        [
            (0x61 | width, 0x24, one, 0),
            (0x61 | width, 0x25, other, 0),
            (0x63 | width, 0x52, one, 0),
            (0x63 | width, 0x42, other, 0),
        ]
    };
    let turned = [swap(WORD, 0, 6), swap(HALF, 4, 10), swap(WORD, 26, 30), swap(HALF, 34, 36)];
    let turned: Vec<Instruction> = turned.concat().into_iter().chain(answer).collect();
    let beyond = |more: usize| i16::try_from(turned.len() + more).expect("jump as far as that");
    let ours = [
        // r6 = context, r2 = data, r3 = its end.
        (0xbf, 0x16, 0, 0),
        (0x61, 0x12, data, 0),
        (0x61, 0x13, end, 0),
        (0xbf, 0x24, 0, 0),
        (0x07, 0x04, 0, DATAGRAM_BEGINS),
        (0x2d, 0x34, beyond(4), 0),
        // r5 = protocol.
        (0x71, 0x25, 23, 0),
        (0x55, 0x05, beyond(2), 17),
        (0x69, 0x25, DESTINATION_PORT, 0),
        (0x55, 0x05, beyond(0), network_order(port)),
    ];
    ours.into_iter().chain(turned).chain(otherwise).collect()
}

/// Goes through what a process is about to be told of a directory, and spoils the name of the entry that is
/// called as the process: of `struct linux_dirent64` the length is at byte 16, the name at 19.
fn hide(pid: u32) -> Vec<Instruction> {
    let name = format!("{pid}\0");
    let mut wanted = [0; 8];
    for (to, from) in wanted.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    let mask = u64::MAX >> (64 - 8 * name.len());
    let long = |register: u8, value: u64| {
        let halves = [value, value >> 32].map(|half| {
            let [a, b, c, d, ..] = half.to_le_bytes();
            i32::from_le_bytes([a, b, c, d])
        });
        [(LOAD_LONG, register, 0, halves[0]), (0, 0, 0, halves[1])]
    };
    let [mask, wanted] = [long(1, mask), long(1, u64::from_le_bytes(wanted))];
    let behind = |entries: usize, more: usize| {
        i16::try_from(entries * ENTRY_INSTRUCTIONS + more).expect("jump as far as that")
    };
    // r6 = registers of the call, r7 = bytes; r6 = second argument: where they are.
    let mut program = vec![
        (0x79, 0x16, 0, 0),
        (0x79, 0x17, 8, 0),
        (0x79, 0x62, PT_REGS_ORIG_AX, 0),
        (0x55, 0x02, behind(ENTRIES, 2 + SPOILING), GETDENTS64),
        (0x79, 0x66, PT_REGS_SI, 0),
    ];
    for left in (0..ENTRIES).rev() {
        // Behind the last entry: a jump to the end, what spoils a name, the end.
        let spoil = |at: usize| behind(left, ENTRY_INSTRUCTIONS - 1 - at + 1);
        let end = |at: usize| behind(left, ENTRY_INSTRUCTIONS - 1 - at + 1 + SPOILING);
        program.extend([
            (0xd5, 0x07, end(0), 0),
            // The entry onto the stack, so that its name is aligned.
            (0xbf, 0xa1, 0, 0),
            (0x07, 0x01, 0, -35),
            (0xb7, 0x02, 0, 27),
            (0xbf, 0x63, 0, 0),
            (0x85, 0, 0, BPF_PROBE_READ_USER),
            (0x55, 0x00, end(6), 0),
            (0x79, 0xa8, -16, 0),
            mask[0],
            mask[1],
            (0x5f, 0x18, 0, 0),
            wanted[0],
            wanted[1],
            (0x1d, 0x18, spoil(13), 0),
            // r9 = length.
            (0x71, 0xa9, -18, 0),
            (0x67, 0x09, 0, 8),
            (0x71, 0xa1, -19, 0),
            (0x4f, 0x19, 0, 0),
            (0x15, 0x09, end(18), 0),
            (0x0f, 0x96, 0, 0),
            (0x1f, 0x97, 0, 0),
        ]);
    }
    // None of them: past what spoils.
    program.push((0x05, 0, 7, 0));
    program.extend([
        (0x72, 0x0a, -8, i32::from(b'x')),
        (0xbf, 0x61, 0, 0),
        (0x07, 0x01, 0, 19),
        (0xbf, 0xa2, 0, 0),
        (0x07, 0x02, 0, -8),
        (0xb7, 0x03, 0, 1),
        (0x85, 0, 0, BPF_PROBE_WRITE_USER),
    ]);
    program.extend(end_with(0));
    program
}

const fn end_with(value: i32) -> [Instruction; 2] {
    [(0xb7, 0x00, 0, value), EXIT]
}

fn network_order(port: u16) -> i32 {
    i32::from(port.to_be())
}

fn bytes(instructions: &[Instruction]) -> Vec<u8> {
    let bytes = |(opcode, registers, offset, immediate): &Instruction| {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = immediate.to_le_bytes();
        [*opcode, *registers, low, high, a, b, c, d]
    };
    instructions.iter().flat_map(bytes).collect()
}

const EXIT: Instruction = (0x95, 0, 0, 0);
/// Loads a number of 64 bits, or a map, by two instructions.
const LOAD_LONG: u8 = 0x18;
/// Widths of loads and stores, as they change the opcode of one of four bytes.
const WORD: u8 = 0;
const HALF: u8 = 0x08;

/// Ethernet, IPv4 without options, source port: then the destination port; after the UDP header the datagram.
const DESTINATION_PORT: i16 = 14 + 20 + 2;
const PORTS_END: i32 = 14 + 20 + 4;
const DATAGRAM_BEGINS: i32 = 14 + 20 + 8;

/// Entries of one call that are gone through, and instructions for each.
const ENTRIES: usize = 800;
const ENTRY_INSTRUCTIONS: usize = 21;
const SPOILING: usize = 7;
/// In `struct pt_regs` of x86-64 the second argument of a system call, and its number.
const PT_REGS_SI: i16 = 104;
const PT_REGS_ORIG_AX: i16 = 120;
const GETDENTS64: i32 = 217;

// include/uapi/linux/bpf.h.
const BPF_PROBE_WRITE_USER: i32 = 36;
const BPF_PROBE_READ_USER: i32 = 112;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_REDIRECT: i32 = 23;
const BPF_SK_RELEASE: i32 = 86;
const BPF_SK_ASSIGN: i32 = 124;
