//! Who answers for the port without being on it: redirected, or made by hand.

#![cfg(test)]

use std::io::Write as _;

use portwatch_tests::{Event, Frame, Lab, finish, frames_file, skip};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn whoever_serves_a_redirected_port_is_named_with_the_port_he_is_on() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let mut rules = tempfile::NamedTempFile::new().expect("make a file");
    let rule = "table ip t {\n chain c {\n type nat hook prerouting priority -100\n \
                tcp dport 3516 redirect to :2222\n }\n}\n";
    rules.write_all(rule.as_bytes()).expect("write a file");
    let loaded = finish(lab.right.command("nft").arg("-f").arg(rules.path()));
    if loaded.code != Some(0) {
        return skip(&format!("nft cannot redirect: {}", loaded.stderr.trim()));
    }
    let mut server = lab.right.actor(&[&format!("listen tcp {}", lab.right.v4(2222)), "stay"]);
    server.answer();
    let portwatch = lab.right.portwatch(&["watch"]);

    server.tell("serve 1");
    let connect = format!("connect tcp {}", lab.right.v4(PORT));
    let mut client = lab.left.actor(&[&connect, "stay"]);
    client.answer();
    let finding = expect_finding(&portwatch, "redirected-port");
    client.tell("exchange 1000");
    client.answer();
    server.answer();
    let run = portwatch.stop();

    let message = finding.text("message");
    assert!(message.contains(&format!("(pid {})", server.pid())), "{message}");
    let rule = "on port 2222: nft rule of table ip t, chain c, handle 2 redirects 3516";
    assert!(message.contains(rule), "{message}");
    let flow = run.of("flow-ended").next().expect("the flow");
    assert_eq!(flow.number("destination.nat.port"), 2222);
    flow.assert_owner("destination", "holder", "observed", server.pid());
    run.assert_sound();
    let reason = flow.text("portwatch.ownership_reason");
    assert_eq!(reason, "the packets carry the cookie of a socket on port 2222");
}

#[test]
fn whoever_answers_through_a_packet_socket_is_found() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let question = Frame::udp(40_000, PORT, b"hello").ipv4().ethernet();
    let answer = Frame::udp(PORT, 40_000, b"hello").ipv4().ethernet().turned();
    let [question, answer] = [question, answer].map(|frame| frames_file(&[frame]));
    let inject = |file: &tempfile::NamedTempFile| {
        format!("inject {} {}", Lab::DEVICE, file.path().display())
    };
    let portwatch = lab.right.portwatch(&["watch"]);

    lab.left.perform(&[&inject(&question)]);
    let mut backdoor = lab.right.actor(&[&inject(&answer), "stay"]);
    backdoor.answer();
    let finding = expect_finding(&portwatch, "answer-without-socket");
    let run = portwatch.stop();

    let message = finding.text("message");
    assert!(message.contains(&format!("(pid {})", backdoor.pid())), "{message}");
    assert_eq!(finding.number("event.severity"), 99);
    let flow = run.of("flow-ended").next().expect("the flow");
    flow.assert_owner("destination", "holder", "observed", backdoor.pid());
    run.assert_sound();
}

fn expect_finding(portwatch: &portwatch_tests::Portwatch, kind: &str) -> Event {
    portwatch.expect("a finding about an answer", |event| {
        event.text("portwatch.finding.kind") == kind
            && event.text("message").contains("answered by")
    })
}
