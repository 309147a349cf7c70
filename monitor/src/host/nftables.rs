//! The rules of nftables that send what comes for a port to somewhere else: `redirect`, `dnat`, `tproxy`, also
//! those that `iptables-nft` and `iptables-legacy` have made.
//!
//! A ruleset is read as a whole and walked as the kernel would, from the hooks that packets come through,
//! for one port. What a rule asks for besides transport and port is not decided: then it may apply. Rules
//! are quoted in the words of nft(8), and what is not understood stands in square brackets.

mod decode;
mod legacy;
mod registers;
mod text;
mod walk;
mod xt;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::io;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;
use serde::{Deserialize, Serialize};

use self::decode::{Chain, Element};
use super::modules;
use super::netfilter::Request;
use super::netlink::Connection;
use crate::escape;

pub use walk::Packet;

/// A rule, as a person would look for it.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Rule {
    /// `ip`, `ip6` or `inet`; of a table from before nftables the tool that shows it, `iptables-legacy`.
    pub family: String,
    /// Its table. Foreign text: escape before showing.
    pub table: String,
    /// Its chain. Foreign text.
    pub chain: String,
    /// The number that `nft -a` shows, or its place in the chain.
    pub handle: u64,
    /// What it says. Foreign text.
    pub text: String,
}

/// `nft rule of table ip nat, chain prerouting, handle 4: tcp dport 3516 redirect to :3517`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.text)
    }
}

impl Rule {
    /// `nft rule of table ip nat, chain prerouting, handle 4`, or `iptables-legacy rule 1 of chain PREROUTING,
    /// table nat`.
    pub fn place(&self) -> String {
        let Self { family, table, chain, handle, text: _ } = self;
        if self.is_legacy() {
            return format!("{family} rule {handle} of chain {chain}, table {table}");
        }
        format!("nft rule of table {family} {table}, chain {chain}, handle {handle}")
    }

    /// It is none of nftables.
    pub fn is_legacy(&self) -> bool {
        self.family.ends_with("tables-legacy")
    }
}

/// What a rule does with a packet for the port.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Action {
    /// To this host itself, at another port if one is said.
    Redirect {
        /// First and last port.
        ports: Option<(u16, u16)>,
    },
    /// To another address, port or both; `None` where that is not said, or chosen for each connection.
    Dnat {
        /// The address.
        ip: Option<IpAddr>,
        /// The port.
        port: Option<u16>,
    },
    /// To a transparent socket of this host, without a change to the packet.
    Tproxy {
        /// The address it is bound to.
        ip: Option<IpAddr>,
        /// The port it is bound to.
        port: Option<u16>,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place =
            |f: &mut fmt::Formatter<'_>, ip: Option<IpAddr>, port: Option<u16>| match (ip, port) {
                (Some(IpAddr::V6(ip)), Some(port)) => write!(f, "[{ip}]:{port}"),
                (Some(ip), Some(port)) => write!(f, "{ip}:{port}"),
                (Some(ip), None) => write!(f, "{ip}"),
                (None, Some(port)) => write!(f, "port {port}"),
                (None, None) => f.write_str("an address chosen for each connection"),
            };
        match *self {
            Self::Redirect { ports: None } => f.write_str("the same port of this host"),
            Self::Redirect { ports: Some((first, last)) } if first == last => {
                write!(f, "port {first} of this host")
            }
            Self::Redirect { ports: Some((first, last)) } => {
                write!(f, "ports {first} to {last} of this host")
            }
            Self::Dnat { ip, port } => place(f, ip, port),
            Self::Tproxy { ip, port } => {
                f.write_str("the transparent socket at ")?;
                place(f, ip, port)
            }
        }
    }
}

/// A rule that sends a packet for the port to somewhere else.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Redirection {
    /// The rule that does it.
    pub rule: Rule,
    /// What it does.
    pub action: Action,
    /// It, or a rule on the way to it, asks for the port; else it is for every port.
    pub names_port: bool,
    /// It, or a rule on the way to it, asks for something else as well, which may not be so.
    pub is_conditional: bool,
    /// It is for packets that processes of this host send, not for those that come in.
    pub is_for_own_packets: bool,
}

/// All rules of a network namespace, and the sets they look ports up in.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    chains: BTreeMap<ChainKey, Chain>,
    sets: BTreeMap<SetKey, Vec<Element>>,
    /// What is missing, in words.
    pub incomplete: Option<String>,
}

/// Family, with [`LEGACY`] of a table from before nftables; table, name.
type ChainKey = (u8, String, String);
type SetKey = (u8, String, String);

impl Ruleset {
    /// Reads that of the calling thread's network namespace, which takes `CAP_NET_ADMIN` there.
    ///
    /// Loads no module: where that of nftables is not there, there are no rules.
    pub fn read() -> io::Result<Self> {
        let mut ruleset = Self::read_nftables()?;
        legacy::add(&mut ruleset);
        Ok(ruleset)
    }

    fn read_nftables() -> io::Result<Self> {
        if !modules::is_there("nf_tables") {
            return Ok(Self::default());
        }
        let mut connection = Connection::open(NETLINK_NETFILTER)?;
        let mut ruleset = Self::default();
        let chains =
            connection.dump(request(NFT_MSG_GETCHAIN), CHAINS, |it| Ok(decode::chain(it)))?;
        let rules = connection.dump(request(NFT_MSG_GETRULE), RULES, |it| Ok(decode::rule(it)))?;
        for problem in [&chains.incomplete, &rules.incomplete].into_iter().flatten() {
            ruleset.incomplete = Some(problem.clone());
        }
        ruleset.chains.extend(chains.items);
        for (key, rule) in rules.items {
            ruleset.chains.entry(key).or_default().rules.push(rule);
        }
        for key in ruleset.sets_of_ports() {
            let (family, table, name) = &key;
            let request = elements_of(*family, &terminated(table), &terminated(name));
            // One message has many elements.
            match connection.dump(request, ELEMENT_MESSAGES, |it| Ok(Some(decode::elements(it)))) {
                Ok(elements) => {
                    ruleset.incomplete = elements.incomplete.or(ruleset.incomplete);
                    ruleset.sets.insert(key, elements.items.into_iter().flatten().collect());
                }
                Err(error) => ruleset.incomplete = Some(format!("set {name}: {error}")),
            }
        }
        Ok(ruleset)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.chains.values().map(|chain| chain.rules.len()).sum()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rules that send such a packet to somewhere else, in the order in which the kernel asks them.
    pub fn redirections(&self, packet: Packet) -> Vec<Redirection> {
        walk::redirections(self, packet)
    }

    /// Every chain with its rules, as text: a line each, in which nothing can deceive.
    pub fn listing(&self) -> String {
        let mut listing = String::new();
        for (key, chain) in &self.chains {
            let (family, table, name) = key;
            let names = [text::family_name(*family), table.as_str(), name.as_str()];
            let [family, table, name] = names.map(escape::quote);
            _ = write!(listing, "chain {family} {table} {name}");
            if let Some((hook, priority)) = chain.hook {
                _ = write!(listing, " hook {hook} priority {priority}");
            }
            listing.push('\n');
            for rule in &chain.rules {
                let rule = text::rule(key, rule, self);
                _ = writeln!(listing, "  {} # handle {}", escape::escape(&rule.text), rule.handle);
            }
        }
        listing
    }

    /// The sets in which something is looked up by its port.
    fn sets_of_ports(&self) -> BTreeSet<SetKey> {
        let mut sets = BTreeSet::new();
        for ((family, table, _), chain) in &self.chains {
            for rule in &chain.rules {
                let names = registers::sets_of_ports(rule);
                sets.extend(names.into_iter().map(|name| (*family, table.clone(), name)));
            }
        }
        while sets.len() > SETS {
            sets.pop_last();
        }
        sets
    }
}

/// Asks for everything of a kind, in every table.
pub(super) fn request(message: u16) -> Request {
    Request::new(NFNL_SUBSYS_NFTABLES, message, AF_UNSPEC)
}

/// Asks for the elements of a set; names end in a zero.
pub(super) fn elements_of(family: u8, table: &[u8], name: &[u8]) -> Request {
    Request::new(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETSETELEM, family)
        .with(decode::NFTA_SET_ELEM_LIST_TABLE, table)
        .with(decode::NFTA_SET_ELEM_LIST_SET, name)
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// No family of the kernel's has this bit.
const LEGACY: u8 = 0x80;

// include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h.
const AF_UNSPEC: u8 = 0;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_GETRULE: u16 = 7;
pub(super) const NFT_MSG_GETSET: u16 = 10;
const NFT_MSG_GETSETELEM: u16 = 13;
/// All that a ruleset consists of, but for the elements of sets.
pub(super) const DUMPS: [(&str, u16); 6] = [
    ("table", 1),
    ("chain", NFT_MSG_GETCHAIN),
    ("rule", NFT_MSG_GETRULE),
    ("set", NFT_MSG_GETSET),
    ("object", 19),
    ("flowtable", 23),
];

/// What is read at most: a cluster of ten thousand services has some hundred thousand rules.
const CHAINS: usize = 65_536;
const RULES: usize = 262_144;
const SETS: usize = 64;
const ELEMENT_MESSAGES: usize = 1024;

#[cfg(test)]
mod tests;
