//! Interfaces that come and go are observed and let go of.

#![cfg(test)]

use std::net::SocketAddr;

use portwatch_tests::{Count, Event, Lab, Portwatch, tcx_programs};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn an_interface_that_appears_later_is_observed_until_it_goes() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);

    lab.plug_in("late0");
    let attached = expect_change(&portwatch, "interface-attached", "late0");
    lab.left.ip("addr add 10.99.0.1/24 dev late0");
    lab.right.ip("addr add 10.99.0.2/24 dev late0");
    echo_datagrams(&lab, SocketAddr::from(([10, 99, 0, 2], PORT)), 100);
    lab.right.ip("link del late0");
    let detached = expect_change(&portwatch, "interface-detached", "late0");
    let run = portwatch.stop();

    for event in [&attached, &detached] {
        assert_eq!(event.number("portwatch.interface.netns.inode"), lab.right.netns());
        assert!(event.number("portwatch.interface.ifindex") > 0);
    }
    let each_way = Count::of(100, 128);
    let places = run.ended().list("portwatch.counters.interfaces");
    let of_late = places.iter().filter(|place| place["name"] == "late0").map(Count::read);
    assert_eq!(of_late.sum::<Count>(), each_way + each_way);
    assert_eq!(["ingress", "egress"].map(|it| run.counted(PORT, it)), [each_way; 2]);
    run.assert_sound();
}

#[test]
fn interfaces_that_come_and_go_leave_no_descriptor_behind() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch", "--interval", "100ms"]);
    let come_and_go = |name: &str| {
        lab.plug_in(name);
        expect_change(&portwatch, "interface-attached", name);
        lab.right.ip(&format!("link del {name}"));
        expect_change(&portwatch, "interface-detached", name);
        portwatch.expect_next("its counters", |event| event.is("counters"));
    };

    come_and_go("warm0");
    let before = portwatch.descriptors();
    for number in 0..20 {
        come_and_go(&format!("late{number}"));
    }
    let after = portwatch.descriptors();
    let run = portwatch.stop();

    assert_eq!(before, after);
    assert_eq!(run.of("interface-detached").count(), 21);
    run.assert_sound();
}

#[test]
fn only_the_interfaces_asked_for_are_observed() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    lab.plug_in("other0");
    lab.left.ip("addr add 10.99.0.1/24 dev other0");
    lab.right.ip("addr add 10.99.0.2/24 dev other0");
    let portwatch = lab.right.portwatch(&["watch", "-i", Lab::DEVICE]);

    lab.plug_in("late0");
    echo_datagrams(&lab, SocketAddr::from(([10, 99, 0, 2], PORT)), 100);
    echo_datagrams(&lab, lab.right.v4(PORT), 100);
    let run = portwatch.stop();

    let observed = run.events[0].list("portwatch.run.interfaces");
    let names: Vec<_> = observed.iter().map(|interface| &interface["name"]).collect();
    assert_eq!(names, [Lab::DEVICE]);
    assert_eq!(run.of("interface-attached").count(), 0);
    assert_eq!(run.counted(PORT, "ingress"), Count::of(100, 128));
    run.assert_sound();
}

#[test]
fn a_renamed_interface_is_still_observed() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);

    lab.right.ip("link set veth0 down");
    lab.right.ip("link set veth0 name renamed0");
    lab.right.ip("link set renamed0 up");
    echo_datagrams(&lab, lab.right.v4(PORT), 100);
    let run = portwatch.stop();

    assert_eq!(run.counted(PORT, "ingress"), Count::of(100, 128));
    run.assert_sound();
}

#[test]
fn an_interface_that_goes_is_told_by_the_name_that_it_has_now() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);

    lab.right.ip("link add old0 type veth peer name other0");
    let attached = expect_change(&portwatch, "interface-attached", "old0");
    lab.right.ip("link set old0 name new0");
    lab.right.ip("link del new0");
    let detached = expect_change(&portwatch, "interface-detached", "new0");
    portwatch.stop().assert_sound();

    let ifindex = "portwatch.interface.ifindex";
    assert_eq!(attached.number(ifindex), detached.number(ifindex));
}

#[test]
fn an_interface_that_has_got_the_name_of_another_one_is_not_taken_for_it() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(_none) = tcx_programs(&lab.right, Lab::DEVICE) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);

    // Of the first one it hears by a name that is the second one's when it looks.
    portwatch.pause();
    for line in [
        "link add first0 type veth peer name first1",
        "link add second0 type veth peer name second1",
        "link set first0 name away0",
        "link set second0 name first0",
    ] {
        lab.right.ip(line);
    }
    portwatch.resume();
    for name in ["away0", "first0"] {
        expect_change(&portwatch, "interface-attached", name);
    }
    let programs = ["away0", "first0"].map(|name| tcx_programs(&lab.right, name).unwrap());
    portwatch.stop().assert_sound();

    assert_eq!(programs, [["pw_ingress", "pw_egress"]; 2]);
}

#[test]
fn packets_on_an_interface_whose_index_fits_into_no_key_count_as_overflow() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    // Beyond what `InterfaceId` takes.
    let index = 1 << 28;
    lab.right.ip(&format!("link add index {index} name far0 type veth peer name far1"));
    for line in ["link set far1 netns {left}", "link set far0 up"] {
        lab.right.ip(&line.replace("{left}", lab.left.name()));
    }
    lab.left.ip("link set far1 up");
    lab.left.ip("addr add 10.99.0.1/24 dev far1");
    lab.right.ip("addr add 10.99.0.2/24 dev far0");
    let portwatch = lab.right.portwatch(&["watch"]);

    echo_datagrams(&lab, SocketAddr::from(([10, 99, 0, 2], PORT)), 100);
    let run = portwatch.stop();

    let each_way = Count::of(100, 128);
    assert_eq!(["ingress", "egress"].map(|it| run.counted(PORT, it)), [each_way; 2]);
    let overflow = run.ended().list("portwatch.counters.overflow");
    assert_eq!(overflow.iter().map(Count::read).sum::<Count>(), each_way + each_way);
    assert_eq!(run.of("flow-started").count(), 0);
    run.assert_sound();
}

fn expect_change(portwatch: &Portwatch, action: &str, name: &str) -> Event {
    portwatch.expect(&format!("{action} {name}"), |event| {
        event.is(action) && event.text("portwatch.interface.name") == name
    })
}

/// Sends datagrams of 128 IP bytes from left to right and back.
fn echo_datagrams(lab: &Lab, address: SocketAddr, count: u64) {
    let bind = format!("bind udp {address}");
    let mut server = lab.right.actor(&[&bind, &format!("serve {count}")]);
    server.answer();
    let roundtrips = format!("roundtrips {count} 100");
    lab.left.perform(&[&format!("connect udp {address}"), &roundtrips]);
    server.finish(1);
}
