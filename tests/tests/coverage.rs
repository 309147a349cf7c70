//! What keeps packets from portwatch is found and said, in words that claim no more than is known.

#![cfg(test)]

use std::process::Command;

use aya::programs::tc::TcAttachType;
use portwatch_tests::{
    Count, Event, Guests, Lab, Neighbour, Nft, Order, Portwatch, Run, Verdict, finish, skip,
    tcx_program_ids, tcx_programs,
};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
const OFTEN: [&str; 3] = ["watch", "--interval", "100ms"];
const DATAGRAMS: u64 = 1000;

#[test]
fn neighbours_behind_portwatch_see_every_packet_and_are_no_gap() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(nft) = Nft::on(&lab.right, Lab::DEVICE, PORT) else { return };
    let Some(_guests) = Guests::settle(&lab.right, Lab::DEVICE) else { return };
    let Some(_none) = tcx_programs(&lab.right, Lab::DEVICE) else { return };
    let neighbours = [TcAttachType::Ingress, TcAttachType::Egress].map(|hook| {
        // Portwatch comes later and goes ahead of them.
        Neighbour::on_tcx(&lab.right, Lab::DEVICE, hook, Order::First, Verdict::Next)
    });
    let portwatch = lab.right.portwatch(&["watch", "--attach", "tcx"]);
    let before: Vec<u64> = neighbours.iter().map(Neighbour::seen).collect();

    exchange_datagrams(&lab);
    let after: Vec<u64> = neighbours.iter().map(Neighbour::seen).collect();
    let run = portwatch.stop();

    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before >= DATAGRAMS, "saw {} packets", after - before);
    }
    assert_eq!(run.counted(PORT, "ingress"), Count::of(DATAGRAMS, 128));
    assert_eq!([nft.ingress(), nft.egress()], [Count::of(DATAGRAMS, 128); 2]);
    assert_eq!(gaps(&run), Vec::<&Event>::new());
    assert_eq!(run.ended().list("portwatch.run.coverage_gaps"), Vec::<String>::new());
    run.assert_sound();
}

#[test]
fn a_program_that_goes_ahead_on_tcx_is_a_gap_each_time_it_comes() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(_none) = tcx_programs(&lab.right, Lab::DEVICE) else { return };
    let portwatch = lab.right.portwatch(&OFTEN);
    let intrude = || {
        let ingress = TcAttachType::Ingress;
        Neighbour::on_tcx(&lab.right, Lab::DEVICE, ingress, Order::First, Verdict::Accept)
    };

    exchange_datagrams(&lab);
    let intruder = intrude();
    let first = expect_gap(&portwatch, "incoming");
    exchange_datagrams(&lab);
    let seen = intruder.seen();
    drop(intruder);
    let closed = portwatch
        .expect("that the gap is closed", |event| event.is_finding("coverage-gap", "closed"));
    let _intruder = intrude();
    let again = portwatch.expect("the gap again", |event| {
        is_gap(event) && event.number("portwatch.finding.occurrences") == 2
    });
    let run = portwatch.stop();

    assert!(
        first.list("portwatch.finding.evidence")[0]
            .as_str()
            .is_some_and(|evidence| { evidence.ends_with("runs before ours on TCX ingress") })
    );
    assert!(seen >= DATAGRAMS);
    assert_eq!(gaps(&run).len(), 2);
    for other in [closed, again] {
        assert_eq!(other.text("portwatch.finding.id"), first.text("portwatch.finding.id"));
    }
    // That of the listener is closed.
    assert_eq!(run.ended().number("portwatch.run.findings"), 2);
    assert_eq!(run.ended().number("portwatch.run.findings_open"), 1);
    // What a program ahead accepts for good is not counted: that is the gap.
    assert_eq!(run.counted(PORT, "ingress"), Count::of(DATAGRAMS, 128));
    assert_eq!(run.counted(PORT, "egress"), Count::of(2 * DATAGRAMS, 128));
    assert_eq!(run.ended().list("portwatch.run.coverage_gaps"), [first.text("message")]);
    assert!(run.stderr.last().is_some_and(|summary| summary.ends_with("; 1 coverage gap")));
    run.assert_sound();
}

#[test]
fn what_a_program_ahead_answers_is_not_said_to_be_a_clients() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(_none) = tcx_programs(&lab.right, Lab::DEVICE) else { return };
    let portwatch = lab.right.portwatch(&OFTEN);
    let (ingress, verdict) = (TcAttachType::Ingress, Verdict::AnswerOnTc(PORT));
    let _ahead = Neighbour::on_tcx(&lab.right, Lab::DEVICE, ingress, Order::First, verdict);
    let gap = expect_gap(&portwatch, "incoming");

    lab.left.perform(&[&format!("connect udp {}", lab.right.v4(PORT)), "roundtrips 3 100"]);
    let run = portwatch.stop();

    // Only the answers went past us.
    assert_eq!(run.counted(PORT, "ingress"), Count::default());
    assert_eq!(run.counted(PORT, "egress"), Count::of(3, 128));
    let flow = run.flow_from(lab.right.v4(PORT));
    assert!(flow.at("portwatch.flow.role").is_null(), "{flow}");
    assert_eq!(flow.list("portwatch.owners").len(), 0, "{flow}");
    assert_eq!(flow.text("portwatch.ownership"), "unknown");
    let reason = flow.text("portwatch.ownership_reason");
    assert!(reason.ends_with(gap.text("message")), "{reason}");
    run.assert_sound();
}

#[test]
fn a_filter_ahead_on_clsact_is_a_gap_and_one_behind_is_none() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let tc = |line: &str| run_tool(lab.right.command("tc").args(line.split_whitespace()));
    tc("qdisc add dev veth0 clsact");
    // As agents of clusters do: direct action, and every packet is accepted for good.
    let add = |hook: &str, priority: u16| {
        let place = format!("filter add dev veth0 {hook} pref {priority} protocol all bpf da");
        run_tool(lab.right.command("tc").args(place.split(' ')).args(["bytecode", "1,6 0 0 0"]));
    };
    add("ingress", 1);
    add("egress", 4000);

    let portwatch = lab.right.portwatch(&["watch", "--attach", "clsact"]);
    exchange_datagrams(&lab);
    let run = portwatch.stop();

    let gaps = gaps(&run);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(gaps[0].text("message").contains("incoming packets on interface veth0"), "{}", gaps[0]);
    let evidence = gaps[0].list("portwatch.finding.evidence");
    assert!(evidence[0].as_str().is_some_and(|it| it.starts_with("filter bpf at priority 1")));
    assert_eq!(run.counted(PORT, "ingress"), Count::default());
    assert_eq!(run.counted(PORT, "egress"), Count::of(DATAGRAMS, 128));
    run.assert_sound();
}

#[test]
fn an_xdp_program_is_a_gap_whether_it_drops_or_not() {
    for (verdict, counted) in [(Verdict::Pass, 1), (Verdict::DropPort(PORT), 0)] {
        let Some(lab) = Lab::two_hosts(ACTOR) else { return };
        let xdp = Neighbour::on_xdp(&lab.right, Lab::DEVICE, verdict);
        let portwatch = lab.right.portwatch(&["watch"]);

        lab.left.perform(&[&format!("sendto {} 100", lab.right.v4(PORT))]);
        let run = portwatch.stop();

        assert!(xdp.seen() >= 1);
        let gaps = gaps(&run);
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert!(gaps[0].text("message").contains("an XDP program comes first"), "{}", gaps[0]);
        assert_eq!(run.counted(PORT, "ingress"), Count::of(counted, 128));
        run.assert_sound();
    }
}

#[test]
fn a_filter_of_ours_that_somebody_removes_is_reported_and_stays_removed() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&[OFTEN.as_slice(), &["--attach", "clsact"]].concat());

    exchange_datagrams(&lab);
    let del = "filter del dev veth0 ingress pref 3516";
    run_tool(lab.right.command("tc").args(del.split(' ')));
    let gap = expect_gap(&portwatch, "come in");
    exchange_datagrams(&lab);
    let run = portwatch.stop();

    assert_eq!(gap.number("event.severity"), 73);
    assert_eq!(gaps(&run).len(), 1);
    assert_eq!(run.counted(PORT, "ingress"), Count::of(DATAGRAMS, 128));
    assert_eq!(run.counted(PORT, "egress"), Count::of(2 * DATAGRAMS, 128));
    run.assert_sound();
}

#[test]
fn a_link_of_ours_that_somebody_detaches_is_reported_and_stays_detached() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(_none) = tcx_programs(&lab.right, Lab::DEVICE) else { return };
    if Command::new("bpftool").arg("version").output().is_err() {
        skip("bpftool is not installed");
        return;
    }
    let portwatch = lab.right.portwatch(&[OFTEN.as_slice(), &["-i", Lab::DEVICE]].concat());
    let [ingress, _egress] = *tcx_program_ids(&lab.right, Lab::DEVICE) else {
        panic!("two programs of portwatch")
    };

    exchange_datagrams(&lab);
    let links = run_tool(Command::new("bpftool").args(["--json", "link", "show"]));
    let links: Vec<serde_json::Value> =
        serde_json::from_str(&links).expect("read bpftool's answer");
    let link = links.iter().find(|link| link["prog_id"] == ingress).expect("find our link");
    run_tool(Command::new("bpftool").args(["link", "detach", "id", &link["id"].to_string()]));
    expect_gap(&portwatch, "come in");
    exchange_datagrams(&lab);
    let run = portwatch.stop();

    assert_eq!(gaps(&run).len(), 1);
    assert_eq!(run.counted(PORT, "ingress"), Count::of(DATAGRAMS, 128));
    assert_eq!(run.counted(PORT, "egress"), Count::of(2 * DATAGRAMS, 128));
    run.assert_sound();
}

#[test]
fn qdiscs_and_classifiers_of_others_neither_lose_nor_hide_a_packet() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(nft) = Nft::on(&lab.right, Lab::DEVICE, PORT) else { return };
    let tc = |line: &str| run_tool(lab.right.command("tc").args(line.split_whitespace()));
    let htb = "qdisc add dev veth0 root handle 1: htb default 10";
    if finish(lab.right.command("tc").args(htb.split(' '))).code != Some(0) {
        skip("this kernel has no htb");
        return;
    }
    tc("class add dev veth0 parent 1: classid 1:10 htb rate 4gbit");
    tc("qdisc add dev veth0 clsact");
    // Behind ours, and a match ends the chain: what it accepts is counted nevertheless.
    tc(
        "filter add dev veth0 ingress pref 4000 protocol ip u32 match ip dport 3516 0xffff flowid 1:10",
    );
    tc(
        "filter add dev veth0 egress pref 4000 protocol ip u32 match ip sport 3516 0xffff flowid 1:10",
    );

    for mode in ["tcx", "clsact"] {
        if mode == "tcx" && tcx_programs(&lab.right, Lab::DEVICE).is_none() {
            continue;
        }
        let before = [nft.ingress(), nft.egress()];
        let portwatch = lab.right.portwatch(&["watch", "--attach", mode]);
        exchange_datagrams(&lab);
        let run = portwatch.stop();

        let counted = ["ingress", "egress"].map(|direction| run.counted(PORT, direction));
        assert_eq!(counted, [Count::of(DATAGRAMS, 128); 2], "{mode}");
        assert_eq!([nft.ingress() - before[0], nft.egress() - before[1]], counted, "{mode}");
        assert_eq!(gaps(&run), Vec::<&Event>::new(), "{mode}");
        run.assert_sound();
    }
}

fn is_gap(event: &Event) -> bool {
    event.is_finding("coverage-gap", "open")
}

fn gaps(run: &Run) -> Vec<&Event> {
    run.events.iter().filter(|event| is_gap(event)).collect()
}

fn expect_gap(portwatch: &Portwatch, saying: &str) -> Event {
    portwatch.expect(&format!("a gap saying {saying}"), |event| {
        is_gap(event) && event.text("message").contains(saying)
    })
}

/// Runs a tool that has to succeed.
fn run_tool(command: &mut Command) -> String {
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{command:?}: {}", finished.stderr);
    finished.stdout
}

/// Sends datagrams of 128 IP bytes from left to right and back.
fn exchange_datagrams(lab: &Lab) {
    let address = lab.right.v4(PORT);
    let bind = format!("bind udp {address}");
    let mut server = lab.right.actor(&[&bind, &format!("serve {DATAGRAMS}")]);
    server.answer();
    let roundtrips = format!("roundtrips {DATAGRAMS} 100");
    lab.left.perform(&[&format!("connect udp {address}"), &roundtrips]);
    server.finish(1);
}
