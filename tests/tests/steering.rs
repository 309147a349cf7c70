//! Programs of others that choose who answers for the port, or answer themselves: they are named.

#![cfg(test)]

use aya::programs::tc::TcAttachType;
use portwatch_tests::{
    Event, Host, Lab, Neighbour, Order, Portwatch, Verdict, finish, is_installed, program,
    tcx_programs,
};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn a_connection_that_a_program_gives_to_a_socket_on_another_port_is_told_with_that_program() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let mut server = lab.right.actor(&[&format!("listen tcp {}", lab.right.v4(2222)), "stay"]);
    server.answer();
    let chooser = Neighbour::on_sk_lookup_for(&lab.right, PORT, &server);
    let portwatch = lab.right.portwatch(&["watch"]);

    server.tell("serve 1");
    let mut client = connected(&lab);
    let finding = expect_finding(&portwatch, "redirected-port", "is answered by");
    client.ask("exchange 1000");
    server.answer();
    let run = portwatch.stop();

    let message = finding.text("message");
    let (id, tag) = chooser.identity();
    assert!(message.contains(&format!("(pid {})", server.pid())), "{message}");
    assert!(message.contains("though nobody listens on that port: sk_lookup program"), "{message}");
    let program = format!("program {id} (neighbour, tag {tag})");
    assert!(message.contains(&program), "{message}");
    assert!(message.contains(&format!("(pid {})", std::process::id())), "{message}");
    let checked = format!("checked: sk_lookup programs: {program}");
    assert!(has_evidence(&finding, &checked), "{finding}");
    assert_eq!(finding.number("event.severity"), 73);
    run.assert_sound();
}

#[test]
fn a_program_is_told_with_where_it_is_pinned() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    if !is_installed("bpftool") {
        return;
    }
    let chooser = Neighbour::on_sk_lookup(&host);
    let (id, tag) = chooser.identity();

    let line = format!(
        "mount -t bpf bpf /sys/fs/bpf && mkdir /sys/fs/bpf/steer && \
         bpftool prog pin id {id} /sys/fs/bpf/steer/on && exec \"$0\" scan --no-policy"
    );
    let scan = finish(host.command("sh").args(["-c", &line]).arg(program()));

    let told = format!("program {id} (neighbour, tag {tag}), loaded by uid 0 at ");
    assert!(scan.stdout.contains(&told), "{scan:?}");
    assert!(scan.stdout.contains(", pinned at /sys/fs/bpf/steer/on, held by "), "{scan:?}");
}

#[test]
fn a_program_that_chooses_another_socket_is_not_blamed_for_a_listener_on_the_port() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let _chooser = Neighbour::on_sk_lookup(&lab.right);
    let mut server = lab.right.actor(&[&format!("listen tcp {}", lab.right.v4(PORT)), "stay"]);
    server.answer();
    let portwatch = lab.right.portwatch(&["watch"]);

    server.tell("serve 1");
    connected(&lab).ask("exchange 1000");
    server.answer();
    let run = portwatch.stop();

    let answered = |event: &&Event| event.text("message").contains("is answered by");
    assert_eq!(run.of("finding").find(answered), None);
    run.assert_sound();
}

#[test]
fn a_program_that_answers_for_the_port_on_tc_is_found_where_no_socket_does() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(_none) = tcx_programs(&lab.right, Lab::DEVICE) else { return };
    let verdict = Verdict::AnswerOnTc(PORT);
    let (hook, order) = (TcAttachType::Ingress, Order::Last);
    let program = Neighbour::on_tcx(&lab.right, Lab::DEVICE, hook, order, verdict);
    let portwatch = lab.right.portwatch(&["watch"]);

    is_echoed(&lab.left, &lab.right);
    let finding = expect_finding(&portwatch, "answer-without-socket", "is answered");
    let run = portwatch.stop();

    let (id, tag) = program.identity();
    let message = finding.text("message");
    assert!(message.contains("programs of others are on the way"), "{message}");
    let program = format!("program {id} (neighbour, tag {tag})");
    let checked = format!("XDP, TC and netkit programs of others on the interfaces: {program}");
    assert!(has_evidence(&finding, &checked), "{finding}");
    assert!(has_evidence(&finding, "TCX ingress of veth0"), "{finding}");
    run.assert_sound();
}

#[test]
fn a_program_that_answers_for_the_port_on_xdp_is_a_gap_with_its_name() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let program = Neighbour::on_xdp(&lab.right, Lab::DEVICE, Verdict::AnswerOnXdp(PORT));
    let portwatch = lab.right.portwatch(&["watch"]);

    is_echoed(&lab.left, &lab.right);
    let run = portwatch.stop();

    let (id, _) = program.identity();
    let gap = run.of("finding").find(|event| event.is_finding("coverage-gap", "open"));
    let gap = gap.expect("a gap");
    assert!(gap.text("message").contains("an XDP program comes first"), "{gap}");
    assert!(has_evidence(gap, &format!("{id}")), "{gap}");
    // Neither what came nor what went out has come as far as TC.
    assert_eq!(run.counted(PORT, "ingress").packets, 0);
    assert_eq!(run.counted(PORT, "egress").packets, 0);
    run.assert_sound();
}

/// A client that has connected to the port.
fn connected(lab: &Lab) -> portwatch_tests::Actor {
    let mut client = lab.left.actor(&[&format!("connect tcp {}", lab.right.v4(PORT)), "stay"]);
    client.answer();
    client
}

/// Datagrams come back as they were sent, although nobody is there.
fn is_echoed(from: &Host, to: &Host) {
    from.perform(&[&format!("connect udp {}", to.v4(PORT)), "roundtrips 3 100"]);
}

fn expect_finding(portwatch: &Portwatch, kind: &str, what: &str) -> Event {
    let is_it = |event: &Event| {
        event.text("portwatch.finding.kind") == kind && event.text("message").contains(what)
    };
    portwatch.expect("a finding about an answer", is_it)
}

fn has_evidence(finding: &Event, what: &str) -> bool {
    let evidence = finding.list("portwatch.finding.evidence");
    evidence.iter().any(|line| line.as_str().is_some_and(|line| line.contains(what)))
}
