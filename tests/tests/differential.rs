//! Generated packets, valid and damaged, as portwatch and as tshark see them on the same device:
//! conversation for conversation, and each frame is mostly one of its own.

#![cfg(test)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use portwatch_tests::{Capture, Count, Dissected, Frame, Lab, Run, frames_file};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u64 = 3516;
const FRAMES: u16 = 3000;

#[test]
fn valid_packets_of_every_shape_are_what_tshark_takes_them_for() {
    compare(0x5eed_0001, 0);
}

#[test]
fn damaged_packets_are_what_tshark_takes_them_for_or_are_not_counted() {
    compare(0x5eed_0002, 3);
}

/// Sends generated frames, of which so many in four are damaged, and compares.
fn compare(seed: u64, damaged_of_four: u64) {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let mut random = Random(seed);
    let frames: Vec<Frame> = (0..FRAMES)
        .map(|index| {
            // What is damaged in a tunnel is the parser's own tests' and the fuzzer's business: tshark
            // and portwatch hold different things against the packet around.
            let is_damaged = random.below(4) < damaged_of_four;
            let frame = generate(&mut random, 10_000 + index, is_damaged);
            if is_damaged { damage(&mut random, frame) } else { frame }
        })
        .collect();
    let file = frames_file(&frames);
    let filter = "ether src 02:00:00:00:00:08";
    let count = frames.len();
    let Some(capture) = Capture::start(&lab.left, Lab::DEVICE, count, filter) else { return };
    let portwatch = lab.left.portwatch(&["watch", "-i", Lab::DEVICE]);

    lab.left.perform(&[&format!("inject {} {}", Lab::DEVICE, file.path().display())]);
    let run = portwatch.stop();
    let dissected = capture.finish();

    let mut expected = Expected::default();
    for frame in &dissected {
        expected.take(frame);
    }
    let found = conversations(&run);
    let named = expected.conversations.keys().chain(found.keys());
    let differing = named.filter(|it| found.get(it) != expected.conversations.get(it));
    let differences: Vec<String> = differing
        .map(|it| {
            let ((_, one), (_, other), _) = *it;
            let is_part = |(frame, sent): &(&Dissected, &Frame)| {
                (frame.has_port(one) && frame.has_port(other)) || sent.has_ports(one, other)
            };
            let frames: Vec<_> = dissected.iter().zip(&frames).filter(is_part).collect();
            let (ours, tsharks) = (found.get(it), expected.conversations.get(it));
            format!("{it:?}: portwatch {ours:?}, tshark {tsharks:?} by {frames:?}")
        })
        .collect();
    assert!(differences.is_empty(), "{} differences: {differences:#?}", differences.len());
    assert!(expected.conversations.len() > usize::from(FRAMES) / 4, "too few to tell anything");
    let fragments =
        ["first", "later_joined", "later"].map(|it| run.counter(&format!("fragments.{it}")));
    assert_eq!(fragments, expected.fragments);
    assert_eq!(run.counter("icmp_errors"), expected.icmp_errors);
    assert_eq!(run.counter("tunnelled"), expected.tunnelled);
    let unparsable = run.ended().at("portwatch.counters.unparsable");
    assert_eq!(unparsable == &serde_json::json!({}), damaged_of_four == 0, "{unparsable}");
    run.assert_sound();
}

/// What both ends of a conversation are called, in order, and the transport.
type Conversation = ((IpAddr, u64), (IpAddr, u64), &'static str);

fn conversation(source: (IpAddr, u64), destination: (IpAddr, u64), udp: bool) -> Conversation {
    let transport = if udp { "udp" } else { "tcp" };
    (source.min(destination), source.max(destination), transport)
}

/// What portwatch reported.
fn conversations(run: &Run) -> BTreeMap<Conversation, Count> {
    let mut found = BTreeMap::<_, Count>::new();
    for flow in run.of("flow-ended") {
        let end = |side: &str| {
            let address = flow.endpoint(side).unwrap_or_else(|| panic!("no {side} in {flow}"));
            (address.ip(), u64::from(address.port()))
        };
        let udp = flow.text("network.transport") == "udp";
        let count = Count::read(flow.at("source")) + Count::read(flow.at("destination"));
        let sum = found.entry(conversation(end("source"), end("destination"), udp)).or_default();
        *sum = *sum + count;
    }
    found
}

/// What portwatch should report, going by tshark.
#[derive(Debug, Default)]
struct Expected {
    conversations: BTreeMap<Conversation, Count>,
    /// First, later and joined, later and not joined.
    fragments: [u64; 3],
    icmp_errors: u64,
    tunnelled: u64,
    /// Ports of the datagrams that have begun.
    begun: BTreeMap<Datagram, (u64, u64, bool)>,
}

type Datagram = (IpAddr, IpAddr, u64, u64);

/// An IP header, as tshark shows it.
#[derive(Clone, Copy, Debug)]
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    bytes: u64,
    id: u64,
    /// 0 in IPv6.
    protocol: u64,
    is_first: bool,
    is_later: bool,
}

/// What a frame is, going by tshark.
enum Verdict {
    /// TCP or UDP of our port: its ports, whether it is UDP, and whether it came in a tunnel.
    Ours(Ip, (u64, u64), bool, bool),
    /// A later fragment, and whether it came in a tunnel.
    Later(Ip, bool),
    /// An ICMP error about our port.
    Error,
    /// Anything else, and its last IP header.
    Other(Option<Ip>),
}

impl Expected {
    fn take(&mut self, frame: &Dissected) {
        match judge(frame) {
            Verdict::Ours(ip, ports, udp, is_tunnelled) => {
                if ip.is_first {
                    self.fragments[0] += 1;
                    self.begun.insert(ip.datagram(), (ports.0, ports.1, udp));
                }
                self.count(ip, ports, udp, is_tunnelled);
            }
            Verdict::Later(ip, is_tunnelled) => match self.begun.get(&ip.datagram()).copied() {
                Some((source, destination, udp)) => {
                    self.fragments[1] += 1;
                    self.count(ip, (source, destination), udp, is_tunnelled);
                }
                None => self.fragments[2] += 1,
            },
            Verdict::Error => self.icmp_errors += 1,
            Verdict::Other(Some(ip)) if ip.is_first => {
                self.begun.remove(&ip.datagram());
            }
            Verdict::Other(_) => {}
        }
    }

    fn count(&mut self, ip: Ip, ports: (u64, u64), udp: bool, is_tunnelled: bool) {
        let (source, destination) = ((ip.source, ports.0), (ip.destination, ports.1));
        let sum = self.conversations.entry(conversation(source, destination, udp)).or_default();
        *sum = *sum + Count { packets: 1, bytes: ip.bytes };
        self.tunnelled += u64::from(is_tunnelled);
    }
}

fn judge(frame: &Dissected) -> Verdict {
    let mut ip = None;
    let (mut ipv4s, mut ipv6s, mut udps, mut fragment_headers) = (0, 0, 0, 0);
    for protocol in frame.protocols() {
        match protocol {
            // Of tunnels, portwatch looks into one.
            "ip" | "ipv6" if ipv4s + ipv6s == 2 => return Verdict::Other(None),
            "ip" => {
                ip = ipv4(frame, ipv4s);
                ipv4s += 1;
            }
            "ipv6" => {
                ip = ipv6(frame, ipv6s);
                ipv6s += 1;
            }
            "ipv6.fraghdr" => {
                if let Some(ip) = &mut ip {
                    ip.read_fragment_header(frame, fragment_headers);
                }
                fragment_headers += 1;
            }
            "icmp" | "icmpv6" => return error(frame),
            // tshark reads obsolete and other versions of GRE as well.
            "gre" if frame.number("gre.flags_and_version", 0).is_none_or(|it| it & 0x4007 != 0) => {
                return Verdict::Other(ip);
            }
            // And VXLAN that says that it has no network identifier, and later versions of Geneve.
            "vxlan" if frame.text("vxlan.flag_i", 0) != Some("1") => return Verdict::Other(ip),
            "geneve" if frame.number("geneve.version", 0) != Some(0) => return Verdict::Other(ip),
            "udp" | "tcp" => {
                let index = if protocol == "udp" { udps } else { 0 };
                udps += usize::from(protocol == "udp");
                let port = |side| frame.number(&format!("{protocol}.{side}port"), index);
                let Some((ports, ip)) = port("src").zip(port("dst")).zip(ip) else {
                    return Verdict::Other(ip);
                };
                let is_tunnelled = ipv4s + ipv6s > 1;
                let is_ours = ports.0 == PORT || ports.1 == PORT;
                if is_ours && (is_faulty(frame) || is_header_longer(frame, ip)) {
                    return Verdict::Other(Some(ip));
                } else if is_ours {
                    return Verdict::Ours(ip, ports, protocol == "udp", is_tunnelled);
                }
                // tshark takes a tunnel's port at either end for a tunnel; here it is the destination.
                if is_tunnelled || protocol == "tcp" || !matches!(ports.1, 4789 | 6081) {
                    return Verdict::Other(Some(ip));
                }
            }
            _ => {}
        }
    }
    match ip {
        // Whoever says that it carries something else carries no ports.
        Some(ip) if ip.is_later && matches!(ip.protocol, 0 | 6 | 17) && !is_faulty(frame) => {
            Verdict::Later(ip, ipv4s + ipv6s > 1)
        }
        _ => Verdict::Other(ip),
    }
}

fn error(frame: &Dissected) -> Verdict {
    let is_ours = |protocol: &str| {
        let port = |side| frame.number(&format!("{protocol}.{side}port"), 0);
        [port("src"), port("dst")].contains(&Some(PORT))
    };
    if is_ours("udp") || is_ours("tcp") { Verdict::Error } else { Verdict::Other(None) }
}

/// tshark shows the ports of what is cut short or contradicts itself; portwatch counts it apart.
fn is_faulty(frame: &Dissected) -> bool {
    let of_ip = [
        "ip.bogus_ip_length",
        "ip.bogus_header_length",
        "ipv6.plen_exceeds_framing",
        "ipv6.bogus_ipv6_version",
        "tcp.bogus_header_length",
    ];
    // Of UDP, portwatch does not look at the length: whoever receives it does.
    let is_whole_udp = frame.has("udp.length");
    of_ip.into_iter().any(|field| frame.has(field)) || (frame.has("_ws.malformed") && !is_whole_udp)
}

/// Does the TCP header go on behind the end of the packet? tshark lets it, in a first fragment.
fn is_header_longer(frame: &Dissected, ip: Ip) -> bool {
    let header = if ip.source.is_ipv6() { 40 } else { 20 };
    frame.number("tcp.hdr_len", 0).is_some_and(|length| header + length > ip.bytes)
}

impl Ip {
    const fn datagram(&self) -> Datagram {
        (self.source, self.destination, self.id, self.protocol)
    }

    fn read_fragment_header(&mut self, frame: &Dissected, index: usize) {
        let field = |name: &str| frame.number(&format!("ipv6.fraghdr.{name}"), index).unwrap_or(0);
        self.id = field("ident");
        self.is_later = field("offset") > 0;
        self.is_first = !self.is_later && field("more") > 0;
    }
}

fn ipv4(frame: &Dissected, index: usize) -> Option<Ip> {
    let address = |field| frame.text(field, index)?.parse().ok();
    let number = |field| frame.number(field, index);
    let offset = number("ip.frag_offset")?;
    Some(Ip {
        source: address("ip.src")?,
        destination: address("ip.dst")?,
        bytes: number("ip.len")?,
        id: number("ip.id")?,
        protocol: number("ip.proto")?,
        is_first: offset == 0 && number("ip.flags.mf")? > 0,
        is_later: offset > 0,
    })
}

fn ipv6(frame: &Dissected, index: usize) -> Option<Ip> {
    let address = |field| frame.text(field, index)?.parse().ok();
    Some(Ip {
        source: address("ipv6.src")?,
        destination: address("ipv6.dst")?,
        bytes: frame.number("ipv6.plen", index)? + 40,
        id: 0,
        protocol: 0,
        is_first: false,
        is_later: false,
    })
}

/// `SplitMix64` by Steele, Lea and Flood: the same frames every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A frame of some shape, mostly of the watched port, from a port of its own.
///
/// One that is going to be damaged is in no tunnel and has no IPv6 options.
fn generate(random: &mut Random, own: u16, is_to_be_damaged: bool) -> Frame {
    let watched = if random.below(5) == 0 { 3517 } else { 3516 };
    let (source, destination) = if random.below(2) == 0 { (own, watched) } else { (watched, own) };
    let payload = vec![0x55; usize::try_from(random.below(40)).unwrap_or(0)];
    let transport = match random.below(2) {
        0 => Frame::udp(source, destination, &payload),
        _ => Frame::tcp(source, destination, &payload),
    };
    let network = network(random, transport, own, !is_to_be_damaged);
    let shape = if is_to_be_damaged { 9 + random.below(3) } else { random.below(12) };
    let network = match shape {
        0 => network.in_ip().ipv4(),
        1 => network.in_ip().extension(60).ipv6(),
        2 => network.gre(0).ipv4(),
        3 => network.gre(0xb000).ipv6(),
        4 => network.ethernet().gre(0x2000).ipv4(),
        5 => network.ethernet().vxlan().ipv6(),
        6 => network.tag(0x8100).ethernet().vxlan().ipv4(),
        7 => network.geneve(0).ipv4(),
        8 => network.ethernet().geneve(5).ipv6(),
        9 => network.icmp_error(if random.below(2) == 0 { 3 } else { 1 }),
        _ => network,
    };
    match random.below(4) {
        0 => network.tag(0x8100).ethernet(),
        1 => network.tag(0x8100).tag(0x88a8).ethernet(),
        _ => network.ethernet(),
    }
}

fn network(random: &mut Random, transport: Frame, own: u16, options: bool) -> Frame {
    // Few identifications, so that fragments find one another.
    let id = own % 64;
    // What is in extension headers is nothing to portwatch, but for their lengths. tshark goes no
    // further where options are damaged.
    let extension = |frame: Frame, kind| {
        if options { frame.extension(kind) } else { frame.authentication() }
    };
    match random.below(10) {
        0 => transport.ipv4_with(id, 0, &[1; 8]),
        1 => transport.ipv4_with(id, 0x2000, &[]),
        2 => transport.ipv4_with(id, 0x0005, &[]),
        3 => extension(transport, 0).ipv6(),
        4 => extension(transport.authentication(), 43).ipv6(),
        5 => extension(transport, 60).fragment(id.into(), 0, true).ipv6(),
        6 => extension(transport.fragment(id.into(), 64, false), 0).ipv6(),
        7 => transport.fragment(id.into(), 0, false).ipv6(),
        8 => transport.ipv6(),
        _ => transport.ipv4(),
    }
}

/// Changes or cuts off some bytes behind the Ethernet addresses, by which the frame is captured.
fn damage(random: &mut Random, frame: Frame) -> Frame {
    let length = u64::try_from(frame.bytes.len()).unwrap_or(0);
    let place = usize::try_from(12 + random.below(length - 12)).unwrap_or(12);
    if random.below(3) == 0 {
        return frame.cut(place.max(14));
    }
    let mut frame = frame;
    frame.bytes[place] = u8::try_from(random.below(256)).unwrap_or(0);
    frame
}
