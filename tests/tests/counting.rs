//! Packets and bytes are counted exactly: as sent, as nftables counts them, and flow by flow.

#![cfg(test)]

use std::net::SocketAddr;

use portwatch_tests::{Count, Host, Lab, Nft, Performed, Portwatch, Run, skip};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
const DATAGRAMS: u64 = 2_000;
const TRANSFER: u64 = 2_000_000;

#[test]
fn datagrams_between_hosts_are_counted_exactly() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(nft) = Nft::on(&lab.right, Lab::DEVICE, PORT) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);

    let client4 = echo_datagrams(&lab.left, &lab.right, lab.right.v4(PORT));
    let client6 = echo_datagrams(&lab.left, &lab.right, lab.right.v6(PORT));
    let run = portwatch.stop();

    let ipv4 = Count::of(DATAGRAMS, IPV4_AND_UDP + SIZE);
    let ipv6 = Count::of(DATAGRAMS, IPV6_AND_UDP + SIZE);
    assert_eq!(counted(&run), [ipv4 + ipv6; 2]);
    assert_eq!([nft.ingress(), nft.egress()], [ipv4 + ipv6; 2]);
    assert_eq!([of_flow(&run, &client4), of_flow(&run, &client6)], [[ipv4; 2], [ipv6; 2]]);
    run.assert_sound();
}

#[test]
fn tcp_transfers_each_way_are_counted_as_nftables_counts_them() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(nft) = Nft::on(&lab.right, Lab::DEVICE, PORT) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);

    let clients = [lab.right.v4(PORT), lab.right.v6(PORT)]
        .map(|server| transfer(&lab.left, &lab.right, server));
    let [ended4, ended6] = clients.map(|client| end_of_flow(&portwatch, &client));
    let run = portwatch.stop();

    assert_eq!(counted(&run), [nft.ingress(), nft.egress()]);
    assert!(counted(&run).iter().all(|count| count.bytes > 2 * TRANSFER), "{}", run.ended());
    assert_eq!([ended4, ended6], ["end of flow", "end of flow"]);
    // Each packet of the kernel is one of the wire or several, each with headers of its own.
    for (kernel, wire) in counted(&run).into_iter().zip(on_wire(&run)) {
        let headers = Count::of(wire.packets - kernel.packets, IPV6_AND_TCP).bytes;
        assert!(wire.packets > kernel.packets, "{wire:?} {kernel:?}");
        assert!((kernel.bytes + 1..=kernel.bytes + headers).contains(&wire.bytes), "{wire:?}");
        assert!(wire.bytes <= wire.packets * 1500, "{wire:?}");
    }
    run.assert_sound();
}

#[test]
fn datagrams_on_loopback_count_at_both_hooks_and_once_in_their_flow() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let Some(nft) = Nft::on(&host, "lo", PORT) else { return };
    let portwatch = host.portwatch(&["watch"]);

    let client = echo_datagrams(&host, &host, host.v4(PORT));
    let run = portwatch.stop();

    let once = Count::of(DATAGRAMS, IPV4_AND_UDP + SIZE);
    assert_eq!(counted(&run), [once + once; 2]);
    assert_eq!([nft.ingress(), nft.egress()], [once + once; 2]);
    assert_eq!(of_flow(&run, &client), [once; 2]);
    run.assert_sound();
}

#[test]
fn a_tcp_transfer_on_loopback_is_counted_as_nftables_counts_it() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let Some(nft) = Nft::on(&host, "lo", PORT) else { return };
    let portwatch = host.portwatch(&["watch"]);

    let client = transfer(&host, &host, host.v4(PORT));
    let ended = end_of_flow(&portwatch, &client);
    let run = portwatch.stop();

    let [source, destination] = of_flow(&run, &client);
    let [ingress, egress] = counted(&run);
    assert_eq!([ingress, egress], [nft.ingress(), nft.egress()]);
    // Between its hooks the kernel cuts what is too long for `lo`, which the wire does not notice.
    let [on_wire_in, on_wire_out] = on_wire(&run);
    assert_eq!(on_wire_in, on_wire_out);
    assert!([ingress, egress].contains(&(source + destination)), "{source:?} {destination:?}");
    assert!(source.bytes > TRANSFER && destination.bytes > TRANSFER, "{source:?} {destination:?}");
    assert_eq!(ended, "end of flow");
    run.assert_sound();
}

#[test]
fn an_ipv6_transfer_on_loopback_is_counted_as_nftables_counts_it() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let Some(nft) = Nft::on(&host, "lo", PORT) else { return };
    let portwatch = host.portwatch(&["watch"]);

    let client = transfer(&host, &host, host.v6(PORT));
    let ended = end_of_flow(&portwatch, &client);
    let run = portwatch.stop();

    assert_eq!(counted(&run), [nft.ingress(), nft.egress()]);
    assert_eq!(ended, "end of flow");
    run.assert_sound();
}

#[test]
fn traffic_on_other_ports_is_not_counted() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "-p", "3516,40000-40010"]);

    for port in [3515, 3517, 39_999, 40_011] {
        transfer(&lab.left, &lab.right, lab.right.v4(port));
    }
    let watched = transfer(&lab.left, &lab.right, lab.right.v4(40_005));
    let run = portwatch.stop();

    let sources: Vec<_> = run.of("flow-ended").map(|flow| flow.endpoint("source")).collect();
    assert_eq!(sources, [Some(watched.address())]);
    assert_eq!(run.counted(PORT, "ingress"), Count::default());
    assert!(run.counted(40_005, "ingress").bytes > TRANSFER);
    run.assert_sound();
}

#[test]
fn a_packet_that_crosses_a_bridge_counts_once_in_its_flow() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    lab.right.ip("addr flush dev veth0");
    lab.right.ip("link add br0 type bridge");
    lab.right.ip("link set veth0 master br0");
    lab.right.ip("link set br0 up");
    lab.right.ip("addr add 10.35.16.2/24 dev br0");
    let portwatch = lab.right.portwatch(&["watch"]);

    let client = echo_datagrams(&lab.left, &lab.right, lab.right.v4(PORT));
    let run = portwatch.stop();

    let once = Count::of(DATAGRAMS, IPV4_AND_UDP + SIZE);
    assert_eq!(counted(&run), [once + once; 2]);
    assert_eq!(of_flow(&run, &client), [once; 2]);
    run.assert_sound();
}

#[test]
fn the_estimate_of_the_wire_is_what_devices_send() {
    let Some((lab, router)) = Lab::routed(ACTOR) else { return };
    // The router's devices cannot segment: what its programs see whole, they count in pieces.
    let devices = ["left0", "right0"];
    for device in devices {
        if !router.has_ethtool_set(device, &["tso", "off", "gso", "off"]) {
            return;
        }
    }
    let portwatch = router.portwatch(&["watch"]);
    let before = devices.map(|device| router.sent(device));

    transfer(&lab.left, &lab.right, lab.right.v4(PORT));
    let after = devices.map(|device| router.sent(device));
    let run = portwatch.stop();

    let sent: Count = after.into_iter().sum::<Count>() - before.into_iter().sum();
    let sent = sent - Count { packets: 0, bytes: sent.packets * 14 };
    let [_, wire] = on_wire(&run);
    let [_, seen] = counted(&run);
    assert!(seen.packets * 2 < wire.packets, "nothing was segmented: {seen:?}, {wire:?}");
    // Devices send a few packets more: neighbour discovery.
    for (estimate, truth) in [(wire.packets, sent.packets), (wire.bytes, sent.bytes)] {
        assert!(estimate.abs_diff(truth) * 100 <= truth, "{wire:?}, {sent:?}");
    }
    run.assert_sound();
}

#[test]
fn datagrams_that_are_segmented_late_count_on_the_wire_one_by_one() {
    const SEGMENTS: u64 = 40;
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let mut clients = Vec::new();

    for address in [lab.right.v4(PORT), lab.right.v6(PORT)] {
        let mut server = lab.right.actor(&[&format!("bind udp {address}"), "stay"]);
        server.answer();
        server.tell(&format!("sink {SEGMENTS}"));
        let segmented = format!("segmented {SEGMENTS} {SIZE}");
        clients.push(lab.left.perform(&[&format!("connect udp {address}"), &segmented]));
        server.answer();
    }
    let run = portwatch.stop();

    let [wire, _] = on_wire(&run);
    let each = [IPV4_AND_UDP, IPV6_AND_UDP].map(|headers| Count::of(SEGMENTS, headers + SIZE));
    assert_eq!(wire, each.into_iter().sum());
    let [whole, _] = counted(&run);
    if whole == wire {
        return skip("this kernel segments datagrams before a veth device sees them");
    }
    assert_eq!(
        whole,
        Count { packets: 2, bytes: 2 * SEGMENTS * SIZE + IPV4_AND_UDP + IPV6_AND_UDP }
    );
    for client in &clients {
        assert_eq!(of_flow(&run, client)[0].packets, 1);
    }
    run.assert_sound();
}

const IPV4_AND_UDP: u64 = 28;
const IPV6_AND_UDP: u64 = 48;
/// With timestamps, without selective acknowledgements.
const IPV6_AND_TCP: u64 = 72;
const SIZE: u64 = 100;

/// Sends [`DATAGRAMS`] datagrams to a server that sends each back.
fn echo_datagrams(from: &Host, to: &Host, address: SocketAddr) -> Performed {
    let mut server = to.actor(&[&format!("bind udp {address}"), "stay"]);
    server.answer();
    server.tell(&format!("serve {DATAGRAMS}"));
    let roundtrips = format!("roundtrips {DATAGRAMS} {SIZE}");
    let client = from.perform(&[&format!("connect udp {address}"), &roundtrips]);
    server.answer();
    client
}

/// Sends [`TRANSFER`] bytes over TCP to a server that sends them back.
fn transfer(from: &Host, to: &Host, address: SocketAddr) -> Performed {
    let mut server = to.actor(&[&format!("listen tcp {address}"), "stay"]);
    server.answer();
    server.tell("serve 1");
    let exchange = format!("exchange {TRANSFER}");
    let client = from.perform(&[&format!("connect tcp {address}"), &exchange]);
    server.answer();
    client
}

/// Ingress and egress of the port.
fn counted(run: &Run) -> [Count; 2] {
    ["ingress", "egress"].map(|direction| run.counted(PORT, direction))
}

/// What the flow of a client says of its source and of its destination.
fn of_flow(run: &Run, client: &Performed) -> [Count; 2] {
    let flow = run.flow_from(client.address());
    ["source", "destination"].map(|side| Count::read(flow.at(side)))
}

/// Waits for the end of a client's flow, and gives the reason.
fn end_of_flow(portwatch: &Portwatch, client: &Performed) -> String {
    let address = client.address();
    let flow = portwatch.expect("the end of a flow", |event| event.is_flow("flow-ended", address));
    flow.text("event.reason").to_owned()
}

/// Ingress and egress of the port, as the wire carries them.
fn on_wire(run: &Run) -> [Count; 2] {
    ["ingress", "egress"].map(|direction| {
        let counts = run.ended().list("portwatch.counters.ports");
        let count = counts.iter().find(|it| it["port"] == PORT && it["direction"] == direction);
        let number = |key: &str| count.and_then(|count| count[key].as_u64()).unwrap_or_default();
        Count { packets: number("wire_packets"), bytes: number("wire_bytes") }
    })
}
