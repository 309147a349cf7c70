//! A rule in the words of nft(8).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::decode::{Comparison, Data, Element, Expression, Target, Verdict};
use super::registers::{Content, Field, Registers, VERDICT};
use super::{Action, ChainKey, Rule, Ruleset, decode};
use crate::endpoint::Transport;
use crate::escape;

/// A rule as a person would look for it.
pub(super) fn rule(
    (family, table, chain): &ChainKey,
    rule: &decode::Rule,
    in_it: &Ruleset,
) -> Rule {
    let mut words = Words {
        registers: Registers::default(),
        transport: None,
        is_said: true,
        phrases: Vec::new(),
        lower: None,
    };
    for expression in &rule.expressions {
        let set = |name: &String| {
            in_it.sets.get(&(*family, table.clone(), name.clone())).map(Vec::as_slice)
        };
        words.say(expression, set);
    }
    words.say_transport();
    if let Some(comment) = &rule.comment {
        words.phrases.push(format!("comment \"{comment}\""));
    }
    Rule {
        family: family_name(*family).to_owned(),
        table: table.clone(),
        chain: chain.clone(),
        handle: rule.handle,
        text: words.phrases.join(" "),
    }
}

/// Of an `NFPROTO_*`, as nft(8) has it, or of the rules of iptables-legacy.
pub(super) const fn family_name(family: u8) -> &'static str {
    match family {
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        0x82 => "iptables-legacy",
        0x8a => "ip6tables-legacy",
        _ => "inet",
    }
}

/// The words so far.
struct Words {
    registers: Registers,
    /// The transport that was asked for.
    transport: Option<String>,
    /// A port of it was asked for after that, which says it.
    is_said: bool,
    phrases: Vec<String>,
    /// The last phrase said that this field is not below a value: an interval may follow.
    lower: Option<(String, String)>,
}

impl Words {
    fn say<'s>(&mut self, expression: &Expression, set: impl Fn(&String) -> Option<&'s [Element]>) {
        let lower = self.lower.take();
        match expression {
            Expression::Compare { from, how, with } => self.compare(*from, *how, with, lower),
            Expression::Range { from, is_outside, first, last } => {
                let Some(content) = self.registers.get(*from).cloned() else { return };
                let name = self.name(&content);
                let not = if *is_outside { "!= " } else { "" };
                let (first, last) = (value(&content, first), value(&content, last));
                self.phrases.push(format!("{name} {not}{first}-{last}"));
            }
            Expression::Lookup { from, to, set: name, is_inverted } => {
                let key = self.key(*from);
                let not = if *is_inverted { "!= " } else { "" };
                match to {
                    None => {
                        let elements = set(name).and_then(|elements| ports(elements, &key));
                        let elements = elements.unwrap_or_else(|| format!("@{name}"));
                        self.phrases.push(format!("{key} {not}{elements}"));
                    }
                    Some(VERDICT) => self.phrases.push(format!("{key} vmap @{name}")),
                    Some(to) => {
                        let content = Content::Mapped { key, map: name.clone() };
                        self.registers.set(*to, content);
                    }
                }
            }
            Expression::Immediate { to: VERDICT, data: Data::Verdict(verdict) } => {
                self.phrases.push(match verdict {
                    Verdict::Accept => "accept".to_owned(),
                    Verdict::Drop => "drop".to_owned(),
                    Verdict::Return => "return".to_owned(),
                    Verdict::Continue => "continue".to_owned(),
                    Verdict::Jump(chain) => format!("jump {chain}"),
                    Verdict::Goto(chain) => format!("goto {chain}"),
                });
            }
            Expression::Dnat(target) => self.send("dnat", target),
            Expression::Snat(target) => self.send("snat", target),
            Expression::Redirect(target) => self.send("redirect", target),
            Expression::Tproxy(target) => self.send("tproxy", target),
            Expression::Masquerade => self.phrases.push("masquerade".to_owned()),
            Expression::XtPorts { transport, source, destination } => {
                self.is_said = true;
                for (end, ports) in [("sport", source), ("dport", destination)] {
                    if !ports.are_all() {
                        let not = if ports.is_outside { "!= " } else { "" };
                        let ports = range(ports.first, ports.last);
                        self.phrases.push(format!("{} {end} {not}{ports}", transport.name()));
                    }
                }
            }
            Expression::XtAction { name, action } => self.phrases.push(xt_action(name, *action)),
            Expression::Other(name) => self.phrases.push(format!("[{name}]")),
            Expression::Aside
            | Expression::Payload { .. }
            | Expression::Meta { .. }
            | Expression::Load { .. }
            | Expression::Bitwise { .. }
            | Expression::Immediate { .. } => {}
        }
        self.registers.apply(expression);
    }

    fn compare(
        &mut self,
        from: u32,
        how: Comparison,
        with: &[u8],
        lower: Option<(String, String)>,
    ) {
        let Some(content) = self.registers.get(from).cloned() else { return };
        if content == Content::Field(Field::Transport) && how == Comparison::Equal {
            self.say_transport();
            (self.transport, self.is_said) = (Some(value(&content, with)), false);
            return;
        }
        let name = self.name(&content);
        if matches!(content, Content::Field(Field::Other(_)) | Content::Masked(Field::Other(_), _))
        {
            self.phrases.push(name);
            return;
        }
        let with = value(&content, with);
        let operator = match how {
            Comparison::Equal => "",
            Comparison::NotEqual => "!= ",
            Comparison::Less => "< ",
            Comparison::LessOrEqual => "<= ",
            Comparison::Greater => "> ",
            Comparison::GreaterOrEqual => ">= ",
        };
        if how == Comparison::LessOrEqual
            && let Some((_, first)) = lower.filter(|(of, _)| *of == name)
        {
            self.phrases.pop();
            self.phrases.push(format!("{name} {first}-{with}"));
            return;
        }
        self.phrases.push(format!("{name} {operator}{with}"));
        self.lower = (how == Comparison::GreaterOrEqual).then_some((name, with));
    }

    /// What nft calls it.
    fn name(&mut self, content: &Content) -> String {
        let field = match content {
            Content::Field(field) | Content::Masked(field, _) => field,
            Content::Constant(_) | Content::Mapped { .. } => return "[map]".to_owned(),
        };
        match field {
            Field::Transport => "meta l4proto".to_owned(),
            Field::Port { is_source } => {
                self.is_said = true;
                let transport = self.transport.as_deref().unwrap_or("th");
                format!("{transport} {}", if *is_source { "sport" } else { "dport" })
            }
            Field::Address { is_source, is_ipv6 } => format!(
                "{} {}",
                if *is_ipv6 { "ip6" } else { "ip" },
                if *is_source { "saddr" } else { "daddr" }
            ),
            Field::Interface { is_outgoing: false } => "iifname".to_owned(),
            Field::Interface { is_outgoing: true } => "oifname".to_owned(),
            Field::Mark => "meta mark".to_owned(),
            Field::Other(name) => format!("[{name}]"),
        }
    }

    /// All that stands from this register on: `ip daddr . tcp dport`.
    fn key(&mut self, from: u32) -> String {
        let parts: Vec<Content> =
            self.registers.key(from, KEY_BYTES).into_iter().map(|(_, part)| part.clone()).collect();
        let names: Vec<String> = parts.iter().map(|part| self.name(part)).collect();
        names.join(" . ")
    }

    /// The transport, if nothing that came after it says which one it is.
    fn say_transport(&mut self) {
        if let Some(transport) = self.transport.as_ref().filter(|_| !self.is_said) {
            self.phrases.push(format!("meta l4proto {transport}"));
        }
        self.is_said = true;
    }

    fn send(&mut self, what: &str, target: &Target) {
        self.say_transport();
        let register = target.address.or(target.port);
        if let Some(Content::Mapped { key, map }) =
            register.and_then(|register| self.registers.get(register))
        {
            self.phrases.push(format!("{what} to {key} map @{map}"));
            return;
        }
        let port = |register: Option<u32>| {
            let value = self.registers.constant(register)?.first_chunk()?;
            Some(u16::from_be_bytes(*value))
        };
        let ports = port(target.port)
            .map(|first| format!(":{}", range(first, port(target.last_port).unwrap_or(first))));
        let ip = self.registers.constant(target.address).and_then(address);
        let place = match (ip, ports) {
            (None, None) => String::new(),
            (None, Some(ports)) => format!(" to {ports}"),
            (Some(ip), None) => format!(" to {ip}"),
            (Some(IpAddr::V4(ip)), Some(ports)) => format!(" to {ip}{ports}"),
            (Some(IpAddr::V6(ip)), Some(ports)) => format!(" to [{ip}]{ports}"),
        };
        self.phrases.push(format!("{what}{place}"));
    }
}

/// An address of four or sixteen bytes; what comes behind the four of IPv4 may be a port.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 | 8 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 | 20 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// A constant that something is compared with.
fn value(content: &Content, bytes: &[u8]) -> String {
    let (field, mask) = match content {
        Content::Field(field) => (field, None),
        Content::Masked(field, mask) => (field, Some(mask)),
        Content::Constant(_) | Content::Mapped { .. } => return hexadecimal(bytes),
    };
    match field {
        Field::Port { .. } => bytes
            .first_chunk()
            .map_or_else(|| hexadecimal(bytes), |port| u16::from_be_bytes(*port).to_string()),
        Field::Transport => match bytes.first() {
            Some(&number) => Transport::from_iana_number(number)
                .map_or_else(|| number.to_string(), |transport| transport.name().to_owned()),
            None => hexadecimal(bytes),
        },
        Field::Address { is_ipv6, .. } => prefix(*is_ipv6, bytes, mask.map(Vec::as_slice)),
        Field::Interface { .. } => {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            let name = escape::text_from_bytes(bytes.get(..end).unwrap_or_default());
            // `eth*` is compared without a final zero.
            let star = if end == bytes.len() && end < INTERFACE_BYTES { "*" } else { "" };
            format!("\"{name}{star}\"")
        }
        Field::Mark | Field::Other(_) => hexadecimal(bytes),
    }
}

/// `10.0.0.0/24`: the bytes that are compared, or the bits of the mask.
fn prefix(is_ipv6: bool, bytes: &[u8], mask: Option<&[u8]>) -> String {
    let width = if is_ipv6 { 16 } else { 4 };
    let mut padded = bytes.to_vec();
    padded.resize(width, 0);
    let Some(ip) = address(&padded) else { return hexadecimal(bytes) };
    let bits = match mask {
        Some(mask) => mask.iter().map(|byte| byte.leading_ones()).sum(),
        None => u32::try_from(bytes.len().min(width)).unwrap_or_default().saturating_mul(8),
    };
    if u32::try_from(width.saturating_mul(8)) == Ok(bits) {
        ip.to_string()
    } else {
        format!("{ip}/{bits}")
    }
}

/// The elements of a set of ports that has only a few: `{ 53, 3516 }`.
fn ports(elements: &[Element], key: &str) -> Option<String> {
    let is_port = key.ends_with("dport") && !key.contains(" . ");
    let are_few = elements.len() <= SHOWN && elements.iter().all(|it| !it.ends_interval);
    let port = |element: &Element| {
        (element.key.len() == 2).then_some(())?;
        element.key.first_chunk().map(|port| u16::from_be_bytes(*port))
    };
    if !is_port || !are_few {
        return None;
    }
    let mut ports: Vec<u16> = elements.iter().map(port).collect::<Option<_>>()?;
    ports.sort_unstable();
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    Some(format!("{{ {} }}", ports.join(", ")))
}

fn xt_action(name: &str, action: Action) -> String {
    let place = |ip: Option<IpAddr>, port: Option<u16>| match (ip, port) {
        (Some(ip), Some(port)) => {
            Cow::Owned(format!(" to {}", crate::endpoint::Endpoint::new(ip, port)))
        }
        (Some(ip), None) => Cow::Owned(format!(" to {ip}")),
        (None, Some(port)) => Cow::Owned(format!(" to :{port}")),
        (None, None) => Cow::Borrowed(""),
    };
    match action {
        Action::Redirect { ports: Some((first, last)) } => {
            format!("xt {name} to :{}", range(first, last))
        }
        Action::Redirect { ports: None } => format!("xt {name}"),
        Action::Dnat { ip, port } | Action::Tproxy { ip, port } => {
            format!("xt {name}{}", place(ip, port))
        }
    }
}

fn range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn hexadecimal(bytes: &[u8]) -> String {
    format!("0x{}", escape::hexadecimal(bytes))
}

/// `IFNAMSIZ`.
const INTERFACE_BYTES: usize = 16;
/// All registers.
const KEY_BYTES: usize = 64;
/// Elements of a set that are told one by one.
const SHOWN: usize = 8;
