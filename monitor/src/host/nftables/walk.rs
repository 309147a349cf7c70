//! The way of a packet through a ruleset, as far as transport and port decide it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::decode::{Comparison, Data, Element, Expression, Rule, Target, Verdict};
use super::registers::{Content, Field, Registers, VERDICT};
use super::{Action, ChainKey, LEGACY, Redirection, Ruleset, text};
use crate::endpoint::{Family, Transport};

/// What is known of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// TCP or UDP.
    pub transport: Transport,
    /// Its destination port.
    pub port: u16,
    /// Its family; `None`: either.
    pub family: Option<Family>,
}

/// The rules that send such a packet to somewhere else.
pub(super) fn redirections(ruleset: &Ruleset, packet: Packet) -> Vec<Redirection> {
    let mut walk = Walk { ruleset, packet, found: Vec::new(), budget: RULES };
    let mut hooks: Vec<(u32, i32, &ChainKey)> = ruleset
        .chains
        .iter()
        .filter_map(|(key, chain)| chain.hook.map(|(hook, priority)| (hook, priority, key)))
        .filter(|(hook, _, key)| [PREROUTING, OUTPUT].contains(hook) && walk.comes_by(key))
        .collect();
    hooks.sort_unstable();
    for (hook, _, key) in hooks {
        let way = Way { is_own: hook == OUTPUT, ..Way::default() };
        walk.chain(key, way, &mut BTreeSet::new());
    }
    walk.found
}

/// How a packet has come to a rule.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    names_port: bool,
    is_conditional: bool,
    is_own: bool,
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    packet: Packet,
    found: Vec<Redirection>,
    budget: usize,
}

/// Of a step of a rule.
enum Outcome {
    /// It is so.
    Yes,
    /// It is not.
    No,
    /// That depends on more than the port.
    Perhaps,
}

impl<'a> Walk<'a> {
    fn comes_by(&self, (family, ..): &ChainKey) -> bool {
        match *family & !LEGACY {
            INET => true,
            IPV4 => self.packet.family != Some(Family::Ipv6),
            IPV6 => self.packet.family != Some(Family::Ipv4),
            _ => false,
        }
    }

    /// Goes through a chain; true if no packet such as this one leaves it at its end. `above` are the chains
    /// it was called from.
    fn chain(&mut self, key: &ChainKey, way: Way, above: &mut BTreeSet<ChainKey>) -> bool {
        let Some(chain) = self.ruleset.chains.get(key) else { return false };
        if above.len() >= DEPTH || !above.insert(key.clone()) {
            return false;
        }
        let mut has_ended = false;
        for rule in &chain.rules {
            let Some(budget) = self.budget.checked_sub(1) else { break };
            self.budget = budget;
            if self.rule(key, rule, way, above) {
                has_ended = true;
                break;
            }
        }
        above.remove(key);
        has_ended
    }

    /// Evaluates a rule; true if no packet such as this one gets to the next rule.
    fn rule(
        &mut self,
        key: &ChainKey,
        rule: &Rule,
        mut way: Way,
        above: &mut BTreeSet<ChainKey>,
    ) -> bool {
        let came_conditionally = std::mem::take(&mut way.is_conditional);
        let mut registers = Registers::default();
        let mut ends = false;
        for expression in &rule.expressions {
            let outcome = match expression {
                Expression::Lookup { from, to, set, is_inverted } => {
                    let elements = self.elements(key, set);
                    let (outcome, matching) =
                        self.look_up(&registers, *from, elements, &mut way.names_port);
                    let verdicts = matching.iter().filter_map(|element| element.data.as_ref());
                    if *to == Some(VERDICT) {
                        let is_conditional = came_conditionally || !matches!(outcome, Outcome::Yes);
                        for data in verdicts {
                            let Data::Verdict(verdict) = data else { continue };
                            let on = Way { is_conditional, ..way };
                            ends |= self.go_on(key, verdict, on, above)
                                && matches!(outcome, Outcome::Yes);
                        }
                    } else if let Some(to) = *to {
                        registers.set(to, mapped(&matching));
                    }
                    if *is_inverted { outcome.inverted() } else { outcome }
                }
                Expression::Immediate { to: VERDICT, data: Data::Verdict(verdict) } => {
                    let is_conditional = came_conditionally || way.is_conditional;
                    let on = Way { is_conditional, ..way };
                    ends |= self.go_on(key, verdict, on, above);
                    Outcome::Yes
                }
                other => self.step(other, &registers, &mut way.names_port),
            };
            match outcome {
                Outcome::No => return false,
                Outcome::Perhaps => way.is_conditional = true,
                Outcome::Yes => {}
            }
            registers.apply(expression);
            if let Some(action) = action(expression, &registers) {
                let is_conditional = came_conditionally || way.is_conditional;
                self.find(key, rule, action, Way { is_conditional, ..way });
                ends |= !matches!(action, Action::Tproxy { .. });
            }
        }
        ends && !way.is_conditional
    }

    /// Follows a verdict; true if the packet does not come back.
    fn go_on(
        &mut self,
        (family, table, _): &ChainKey,
        verdict: &Verdict,
        way: Way,
        above: &mut BTreeSet<ChainKey>,
    ) -> bool {
        let chain = |name: &String| (*family, table.clone(), name.clone());
        match verdict {
            Verdict::Accept | Verdict::Drop | Verdict::Return => true,
            Verdict::Continue => false,
            Verdict::Jump(name) => self.chain(&chain(name), way, above),
            Verdict::Goto(name) => {
                self.chain(&chain(name), way, above);
                true
            }
        }
    }

    fn find(&mut self, key: &ChainKey, rule: &Rule, action: Action, way: Way) {
        let redirection = Redirection {
            rule: text::rule(key, rule, self.ruleset),
            action,
            names_port: way.names_port,
            is_conditional: way.is_conditional,
            is_for_own_packets: way.is_own,
        };
        if self.found.len() < FOUND && !self.found.contains(&redirection) {
            self.found.push(redirection);
        }
    }

    fn elements(&self, (family, table, _): &ChainKey, set: &str) -> Option<&'a [Element]> {
        let key = (*family, table.clone(), set.to_owned());
        self.ruleset.sets.get(&key).map(Vec::as_slice)
    }

    fn step(
        &self,
        expression: &Expression,
        registers: &Registers,
        names_port: &mut bool,
    ) -> Outcome {
        match expression {
            Expression::Compare { from, how, with } => {
                let content = registers.get(*from);
                *names_port |= content == Some(&PORT) && *how != Comparison::NotEqual;
                self.decide(content, |value| compare(value, *how, with))
            }
            Expression::Range { from, is_outside, first, last } => {
                let content = registers.get(*from);
                *names_port |= content == Some(&PORT) && !is_outside;
                self.decide(content, |value| {
                    let is_inside = compare(value, Comparison::GreaterOrEqual, first)
                        && compare(value, Comparison::LessOrEqual, last);
                    is_inside != *is_outside
                })
            }
            Expression::XtPorts { transport, source, destination } => {
                if *transport != self.packet.transport || !destination.contains(self.packet.port) {
                    return Outcome::No;
                }
                *names_port |= !destination.are_all() && !destination.is_outside;
                if source.are_all() { Outcome::Yes } else { Outcome::Perhaps }
            }
            Expression::Other(name) if name != "target" => Outcome::Perhaps,
            _ => Outcome::Yes,
        }
    }

    /// Is something so of what a register holds?
    fn decide(&self, content: Option<&Content>, is_so: impl Fn(&[u8]) -> bool) -> Outcome {
        match self.value(content) {
            Some(value) if is_so(&value) => Outcome::Yes,
            Some(_) => Outcome::No,
            None => Outcome::Perhaps,
        }
    }

    /// The value of what a register holds, if the packet decides it.
    fn value(&self, content: Option<&Content>) -> Option<Vec<u8>> {
        match content? {
            Content::Field(Field::Port { is_source: false }) => {
                Some(self.packet.port.to_be_bytes().to_vec())
            }
            Content::Field(Field::Transport) => Some(vec![self.packet.transport.iana_number()]),
            _ => None,
        }
    }

    /// Looks a key up in a set, and gives the elements that may be meant.
    fn look_up<'s>(
        &self,
        registers: &Registers,
        from: u32,
        elements: Option<&'s [Element]>,
        names_port: &mut bool,
    ) -> (Outcome, Vec<&'s Element>) {
        let Some(elements) = elements else { return (Outcome::Perhaps, Vec::new()) };
        let length = elements.iter().map(|element| element.key.len()).max().unwrap_or_default();
        let parts = registers.key(from, length);
        let known: Vec<(usize, Vec<u8>)> = parts
            .iter()
            .filter_map(|(offset, content)| Some((*offset, self.value(Some(content))?)))
            .collect();
        let is_decided = known.len() == parts.len() && !parts.is_empty();
        let mut matching = matching(elements, &known);
        if matching.is_empty() {
            matching = elements.iter().filter(|element| element.is_catchall).collect();
        } else {
            *names_port |= parts.iter().any(|(_, content)| **content == PORT);
        }
        let outcome = match (matching.is_empty(), is_decided) {
            (true, _) => Outcome::No,
            (false, true) => Outcome::Yes,
            (false, false) => Outcome::Perhaps,
        };
        (outcome, matching)
    }
}

impl Outcome {
    const fn inverted(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Perhaps => Self::Perhaps,
        }
    }
}

/// The elements whose keys have these bytes at these places.
fn matching<'s>(elements: &'s [Element], known: &[(usize, Vec<u8>)]) -> Vec<&'s Element> {
    let plain = elements.iter().filter(|element| !element.is_catchall);
    if let (Some((0, value)), true) =
        (known.first(), elements.iter().any(|element| element.ends_interval))
    {
        // Intervals of a single value: each begins an interval or the gap behind one.
        let begun = plain.filter(|element| element.key.as_slice() <= value.as_slice());
        let last = begun.max_by(|one, other| {
            one.key.cmp(&other.key).then(other.ends_interval.cmp(&one.ends_interval))
        });
        return last.filter(|element| !element.ends_interval).into_iter().collect();
    }
    let part = |key: &[u8], offset: usize, length: usize| {
        key.get(offset..offset.checked_add(length)?).map(<[u8]>::to_vec)
    };
    let fits = |element: &&Element| {
        known.iter().all(|(offset, value)| {
            let first = part(&element.key, *offset, value.len());
            let last = element.key_end.as_ref();
            let last = last.map_or_else(|| first.clone(), |it| part(it, *offset, value.len()));
            first.is_some_and(|first| first <= *value) && last.is_some_and(|last| *value <= last)
        })
    };
    plain.filter(fits).collect()
}

/// What a map has for the key, if only one element can be meant.
fn mapped(matching: &[&Element]) -> Content {
    match matching {
        [Element { data: Some(Data::Value(value)), .. }] => Content::Constant(value.clone()),
        _ => Content::Field(Field::Other("map".to_owned())),
    }
}

fn compare(value: &[u8], how: Comparison, with: &[u8]) -> bool {
    let order = value.cmp(with);
    match how {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    }
}

/// Where an expression sends the packet.
fn action(expression: &Expression, registers: &Registers) -> Option<Action> {
    Some(match expression {
        Expression::Redirect(target) => Action::Redirect {
            ports: port(registers, target.port)
                .map(|first| (first, port(registers, target.last_port).unwrap_or(first))),
        },
        Expression::Dnat(target) => {
            let (ip, port) = place(registers, target);
            Action::Dnat { ip, port }
        }
        Expression::Tproxy(target) => {
            let (ip, port) = place(registers, target);
            Action::Tproxy { ip, port }
        }
        Expression::XtAction { action, .. } => *action,
        _ => return None,
    })
}

/// The address and port of a translation. Those that come from one element of a map stand one after the
/// other.
fn place(registers: &Registers, target: &Target) -> (Option<IpAddr>, Option<u16>) {
    let address = registers.constant(target.address);
    let behind = match (address, target.port) {
        (Some([_, _, _, _, port @ ..]), Some(_)) if port.len() == 4 => port.first_chunk(),
        (Some(both), Some(_)) => both.get(16..).and_then(<[u8]>::first_chunk),
        _ => None,
    };
    let port = port(registers, target.port).or_else(|| behind.copied().map(u16::from_be_bytes));
    (address.and_then(text::address), port)
}

fn port(registers: &Registers, register: Option<u32>) -> Option<u16> {
    registers.constant(register)?.first_chunk().copied().map(u16::from_be_bytes)
}

const PORT: Content = Content::Field(Field::Port { is_source: false });

/// `NFPROTO_*` and `NF_INET_*` of include/uapi/linux/netfilter.h.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;

/// Chains that call each other: `NFT_JUMP_STACK_SIZE`.
const DEPTH: usize = 16;
/// Rules looked at for one packet, however often chains call each other.
const RULES: usize = 1_000_000;
/// Rules found for one packet.
const FOUND: usize = 32;
