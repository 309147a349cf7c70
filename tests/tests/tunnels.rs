//! Real tunnel devices: what they carry is counted inside the tunnel, and where it comes out of it.

#![cfg(test)]

use portwatch_tests::{Count, Lab, finish, skip};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
const DATAGRAMS: u64 = 100;
const SIZE: u64 = 100;
const IPV4_AND_UDP: u64 = 28;
const IPV6_AND_UDP: u64 = 48;

/// Addresses inside a tunnel.
const IPV4: [&str; 2] = ["10.98.0.1", "10.98.0.2"];
const IPV6: [&str; 2] = ["fd00:98::1", "fd00:98::2"];

#[test]
fn ipip() {
    through("type ipip local {here} remote {there}", IPV4, IPV4_AND_UDP);
}

#[test]
fn sit() {
    through("type sit local {here} remote {there}", IPV6, IPV6_AND_UDP);
}

#[test]
fn gre() {
    through("type gre local {here} remote {there}", IPV4, IPV4_AND_UDP);
}

#[test]
fn ethernet_in_gre() {
    through("type gretap local {here} remote {there}", IPV6, IPV6_AND_UDP);
}

#[test]
fn vxlan() {
    through("type vxlan id 5 local {here} remote {there} dstport 4789", IPV4, IPV4_AND_UDP);
}

#[test]
fn geneve() {
    through("type geneve id 5 remote {there}", IPV6, IPV6_AND_UDP);
}

/// Sends datagrams to a server through a tunnel whose device `ip link add` makes of `link`, and back.
fn through(link: &str, addresses: [&str; 2], headers: u64) {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let outer = ["10.35.16.1", "10.35.16.2"];
    for (host, here, there) in [(&lab.left, 0, 1), (&lab.right, 1, 0)] {
        let link = link.replace("{here}", outer[here]).replace("{there}", outer[there]);
        let mut add = host.command("ip");
        let added = finish(add.args(["link", "add", DEVICE]).args(link.split(' ')));
        if added.code != Some(0) {
            return skip(&format!("`ip link add {DEVICE} {link}`: {}", added.stderr.trim()));
        }
        let (length, nodad) = if addresses[here].contains(':') { (64, " nodad") } else { (24, "") };
        host.ip(&format!("addr add {}/{length} dev {DEVICE}{nodad}", addresses[here]));
        host.ip(&format!("link set {DEVICE} up"));
    }
    let bracketed = if addresses[1].contains(':') {
        format!("[{}]", addresses[1])
    } else {
        addresses[1].to_owned()
    };
    let address = format!("{bracketed}:{PORT}");
    let portwatch = lab.right.portwatch(&["watch"]);

    let mut server = lab.right.actor(&[&format!("bind udp {address}"), "stay"]);
    server.answer();
    server.tell(&format!("serve {DATAGRAMS}"));
    let roundtrips = format!("roundtrips {DATAGRAMS} {SIZE}");
    let client = lab.left.perform(&[&format!("connect udp {address}"), &roundtrips]);
    server.answer();
    let run = portwatch.stop();

    let once = Count::of(DATAGRAMS, headers + SIZE);
    for direction in ["ingress", "egress"] {
        assert_eq!(run.counted(PORT, direction), once + once, "{direction}");
        for device in [Lab::DEVICE, DEVICE] {
            let places = run.ended().list("portwatch.counters.interfaces");
            let here =
                places.iter().filter(|it| it["name"] == device && it["direction"] == direction);
            assert_eq!(here.map(Count::read).sum::<Count>(), once, "{device}, {direction}");
        }
    }
    assert_eq!(run.counter("tunnelled"), 2 * DATAGRAMS);
    let flow = run.flow_from(client.address());
    for side in ["source", "destination"] {
        assert_eq!(Count::read(flow.at(side)), once, "{side}");
    }
    run.assert_sound();
}

/// The device that puts packets into the tunnel and takes them out.
const DEVICE: &str = "tunnel0";
