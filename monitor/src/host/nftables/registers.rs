//! What is in the registers while a rule is evaluated: not values, but where they come from.

use std::collections::{BTreeMap, BTreeSet};

use super::decode::{Data, Expression, Rule};

/// What a register holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// A part of the packet, or something known of it.
    Field(Field),
    /// Some bits of that.
    Masked(Field, Vec<u8>),
    /// A constant of the rule.
    Constant(Vec<u8>),
    /// What a map has for a key.
    Mapped { key: String, map: String },
}

/// A part of a packet, or something known of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Field {
    /// The number of the transport protocol.
    Transport,
    /// A port.
    Port { is_source: bool },
    /// An address, or its first bytes.
    Address { is_source: bool, is_ipv6: bool },
    /// The name of an interface.
    Interface { is_outgoing: bool },
    /// The mark.
    Mark,
    /// Something else, by the name of the expression.
    Other(String),
}

/// The registers, by the position of their first word.
#[derive(Clone, Debug, Default)]
pub(super) struct Registers(BTreeMap<u32, Content>);

impl Registers {
    /// Takes in an expression that loads or changes a register; others leave everything as it is.
    pub(super) fn apply(&mut self, expression: &Expression) {
        match expression {
            Expression::Payload { to, base, offset, length } => {
                self.set(*to, Content::Field(payload(*base, *offset, *length)));
            }
            Expression::Meta { to, key } => self.set(*to, Content::Field(meta(*key))),
            Expression::Load { to, name } => {
                self.set(*to, Content::Field(Field::Other(name.clone())));
            }
            Expression::Bitwise { from, to, mask } => {
                let content = match self.get(*from) {
                    Some(Content::Field(field)) => Content::Masked(field.clone(), mask.clone()),
                    _ => Content::Field(Field::Other("bitwise".to_owned())),
                };
                self.set(*to, content);
            }
            Expression::Immediate { to, data: Data::Value(value) } => {
                self.set(*to, Content::Constant(value.clone()));
            }
            _ => {}
        }
    }

    /// Puts something into a register.
    pub(super) fn set(&mut self, register: u32, content: Content) {
        if let Some(word) = word(register) {
            self.0.insert(word, content);
        }
    }

    /// What is in a register.
    pub(super) fn get(&self, register: u32) -> Option<&Content> {
        self.0.get(&word(register)?)
    }

    /// What stands from this register on, and at which byte of a key of so many bytes.
    pub(super) fn key(&self, register: u32, length: usize) -> Vec<(usize, &Content)> {
        let Some(first) = word(register) else { return Vec::new() };
        let words = u32::try_from(length.div_ceil(WORD)).unwrap_or(u32::MAX);
        let parts = self.0.range(first..first.saturating_add(words.max(1)));
        parts
            .map(|(word, content)| {
                let offset = usize::try_from(word.saturating_sub(first)).unwrap_or(usize::MAX);
                (offset.saturating_mul(WORD), content)
            })
            .collect()
    }

    /// A constant in a register.
    pub(super) fn constant(&self, register: Option<u32>) -> Option<&[u8]> {
        match self.get(register?)? {
            Content::Constant(value) => Some(value),
            _ => None,
        }
    }
}

/// The sets in which a rule looks up ports, and the maps that tell where to go on.
pub(super) fn sets_of_ports(rule: &Rule) -> BTreeSet<String> {
    let mut registers = Registers::default();
    let mut sets = BTreeSet::new();
    for expression in &rule.expressions {
        if let Expression::Lookup { from, to, set, .. } = expression {
            let port = Content::Field(Field::Port { is_source: false });
            let key = registers.key(*from, KEY_BYTES);
            if *to == Some(VERDICT) || key.iter().any(|(_, content)| **content == port) {
                sets.insert(set.clone());
            }
        }
        registers.apply(expression);
    }
    sets
}

/// The position of a register's first word: four registers of 16 bytes, or sixteen of 4 in the same place.
const fn word(register: u32) -> Option<u32> {
    match register {
        1..=4 => Some((register - 1) * 4),
        8..=23 => Some(register - 8),
        _ => None,
    }
}

/// `NFT_PAYLOAD_*`; offsets are those of the headers.
fn payload(base: u32, offset: u32, length: u32) -> Field {
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let address = |is_source, is_ipv6| Field::Address { is_source, is_ipv6 };
    match (base, offset, length) {
        (TRANSPORT, 0, 2) => Field::Port { is_source: true },
        (TRANSPORT, 2, 2) => Field::Port { is_source: false },
        (NETWORK, 9 | 6, 1) => Field::Transport,
        (NETWORK, 12, 1..=4) => address(true, false),
        (NETWORK, 16, 1..=4) => address(false, false),
        (NETWORK, 8, 1..=16) => address(true, true),
        (NETWORK, 24, 1..=16) => address(false, true),
        _ => Field::Other("payload".to_owned()),
    }
}

/// `NFT_META_*`.
fn meta(key: u32) -> Field {
    match key {
        3 => Field::Mark,
        6 => Field::Interface { is_outgoing: false },
        7 => Field::Interface { is_outgoing: true },
        16 => Field::Transport,
        _ => Field::Other("meta".to_owned()),
    }
}

/// `NFT_REG_VERDICT`.
pub(super) const VERDICT: u32 = 0;
/// Bytes of a word of a register.
const WORD: usize = 4;
/// The longest key: all registers.
const KEY_BYTES: usize = 64;
