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
    let of_map =
        instructions.iter().zip(0_u64..).find(|(instruction, _)| instruction.0 == LOAD_MAP);
    if let Some((_, place)) = of_map {
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
        Verdict::DropPort(port) => [
            // r2 = data, r3 = data_end; pass what is shorter than the headers up to the ports.
            (0x61, 0x12, 0, 0),
            (0x61, 0x13, 4, 0),
            (0xbf, 0x24, 0, 0),
            (0x07, 0x04, 0, PORTS_END),
            (0x2d, 0x34, 4, 0),
            // r5 = destination port, in network order; pass others.
            (0x69, 0x25, DESTINATION_PORT, 0),
            (0x55, 0x05, 2, network_order(port)),
        ]
        .into_iter()
        .chain(end_with(1))
        .chain(end_with(2))
        .collect(),
        Verdict::Steer(port) => steer(port),
        Verdict::AnswerOnTc(port) => {
            // r1 = ifindex, r2 = 0: out where it came in.
            let redirect = [(0x61, 0x61, 40, 0), (0xb7, 0x02, 0, 0), (0x85, 0, 0, BPF_REDIRECT)];
            let redirect = redirect.into_iter().chain([EXIT]).collect();
            answer(port, (76, 80), redirect, end_with(-1))
        }
        Verdict::AnswerOnXdp(port) => answer(port, (0, 4), end_with(3).to_vec(), end_with(2)),
    }
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
        (LOAD_MAP, 0x01, 0, 0),
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
/// Loads a number of 64 bits, here the map, by two instructions.
const LOAD_MAP: u8 = 0x18;
/// Widths of loads and stores, as they change the opcode of one of four bytes.
const WORD: u8 = 0;
const HALF: u8 = 0x08;

/// Ethernet, IPv4 without options, source port: then the destination port; after the UDP header the datagram.
const DESTINATION_PORT: i16 = 14 + 20 + 2;
const PORTS_END: i32 = 14 + 20 + 4;
const DATAGRAM_BEGINS: i32 = 14 + 20 + 8;

// include/uapi/linux/bpf.h.
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_REDIRECT: i32 = 23;
const BPF_SK_RELEASE: i32 = 86;
const BPF_SK_ASSIGN: i32 = 124;
