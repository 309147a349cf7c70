//! Where addresses are translated: flows are joined to their sockets all the same, and who answers for the
//! port from elsewhere is told with the rule that sends it there.

#![cfg(test)]

use std::io::Write as _;
use std::net::SocketAddr;

use portwatch_tests::{Actor, Event, Host, Lab, Neighbour, Portwatch, finish, is_installed, skip};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn a_port_that_is_sent_on_to_another_namespace_is_joined_to_who_serves_there() {
    let Some((lab, router)) = Lab::routed(ACTOR) else { return };
    let mut server = lab.right.actor(&[&format!("listen tcp {}", lab.right.v4(2222)), "stay"]);
    server.answer();
    let portwatch = router.portwatch(&["watch"]);
    let right = lab.right.v4(2222);
    if !has_rules(
        &router,
        &format!(
            "chain c {{ type nat hook prerouting priority -100\n tcp dport {PORT} dnat to {right}\n }}"
        ),
    ) {
        return;
    }

    server.tell("serve 1");
    let mut client = lab.left.actor(&[&format!("connect tcp 10.35.16.1:{PORT}"), "stay"]);
    let address = client.answer();
    client.ask("exchange 1000");
    let finding = expect_answer(&portwatch);
    server.answer();
    let run = portwatch.stop();

    let pid = server.pid();
    let message = finding.text("message");
    let rule = "nft rule of table ip t, chain c, handle ";
    assert!(message.contains(&format!("is answered by {right} in network namespace")), "{message}");
    assert!(message.contains(&format!("(pid {pid}) serves")), "{message}");
    assert!(message.contains(rule), "{message}");
    assert!(has_evidence(&finding, &format!("tcp dport {PORT} dnat to {right}")), "{finding}");
    assert!(has_evidence(&finding, "checked: services of IPVS: none"), "{finding}");
    let source = address.rsplit(' ').next().and_then(|it| it.parse().ok()).expect("an address");
    let flow = run.flow_from(source);
    assert_eq!(flow.text("destination.nat.ip"), right.ip().to_string());
    assert_eq!(flow.number("destination.nat.port"), 2222);
    assert!(flow.at("source.nat").is_null(), "{flow}");
    assert_eq!(flow.text("portwatch.ownership"), "other-namespace");
    flow.assert_owner("destination", "holder", "inferred", pid);
    flow.assert_owner("source", "opener", "exact", client.pid());
    run.assert_sound();
}

#[test]
fn a_client_that_is_masqueraded_is_known_behind_the_address_it_is_given() {
    let Some((lab, router)) = Lab::routed(ACTOR) else { return };
    let mut server = lab.right.actor(&[&format!("listen tcp {}", lab.right.v4(PORT)), "stay"]);
    server.answer();
    let portwatch = router.portwatch(&["watch"]);
    if !has_rules(
        &router,
        "chain c { type nat hook postrouting priority 100\n oifname right0 masquerade\n }",
    ) {
        return;
    }

    server.tell("serve 1");
    let connect = format!("connect tcp {}", lab.right.v4(PORT));
    let mut client = lab.left.actor(&[&connect, "stay"]);
    client.answer();
    client.ask("exchange 1000");
    server.answer();
    let behind = |event: &Event| {
        event.text("source.ip") == "10.35.17.1" && !event.at("source.nat").is_null()
    };
    let flow = portwatch.expect("the flow behind the router", behind);
    let run = portwatch.stop();

    assert_eq!(flow.text("source.nat.ip"), lab.left.v4(PORT).ip().to_string());
    let reason = flow.text("portwatch.ownership_reason");
    assert!(reason.contains("joined through conntrack: SNAT 10.35.16.2:"), "{reason}");
    flow.assert_owner("source", "opener", "inferred", client.pid());
    assert!(run.of("finding").all(|it| it.text("portwatch.finding.kind") != "redirected-port"));
    run.assert_sound();
}

#[test]
fn a_transparent_proxy_is_told_as_such_although_its_socket_is_on_the_port() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let listen = format!("listen transparent {}", lab.right.v4(2222));
    let mut proxy = lab.right.actor(&[&listen, "stay"]);
    proxy.answer();
    let portwatch = lab.right.portwatch(&["watch"]);
    if !has_rules(
        &lab.right,
        &format!(
            "chain c {{ type filter hook prerouting priority mangle\n tcp dport {PORT} tproxy to :2222\n }}"
        ),
    ) {
        return;
    }

    proxy.tell("serve 1");
    lab.left.perform(&[&format!("connect tcp {}", lab.right.v4(PORT)), "exchange 1000"]);
    proxy.answer();
    let finding = expect_answer(&portwatch);
    portwatch.stop().assert_sound();

    let message = finding.text("message");
    assert!(
        message.contains("though nobody listens on that port: nft rule of table ip t"),
        "{message}"
    );
    assert!(message.contains(&format!("(pid {})", proxy.pid())), "{message}");
    assert!(has_evidence(&finding, "tproxy to :2222"), "{finding}");
}

#[test]
fn what_is_answered_without_a_socket_or_a_reason_is_found_with_what_was_checked() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let rules = format!(
        "chain r {{ type filter hook prerouting priority raw\n tcp dport {PORT} tcp flags syn notrack\n }}\n\
         chain c {{ type filter hook input priority filter\n tcp dport {PORT} ct state invalid,untracked \
         synproxy mss 1460 wscale 7 timestamp sack-perm\n }}"
    );
    if !has_rules(&lab.right, &rules) {
        return;
    }

    // The kernel answers for a server that is not there, and gives up once it has asked for it.
    let client = lab.left.actor(&[&format!("connect tcp {}", lab.right.v4(PORT))]);
    let unexplained =
        |event: &Event| event.text("portwatch.finding.kind") == "answer-without-socket";
    let finding = portwatch.expect("an answer without a socket", unexplained);
    drop(client);
    portwatch.stop().assert_sound();

    let message = finding.text("message");
    assert!(message.contains("nothing that portwatch knows explains it"), "{message}");
    assert!(has_evidence(&finding, "sockets of this namespace that get what is sent there: none"));
    assert!(has_evidence(&finding, "answers went out"), "{finding}");
}

#[test]
fn a_scan_tells_what_redirects_the_port_and_who_chooses_sockets_although_nothing_comes() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let quiet = host.finish_portwatch(&["scan", "--format", "json"]);
    if !has_rules(
        &host,
        &format!(
            "chain c {{ type nat hook prerouting priority -100\n tcp dport {PORT} redirect to :3517\n }}"
        ),
    ) {
        return;
    }
    let chooser = Neighbour::on_sk_lookup(&host);

    let scan = host.finish_portwatch(&["scan", "--format", "json"]);
    let of_another = host.finish_portwatch(&["scan", "--format", "json", "-p", "3518"]);
    drop(chooser);

    let here = format!("network namespace {}", host.name());
    let redirected =
        format!("{PORT}/tcp in {here} is redirected to port 3517 of this host by nft rule");
    let is_said = |scan: &portwatch_tests::Finished, what: &str| scan.stdout.contains(what);
    // The scan runs in that namespace, so that it does not say which one it is.
    let redirected = redirected.replace(&format!(" in {here}"), "");
    // Other tests have rules in namespaces of theirs.
    assert!(!is_said(&quiet, &redirected), "{}", quiet.stdout);
    assert_eq!(scan.code, Some(1), "{}", scan.stdout);
    assert!(is_said(&scan, &redirected), "{}", scan.stdout);
    assert!(is_said(&scan, "tcp dport 3516 redirect to :3517"), "{}", scan.stdout);
    assert!(is_said(&scan, "(neighbour, tag "), "{}", scan.stdout);
    assert!(!is_said(&of_another, "redirect to"), "{}", of_another.stdout);
}

#[test]
fn a_rule_of_iptables_from_before_nftables_is_told_whether_anything_comes_or_not() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    if !is_installed("iptables-legacy") {
        return;
    }
    let mut server = lab.right.actor(&[&format!("listen tcp {}", lab.right.v4(2222)), "stay"]);
    server.answer();
    let quiet = lab.right.finish_portwatch(&["scan", "--format", "json"]);
    let line = format!(
        "-t nat -A PREROUTING -p tcp --dport {PORT} -m comment --comment cards -j REDIRECT --to-ports 2222"
    );
    let added = finish(lab.right.command("iptables-legacy").args(line.split(' ')));
    if added.code != Some(0) {
        return skip(&format!("iptables-legacy cannot do this here: {}", added.stderr.trim()));
    }
    let scan = lab.right.finish_portwatch(&["scan", "--format", "json"]);
    let portwatch = lab.right.portwatch(&["watch"]);

    server.tell("serve 1");
    let mut client = lab.left.actor(&[&format!("connect tcp {}", lab.right.v4(PORT)), "stay"]);
    client.answer();
    let finding = expect_answer(&portwatch);
    client.ask("exchange 1000");
    server.answer();
    portwatch.stop().assert_sound();

    let rule = "iptables-legacy rule 1 of chain PREROUTING, table nat";
    let standing = format!("3516/tcp is redirected to port 2222 of this host by {rule}.");
    assert!(!quiet.stdout.contains(&standing), "{}", quiet.stdout);
    assert!(scan.stdout.contains(&standing), "{}", scan.stdout);
    let message = finding.text("message");
    assert!(message.contains(&format!("(pid {})", server.pid())), "{message}");
    assert!(message.contains(&format!("on port 2222: {rule} redirects 3516")), "{message}");
    let text = format!("{rule}: tcp dport 3516 xt REDIRECT to :2222 comment \"cards\"");
    assert!(has_evidence(&finding, &text), "{finding}");
}

#[test]
fn what_a_load_balancer_answers_is_joined_to_the_server_that_gets_it_and_told_with_the_service() {
    let Some((lab, router)) = Lab::routed(ACTOR) else { return };
    let mut server = lab.right.actor(&[&format!("listen tcp {}", lab.right.v4(2222)), "stay"]);
    server.answer();
    // Where nobody is, so that it matters which of them gets the connection.
    let other = "10.35.17.77:2222";
    let service = format!("10.35.16.1:{PORT}");
    let right = lab.right.v4(2222);
    if !balances(&router, &service, &[(&right.to_string(), 1), (other, 0)]) {
        return;
    }
    let scan = router.finish_portwatch(&["scan", "--format", "json"]);
    let portwatch = router.portwatch(&["watch"]);

    let (client, source) = exchange(&lab, &service, &mut server);
    let finding = expect_answer(&portwatch);
    let run = portwatch.stop();

    assert!(scan.stdout.contains("3516/tcp is answered by a load balancer."), "{}", scan.stdout);
    let told = format!("IPVS service tcp {service} (rr) → ");
    assert!(scan.stdout.contains(&told), "{}", scan.stdout);
    let message = finding.text("message");
    assert!(message.contains(&format!("is answered by {right} in network namespace")), "{message}");
    assert!(message.contains(&format!("(pid {}) serves: {told}", server.pid())), "{message}");
    assert!(has_evidence(&finding, &format!("IPVS: DNAT {service} → {right}")), "{finding}");
    let flow = run.flow_from(source);
    assert_eq!(flow.text("destination.nat.ip"), right.ip().to_string());
    assert_eq!(flow.number("destination.nat.port"), 2222);
    assert!(flow.at("source.nat").is_null(), "{flow}");
    assert_eq!(flow.text("portwatch.ownership"), "other-namespace");
    let reason = flow.text("portwatch.ownership_reason");
    let joined = format!("joined through IPVS: DNAT {service} → {right}, in network namespace");
    assert!(reason.starts_with(&joined), "{reason}");
    flow.assert_owner("destination", "holder", "inferred", server.pid());
    flow.assert_owner("source", "opener", "exact", client.pid());
    run.assert_sound();
}

#[test]
fn what_a_load_balancer_sends_to_another_host_is_forwarded_there() {
    let Some((lab, router)) = Lab::routed(ACTOR) else { return };
    // Behind the host on the right: an address of no namespace, which that host answers for all the same.
    let service = format!("10.35.16.1:{PORT}");
    let away = "10.35.17.77:2222";
    if !balances(&router, &service, &[(away, 1)]) {
        return;
    }
    router.ip("route add 10.35.17.77/32 via 10.35.17.2");
    let redirect = "chain c { type nat hook prerouting priority -100\n \
                    ip daddr 10.35.17.77 tcp dport 2222 redirect to :2223\n }";
    if !has_rules(&lab.right, redirect) {
        return;
    }
    let mut server = lab.right.actor(&["listen tcp 0.0.0.0:2223", "stay"]);
    server.answer();
    let portwatch = router.portwatch(&["watch"]);

    let (_client, source) = exchange(&lab, &service, &mut server);
    let finding = expect_answer(&portwatch);
    let run = portwatch.stop();

    let message = finding.text("message");
    assert!(
        message.contains(&format!("is answered by {away}, which is no address of this host")),
        "{message}"
    );
    let flow = run.flow_from(source);
    assert_eq!(flow.text("portwatch.flow.role"), "forwarded");
    assert_eq!(flow.text("destination.nat.ip"), "10.35.17.77");
    run.assert_sound();
}

/// Somebody on the left connects to a service and talks to the server that gets it: who, and from where.
fn exchange(lab: &Lab, service: &str, server: &mut Actor) -> (Actor, SocketAddr) {
    server.tell("serve 1");
    let mut client = lab.left.actor(&[&format!("connect tcp {service}"), "stay"]);
    let address = client.answer();
    client.ask("exchange 1000");
    server.answer();
    let source = address.rsplit(' ').next().and_then(|it| it.parse().ok()).expect("an address");
    (client, source)
}

/// Has IPVS masquerade connections to a service among servers with these weights; false, noted as skipped, where
/// that cannot be done.
fn balances(host: &Host, service: &str, servers: &[(&str, u32)]) -> bool {
    if !is_installed("ipvsadm") {
        return false;
    }
    let add =
        |(server, weight): &(&str, u32)| format!("-a -t {service} -r {server} -m -w {weight}");
    let lines = [format!("-A -t {service} -s rr")].into_iter().chain(servers.iter().map(add));
    for line in lines {
        let added = finish(host.command("ipvsadm").args(line.split(' ')));
        if added.code != Some(0) {
            skip(&format!("IPVS cannot do this here: {}", added.stderr.trim()));
            return false;
        }
    }
    true
}

/// Loads a table with these chains; false, noted as skipped, where that cannot be done.
fn has_rules(host: &Host, chains: &str) -> bool {
    let mut rules = tempfile::NamedTempFile::new().expect("make a file");
    rules.write_all(format!("table ip t {{\n{chains}\n}}\n").as_bytes()).expect("write a file");
    let loaded = finish(host.command("nft").arg("-f").arg(rules.path()));
    let is_loaded = loaded.code == Some(0);
    if !is_loaded {
        skip(&format!("nft cannot do this here: {}", loaded.stderr.trim()));
    }
    is_loaded
}

/// The finding about an answer from elsewhere, and not only about what is there to send it.
fn expect_answer(portwatch: &Portwatch) -> Event {
    portwatch.expect("a finding about a redirected port", |event| {
        let message = event.text("message");
        event.text("portwatch.finding.kind") == "redirected-port"
            && message.starts_with("tcp 10.")
            && message.contains("is answered by")
    })
}

fn has_evidence(finding: &Event, what: &str) -> bool {
    let evidence = finding.list("portwatch.finding.evidence");
    evidence.iter().any(|line| line.as_str().is_some_and(|line| line.contains(what)))
}
