//! `--netns all`: packets are seen in every network namespace, and one conversation is one flow.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use portwatch_tests::{Count, Event, Host, Lab, Performed, Run, finish};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
const ALL: [&str; 3] = ["watch", "--netns", "all"];

#[test]
fn a_flow_between_two_namespaces_is_one_flow_seen_at_every_device_it_crosses() {
    let Some((lab, router)) = Lab::routed(ACTOR) else { return };
    let portwatch = router.portwatch(&ALL);

    let (server, client) = echo_datagrams(&lab.left, &lab.right, lab.right.v4(PORT));
    let run = portwatch.stop();

    let flow = run.flow_from(client.address());
    let each_way = Count::of(100, 128);
    let at = |host: &Host, device: &str, direction: &str| {
        ((host.netns(), device.to_owned(), direction.to_owned()), each_way)
    };
    let expected: BTreeMap<Place, Count> = [
        at(&lab.left, Lab::DEVICE, "egress"),
        at(&lab.left, Lab::DEVICE, "ingress"),
        at(&router, "left0", "ingress"),
        at(&router, "left0", "egress"),
        at(&router, "right0", "egress"),
        at(&router, "right0", "ingress"),
        at(&lab.right, Lab::DEVICE, "ingress"),
        at(&lab.right, Lab::DEVICE, "egress"),
    ]
    .into();
    assert_eq!(places(flow), expected);
    assert_eq!(Count::read(flow.at("source")), each_way);
    assert_eq!(Count::read(flow.at("destination")), each_way);
    assert_eq!(flow.text("portwatch.flow.role"), "server");
    flow.assert_owner("destination", "opener", "exact", server);
    flow.assert_owner("source", "opener", "exact", client.pid);
    assert_eq!(of_client(&run, &client), 1);
    run.assert_sound();
}

#[test]
fn the_same_addresses_on_two_loopback_devices_are_two_flows() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let address = SocketAddr::from(([127, 0, 0, 1], PORT));
    let portwatch = lab.right.portwatch(&ALL);

    // From the same port, so that nothing but the namespace tells them apart.
    let ends = [&lab.left, &lab.right].map(|host| {
        let mut server = host.actor(&[&format!("bind udp {address}"), "serve 10"]);
        server.answer();
        let pid = server.pid();
        let connect = format!("connect udp {address} from 127.0.0.1:40000");
        host.perform(&[&connect, "roundtrips 10 100"]);
        server.finish(1);
        (host.netns(), pid)
    });
    let run = portwatch.stop();

    let client = SocketAddr::from(([127, 0, 0, 1], 40000));
    let flows: Vec<&Event> =
        run.of("flow-ended").filter(|flow| flow.endpoint("source") == Some(client)).collect();
    assert_eq!(flows.len(), 2, "{flows:#?}");
    for (netns, server) in ends {
        let is_here = |flow: &&&Event| places(flow).keys().all(|(inode, ..)| *inode == netns);
        let flow = flows.iter().find(is_here).expect("find the flow of a namespace");
        assert_eq!(Count::read(flow.at("source")), Count::of(10, 128));
        flow.assert_owner("destination", "opener", "exact", server);
    }
    run.assert_sound();
}

#[test]
fn a_namespace_that_appears_later_is_observed_and_not_kept_alive() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let portwatch = host.portwatch(&ALL);

    let late = Lab::loopback_only(ACTOR).expect("make a namespace");
    let netns = late.netns();
    let is_there = |event: &Event| event.at("portwatch.interface.netns.inode") == netns;
    let attached = portwatch
        .expect("its loopback device", |event| event.is("interface-attached") && is_there(event));
    let (server, client) = echo_datagrams(&late, &late, late.v4(PORT));
    // A device that goes with the namespace, and only with it.
    late.ip("link add pair0 type veth peer name pair1");
    drop(late);
    portwatch.expect("its end", |event| event.is("interface-detached") && is_there(event));
    let run = portwatch.stop();

    assert_eq!(attached.text("portwatch.interface.name"), "lo");
    let flow = run.flow_from(client.address());
    assert_eq!(Count::read(flow.at("source")), Count::of(100, 128));
    flow.assert_owner("destination", "opener", "exact", server);
    run.assert_sound();
}

#[test]
fn a_namespace_that_only_a_descriptor_keeps_alive_is_observed_as_long_as_that_is_open() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let hidden = Lab::loopback_only(ACTOR).expect("make a namespace");
    let netns = hidden.netns();
    let mut holder = hold(&hidden);
    drop(hidden);

    let run = host.portwatch(&ALL).stop();
    let observed = run.events[0].list("portwatch.run.interfaces");
    drop(holder.stdin.take());
    holder.wait().expect("wait for a process");
    let after = host.portwatch(&ALL).stop();

    assert!(observed.iter().any(|it| it["netns"]["inode"] == netns), "{observed:?}");
    let observed = after.events[0].list("portwatch.run.interfaces");
    assert!(observed.iter().all(|it| it["netns"]["inode"] != netns), "{observed:?}");
}

#[test]
fn filters_in_other_namespaces_count_as_well_and_go_with_portwatch() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let hooks = || {
        [&lab.left, &lab.right].map(|host| {
            let show = ["qdisc", "show", "dev", Lab::DEVICE];
            finish(host.command("tc").args(show)).stdout
        })
    };
    let before = hooks();
    let portwatch = lab.right.portwatch(&[&ALL[..], &["--attach", "clsact"]].concat());
    let during = hooks();

    let (_, client) = echo_datagrams(&lab.left, &lab.right, lab.right.v4(PORT));
    let run = portwatch.stop();

    assert!(during.iter().all(|qdiscs| qdiscs.contains("clsact")), "{during:?}");
    assert_eq!(hooks(), before);
    assert_eq!(places(run.flow_from(client.address())).len(), 4);
    run.assert_sound();
}

#[test]
fn an_interface_may_be_named_that_only_another_namespace_has() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    lab.left.ip("link add there0 type veth peer name there1");

    let portwatch = lab.right.portwatch(&[&ALL[..], &["-i", "there0"]].concat());
    let run = portwatch.stop();
    let nowhere = lab.right.finish_portwatch(&[&ALL[..], &["-i", "nowhere0"]].concat());

    let observed = run.events[0].list("portwatch.run.interfaces");
    let places: Vec<_> = observed.iter().map(|it| (&it["name"], &it["netns"]["inode"])).collect();
    assert_eq!(places, [(&"there0".into(), &lab.left.netns().into())]);
    assert_eq!(nowhere.code, Some(2));
    assert!(nowhere.stderr.contains("there0"), "{}", nowhere.stderr);
}

/// A process outside that has a descriptor of the namespace of a host until its input is closed.
fn hold(host: &Host) -> Child {
    let namespace = File::open(format!("/run/netns/{}", host.name())).expect("open a namespace");
    let mut command = Command::new("cat");
    let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(namespace);
    command.spawn().expect("start a process")
}

/// Inode of the namespace, name of the interface, direction.
type Place = (u64, String, String);

fn places(flow: &Event) -> BTreeMap<Place, Count> {
    let place = |place: &serde_json::Value| {
        let text = |key: &str| place[key].as_str().unwrap_or_default().to_owned();
        let netns = place["netns"]["inode"].as_u64().unwrap_or_default();
        ((netns, text("name"), text("direction")), Count::read(place))
    };
    flow.list("portwatch.flow.interfaces").iter().map(place).collect()
}

/// How many flows a client had.
fn of_client(run: &Run, client: &Performed) -> usize {
    run.of("flow-ended").filter(|flow| flow.endpoint("source") == Some(client.address())).count()
}

/// Sends 100 datagrams of 128 IP bytes to a server that sends each back; its pid.
fn echo_datagrams(from: &Host, to: &Host, address: SocketAddr) -> (u32, Performed) {
    let mut server = to.actor(&[&format!("bind udp {address}"), "serve 100"]);
    server.answer();
    let pid = server.pid();
    let client = from.perform(&[&format!("connect udp {address}"), "roundtrips 100 100"]);
    server.finish(1);
    (pid, client)
}
