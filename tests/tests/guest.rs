//! portwatch is a good guest: what others have on an interface stays, and no packet is touched.

#![cfg(test)]

use portwatch_tests::{Count, Guests, Lab, Nft, tcx_programs};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn what_others_have_on_an_interface_stays_through_start_kill_and_restart() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(before) = Guests::settle(&lab.right, Lab::DEVICE) else { return };
    let Some(_none) = tcx_programs(&lab.right, Lab::DEVICE) else { return };
    let now = || Guests::on(&lab.right, Lab::DEVICE);

    let killed = lab.right.portwatch(&["watch", "--attach", "tcx"]);
    let during = now();
    killed.kill();
    let after_kill = now();
    let stopped = lab.right.portwatch(&["watch", "--attach", "tcx"]);
    let restarted = now();
    let run = stopped.stop();
    let after_stop = now();

    assert_eq!([&during, &after_kill, &restarted, &after_stop], [&before; 4]);
    assert_eq!(run.ended().text("event.reason"), "interrupted");
    run.assert_sound();
}

#[test]
fn a_killed_portwatch_leaves_no_tcx_program() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(before) = tcx_programs(&lab.right, Lab::DEVICE) else { return };

    let portwatch = lab.right.portwatch(&["watch"]);
    let started = portwatch.expect("its start", |event| event.is("run-started"));
    let during = tcx_programs(&lab.right, Lab::DEVICE);
    portwatch.kill();
    let after = tcx_programs(&lab.right, Lab::DEVICE);

    assert_eq!(during, Some(vec!["pw_ingress".to_owned(), "pw_egress".to_owned()]));
    assert_eq!((before, after), (Vec::new(), Some(Vec::new())));
    let interfaces = started.list("portwatch.run.interfaces");
    assert!(interfaces.iter().all(|interface| interface["mode"] == "tcx"), "{started}");
}

#[test]
fn another_tcx_program_stays_where_it_is_and_sees_every_packet() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(_none) = tcx_programs(&lab.right, Lab::DEVICE) else { return };
    let programs = || tcx_programs(&lab.right, Lab::DEVICE).map(|programs| programs.len());
    let other = lab.right.portwatch(&["watch"]);

    let killed = lab.right.portwatch(&["watch"]);
    let together = programs();
    exchange_datagrams(&lab, 1000);
    killed.kill();
    let after_kill = programs();
    exchange_datagrams(&lab, 1000);
    let restarted = lab.right.portwatch(&["watch"]);
    exchange_datagrams(&lab, 1000);
    let run = restarted.stop();
    let after_stop = programs();
    let other = other.stop();

    assert_eq!([together, after_kill, after_stop], [Some(4), Some(2), Some(2)]);
    assert_eq!(other.counted(PORT, "ingress"), Count::of(3000, 128));
    assert_eq!(run.counted(PORT, "ingress"), Count::of(1000, 128));
    other.assert_sound();
    run.assert_sound();
}

#[test]
fn no_packet_is_lost_or_changed_while_portwatch_comes_and_goes() {
    for mode in ["tcx", "clsact"] {
        let Some(lab) = Lab::two_hosts(ACTOR) else { return };
        let Some(nft) = Nft::on(&lab.left, Lab::DEVICE, PORT) else { return };
        let address = lab.right.v4(PORT);
        let mut tcp_server = lab.right.actor(&[&format!("listen tcp {address}"), "serve 2"]);
        tcp_server.answer();
        let mut udp_server = lab.right.actor(&[&format!("bind udp {address}"), "serve 20000"]);
        udp_server.answer();
        let mut datagrams = lab.left.actor(&[&format!("connect udp {address}"), "stay"]);
        datagrams.answer();

        // Every datagram has to come back unchanged before the next one is sent.
        for _ in 0..2 {
            datagrams.tell("roundtrips 10000 200");
            let connect = format!("connect tcp {address}");
            let transfer = lab.left.actor(&[&connect, "exchange 30000000"]);
            lab.right.portwatch(&["watch", "--attach", mode]).kill();
            let stopped = lab.right.portwatch(&["watch", "--attach", mode]);
            stopped.stop().assert_sound();
            transfer.finish(2);
            assert_eq!(datagrams.answer(), "exchanged 10000");
        }
        udp_server.finish(1);

        assert!(nft.ingress().packets > 20_000, "{:?}", nft.ingress());
    }
}

#[test]
fn what_a_killed_portwatch_left_on_clsact_goes_with_the_next_and_nothing_else() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(before) = Guests::settle(&lab.right, Lab::DEVICE) else { return };
    let filters = || {
        let filters = Guests::on(&lab.right, Lab::DEVICE).filters;
        let of = |name: &str| filters.lines().filter(|line| line.contains(name)).count();
        [of("pw_ingress"), of("pw_egress"), of("bytecode '1,6 0 0 0'")]
    };

    lab.right.portwatch(&["watch", "--attach", "clsact"]).kill();
    let after_kill = filters();
    let restarted = lab.right.portwatch(&["watch", "--attach", "clsact"]);
    let after_restart = filters();
    exchange_datagrams(&lab, 1000);
    let run = restarted.stop();

    assert_eq!([after_kill, after_restart], [[1, 1, 2]; 2]);
    assert_eq!(Guests::on(&lab.right, Lab::DEVICE), before);
    assert_eq!(run.counted(PORT, "ingress"), Count::of(1000, 128));
    assert_eq!(run.events[0].text("portwatch.run.interfaces.0.mode"), "clsact");
    run.assert_sound();
}

#[test]
fn a_clsact_qdisc_that_nobody_else_needs_goes_with_portwatch() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let before = Guests::on(&lab.right, Lab::DEVICE);

    let portwatch = lab.right.portwatch(&["watch", "--attach", "clsact"]);
    let during = Guests::on(&lab.right, Lab::DEVICE);
    portwatch.stop().assert_sound();

    assert!(during.qdiscs.contains("clsact"), "{during:?}");
    assert_eq!(Guests::on(&lab.right, Lab::DEVICE), before);
}

#[test]
fn two_at_a_time_on_clsact_leave_each_other_alone() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(_guests) = Guests::settle(&lab.right, Lab::DEVICE) else { return };
    let first = lab.right.portwatch(&["watch", "--attach", "clsact"]);

    lab.right.portwatch(&["watch", "--attach", "clsact"]).kill();
    let second = lab.right.portwatch(&["watch", "--attach", "clsact"]);
    exchange_datagrams(&lab, 1000);
    let runs = [second.stop(), first.stop()];

    for run in runs {
        assert_eq!(run.counted(PORT, "ingress"), Count::of(1000, 128));
        run.assert_sound();
    }
}

/// Sends datagrams of 128 IP bytes from left to right and back.
fn exchange_datagrams(lab: &Lab, count: u64) {
    let address = lab.right.v4(PORT);
    let bind = format!("bind udp {address}");
    let mut server = lab.right.actor(&[&bind, &format!("serve {count}")]);
    server.answer();
    let roundtrips = format!("roundtrips {count} 100");
    lab.left.perform(&[&format!("connect udp {address}"), &roundtrips]);
    server.finish(1);
}
