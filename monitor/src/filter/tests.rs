//! Programs as `tcpdump -dd` writes them, and what they have to do with port 3516.

use super::*;

const PORT: u16 = 3516;

/// `port 3516`
const OF_PORT: &str = "28 0 0 c,15 0 8 86dd,30 0 0 14,15 2 0 84,15 1 0 6,15 0 17 11,28 0 0 36,\
    15 14 0 dbc,28 0 0 38,15 12 13 dbc,15 0 12 800,30 0 0 17,15 2 0 84,15 1 0 6,15 0 8 11,\
    28 0 0 14,45 6 0 1fff,b1 0 0 e,48 0 0 e,15 2 0 dbc,48 0 0 10,15 0 1 dbc,6 0 0 40000,6 0 0 0";
/// `udp port 67 or udp port 68`
const DHCP: &str = "28 0 0 c,15 0 7 86dd,30 0 0 14,15 0 18 11,28 0 0 36,15 15 0 43,15 14 0 44,\
    28 0 0 38,15 12 11 43,15 0 12 800,30 0 0 17,15 0 10 11,28 0 0 14,45 8 0 1fff,b1 0 0 e,\
    48 0 0 e,15 4 0 43,15 3 0 44,48 0 0 10,15 1 0 43,15 0 1 44,6 0 0 40000,6 0 0 0";
/// `tcp`
const TCP: &str = "28 0 0 c,15 0 2 800,30 0 0 17,15 6 7 6,15 0 6 86dd,30 0 0 14,15 3 0 6,15 0 3 2c,\
    30 0 0 36,15 0 1 6,6 0 0 40000,6 0 0 0";
/// `udp[8:2]=0x7255`, as `BPFDoor` waits for.
const MAGIC_UDP: &str = "28 0 0 c,15 0 8 800,30 0 0 17,15 0 6 11,28 0 0 14,45 4 0 1fff,b1 0 0 e,\
    48 0 0 16,15 0 1 7255,6 0 0 40000,6 0 0 0";
/// `tcp[((tcp[12]&0xf0)>>2):2]=0x5293`, likewise.
const MAGIC_TCP: &str = "28 0 0 c,15 0 13 800,30 0 0 17,15 0 11 6,28 0 0 14,45 9 0 1fff,b1 0 0 e,\
    50 0 0 1a,54 0 0 f0,74 0 0 2,c 0 0 0,7 0 0 0,48 0 0 e,15 0 1 5293,6 0 0 40000,6 0 0 0";
/// `port 3516 and host 10.1.2.3`, on a device without link headers.
const OF_HOST: &str = "30 0 0 0,54 0 0 f0,15 19 0 60,30 0 0 0,54 0 0 f0,15 0 16 40,30 0 0 9,\
    15 2 0 84,15 1 0 6,15 0 12 11,28 0 0 6,45 10 0 1fff,b1 0 0 0,48 0 0 0,15 2 0 dbc,48 0 0 2,\
    15 0 5 dbc,20 0 0 c,15 2 0 a010203,20 0 0 10,15 0 1 a010203,6 0 0 40000,6 0 0 0";

#[test]
fn a_filter_is_judged_by_what_it_lets_through() {
    let table = [
        (OF_PORT, Framing::Ethernet, Reach::Port),
        (OF_HOST, Framing::Ip, Reach::Port),
        (DHCP, Framing::Ethernet, Reach::Nothing),
        (TCP, Framing::Ethernet, Reach::Everything),
        (MAGIC_UDP, Framing::Ethernet, Reach::Payload),
        (MAGIC_TCP, Framing::Ethernet, Reach::Payload),
        ("6 0 0 40000", Framing::Ethernet, Reach::Everything),
        ("6 0 0 0", Framing::Ethernet, Reach::Nothing),
        // What CPU it is on is for the kernel to know.
        ("20 0 0 fffff024,15 0 1 0,6 0 0 1,6 0 0 0", Framing::Ip, Reach::Unknown),
    ];
    for (program, framing, expected) in table {
        assert_eq!(filter(program).reach(PORT, framing), expected, "{program}");
    }
}

#[test]
fn the_ethertype_is_no_port() {
    assert_eq!(filter(DHCP).reach(0x0800, Framing::Ethernet), Reach::Nothing);
}

#[test]
fn the_bytes_it_waits_for_are_named() {
    assert_eq!(filter(MAGIC_UDP).payload_constants(Framing::Ethernet), [0x7255]);
    assert_eq!(filter(MAGIC_TCP).payload_constants(Framing::Ethernet), [0x5293]);
    assert_eq!(filter(OF_PORT).payload_constants(Framing::Ethernet), [0; 0]);
}

#[test]
fn it_reads_as_tcpdump_writes_it() {
    let lines = filter(MAGIC_TCP).lines(14);

    let expected = [
        "(000) ldh [12]",
        "(001) jeq #0x800 jt 2 jf 15",
        "(002) ldb [23]",
        "(003) jeq #0x6 jt 4 jf 15",
        "(004) ldh [20]",
        "(005) jset #0x1fff jt 15 jf 6",
        "(006) ldxb 4*([14]&0xf)",
        "(007) ldb [x + 26]",
        "(008) and #0xf0",
        "(009) rsh #0x2",
        "(010) add x",
        "(011) tax",
        "(012) ldh [x + 14]",
        "(013) jeq #0x5293 jt 14 jf 15",
        "… and 2 more",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn no_program_hangs_or_panics() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..2_000 {
        let bytes: Vec<u8> = (0..16).flat_map(|_| next().to_ne_bytes()).collect();
        let filter = Filter::parse(&bytes).unwrap();
        for framing in [Framing::Ethernet, Framing::Ip] {
            drop((filter.reach(PORT, framing), filter.lines(usize::MAX)));
        }
    }
}

#[test]
fn what_is_no_program_is_refused() {
    assert_eq!(Filter::parse(&[]), None);
    assert_eq!(Filter::parse(&[0; 12]), None);
    assert_eq!(Filter::parse(&vec![0; 8 * 4097]), None);
}

fn filter(program: &str) -> Filter {
    let instruction = |line: &str| {
        let mut words = line.split_whitespace();
        let mut word = |radix| u32::from_str_radix(words.next().unwrap(), radix).unwrap();
        Instruction {
            code: u16::try_from(word(16)).unwrap(),
            jump_true: u8::try_from(word(10)).unwrap(),
            jump_false: u8::try_from(word(10)).unwrap(),
            k: word(16),
        }
    };
    Filter { instructions: program.split(',').map(instruction).collect() }
}
