//! Pairs of netkit devices: both ends are observed, and programs on their hooks are named where they come first
//! or answer.

#![cfg(test)]

use portwatch_tests::{
    Count, Event, Host, Lab, Neighbour, NetkitHook, NetkitMode, Nft, Portwatch, Run, Verdict,
};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
const OFTEN: [&str; 3] = ["watch", "--interval", "100ms"];
const DATAGRAMS: u64 = 1000;
const EACH_WAY: Count = Count::of(DATAGRAMS, 128);

#[test]
fn each_end_counts_every_packet_whatever_the_pair_carries() {
    for mode in [NetkitMode::L2, NetkitMode::L3] {
        let Some(lab) = Lab::two_hosts_by_netkit(ACTOR, mode) else { return };
        for host in [&lab.left, &lab.right] {
            let Some(nft) = Nft::on(host, Lab::NETKIT, PORT) else { return };
            let portwatch = host.portwatch(&["watch"]);

            exchange_datagrams(&lab);
            let run = portwatch.stop();

            let counted = ["ingress", "egress"].map(|direction| run.counted(PORT, direction));
            assert_eq!(counted, [EACH_WAY; 2], "{mode:?}, {}", host.name());
            assert_eq!([nft.ingress(), nft.egress()], counted, "{mode:?}, {}", host.name());
            assert_eq!(gaps(&run), Vec::<&Event>::new());
            run.assert_sound();
        }
    }
}

#[test]
fn in_every_namespace_both_ends_are_places_of_one_flow() {
    for mode in [NetkitMode::L2, NetkitMode::L3] {
        let Some(lab) = Lab::two_hosts_by_netkit(ACTOR, mode) else { return };
        let portwatch = lab.right.portwatch(&["watch", "--netns", "all"]);

        let client = exchange_datagrams(&lab);
        let run = portwatch.stop();

        let flow = run.flow_from(client);
        let places = flow.list("portwatch.flow.interfaces");
        for (host, direction) in [&lab.left, &lab.right]
            .into_iter()
            .flat_map(|host| ["ingress", "egress"].map(|direction| (host, direction)))
        {
            let is_it = |place: &&serde_json::Value| {
                place["netns"]["inode"] == host.netns() && place["direction"] == direction
            };
            let there = places.iter().find(is_it).map(Count::read);
            assert_eq!(there, Some(EACH_WAY), "{mode:?}, {direction} of {}: {flow}", host.name());
        }
        assert_eq!(places.len(), 4, "{flow}");
        assert_eq!(Count::read(flow.at("source")), EACH_WAY);
        assert_eq!(Count::read(flow.at("destination")), EACH_WAY);
        run.assert_sound();
    }
}

#[test]
fn a_program_that_takes_packets_before_they_come_in_is_a_gap_until_it_goes() {
    let Some(lab) = Lab::two_hosts_by_netkit(ACTOR, NetkitMode::L2) else { return };
    let portwatch = lab.right.portwatch(&OFTEN);

    exchange_datagrams(&lab);
    let (hook, verdict) = (NetkitHook::Peer, Verdict::DropPortOnTc(PORT));
    let program = Neighbour::on_netkit(&lab.right, Lab::NETKIT, hook, verdict);
    let gap = expect_gap(&portwatch);
    lab.left.perform(&[&format!("sendto {} 100", lab.right.v4(PORT))]);
    let (id, _) = program.identity();
    let seen = program.seen();
    drop(program);
    portwatch.expect("that the gap is closed", |event| event.is_finding("coverage-gap", "closed"));
    let run = portwatch.stop();

    let message = gap.text("message");
    let expected = format!("incoming packets on interface {} may be seen", Lab::NETKIT);
    assert!(message.contains(&expected), "{message}");
    // Its name cannot be read any more.
    let evidence = format!("program {id} runs before ours on netkit peer");
    assert_eq!(gap.list("portwatch.finding.evidence"), [evidence]);
    assert!(seen >= 1, "it saw {seen} packets");
    // What the program drops is not counted: that is the gap.
    assert_eq!(run.counted(PORT, "ingress"), EACH_WAY);
    assert_eq!(gaps(&run).len(), 1);
    run.assert_sound();
}

#[test]
fn a_program_on_what_an_end_sends_is_a_gap_of_the_other_end_only() {
    let Some(lab) = Lab::two_hosts_by_netkit(ACTOR, NetkitMode::L3) else { return };
    let program = Neighbour::on_netkit(&lab.right, Lab::NETKIT, NetkitHook::Primary, Verdict::Next);
    let apart = lab.right.portwatch(&["watch"]);

    exchange_datagrams(&lab);
    let apart = apart.stop();
    let back = format!("link set {} netns {} name netkit1", Lab::NETKIT, lab.right.name());
    lab.left.ip(&back);
    let together = lab.right.portwatch(&["watch"]).stop();

    assert_eq!(gaps(&apart), Vec::<&Event>::new());
    assert_eq!(apart.counted(PORT, "egress"), EACH_WAY);
    assert!(program.seen() >= DATAGRAMS);
    let gaps = gaps(&together);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let message = gaps[0].text("message");
    assert!(message.contains("incoming packets on interface netkit1 may be seen"), "{message}");
    let evidence = gaps[0].list("portwatch.finding.evidence");
    assert!(
        evidence[0].as_str().is_some_and(|it| it.ends_with("runs before ours on netkit primary")),
        "{evidence:?}"
    );
    for run in [&apart, &together] {
        run.assert_sound();
    }
}

#[test]
fn a_program_that_answers_for_the_port_is_named_where_no_socket_does() {
    let Some(lab) = Lab::two_hosts_by_netkit(ACTOR, NetkitMode::L3) else { return };
    let (hook, verdict) = (NetkitHook::Primary, Verdict::AnswerOnTc(PORT));
    let program = Neighbour::on_netkit(&lab.right, Lab::NETKIT, hook, verdict);
    // What it answers goes out where it would have come in: in the other namespace.
    let portwatch = lab.right.portwatch(&["watch", "--netns", "all"]);

    is_echoed(&lab.right, &lab.left);
    let finding = portwatch.expect("a finding about an answer", |event| {
        event.text("portwatch.finding.kind") == "answer-without-socket"
    });
    portwatch.stop().assert_sound();

    let (id, tag) = program.identity();
    let message = finding.text("message");
    assert!(message.contains("programs of others are on the way"), "{message}");
    let evidence = finding.list("portwatch.finding.evidence");
    let checked = format!(
        "checked: XDP, TC and netkit programs of others on the interfaces: program {id} \
         (neighbour, tag {tag})"
    );
    let place = format!("netkit primary of {}", Lab::NETKIT);
    let is_named = |line: &str| line.contains(&checked) && line.contains(&place);
    assert!(evidence.iter().any(|line| line.as_str().is_some_and(is_named)), "{finding}");
}

#[test]
fn a_program_that_answers_before_anything_comes_in_is_a_gap_with_its_name() {
    let Some(lab) = Lab::two_hosts_by_netkit(ACTOR, NetkitMode::L3) else { return };
    let (hook, verdict) = (NetkitHook::Peer, Verdict::AnswerOnTc(PORT));
    let program = Neighbour::on_netkit(&lab.right, Lab::NETKIT, hook, verdict);
    let portwatch = lab.right.portwatch(&["watch"]);

    is_echoed(&lab.left, &lab.right);
    let run = portwatch.stop();

    let (id, tag) = program.identity();
    let gaps = gaps(&run);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let evidence = format!("program {id} (neighbour, tag {tag}) runs before ours on netkit peer");
    assert_eq!(gaps[0].list("portwatch.finding.evidence"), [evidence]);
    // What came in went no further than to it; its answers go out past us.
    assert_eq!(run.counted(PORT, "ingress"), Count::default());
    assert_eq!(run.counted(PORT, "egress"), Count::of(3, 128));
    run.assert_sound();
}

fn is_gap(event: &Event) -> bool {
    event.is_finding("coverage-gap", "open")
}

fn gaps(run: &Run) -> Vec<&Event> {
    run.events.iter().filter(|event| is_gap(event)).collect()
}

fn expect_gap(portwatch: &Portwatch) -> Event {
    portwatch.expect("a gap", is_gap)
}

/// Datagrams come back as they were sent, although nobody is there.
fn is_echoed(from: &Host, to: &Host) {
    from.perform(&[&format!("connect udp {}", to.v4(PORT)), "roundtrips 3 100"]);
}

/// Sends datagrams of 128 IP bytes from left to right and back; the address of who began.
fn exchange_datagrams(lab: &Lab) -> std::net::SocketAddr {
    let address = lab.right.v4(PORT);
    let bind = format!("bind udp {address}");
    let mut server = lab.right.actor(&[&bind, &format!("serve {DATAGRAMS}")]);
    server.answer();
    let roundtrips = format!("roundtrips {DATAGRAMS} 100");
    let client = lab.left.perform(&[&format!("connect udp {address}"), &roundtrips]);
    server.finish(1);
    client.address()
}
