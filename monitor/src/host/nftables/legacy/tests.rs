//! Tables as the kernel gives them, made by hand.

use super::super::{Action, Packet, Redirection};
use super::*;
use crate::endpoint::Transport;

#[test]
fn a_rule_that_redirects_the_port_is_found_behind_the_chain_it_is_in() {
    for layout in [&IPV4, &IPV6] {
        let table = Table::of(layout);

        let found = table.redirections(Transport::Tcp, 3516);

        let [redirection] = &found[..] else { panic!("{found:#?}") };
        let Redirection { rule, action, .. } = redirection;
        assert_eq!(*action, Action::Redirect { ports: Some((2222, 2222)) });
        assert_eq!((&*rule.chain, rule.handle), ("CARDS", 1));
        assert_eq!(
            rule.to_string(),
            format!(
                "{} rule 1 of chain CARDS, table nat: tcp dport 3516 xt REDIRECT to :2222 comment \
                 \"cards\"",
                layout.tool
            )
        );
        assert!(redirection.names_port && !redirection.is_conditional);
        assert_eq!(table.redirections(Transport::Udp, 3516), []);
        assert_eq!(table.redirections(Transport::Tcp, 3517), []);
    }
}

#[test]
fn what_else_a_rule_asks_for_is_said_and_not_decided() {
    let mut table = Table::of(&IPV4);
    // From 10.0.0.0/8, and not in by eth0: of the rule that redirects.
    let rule = table.rule;
    table.entries[rule..rule + 4].copy_from_slice(&[10, 0, 0, 0]);
    table.entries[rule + 8..rule + 12].copy_from_slice(&[255, 0, 0, 0]);
    table.entries[rule + 16..rule + 20].copy_from_slice(b"eth0");
    table.entries[rule + 83] |= INV_IN;

    let found = table.redirections(Transport::Tcp, 3516);

    let [redirection] = &found[..] else { panic!("{found:#?}") };
    assert!(redirection.is_conditional);
    let text = &redirection.rule.text;
    assert!(text.starts_with("[from 10.0.0.0/8] [not in by eth0] tcp dport 3516"), "{text}");
}

#[test]
fn whatever_is_cut_short_or_damaged_is_gone_through_in_the_end() {
    for layout in [&IPV4, &IPV6] {
        let whole = Table::of(layout);
        for length in 0..whole.entries.len() {
            let cut = Table { entries: whole.entries[..length].to_vec(), ..whole.clone() };
            cut.redirections(Transport::Tcp, 3516);
        }
        for place in 0..whole.entries.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged.entries[place] = value;
                damaged.redirections(Transport::Tcp, 3516);
            }
        }
    }
}

#[test]
fn the_description_of_a_table_is_whole_or_none() {
    let words: Vec<u8> = (1..=13_u32).flat_map(u32::to_ne_bytes).collect();
    let bytes = [&[0; NAME][..], &words].concat();

    let info = Info { hooks: 1, begins: [2, 3, 4, 5, 6], size: 13 };
    assert_eq!(Info::parse(&bytes), Some(info));
    assert!((0..INFO).all(|length| Info::parse(&bytes[..length]).is_none()));
}

#[test]
fn what_this_host_has_is_read() {
    let mut ruleset = Ruleset::default();

    add(&mut ruleset);

    // Without the rights for it that is said.
    assert!(ruleset.chains.keys().all(|(family, ..)| family & LEGACY != 0));
}

/// `nat` with a jump from PREROUTING to a chain of its own, which redirects the port.
#[derive(Clone)]
struct Table {
    layout: &'static Layout,
    info: Info,
    entries: Vec<u8>,
    /// Where the rule that redirects begins.
    rule: usize,
}

impl Table {
    fn of(layout: &'static Layout) -> Self {
        let standard = |verdict: i32| extension("", 0, &verdict.to_ne_bytes());
        let ports = [0_u16, 0xffff, 3516, 3516].map(u16::to_ne_bytes).concat();
        let tcp = extension("tcp", 0, &[&*ports, &[0; 4]].concat());
        let comment = extension("comment", 0, b"cards\0");
        let port = 2222_u16.to_be_bytes();
        // NF_NAT_RANGE_PROTO_SPECIFIED.
        let first = [&1_u32.to_ne_bytes()[..], &2_u32.to_ne_bytes(), &[0; 8], &port, &port];
        let later = [&2_u32.to_ne_bytes()[..], &[0; 32], &port, &port];
        let redirect = if layout.family == 2 {
            extension("REDIRECT", 0, &first.concat())
        } else {
            extension("REDIRECT", 2, &later.concat())
        };
        let entry =
            |protocol, matches: &[u8], target: &[u8]| entry(layout, protocol, matches, target);
        let accept = entry(0, &[], &standard(-2));
        let name = entry(0, &[], &extension("ERROR", 0, b"CARDS\0"));
        let jump = entry(6, &[], &standard(0));
        let begins = jump.len() + accept.len() + name.len();
        let jump = entry(6, &[], &standard(i32::try_from(begins).unwrap()));
        let rule = entry(6, &[tcp, comment].concat(), &redirect);
        let back = entry(0, &[], &standard(-5));
        let last = entry(0, &[], &extension("ERROR", 0, b"ERROR\0"));
        let entries = [jump, accept, name, rule, back, last].concat();
        let size = u32::try_from(entries.len()).unwrap();
        let info = Info { hooks: 1, begins: [0; 5], size };
        Self { layout, info, entries, rule: begins }
    }

    fn redirections(&self, transport: Transport, port: u16) -> Vec<Redirection> {
        let mut ruleset = Ruleset::default();
        let key = |name| (self.layout.family | LEGACY, "nat".to_owned(), name);
        let chains = self.layout.chains(&self.info, &self.entries, -100);
        ruleset.chains.extend(chains.into_iter().map(|(name, chain)| (key(name), chain)));
        ruleset.redirections(Packet { transport, port, family: None })
    }
}

fn entry(layout: &Layout, protocol: u16, matches: &[u8], target: &[u8]) -> Vec<u8> {
    let mut head = vec![0; layout.entry];
    head[layout.protocol..layout.protocol + 2].copy_from_slice(&protocol.to_ne_bytes());
    let behind = head.len() + matches.len();
    let lengths = [behind, behind + target.len()].map(|it| u16::try_from(it).unwrap());
    let lengths = lengths.map(u16::to_ne_bytes).concat();
    head[layout.target..layout.target + 4].copy_from_slice(&lengths);
    [&head, matches, target].concat()
}

fn extension(name: &str, revision: u8, data: &[u8]) -> Vec<u8> {
    let length = (EXTENSION + data.len()).next_multiple_of(8);
    let mut bytes = u16::try_from(length).unwrap().to_ne_bytes().to_vec();
    bytes.extend(name.as_bytes());
    bytes.resize(EXTENSION - 1, 0);
    bytes.push(revision);
    bytes.extend(data);
    bytes.resize(length, 0);
    bytes
}
