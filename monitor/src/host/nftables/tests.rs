//! What the kernel answered for a ruleset of each kind of rule: tests/data/nftables.

use proptest::prelude::*;

use super::*;
use crate::endpoint::{Family, Transport};
use crate::host::netlink::Messages;

const CHAINS_READ: &[u8] = include_bytes!("../../../../tests/data/nftables/chains.bin");
const RULES_READ: &[u8] = include_bytes!("../../../../tests/data/nftables/rules.bin");
const ELEMENTS_READ: &[u8] = include_bytes!("../../../../tests/data/nftables/elements.bin");

#[test]
fn of_a_ruleset_the_rules_are_told_that_send_a_port_elsewhere_in_the_order_of_the_hooks() {
    let found = ruleset().redirections(packet(Transport::Tcp, 3516));

    let told: Vec<_> = found.iter().map(|it| (it.rule.to_string(), it.is_conditional)).collect();
    let expected = [
        (
            "nft rule of table inet i, chain tp, handle 2: tcp dport 3516 tproxy to \
             127.0.0.1:50080 accept",
            false,
        ),
        (
            "nft rule of table ip t, chain c, handle 12: iifname \"eth0\" ip daddr 10.0.0.0/24 tcp \
             dport 3516 dnat to 10.0.3.2:22 comment \"badge office\"",
            true,
        ),
        (
            "nft rule of table ip t, chain c, handle 13: tcp dport @s [fib] redirect to :8000-8010",
            true,
        ),
        ("nft rule of table ip t, chain c, handle 14: [ct] dnat to tcp dport map @m", true),
        (
            "nft rule of table ip t, chain pod, handle 9: meta l4proto tcp dnat to \
             10.244.0.3:8080",
            true,
        ),
        ("nft rule of table ip t, chain d, handle 10: redirect", false),
        (
            "nft rule of table ip6 six, chain c, handle 2: tcp dport != 80 dnat to [fd00::2]:22",
            false,
        ),
    ];
    assert_eq!(told, expected.map(|(text, conditional)| (text.to_owned(), conditional)));
    let named: Vec<bool> = found.iter().map(|it| it.names_port).collect();
    assert_eq!(named, [true, true, true, true, true, true, false]);
    assert_eq!(
        found.iter().map(|it| it.action).collect::<Vec<_>>(),
        [
            Action::Tproxy { ip: ip("127.0.0.1"), port: Some(50_080) },
            Action::Dnat { ip: ip("10.0.3.2"), port: Some(22) },
            Action::Redirect { ports: Some((8000, 8010)) },
            Action::Dnat { ip: ip("10.0.0.9"), port: Some(22) },
            Action::Dnat { ip: ip("10.244.0.3"), port: Some(8080) },
            Action::Redirect { ports: None },
            Action::Dnat { ip: ip("fd00::2"), port: Some(22) },
        ]
    );
}

#[test]
fn rules_of_another_transport_family_or_port_are_not_told() {
    let handles = |packet: Packet| -> Vec<u64> {
        ruleset().redirections(packet).iter().map(|it| it.rule.handle).collect()
    };

    assert_eq!(handles(packet(Transport::Udp, 3516)), [16, 20]);
    assert_eq!(handles(packet(Transport::Udp, 3517)), [20]);
    let of_family = |family| Packet { family: Some(family), ..packet(Transport::Tcp, 81) };
    assert_eq!(handles(of_family(Family::Ipv4)), [0; 0]);
    assert_eq!(handles(of_family(Family::Ipv6)), [2]);
    // Behind a rule that takes all of port 22 no other is asked.
    assert_eq!(handles(Packet { family: Some(Family::Ipv4), ..packet(Transport::Tcp, 22) }), [11]);
}

#[test]
fn a_rule_for_packets_of_this_host_and_of_every_port_says_both() {
    let found = ruleset().redirections(packet(Transport::Udp, 3517));

    assert!(found[0].is_for_own_packets && !found[0].names_port && !found[0].is_conditional);
    assert_eq!(found[0].rule.text, "meta l4proto udp redirect to :3128");
    assert_eq!(found[0].action.to_string(), "port 3128 of this host");
}

#[test]
fn chains_that_call_each_other_end() {
    let jump = |to: &str| decode::Rule {
        expressions: vec![decode::Expression::Immediate {
            to: 0,
            data: decode::Data::Verdict(decode::Verdict::Jump(to.to_owned())),
        }],
        ..decode::Rule::default()
    };
    let mut ruleset = Ruleset::default();
    for (name, other, hook) in [("a", "b", Some((0, 0))), ("b", "a", None)] {
        let chain = Chain { hook, rules: vec![jump(other), jump(other)] };
        ruleset.chains.insert((2, "t".to_owned(), name.to_owned()), chain);
    }

    assert_eq!(ruleset.redirections(packet(Transport::Tcp, 1)), []);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(position in 0_usize..5112, byte: u8, length in 0_usize..5112) {
        let mut rules = RULES_READ.to_vec();
        if let Some(it) = rules.get_mut(position) {
            *it = byte;
        }
        rules.truncate(length);
        let mut ruleset = ruleset();
        ruleset.chains.clear();
        take_in(&mut ruleset, CHAINS_READ, &rules);
        let mut elements = ELEMENTS_READ.to_vec();
        if let Some(it) = elements.get_mut(position) {
            *it = byte;
        }
        for message in Messages::of(&elements).flatten() {
            decode::elements(message.payload());
        }
        ruleset.redirections(packet(Transport::Tcp, 3516));
    }
}

fn ruleset() -> Ruleset {
    let mut ruleset = Ruleset::default();
    take_in(&mut ruleset, CHAINS_READ, RULES_READ);
    assert_eq!(
        ruleset.sets_of_ports().into_iter().map(|(_, _, name)| name).collect::<Vec<_>>(),
        ["__set0", "m", "s", "services"]
    );
    for message in Messages::of(ELEMENTS_READ) {
        let payload = message.unwrap().payload();
        let name = super::super::netfilter::attributes_of(payload).text(2).unwrap();
        let key = (2, "t".to_owned(), name);
        // Of each the last message is empty.
        ruleset.sets.entry(key).or_default().extend(decode::elements(payload));
    }
    ruleset
}

fn take_in(ruleset: &mut Ruleset, chains: &[u8], rules: &[u8]) {
    for message in Messages::of(chains).flatten() {
        ruleset.chains.extend(decode::chain(message.payload()));
    }
    for message in Messages::of(rules).flatten() {
        if let Some((key, rule)) = decode::rule(message.payload()) {
            ruleset.chains.entry(key).or_default().rules.push(rule);
        }
    }
}

const fn packet(transport: Transport, port: u16) -> Packet {
    Packet { transport, port, family: None }
}

fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}
