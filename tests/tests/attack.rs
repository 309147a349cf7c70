//! Under attack portwatch counts every packet, stays small, follows who was there before, and answers.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Child;
use std::thread::available_parallelism;
use std::time::Duration;

use monitor_ebpf::key::{self, InterfaceId, Key, Place};
use portwatch_tests::{Actor, Count, Frame, Lab, Nft, Portwatch, Run, Secret};
use portwatch_tests::{frames_file, now, skip};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const FLOOD: &str = env!("CARGO_BIN_EXE_flood");
/// Where the conversation goes on that was there before.
const PORT: u16 = 3516;
/// What is attacked.
const TARGET: &str = "3517";
const TARGET_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 35, 16, 2);
const WATCH: [&str; 4] = ["watch", "-p", "3516-3517", "--fail-on-loss"];

/// What may be saved up and used at once, and what a debug build takes to notice that it is used up;
/// the share of a processor that comes on top.
const BURST: Duration = Duration::from_millis(1500);
const SHARE: u32 = 4;

/// Twice what was seen in a debug build: ring, tables, 65 536 flows and what is queued for stdout.
const MOST_MEMORY: u64 = 256 << 20;

#[test]
fn a_million_flows() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(siege) = Siege::begin(&lab, "3516-3517", &WATCH) else { return };
    let mut sink = lab.right.actor(&["bind udp 10.35.16.2:3517", "stay"]);
    sink.answer();

    let attack = siege.attack("udp", TARGET, 1_000_000, 1_000_000);
    let scan = lab.right.finish_portwatch(&["scan", "-p", "3516"]);
    wait_for(attack);
    let run = siege.end();

    // The listeners of this test are not expected by a rule: a finding.
    assert_eq!(scan.code, Some(1), "{}", scan.stderr);
    assert!(scan.stdout.contains("10.35.16.2:3516"), "{}", scan.stdout);
    assert!(run.ended().number("portwatch.run.flows") > 65_536, "{}", run.ended());
    assert_lossy(&run);
}

#[test]
fn a_syn_flood_from_random_sources() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    // Answered by RST, so that both directions are flooded.
    lab.right.ip("route add 198.18.0.0/15 via 10.35.16.1");
    let Some(siege) = Siege::begin(&lab, "3516-3517", &WATCH) else { return };

    let attack = siege.attack("syn", TARGET, 100_000, 100_000);
    wait_for(attack);
    let run = siege.end();

    assert!(run.counted(3517, "egress").packets > 0, "{}", run.ended());
}

#[test]
fn a_scan_of_many_ports_while_a_range_is_watched() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    lab.right.ip("route add 198.18.0.0/15 via 10.35.16.1");
    let watch = ["watch", "-p", "3000-3999", "--fail-on-loss"];
    let Some(siege) = Siege::begin(&lab, "3000-3999", &watch) else { return };

    let attack = siege.attack("syn", "3000-3999", 20_000, 20);
    wait_for(attack);
    let run = siege.end();

    // Twenty from each of the sources, all of them to ports that are watched.
    assert_eq!(run.counted(3000, "ingress"), Count::of(20, 40));
    assert_eq!(run.counted(3999, "ingress"), Count::of(20, 40));
}

#[test]
fn more_flows_than_a_small_table_holds() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let small = ["--flow-table", "64KiB", "--ring-size", "64KiB"];
    let Some(siege) = Siege::begin(&lab, "3516-3517", &[&WATCH[..], &small].concat()) else {
        return;
    };

    let attack = siege.attack("syn", TARGET, 100_000, 50_000);
    wait_for(attack);
    let run = siege.end();

    assert_lossy(&run);
    assert!(overflow(&run).packets > 0, "{}", run.ended());
}

#[test]
fn flows_chosen_to_collide() {
    const COLLIDING: usize = 1_000;
    const ROUNDS: usize = 4;
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let small = ["--flow-table", "1MiB", "--ring-size", "64KiB"];
    let watch = [&WATCH[..], &small].concat();
    let Some(mut siege) = Siege::begin(&lab, "3516-3517", &watch) else { return };
    let Some(secret) = Secret::of(&siege.portwatch) else { return };
    let interface = InterfaceId::new(0, lab.right.ifindex(Lab::DEVICE)).unwrap();
    let key = |source: SocketAddrV4, port| ingress(interface, source, port);

    // The attacker knows what to hash with, and aims at the conversation that is there.
    let aim = secret.set(key(siege.peer, PORT));
    let all = (0..1 << 17).flat_map(|host| {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() | host);
        (40_000..40_064).map(move |port| SocketAddrV4::new(address, port))
    });
    let chosen: Vec<_> =
        all.filter(|source| secret.set(key(*source, 3517)) == aim).take(COLLIDING).collect();
    assert_eq!(chosen.len(), COLLIDING);
    let frames: Vec<_> = chosen.repeat(ROUNDS).into_iter().map(datagram).collect();
    let file = frames_file(&frames);
    let inject = format!("inject {} {}", Lab::DEVICE, file.path().display());

    // Nobody reads meanwhile: once the ring is full, no slot can be given to another flow.
    siege.inject(&inject);
    let known = siege.end();
    drop(lab);
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(mut siege) = Siege::begin(&lab, "3516-3517", &watch) else { return };
    siege.inject(&inject);
    let unknown = siege.end();

    // All but those that got a slot before the ring was full.
    let lost = overflow(&known).packets;
    assert!(lost > 3 * COLLIDING as u64, "{lost} packets");
    // Of a thousand flows in thousands of sets, few find four others in theirs.
    let lost = overflow(&unknown).packets;
    assert!(lost < COLLIDING as u64 / 10, "{lost} packets, with other constants");
    for run in [known, unknown] {
        let sent = (COLLIDING * ROUNDS) as u64;
        assert_eq!(run.counted(3517, "ingress"), Count::of(sent, 29));
    }
}

#[test]
fn flows_that_last_find_room_beside_a_full_set() {
    // As many as two sets hold, of which three last when the others come; and as four sets hold.
    for (flows, lasting) in [(8, 3), (16, 15)] {
        let Some(records) = records_of_one_set(flows, lasting) else { return };

        // Each leaves a record when it starts, and more if seconds pass meanwhile. Taking each other's place,
        // they would leave one with each packet.
        assert!(records <= 3 * flows as u64, "{records} records of {flows} flows");
    }
}

/// So many flows that belong into the same set send in turn, some of them since before: how many records they
/// leave.
fn records_of_one_set(flows: usize, lasting: usize) -> Option<u64> {
    /// Packets that make a flow one that lasts.
    const LASTING: usize = 64;
    const ROUNDS: usize = 200;
    let lab = Lab::two_hosts(ACTOR)?;
    let watch = ["watch", "-p", "3516-3517", "--sample", "0", "--flow-table", "1MiB"];
    let portwatch = lab.right.portwatch(&watch);
    let secret = Secret::of(&portwatch)?;
    let interface = InterfaceId::new(0, lab.right.ifindex(Lab::DEVICE)).unwrap();
    let sources = (1..).map(|host: u32| {
        let address = Ipv4Addr::new(198, 18, 0, 0).to_bits() + host / 1024;
        let port = u16::try_from(40_000 + host % 1024).unwrap();
        SocketAddrV4::new(Ipv4Addr::from_bits(address), port)
    });
    let alike = sources.filter(|source| secret.set(ingress(interface, *source, 3517)) == 3);
    let sources: Vec<_> = alike.take(flows).collect();
    let before = sources.iter().take(lasting).flat_map(|source| [*source; LASTING]);
    let frames: Vec<_> = before.chain(sources.repeat(ROUNDS)).map(datagram).collect();
    let file = frames_file(&frames);

    lab.left.perform(&["pin", &format!("inject {} {}", Lab::DEVICE, file.path().display())]);
    let run = portwatch.stop();

    assert_eq!(run.counted(3517, "ingress"), Count::of(frames.len() as u64, 29));
    run.assert_sound();
    Some(run.counter("programs.pw_ingress.submitted"))
}

/// The key of the flow of UDP packets that come in from there.
fn ingress(interface: InterfaceId, source: SocketAddrV4, port: u16) -> Key {
    let address = |address: Ipv4Addr| u64::from(u32::from_ne_bytes(address.octets()));
    let addresses = address(*source.ip()) | address(TARGET_ADDRESS) << 32;
    let tail = key::tail(key::ports(source.port(), port), interface.bits() | Place::UDP);
    [addresses, 0, 0, 0, tail]
}

/// A datagram of one byte to what is attacked.
fn datagram(source: SocketAddrV4) -> Frame {
    let frame = Frame::udp(source.port(), 3517, b"x").ipv4().ethernet();
    frame.between(source.ip().octets(), TARGET_ADDRESS.octets())
}

#[test]
fn a_storm_of_samples() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let mut sink = lab.right.actor(&["bind udp 10.35.16.2:3517", "stay"]);
    sink.answer();
    let every = [&WATCH[..], &["--sample", "1"]].concat();
    let Some(siege) = Siege::begin(&lab, "3516-3517", &every) else { return };

    let attack = siege.attack("udp", TARGET, 200_000, 10);
    let seconds = wait_for(attack).as_secs() + 1;
    let run = siege.end();

    let (taken, suppressed) = (run.counter("samples.taken"), run.counter("samples.suppressed"));
    assert!(taken > 0 && suppressed > 0, "{}", run.ended());
    // 5000 a second in all; the conversation before and after the flood takes its share.
    assert!(taken <= 5000 * (seconds + 5), "{taken} samples in {seconds} s");
}

#[test]
fn connections_that_come_and_go() {
    const CONNECTIONS: u64 = 5_000;
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(siege) = Siege::begin(&lab, "3516-3517", &WATCH) else { return };
    let mut server =
        lab.right.actor(&["listen tcp 10.35.16.2:3517", &format!("reap {CONNECTIONS}")]);
    server.answer();

    let started = now();
    lab.left.perform(&[&format!("churn 10.35.16.2:3517 {CONNECTIONS}")]);
    let elapsed = now().saturating_sub(started);
    server.finish(1);
    let run = siege.end();

    println!("{CONNECTIONS} connections in {elapsed:?}");
    let ended = run.ended().number("portwatch.run.flows");
    // Each is followed. When what was read of them came late, which loses no packet, some are two.
    if overflow(&run) == Count::default() {
        assert!(ended > CONNECTIONS, "{}", run.ended());
    }
}

/// A conversation that goes on from before to after the attack, and portwatch watching both.
struct Siege<'a> {
    lab: &'a Lab,
    nft: Nft<'a>,
    portwatch: Portwatch,
    /// When it began, and the processor time that portwatch had taken until then.
    began: (Duration, Duration),
    server: Actor,
    client: Actor,
    /// Where the client of the conversation is.
    peer: SocketAddrV4,
}

impl<'a> Siege<'a> {
    fn begin(lab: &'a Lab, ports: &str, watch: &[&str]) -> Option<Self> {
        if available_parallelism().map_or(1, usize::from) < 2 {
            skip("one CPU: what sends the flood would starve those who are to arrive");
            return None;
        }
        let nft = Nft::on(&lab.right, Lab::DEVICE, ports)?;
        let address = lab.right.v4(PORT);
        let portwatch = lab.right.portwatch_ignoring(r#""198.1"#, watch);
        // On one CPU: each has a flow table of its own, and who moves to another begins anew there.
        let mut server = lab.right.actor(&["pin", &format!("bind udp {address}"), "stay"]);
        server.answer();
        server.answer();
        let mut client = lab.left.actor(&["pin", &format!("connect udp {address}"), "stay"]);
        client.answer();
        let connected = client.answer();
        let peer = connected.rsplit(' ').next().and_then(|address| address.parse().ok());
        let peer = peer.expect("hear where a client is");
        portwatch.forget_peak();
        let began = (now(), portwatch.processor_time());
        let mut siege = Self { lab, nft, portwatch, began, server, client, peer };
        siege.talk();
        siege.talk_on();
        Some(siege)
    }

    /// Both ends of the conversation take part in so many roundtrips.
    fn talk(&mut self) {
        self.server.tell(&format!("serve {MESSAGES}"));
        self.client.tell(&format!("roundtrips {MESSAGES} 100"));
    }

    fn talk_on(&mut self) {
        assert_eq!(self.client.answer(), format!("exchanged {MESSAGES}"));
        self.server.answer();
        self.talk();
    }

    fn attack(&self, kind: &str, ports: &str, count: u32, sources: u32) -> Child {
        let mut flood = self.lab.left.command(FLOOD);
        flood.args([kind, "10.35.16.2", ports, &count.to_string(), &sources.to_string()]);
        flood.spawn().expect("start a flood")
    }

    /// Sends frames while portwatch stands still, on the CPU of the client: into the same flow table.
    fn inject(&mut self, step: &str) {
        self.portwatch.pause();
        self.lab.left.perform(&["pin", step]);
        self.portwatch.resume();
    }

    /// Talks once more, stops portwatch, and checks what holds under any attack.
    fn end(mut self) -> Run {
        self.talk_on();
        assert_eq!(self.client.answer(), format!("exchanged {MESSAGES}"));
        self.server.answer();
        // What is sent between portwatch's last look and that of nftables is no miscount.
        self.lab.left.wait_for_silence();
        self.lab.right.wait_for_silence();
        let peak = self.portwatch.peak();
        let (began, used_before) = self.began;
        let elapsed = now().saturating_sub(began);
        let used = self.portwatch.processor_time().saturating_sub(used_before);
        let run = self.portwatch.stop();
        assert!(peak <= MOST_MEMORY, "{peak} bytes of memory");
        println!("{used:?} of processor time in {elapsed:?}");
        assert!(used <= BURST + elapsed / SHARE, "{used:?} of processor time in {elapsed:?}");
        let totals = ["ingress", "egress"].map(|direction| run.counted_in_all(direction));
        assert_eq!(totals, [self.nft.ingress(), self.nft.egress()], "{}", run.ended());
        run.assert_balanced();
        let ends: Vec<_> = run
            .of("flow-ended")
            .filter(|event| event.at("portwatch.flow.port") == PORT)
            .filter(|event| event.text("source.ip") == "10.35.16.1")
            .collect();
        assert_eq!(
            ends.len(),
            1,
            "the conversation that was there before has ended more than once"
        );
        assert_eq!(ends[0].text("event.reason"), "forced end");
        for side in ["source", "destination"] {
            assert_eq!(ends[0].number(&format!("{side}.packets")), 3 * MESSAGES, "{}", ends[0]);
            assert_eq!(ends[0].number(&format!("{side}.bytes")), 3 * MESSAGES * 128, "{}", ends[0]);
        }
        let lost = overflow(&run).packets + run.counter("records.ring_full") + lost_reports(&run);
        let summary = run.stderr.last().map_or("", String::as_str);
        assert_eq!(summary.contains("lost: "), lost > 0, "{summary}");
        assert_eq!(run.code, Some(if lost > 0 { 4 } else { 0 }), "{summary}");
        run
    }
}

/// Waits for the end of an attack; how long that took.
fn wait_for(mut attack: Child) -> Duration {
    let started = now();
    assert!(attack.wait().expect("wait for a flood").success());
    now().saturating_sub(started)
}

fn assert_lossy(run: &Run) {
    assert_eq!(run.code, Some(4), "{}", run.ended());
}

fn overflow(run: &Run) -> Count {
    run.ended().list("portwatch.counters.overflow").iter().map(Count::read).sum()
}

fn lost_reports(run: &Run) -> u64 {
    run.ended().number("portwatch.counters.sinks.0.lost")
}

/// Messages there and back, each time; a flow of that many packets is one that lasts.
const MESSAGES: u64 = 300;
