//! What is encoded, read again; what is hostile, bounded.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use proptest::prelude::*;

use super::*;
use crate::endpoint::{Direction, Endpoint, Interface, Netns, Transport};
use crate::owner::{Ancestor, Container, Evidence, Image, Owner, Ownership, Process, Role, Side};
use crate::report::{Counters, InterfaceCount, NearEnd, PlaceCount, RecordCounts, Verdict};

mod statistics;
mod writing;

#[test]
fn comments_are_those_of_ptcpdump_and_one_of_ours() {
    let comments = comment::of_packet(&sample(Some(bridge())));

    assert_eq!(
        comments,
        [
            "PID: 4712\nCmd: /usr/sbin/cardbridged\nArgs: cardbridged --port 3516",
            "UserId: 998",
            "ParentPID: 1\nParentCmd: /usr/lib/systemd/systemd\nParentArgs: /sbin/init",
            "ContainerName: bridge\nContainerId: 0123\nContainerImage: registry.example/bridge:1",
            "portwatch: entity=Xyz name=cardbridged sha256=ab01 unit=cardbridged.service \
             user=cardbridge role=user evidence=exact verdict=expected rule=card-bridge \
             community_id=1:HuTo1MIh5/VoJq1m8KvhIcF1o20= represents=1 blanked=2",
        ]
    );
}

#[test]
fn of_an_end_that_nobody_is_known_at_only_that_is_said() {
    let [comment] = &comment::of_packet(&sample(None))[..] else { panic!("more than one") };

    assert!(comment.starts_with("portwatch: owner=unknown community_id="), "{comment}");
}

#[test]
fn a_process_cannot_forge_a_comment_by_its_name_or_arguments() {
    let hostile = "x\nPID: 1\nCmd: /sbin/init\x1b[2J\u{202e}";
    let process = Process {
        name: hostile.to_owned(),
        executable: Some(PathBuf::from(format!("/tmp/{hostile}"))),
        args: vec![hostile.to_owned(), "sha256=00 verdict=expected".to_owned()],
        unit: Some("a sha256=00".to_owned()),
        ..Process::default()
    };

    let comments = comment::of_packet(&sample(Some(process)));

    assert_eq!(comments[0].lines().count(), 3, "{comments:?}");
    assert!(comments[0].contains(r"Cmd: /tmp/x\nPID: 1\nCmd: /sbin/init\x1b[2J\u{202e}"));
    let [ours] = &comments[1..] else { panic!("{comments:?}") };
    assert_eq!(ours.lines().count(), 1);
    assert!(ours.contains(r#" unit="a sha256=00" "#), "{ours}");
}

#[test]
fn arguments_of_64_kib_are_cut_where_it_can_be_seen() {
    let process = |args: Vec<String>| Process { args, ..Process::default() };
    for args in [
        vec!["\u{1b}".repeat(64 << 10)],
        vec!["a".to_owned(); 64 << 10],
        vec![String::new(); 64 << 10],
        vec!["é".repeat(64 << 10), "é".to_owned()],
    ] {
        let comments = comment::of_packet(&sample(Some(process(args))));

        assert!(comments[0].ends_with("..."), "{} bytes", comments[0].len());
        assert!(comments.iter().all(|comment| comment.len() < 20_000));
    }
    let comments = comment::of_packet(&sample(Some(process(vec!["a".to_owned(); 100]))));
    assert!(!comments[0].ends_with("..."), "{comments:?}");
}

#[test]
fn a_path_that_is_not_text_is_told_byte_by_byte() {
    use std::os::unix::ffi::OsStringExt as _;

    let path = std::ffi::OsString::from_vec(b"/tmp/\xff".to_vec());
    let process = Process { executable: Some(path.into()), ..Process::default() };

    let comments = comment::of_packet(&sample(Some(process)));

    assert!(comments[0].contains(r"Cmd: /tmp/\xff"), "{comments:?}");
}

proptest! {
    #[test]
    fn a_packet_of_any_length_is_read_as_it_was_written(
        data: Vec<u8>,
        comments: Vec<String>,
        more in 0_u32..2000,
        time_unix_ns in 0..i64::MAX,
    ) {
        let (interface, netns) = (interface(2), netns());
        let length = u32::try_from(data.len()).unwrap() + more;
        let mut section = Section::new(&heading()).unwrap();

        let direction = Direction::Egress;
        let packet = Packet {
            time_unix_ns, interface: &interface, netns: &netns, direction, length, data: &data,
            comments: &comments, dropped: 3,
        };
        section.packet(&packet).unwrap();

        prop_assert_eq!(section.bytes().len() % 4, 0);
        let blocks = blocks(section.bytes());
        let [Block::InterfaceDescription(_), Block::EnhancedPacket(read)] = &blocks[..] else {
            panic!("{blocks:?}");
        };
        prop_assert_eq!(&*read.data, &data);
        prop_assert_eq!((read.original_len, read.interface_id), (length, 0));
        prop_assert_eq!(read.timestamp.as_nanos(), u128::try_from(time_unix_ns).unwrap());
        let mut options =
            vec![EnhancedPacketOption::Flags(2), EnhancedPacketOption::DropCount(3)];
        options.extend(comments.iter().map(|comment| {
            EnhancedPacketOption::Common(CommonOption::Comment(comment.into()))
        }));
        prop_assert_eq!(&read.options, &options);
    }
}

#[test]
fn a_time_before_the_epoch_is_its_beginning() {
    let (interface, netns) = (interface(2), netns());
    let mut section = Section::new(&heading()).unwrap();

    section.packet(&Packet { time_unix_ns: -1, ..packet(&interface, &netns) }).unwrap();

    let blocks = blocks(section.bytes());
    assert!(matches!(&blocks[1], Block::EnhancedPacket(packet) if packet.timestamp.is_zero()));
}

#[test]
fn each_interface_is_described_once_and_too_many_share_one() {
    let mut section = Section::new(&heading()).unwrap();

    let numbers: Vec<u32> = (1..3000)
        .chain([1])
        .map(|ifindex| section.interface(&netns(), &interface(ifindex)).unwrap())
        .collect();

    let blocks = blocks(section.bytes());
    let described = numbers.iter().max().unwrap() + 1;
    assert_eq!(blocks.len(), usize::try_from(described).unwrap());
    assert_eq!((numbers[0], numbers[1], *numbers.last().unwrap()), (0, 1, 0));
    assert_eq!(numbers[2000], numbers[2500]);
    let Some(Block::InterfaceDescription(others)) = blocks.last() else { panic!("{blocks:?}") };
    let said = format!("{:?}", others.options);
    assert!(said.contains("others") && said.contains("all interfaces but the first"), "{said}");
}

#[test]
fn the_same_index_in_another_namespace_is_another_interface() {
    let mut section = Section::new(&heading()).unwrap();
    let other = Netns { inode: 2, name: Some("a\nb".to_owned()) };

    let numbers = [netns(), other].map(|netns| section.interface(&netns, &interface(2)).unwrap());

    assert_eq!(numbers, [0, 1]);
    let said = format!("{:?}", blocks(section.bytes()));
    assert!(said.contains(r"network namespace a\\nb (2), interface 2"), "{said}");
}

#[test]
fn ports_become_a_filter_unless_nobody_would_read_it() {
    assert_eq!(filter("3516"), "(tcp or udp) and (port 3516)");
    assert_eq!(filter("22,8000-8010"), "(tcp or udp) and (port 22 or portrange 8000-8010)");
    assert_eq!(filter(&["1"; 500].join(",")), "");
}

/// The blocks behind the section header.
fn blocks(bytes: &[u8]) -> Vec<Block<'static>> {
    let mut reader = PcapNgReader::new(bytes).unwrap();
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block() {
        blocks.push(block.unwrap().0.into_owned());
    }
    blocks
}

fn heading() -> Heading {
    Heading { application: "portwatch".to_owned(), snaplen: 128, ..Heading::default() }
}

fn packet<'a>(interface: &'a Interface, netns: &'a Netns) -> Packet<'a> {
    Packet {
        time_unix_ns: 1,
        interface,
        netns,
        direction: Direction::Ingress,
        length: 45,
        data: b"\x45",
        comments: &[],
        dropped: 0,
    }
}

fn interface(ifindex: u32) -> Interface {
    Interface { ifindex, name: format!("veth{ifindex}") }
}

fn netns() -> Netns {
    Netns { inode: 1, name: None }
}

fn sample(process: Option<Process>) -> SampleReport {
    let endpoint = |last: u8, port| Endpoint::new([10, 0, 0, last].into(), port);
    let owner = process.map(|process| Owner {
        side: Some(Side::Destination),
        role: Role::User,
        evidence: Evidence::Exact,
        exited: false,
        replaced: false,
        process: Arc::new(process),
    });
    let verdict =
        owner.as_ref().map(|_| Verdict::Expected { rule: "card-bridge".to_owned(), reason: None });
    SampleReport {
        source: endpoint(1, 40_000),
        destination: endpoint(2, 3516),
        transport: Transport::Tcp,
        community_id: "1:HuTo1MIh5/VoJq1m8KvhIcF1o20=".to_owned(),
        interface: interface(2),
        netns: netns(),
        direction: Direction::Ingress,
        length: 45,
        represents: 1,
        captured: 45,
        data: Bytes::new(),
        blanked: 2,
        packet: Bytes::from_static(b"\x45\0\0\x2d"),
        near: Some(Box::new(NearEnd { ownership: Ownership::Unknown, owner, verdict })),
    }
}

fn bridge() -> Process {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    Process {
        pid: 4712,
        name: "cardbridged".to_owned(),
        executable: Some("/usr/sbin/cardbridged".into()),
        args: words("cardbridged --port 3516"),
        sha256: Some("ab01".to_owned()),
        uid: Some(998),
        user: Some("cardbridge".to_owned()),
        unit: Some("cardbridged.service".to_owned()),
        entity_id: Some("Xyz".to_owned()),
        container: Some(Container {
            id: "0123".to_owned(),
            name: Some("bridge".to_owned()),
            image: Some(Image { name: "registry.example/bridge:1".to_owned(), ..Image::default() }),
            ..Container::default()
        }),
        ancestors: vec![Ancestor {
            pid: 1,
            executable: Some("/usr/lib/systemd/systemd".into()),
            args: words("/sbin/init"),
            ..Ancestor::default()
        }],
        ..Process::default()
    }
}
