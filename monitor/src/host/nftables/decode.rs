//! Messages of nftables: chains, rules, elements of sets. Total: what is not understood is kept by name.

use super::xt;
use super::{Action, ChainKey};
use crate::endpoint::Transport;
use crate::host::netfilter::{Attributes, attributes_of, family_of};

/// A chain; one that is not called from a hook has none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Chain {
    /// Number of the hook, `NF_INET_*`, and priority: lower ones go first.
    pub(super) hook: Option<(u32, i32)>,
    pub(super) rules: Vec<Rule>,
}

/// A rule as the kernel has it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Rule {
    pub(super) handle: u64,
    pub(super) expressions: Vec<Expression>,
    pub(super) comment: Option<String>,
}

/// An element of a set or map.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// Of a set of concatenated intervals the last key.
    pub(super) key_end: Option<Vec<u8>>,
    /// The key is the first one that is no more in the interval before it.
    pub(super) ends_interval: bool,
    /// It stands for all keys that are not there.
    pub(super) is_catchall: bool,
    pub(super) data: Option<Data>,
}

/// A constant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Data {
    Value(Vec<u8>),
    Verdict(Verdict),
}

/// What becomes of a packet, or where it goes on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// To the next rule.
    Continue,
}

/// How a register is compared: `NFT_CMP_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Where an address or a port of a translation comes from: numbers of registers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Target {
    pub(super) address: Option<u32>,
    pub(super) port: Option<u32>,
    pub(super) last_port: Option<u32>,
}

/// One step of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Expression {
    /// Bytes of the packet into a register; base is `NFT_PAYLOAD_*`.
    Payload {
        to: u32,
        base: u32,
        offset: u32,
        length: u32,
    },
    /// A fact about the packet into a register; key is `NFT_META_*`.
    Meta {
        to: u32,
        key: u32,
    },
    /// Something else into a register, by the name of the expression.
    Load {
        to: u32,
        name: String,
    },
    Bitwise {
        from: u32,
        to: u32,
        mask: Vec<u8>,
    },
    Compare {
        from: u32,
        how: Comparison,
        with: Vec<u8>,
    },
    Range {
        from: u32,
        is_outside: bool,
        first: Vec<u8>,
        last: Vec<u8>,
    },
    /// A key is in a set; with a register for what a map has for it.
    Lookup {
        from: u32,
        to: Option<u32>,
        set: String,
        is_inverted: bool,
    },
    Immediate {
        to: u32,
        data: Data,
    },
    Dnat(Target),
    Snat(Target),
    Masquerade,
    Redirect(Target),
    Tproxy(Target),
    /// A match of iptables on the ports of a transport: first and last of source and destination.
    XtPorts {
        transport: Transport,
        source: Ports,
        destination: Ports,
    },
    /// A target of iptables that sends the packet to somewhere else.
    XtAction {
        name: String,
        action: Action,
    },
    /// What counts, logs or marks, and decides nothing.
    Aside,
    /// Anything else, by name.
    Other(String),
}

/// A range of ports, or with `is_outside` all others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ports {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) is_outside: bool,
}

impl Ports {
    pub(super) const fn contains(self, port: u16) -> bool {
        (self.first <= port && port <= self.last) != self.is_outside
    }

    pub(super) const fn are_all(self) -> bool {
        self.first == 0 && self.last == u16::MAX && !self.is_outside
    }
}

/// A chain; `None` of one without a name.
pub(super) fn chain(payload: &[u8]) -> Option<(ChainKey, Chain)> {
    let attributes = attributes_of(payload);
    let key = (family_of(payload), attributes.text(1)?, attributes.text(3)?);
    let hook = attributes.inside(4);
    let hook = hook.number(1).map(|number| {
        let priority = hook.number(2).unwrap_or_default();
        (number, i32::from_ne_bytes(priority.to_ne_bytes()))
    });
    Some((key, Chain { hook, rules: Vec::new() }))
}

/// A rule, with the chain it stands in.
pub(super) fn rule(payload: &[u8]) -> Option<(ChainKey, Rule)> {
    let attributes = attributes_of(payload);
    let key = (family_of(payload), attributes.text(1)?, attributes.text(2)?);
    let expressions = attributes.inside(4).iter().take(EXPRESSIONS);
    let expressions = expressions.map(|(_, expression)| self::expression(Attributes(expression)));
    let comment = attributes.get(7).and_then(comment);
    let handle = attributes.long(3).unwrap_or_default();
    Some((key, Rule { handle, expressions: expressions.collect(), comment }))
}

/// The comment in the user data of a rule: type 0, length, text.
fn comment(mut bytes: &[u8]) -> Option<String> {
    loop {
        let (&[kind, length], rest) = bytes.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(usize::from(length))?;
        if kind == 0 {
            let text = value.strip_suffix(b"\0").unwrap_or(value);
            return Some(crate::escape::text_from_bytes(text).into_owned());
        }
        bytes = rest;
    }
}

/// The elements in one message.
pub(super) fn elements(payload: &[u8]) -> Vec<Element> {
    let list = attributes_of(payload).inside(NFTA_SET_ELEM_LIST_ELEMENTS);
    list.iter().map(|(_, element)| self::element(Attributes(element))).collect()
}

fn element(attributes: Attributes<'_>) -> Element {
    let flags = attributes.number(3).unwrap_or_default();
    let value = |kind| attributes.inside(kind).get(NFTA_DATA_VALUE).map(<[u8]>::to_vec);
    Element {
        key: value(1).unwrap_or_default(),
        key_end: value(10),
        ends_interval: flags & NFT_SET_ELEM_INTERVAL_END != 0,
        is_catchall: flags & NFT_SET_ELEM_CATCHALL != 0,
        data: attributes.get(2).and_then(|data| self::data(Attributes(data))),
    }
}

fn data(attributes: Attributes<'_>) -> Option<Data> {
    if let Some(value) = attributes.get(NFTA_DATA_VALUE) {
        return Some(Data::Value(value.to_vec()));
    }
    let verdict = attributes.inside(NFTA_DATA_VERDICT);
    let code = i32::from_ne_bytes(verdict.number(1)?.to_ne_bytes());
    let chain = || verdict.text(2).unwrap_or_default();
    Some(Data::Verdict(match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        NFT_JUMP => Verdict::Jump(chain()),
        NFT_GOTO => Verdict::Goto(chain()),
        NFT_RETURN => Verdict::Return,
        _ => Verdict::Continue,
    }))
}

fn expression(attributes: Attributes<'_>) -> Expression {
    let name = attributes.text(1).unwrap_or_default();
    let data = attributes.inside(2);
    known_expression(&name, data).unwrap_or_else(|| match data.number(1) {
        // These have their destination in the first attribute.
        Some(to) if LOADS.contains(&&*name) => Expression::Load { to, name },
        _ => Expression::Other(name),
    })
}

/// `None`: not one of these, or not as it should be.
fn known_expression(name: &str, data: Attributes<'_>) -> Option<Expression> {
    let number = |kind| data.number(kind);
    let value = |kind| data.inside(kind).get(NFTA_DATA_VALUE).map(<[u8]>::to_vec);
    Some(match name {
        "payload" => Expression::Payload {
            to: number(1)?,
            base: number(2)?,
            offset: number(3)?,
            length: number(4)?,
        },
        "meta" if number(1).is_some() => Expression::Meta { to: number(1)?, key: number(2)? },
        // Without a destination they set something.
        "meta" | "ct" if number(1).is_none() => Expression::Aside,
        "bitwise" => Expression::Bitwise { from: number(1)?, to: number(2)?, mask: value(4)? },
        // Only turns bytes around, on hosts that need it.
        "byteorder" => Expression::Load { to: number(2)?, name: name.to_owned() },
        "cmp" => {
            Expression::Compare { from: number(1)?, how: comparison(number(2)?)?, with: value(3)? }
        }
        "range" => Expression::Range {
            from: number(1)?,
            is_outside: number(2)? != 0,
            first: value(3)?,
            last: value(4)?,
        },
        "lookup" => Expression::Lookup {
            set: data.text(1)?,
            from: number(2)?,
            to: number(3),
            is_inverted: number(5).unwrap_or_default() & 1 != 0,
        },
        "immediate" => Expression::Immediate { to: number(1)?, data: self::data(data.inside(2))? },
        "nat" => {
            let target = Target { address: number(3), port: number(5), last_port: number(6) };
            if number(1)? == NFT_NAT_DNAT {
                Expression::Dnat(target)
            } else {
                Expression::Snat(target)
            }
        }
        "masq" => Expression::Masquerade,
        "redir" => {
            Expression::Redirect(Target { address: None, port: number(1), last_port: number(2) })
        }
        "tproxy" => {
            Expression::Tproxy(Target { address: number(2), port: number(3), last_port: None })
        }
        "match" => xt::ports(&data.text(1)?, data.get(3)?)?,
        "target" => xt::action(&data.text(1)?, number(2)?, data.get(3)?)?,
        "counter" | "log" | "notrack" => Expression::Aside,
        _ => return None,
    })
}

const fn comparison(number: u32) -> Option<Comparison> {
    Some(match number {
        0 => Comparison::Equal,
        1 => Comparison::NotEqual,
        2 => Comparison::Less,
        3 => Comparison::LessOrEqual,
        4 => Comparison::Greater,
        5 => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

/// Expressions that load something into the register of their first attribute.
const LOADS: [&str; 9] = ["ct", "fib", "socket", "rt", "exthdr", "osf", "tunnel", "xfrm", "numgen"];

// include/uapi/linux/netfilter/nf_tables.h. Numbers of attributes stand where they are read.
pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
const NFT_SET_ELEM_CATCHALL: u32 = 2;
const NFT_NAT_DNAT: u32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;

/// Steps of a rule that are looked at: `NFT_RULE_MAXEXPRS`.
const EXPRESSIONS: usize = 128;
