//! Rules of nftables and iptables as text, as far as they are understood; those of nftables also as they are,
//! every message.

use std::io;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::super::modules;
use super::super::netfilter::{self, attributes_of, family_of};
use super::super::netlink::Dump;
use super::super::nftables::{self, Ruleset};
use super::{Content, Lines};

/// Name, source and contents. No module is loaded to find out that there are no rules.
pub(super) fn here() -> Vec<(&'static str, &'static str, io::Result<Content>)> {
    let text =
        ("netfilter.txt", "rules of nftables and iptables, in the words of nft(8)", listing());
    if !modules::is_there("nf_tables") {
        return vec![text];
    }
    vec![
        text,
        (
            "nftables.ndjson",
            "nfnetlink: tables, chains, rules, sets, elements, objects",
            messages(),
        ),
    ]
}

fn listing() -> io::Result<Content> {
    let ruleset = Ruleset::read()?;
    Ok(Content { bytes: ruleset.listing().into_bytes(), cut: ruleset.incomplete.clone() })
}

fn messages() -> io::Result<Content> {
    let mut connection = netfilter::connect()?;
    let mut lines = Lines::default();
    let mut sets = Vec::new();
    for (what, message) in nftables::DUMPS {
        let mut keep = |payload: &[u8]| {
            if message == nftables::NFT_MSG_GETSET {
                let attributes = attributes_of(payload);
                sets.extend(
                    attributes
                        .get(1)
                        .zip(attributes.get(2))
                        .map(|(table, name)| (family_of(payload), table.to_vec(), name.to_vec())),
                );
            }
            Ok(Some(payload.to_vec()))
        };
        let dump = connection.dump(nftables::request(message), MESSAGES, &mut keep);
        take(what, dump, &mut lines);
    }
    if sets.len() > SETS {
        lines.lack([format!("elements of sets after the first {SETS}")]);
    }
    for (family, table, name) in sets.into_iter().take(SETS) {
        let request = nftables::elements_of(family, &table, &name);
        let dump = connection.dump(request, MESSAGES, |payload| Ok(Some(payload.to_vec())));
        take("elements", dump, &mut lines);
    }
    Ok(lines.into_content())
}

fn take(what: &str, dump: io::Result<Dump<Vec<u8>>>, lines: &mut Lines) {
    match dump {
        Ok(dump) => {
            for payload in dump.items {
                lines.push(&json!({ "what": what, "bytes": base64(&payload) }));
            }
            let torn = dump.is_torn.then(|| "they changed during each reading".to_owned());
            let lacking = dump.incomplete.into_iter().chain(torn);
            lines.lack(lacking.map(|why| format!("{what}: {why}")));
        }
        Err(error) => lines.lack([format!("{what}: {error}")]),
    }
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

const MESSAGES: usize = 1 << 18;
/// Sets whose elements are read.
const SETS: usize = 4096;
