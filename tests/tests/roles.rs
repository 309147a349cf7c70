//! What this host is to a flow is decided before anything is said of it; and scans are told as scans.

#![cfg(test)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portwatch_tests::{Actor, Event, Finished, Host, Lab, finish, program};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const FLOOD: &str = env!("CARGO_BIN_EXE_flood");

#[test]
fn each_role_is_told() {
    let Some((lab, router)) = Lab::routed(ACTOR) else { return };
    let (left, right) = (&lab.left, &lab.right);
    let narrow = "echo 3519 3519 > /proc/sys/net/ipv4/ip_local_port_range";
    let at_router = router.portwatch(&["watch", "--port", "3516-3519"]);
    let at_right = right.portwatch(&["watch", "--port", "3516-3519"]);

    let server = served(left, right, 3516);
    let client = served(right, left, 3516);
    assert_ne!(finish(left.command(ACTOR).arg(connect(right, 3517))).code, Some(0));
    left.perform(&[&format!("sendto {} 10", right.v4(3518))]);
    assert_eq!(finish(right.command("sh").args(["-c", narrow])).code, Some(0));
    let ephemeral = served(right, left, 9000);
    let seen_right = at_right.stop();
    let seen_on_the_way = at_router.stop();

    let role_of = |source: SocketAddr| seen_right.flow_from(source).text("portwatch.flow.role");
    assert_eq!(role_of(server), "server");
    assert_eq!(role_of(client), "client");
    assert_eq!((ephemeral, role_of(ephemeral)), (right.v4(3519), "ephemeral"));
    let role_at = |port: u16| {
        let mut ended = seen_right.of("flow-ended");
        let flow = ended.find(|flow| flow.endpoint("destination") == Some(right.v4(port)));
        flow.expect("a flow to the port").text("portwatch.flow.role")
    };
    assert_eq!((role_at(3517), role_at(3518)), ("refused", "unanswered"));
    let forwarded = seen_on_the_way.of("flow-ended").map(|it| it.text("portwatch.flow.role"));
    assert_eq!(forwarded.collect::<Vec<_>>(), ["forwarded"; 5]);
    seen_right.assert_sound();
    seen_on_the_way.assert_sound();
}

#[test]
fn a_scan_is_a_line_of_text_and_a_document_for_each_flow() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let knock = format!("knock {} 3000 3999", lab.right.v4(0).ip());
    let scanner = [in_namespace(&lab.left), vec![ACTOR.to_owned(), knock]].concat();

    let text = watch(&lab.right, "text", &scanner);
    let documents = watch(&lab.right, "json", &scanner);

    let of_scanner = |line: &&str| line.contains(&lab.left.v4(0).ip().to_string());
    let lines: Vec<&str> = text.stdout.lines().filter(of_scanner).collect();
    let (told, shown): (Vec<&str>, Vec<&str>) =
        lines.into_iter().partition(|line| line.contains(" PROBES "));
    assert!(shown.len() <= 2 * 16, "{} lines", shown.len());
    let numbers = told.iter().filter_map(|line| number_before(line, " more flows not shown"));
    let flows = shown.iter().filter(|line| line.contains(" FLOW+ ")).count();
    assert_eq!(numbers.sum::<usize>() + flows, 1000, "{told:#?}");
    assert!(told.iter().any(|line| line.contains(" refused")), "{told:#?}");
    let events: Vec<Event> = documents.stdout.lines().map(Event::parse).collect();
    let mut roles: BTreeMap<&str, usize> = BTreeMap::new();
    for flow in events.iter().filter(|event| event.is("flow-ended")) {
        *roles.entry(flow.text("portwatch.flow.role")).or_default() += 1;
    }
    assert_eq!(roles, BTreeMap::from([("refused", 1000)]));
}

#[test]
fn a_scan_from_everywhere_is_some_lines_of_text() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let address = lab.right.v4(0).ip().to_string();
    let flood = [FLOOD, "syn", &address, "3000-3999", "5000", "5000"].map(str::to_owned);
    let scanner = [in_namespace(&lab.left), flood.to_vec()].concat();

    let text = watch(&lab.right, "text", &scanner);

    let lines: Vec<&str> = text.stdout.lines().collect();
    assert!(lines.len() < 2 * 64 + 60, "{} lines", lines.len());
    let told: Vec<&&str> = lines.iter().filter(|line| line.contains(" PROBES ")).collect();
    assert!(told.iter().any(|line| line.contains(" more sources: ")), "{told:#?}");
}

/// Watches from a host, in this format, until a command ends that runs anywhere.
fn watch(host: &Host, format: &str, command: &[String]) -> Finished {
    let mut watch = host.command(program());
    watch.args(["watch", "--port", "3000-3999", "--sample", "0", "--format", format, "--"]);
    let finished = finish(watch.args(command));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished
}

fn in_namespace(host: &Host) -> Vec<String> {
    ["ip", "netns", "exec", host.name()].map(str::to_owned).to_vec()
}

/// A connection that is served: from where.
fn served(from: &Host, to: &Host, port: u16) -> SocketAddr {
    let mut server: Actor = to.actor(&[&format!("listen tcp {}", to.v4(port)), "serve 1"]);
    server.answer();
    let client = from.perform(&[&connect(to, port), "exchange 1000"]).address();
    server.finish(1);
    client
}

fn connect(to: &Host, port: u16) -> String {
    format!("connect tcp {}", to.v4(port))
}

/// The number in front of these words.
fn number_before(line: &str, words: &str) -> Option<usize> {
    let (before, _) = line.split_once(words)?;
    before.rsplit(' ').next()?.replace(['\u{202f}', ',', ' '], "").parse().ok()
}
