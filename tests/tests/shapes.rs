//! Packets of every shape, injected as they are: counted by what they carry, or by why not.

#![cfg(test)]

use monitor_ebpf::packet::tcp::{RST, SYN};
use portwatch_tests::{Count, Frame, Host, Lab, Run, finish, frames_file, skip};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
/// Where the port of the next frame comes from: every frame is a flow of its own.
const FIRST: u16 = 20_000;

#[test]
fn every_way_to_carry_a_port_is_looked_into() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let udp = |port| Frame::udp(port, PORT, b"hello");
    let tcp = |port| Frame::tcp(port, PORT, b"hello");
    // IP bytes of what counts: the innermost packet.
    let (udp4, udp6, tcp4) = (20 + 8 + 5, 40 + 8 + 5, 20 + 20 + 5);
    let shapes: [Shape; 20] = [
        ("plain", |it| it.ipv4().ethernet(), udp4, false),
        ("one tag", |it| it.ipv4().tag(0x8100).ethernet(), udp4, false),
        ("two tags", |it| it.ipv6().tag(0x8100).tag(0x88a8).ethernet(), udp6, false),
        ("IPv4 options", |it| it.ipv4_with(1, 0, &[1; 12]).ethernet(), udp4 + 12, false),
        ("most IPv4 options", |it| it.ipv4_with(1, 0, &[1; 40]).ethernet(), udp4 + 40, false),
        ("hop-by-hop", |it| it.extension(0).ipv6().ethernet(), udp6 + 8, false),
        ("destination", |it| it.extension(60).ipv6().ethernet(), udp6 + 8, false),
        ("routing", |it| it.extension(43).ipv6().ethernet(), udp6 + 8, false),
        ("authentication", |it| it.authentication().ipv6().ethernet(), udp6 + 24, false),
        ("atomic fragment", |it| it.fragment(7, 0, false).ipv6().ethernet(), udp6 + 8, false),
        (
            "chain",
            |it| it.extension(60).authentication().extension(43).extension(0).ipv6().ethernet(),
            udp6 + 8 + 24 + 8 + 8,
            false,
        ),
        ("IPIP", |it| it.ipv4().in_ip().ipv4().ethernet(), udp4, true),
        ("6in4", |it| it.ipv6().in_ip().ipv4().ethernet(), udp6, true),
        ("4in6", |it| it.ipv4().in_ip().extension(60).ipv6().ethernet(), udp4, true),
        ("GRE", |it| it.ipv4().gre(0).ipv4().ethernet(), udp4, true),
        ("GRE with everything", |it| it.ipv6().gre(0xb000).ipv4().ethernet(), udp6, true),
        ("Ethernet in GRE", |it| it.ipv4().ethernet().gre(0x2000).ipv6().ethernet(), udp4, true),
        ("VXLAN", |it| it.ipv4().tag(0x8100).ethernet().vxlan().ipv4().ethernet(), udp4, true),
        ("Geneve", |it| it.ipv6().geneve(0).ipv4().ethernet(), udp6, true),
        ("Geneve with options", |it| it.ipv4().ethernet().geneve(63).ipv6().ethernet(), udp4, true),
    ];
    let more_in_tcp = tcp4 - udp4;
    let mut frames = Vec::new();
    for (port, (_, around, ..)) in (FIRST..).step_by(2).zip(&shapes) {
        frames.extend([around(udp(port)), around(tcp(port + 1))]);
    }

    // What goes out has its tags in the packet; of what comes in the kernel has put one aside.
    for (host, direction) in [(&lab.left, "egress"), (&lab.right, "ingress")] {
        let run = watch(&lab, host, &frames);

        let mut sum = Count::default();
        for (port, (shape, _, length, _)) in (FIRST..).step_by(2).zip(&shapes) {
            for (port, bytes) in [(port, *length), (port + 1, length + more_in_tcp)] {
                assert_eq!(of_port(&run, port), Count::of(1, bytes), "{shape}, {direction}");
                sum = sum + Count::of(1, bytes);
            }
        }
        assert_eq!(run.counted(PORT, direction), sum);
        let tunnelled = shapes.iter().filter(|(.., tunnelled)| *tunnelled).count() * 2;
        assert_eq!(run.counter("tunnelled"), tunnelled as u64);
        assert_eq!(run.ended().at("portwatch.counters.unparsable"), &serde_json::json!({}));
        run.assert_sound();
    }
}

#[test]
fn what_is_cut_short_or_broken_is_counted_by_its_reason() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let udp = || Frame::udp(FIRST, PORT, b"hello");
    let seven = (0..7).fold(udp(), |frame, _| frame.extension(60));
    let broken = |mut frame: Frame, at: usize, byte: u8| {
        frame.bytes[at] = byte;
        frame
    };
    let frames = [
        // Shorter than the tag that its type announces.
        udp().ipv4().tag(0x8100).ethernet().cut(16),
        udp().ipv4().ethernet().cut(30),
        // Four words; version 6; a length beyond the end.
        broken(udp().ipv4().ethernet(), 14, 0x44),
        broken(udp().ipv4().ethernet(), 14, 0x65),
        broken(udp().ipv4().ethernet(), 16, 0x7f),
        udp().ipv4().ethernet().cut(38),
        broken(Frame::tcp(FIRST, PORT, b"").ipv4().ethernet(), 46, 0x40),
        seven.ipv6().ethernet(),
        udp().ipv4().tag(0x8100).tag(0x8100).tag(0x88a8).ethernet(),
        udp().ipv4().cut(12).gre(0).ipv4().ethernet(),
        udp().ipv4().cut(12).in_ip().ipv4().ethernet(),
        Frame::other(0x0800, &[0x44; 30]).ethernet().vxlan().ipv4().ethernet(),
        udp().ipv4().cut(22).icmp_error(3).ethernet(),
    ];

    // Where they go out: broken tags do not get in.
    let run = watch(&lab, &lab.left, &frames);

    let expected = serde_json::json!({
        "short-link-header": 1,
        "bad-ip-header": 4,
        "short-transport-header": 2,
        "extension-header-chain": 1,
        "vlan-stack": 1,
        "tunnel-content": 3,
        "icmp-quotation": 1,
    });
    assert_eq!(run.ended().at("portwatch.counters.unparsable"), &expected);
    assert_eq!(run.counted(PORT, "egress"), Count::default());
    run.assert_sound();
}

#[test]
fn ports_in_use_again_right_after_a_reset_are_another_flow() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let segment = |flags| Frame::tcp(FIRST, PORT, b"").ipv4().ethernet().flagged(flags);

    let run = watch(&lab, &lab.right, &[SYN, RST, SYN, RST, SYN, RST].map(segment));

    let ended = run.of("flow-ended").map(|event| event.number("source.packets"));
    assert_eq!(ended.collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(run.ended().number("portwatch.run.flows"), 3);
    run.assert_sound();
}

#[test]
fn fragments_of_real_datagrams_are_joined_to_their_flow() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let mut clients = Vec::new();

    // Of 4 008 bytes after the IP header, 1 480 fit into an IPv4 packet of 1 500, 1 448 into IPv6.
    for address in [lab.right.v4(PORT), lab.right.v6(PORT)] {
        let mut server = lab.right.actor(&[&format!("bind udp {address}"), "stay"]);
        server.answer();
        clients.push(lab.left.perform(&[&format!("connect udp {address}"), "send 10 4000"]));
        server.ask("sink 10");
    }
    let run = portwatch.stop();

    let each = [Count::of(30, 0), Count::of(30, 0)];
    let bytes = [10 * (4008 + 3 * 20), 10 * (4008 + 3 * 48)];
    for ((client, count), bytes) in clients.iter().zip(each).zip(bytes) {
        let flow = run.flow_from(client.address());
        assert_eq!(Count::read(flow.at("source")), Count { bytes, ..count });
    }
    assert_eq!(run.counted(PORT, "ingress"), Count { packets: 60, bytes: bytes.iter().sum() });
    assert_eq!(fragments(&run), [20, 40, 0]);
    run.assert_sound();
}

#[test]
fn a_later_fragment_is_joined_only_to_a_datagram_that_has_begun() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let first = |id, port| Frame::udp(FIRST, port, &[0; 16]).ipv4_with(id, 0x2000, &[]).ethernet();
    let later = |id| Frame::other(17, &[0; 24]).ipv4_with(id, 0x0003, &[]).ethernet();
    let first6 =
        |id, port| Frame::udp(FIRST, port, &[0; 16]).fragment(id, 0, true).ipv6().ethernet();
    let later6 = |id| Frame::other(17, &[0; 24]).fragment(id, 24, false).ipv6().ethernet();
    let frames = [
        // Before its first one.
        later(1),
        first(1, PORT),
        later(1),
        // Of a datagram that nobody began, or of another port.
        later(2),
        first(3, PORT + 1),
        later(3),
        // The identification is used again by another port, whose fragments are not ours.
        first(1, PORT + 1),
        later(1),
        // And by us again.
        first(1, PORT),
        later(1),
        later(1),
        // ICMP, which never has ports.
        Frame::other(1, &[0; 24]).ipv4_with(1, 0x0003, &[]).ethernet(),
        // IPv6, and in a tunnel.
        later6(0x0102_0304),
        first6(0x0102_0304, PORT),
        later6(0x0102_0304),
        Frame::udp(FIRST, PORT, &[0; 16]).ipv4_with(9, 0x2000, &[]).gre(0).ipv4().ethernet(),
        Frame::other(17, &[0; 24]).ipv4_with(9, 0x0003, &[]).gre(0).ipv4().ethernet(),
    ];

    let run = watch(&lab, &lab.right, &frames);

    // First fragments have 44 bytes in IPv4, 72 in IPv6; so have the later ones.
    assert_eq!(fragments(&run), [4, 5, 5]);
    assert_eq!(run.counter("tunnelled"), 2);
    assert_eq!(run.counted(PORT, "ingress"), Count { packets: 9, bytes: 7 * 44 + 2 * 72 });
    run.assert_sound();
}

#[test]
fn headers_in_another_page_are_found() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    for host in [&lab.left, &lab.right] {
        host.ip("link set veth0 mtu 9000");
    }
    // Of what is longer than a page, a packet socket puts only the link header where programs can
    // read it directly.
    let payload = [0; 6000];
    let frames = [
        Frame::udp(FIRST, PORT, &payload).ipv4().ethernet(),
        Frame::tcp(FIRST + 1, PORT, &payload).ipv6().ethernet(),
        Frame::udp(FIRST + 2, PORT, &payload).extension(0).ipv6().tag(0x8100).ethernet(),
        Frame::tcp(FIRST + 3, PORT, &payload).ipv4().ethernet().vxlan().ipv4().ethernet(),
    ];

    let run = watch(&lab, &lab.right, &frames);

    let lengths = [20 + 8, 40 + 20, 40 + 8 + 8, 20 + 20];
    for (port, length) in (FIRST..).zip(lengths) {
        assert_eq!(of_port(&run, port), Count::of(1, 6000 + length), "{port}");
    }
    assert_eq!(run.counter("tunnelled"), 1);
    run.assert_sound();
}

#[test]
fn a_device_without_link_headers_is_watched_as_well() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let added = finish(host.command("ip").args(["tuntap", "add", "tun0", "mode", "tun"]));
    if added.code != Some(0) {
        return skip(&format!("no tun device: {}", added.stderr.trim()));
    }
    host.ip("link set tun0 up");
    host.ip("addr add 10.98.0.1/24 dev tun0");
    let portwatch = host.portwatch(&["watch"]);

    // Nobody reads what goes out there, which makes no difference to who looks at it on the way.
    host.perform(&["sendto 10.98.0.2:3516 5", "sendto 10.98.0.2:3517 5"]);
    let run = portwatch.stop();

    assert_eq!(run.counted(PORT, "egress"), Count::of(1, 33));
    let place = &run.ended().list("portwatch.counters.interfaces")[0];
    assert_eq!(place["name"], "tun0");
    run.assert_sound();
}

#[test]
fn icmp_errors_about_the_port_are_counted_and_make_no_flow() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);

    // Nobody listens there: the kernel says so, in ICMP and in ICMPv6.
    for address in [lab.right.v4(PORT), lab.right.v6(PORT), lab.right.v4(PORT + 1)] {
        lab.left.perform(&[&format!("connect udp {address}"), "send 1 5"]);
    }
    let run = portwatch.stop();

    assert_eq!(run.counter("icmp_errors"), 2);
    assert_eq!(run.counted(PORT, "ingress").packets, 2);
    assert_eq!(run.counted(PORT, "egress"), Count::default());
    run.assert_sound();
}

/// A name, how to get it, its IP bytes with 5 bytes in UDP, and whether it is a tunnel.
type Shape = (&'static str, fn(Frame) -> Frame, u64, bool);

/// Watches one host while the left one sends these frames.
fn watch(lab: &Lab, host: &Host, frames: &[Frame]) -> Run {
    let file = frames_file(frames);
    let portwatch = host.portwatch(&["watch", "-i", Lab::DEVICE]);
    lab.left.perform(&[&format!("inject {} {}", Lab::DEVICE, file.path().display())]);
    portwatch.stop()
}

/// What was counted in the flow from this port.
fn of_port(run: &Run, port: u16) -> Count {
    let flows = run.of("flow-ended").filter(|flow| flow.at("source.port") == port);
    flows.map(|flow| Count::read(flow.at("source"))).sum()
}

/// First fragments, later ones that were joined, and later ones that were not.
fn fragments(run: &Run) -> [u64; 3] {
    ["first", "later_joined", "later"].map(|it| run.counter(&format!("fragments.{it}")))
}
