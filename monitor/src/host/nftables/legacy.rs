//! The tables of iptables as they were before nftables, which `iptables-legacy` still makes: read as it reads
//! them, and made into chains and rules like the others.
//!
//! Only tables that are there are asked for: asking for another would make it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::decode::{Chain, Comparison, Data, Expression, Rule, Verdict};
use super::registers::VERDICT;
use super::{LEGACY, Ruleset, xt};
use crate::escape;
use crate::sys;

/// Adds the rules of the calling thread's network namespace, which takes `CAP_NET_ADMIN` there.
pub(super) fn add(ruleset: &mut Ruleset) {
    for layout in [&IPV4, &IPV6] {
        let listed = std::fs::read_to_string(layout.list).unwrap_or_default();
        for (table, priority) in TABLES {
            if !listed.lines().any(|line| line == table) {
                continue;
            }
            match layout.read(table) {
                Ok((info, entries)) => {
                    let key = |name| (layout.family | LEGACY, table.to_owned(), name);
                    let chains = layout.chains(&info, &entries, priority);
                    ruleset
                        .chains
                        .extend(chains.into_iter().map(|(name, chain)| (key(name), chain)));
                }
                Err(error) => {
                    let tool = layout.tool;
                    ruleset.incomplete = Some(format!("table {table} of {tool}: {error}"));
                }
            }
        }
    }
}

/// Where an entry of a family has what.
#[derive(Debug)]
struct Layout {
    family: u8,
    tool: &'static str,
    list: &'static str,
    sockets: AddressFamily,
    /// Of `getsockopt(2)`.
    level: libc::c_int,
    /// Bytes of an address.
    address: usize,
    /// `struct ipt_ip` or `struct ip6t_ip6`: where the names of interfaces begin, the protocol, flags.
    interfaces: usize,
    protocol: usize,
    flags: usize,
    /// The flag that a jump does not come back.
    goto: u8,
    /// Where `target_offset` is, and how long an entry is without matches and target.
    target: usize,
    entry: usize,
}

const IPV4: Layout = Layout {
    family: 2,
    tool: "iptables-legacy",
    list: "/proc/thread-self/net/ip_tables_names",
    sockets: AddressFamily::INET,
    level: libc::IPPROTO_IP,
    address: 4,
    interfaces: 16,
    protocol: 80,
    flags: 82,
    goto: 2,
    target: 88,
    entry: 112,
};

const IPV6: Layout = Layout {
    family: 10,
    tool: "ip6tables-legacy",
    list: "/proc/thread-self/net/ip6_tables_names",
    sockets: AddressFamily::INET6,
    level: libc::IPPROTO_IPV6,
    address: 16,
    interfaces: 64,
    protocol: 128,
    flags: 131,
    goto: 4,
    target: 140,
    entry: 168,
};

/// `struct ipt_getinfo`, from behind the name on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Info {
    /// A bit for each hook.
    hooks: u32,
    /// Where the chain of each begins.
    begins: [u32; HOOKS.len()],
    /// Bytes of all entries.
    size: u32,
}

impl Info {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |place: usize| number(bytes, NAME.checked_add(place.checked_mul(4)?)?);
        let mut begins = [0; HOOKS.len()];
        for (begin, place) in begins.iter_mut().zip(1..) {
            *begin = word(place)?;
        }
        Some(Self { hooks: word(0)?, begins, size: word(12)? })
    }
}

impl Layout {
    /// The entries of a table; read again if it changes meanwhile.
    fn read(&self, table: &str) -> io::Result<(Info, Vec<u8>)> {
        let socket = socket_with(self.sockets, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let mut changed = None;
        for _ in 0..TRIES {
            let mut bytes = [0; INFO];
            self.ask(&socket, GET_INFO, table, &mut bytes)?;
            let info = Info::parse(&bytes).ok_or(io::ErrorKind::InvalidData)?;
            let size = usize::try_from(info.size).unwrap_or(usize::MAX);
            if size > MAX_BYTES {
                return Err(io::Error::other(format!("too long to be read: {size} bytes")));
            }
            let mut bytes = vec![0; ENTRIES.saturating_add(size)];
            if let Some(place) = bytes.get_mut(NAME..NAME.saturating_add(4)) {
                place.copy_from_slice(&info.size.to_ne_bytes());
            }
            match self.ask(&socket, GET_ENTRIES, table, &mut bytes) {
                Ok(()) => return Ok((info, bytes.split_off(ENTRIES))),
                Err(error) => changed = Some(error),
            }
        }
        Err(changed.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()))
    }

    fn ask(
        &self,
        socket: &OwnedFd,
        what: libc::c_int,
        table: &str,
        bytes: &mut [u8],
    ) -> io::Result<()> {
        for (to, from) in bytes.iter_mut().zip(table.bytes().take(NAME - 1)) {
            *to = from;
        }
        sys::socket_option(socket.as_fd(), self.level, what, bytes).map(drop)
    }

    /// The chains of a table by their names. What is not as it should be ends the list.
    fn chains(&self, info: &Info, entries: &[u8], priority: i32) -> BTreeMap<String, Chain> {
        let entries = self.split(entries);
        let mut begins: BTreeMap<u32, String> = BTreeMap::new();
        let mut chains: BTreeMap<String, Chain> = BTreeMap::new();
        for ((hook, name), begin) in (0_u32..).zip(HOOKS).zip(info.begins) {
            if info.hooks & 1 << hook != 0 {
                begins.insert(begin, name.to_owned());
                let chain = Chain { hook: Some((hook, priority)), rules: Vec::new() };
                chains.insert(name.to_owned(), chain);
            }
        }
        for entry in &entries {
            if let Some(name) = entry.chain_name() {
                begins.insert(entry.next, name);
            }
        }
        let mut chain = None;
        for entry in &entries {
            if let Some(name) = begins.get(&entry.place) {
                chain = Some(name);
            }
            // What begins a chain is none of its rules.
            if let Some(name) = chain
                && entry.chain_name().is_none()
            {
                let rules = &mut chains.entry(name.clone()).or_default().rules;
                let handle = u64::try_from(rules.len()).unwrap_or(u64::MAX).saturating_add(1);
                rules.push(Rule { handle, ..self.rule(entry, &begins) });
            }
        }
        chains
    }

    /// The entries one by one.
    fn split<'e>(&self, entries: &'e [u8]) -> Vec<Entry<'e>> {
        let mut found = Vec::new();
        let mut place = 0_usize;
        while found.len() < RULES {
            let Some(entry) = self.entry(entries, place) else { break };
            place = usize::try_from(entry.next).unwrap_or(usize::MAX);
            found.push(entry);
        }
        found
    }

    fn entry<'e>(&self, entries: &'e [u8], place: usize) -> Option<Entry<'e>> {
        let rest = entries.get(place..)?;
        let target = usize::from(short(rest, self.target)?);
        let length = usize::from(short(rest, self.target.checked_add(2)?)?);
        let whole = rest.get(..length)?;
        Some(Entry {
            place: u32::try_from(place).ok()?,
            next: u32::try_from(place.checked_add(length)?).ok()?,
            head: whole.get(..self.entry)?,
            matches: whole.get(self.entry..target)?,
            target: Extension::parse(whole.get(target..)?)?,
        })
    }

    fn rule(&self, entry: &Entry<'_>, begins: &BTreeMap<u32, String>) -> Rule {
        let mut rule = Rule::default();
        rule.expressions.extend(self.conditions(entry.head));
        let mut matches = entry.matches;
        while let Some(it) = Extension::parse(matches) {
            matches = matches.get(it.length..).unwrap_or_default();
            if it.name == "comment" {
                rule.comment = Some(name(it.data));
            } else {
                let known = xt::ports(&it.name, it.data);
                rule.expressions.push(known.unwrap_or(Expression::Other(it.name)));
            }
        }
        rule.expressions.extend(self.end(entry, begins));
        rule
    }

    /// What an entry asks for besides its matches.
    fn conditions(&self, head: &[u8]) -> Vec<Expression> {
        let byte = |place: usize| head.get(place).copied().unwrap_or_default();
        let inverted = byte(self.flags.saturating_add(1));
        let not = |flag: u8| if inverted & flag == 0 { "" } else { "not " };
        let mut conditions = Vec::new();
        for (number, what, flag) in [(0, "from", INV_SOURCE), (1, "to", INV_DESTINATION)] {
            let part = |number: usize| {
                let first = self.address.saturating_mul(number);
                head.get(first..first.saturating_add(self.address)).unwrap_or_default()
            };
            // Both addresses come before both masks.
            let bits: u32 = part(number + 2).iter().map(|byte| byte.count_ones()).sum();
            if bits > 0
                && let Some(address) = address(part(number))
            {
                let text = format!("{}{what} {address}/{bits}", not(flag));
                conditions.push(Expression::Other(text));
            }
        }
        for (place, what, flag) in
            [(self.interfaces, "in by", INV_IN), (self.interfaces + INTERFACE, "out by", INV_OUT)]
        {
            let interface = head.get(place..place.saturating_add(INTERFACE)).unwrap_or_default();
            if interface.first().is_some_and(|byte| *byte != 0) {
                let text = format!("{}{what} {}", not(flag), name(interface));
                conditions.push(Expression::Other(text));
            }
        }
        let protocol = short(head, self.protocol).unwrap_or_default();
        if let Ok(protocol) = u8::try_from(protocol)
            && protocol != 0
        {
            let how =
                if inverted & INV_PROTOCOL == 0 { Comparison::Equal } else { Comparison::NotEqual };
            conditions.push(Expression::Meta { to: REGISTER, key: L4PROTO });
            conditions.push(Expression::Compare { from: REGISTER, how, with: vec![protocol] });
        }
        conditions
    }

    /// What becomes of a packet in the end.
    fn end(&self, entry: &Entry<'_>, begins: &BTreeMap<u32, String>) -> Option<Expression> {
        let Extension { name, revision, data, .. } = &entry.target;
        if !name.is_empty() {
            let known = xt::action(name, (*revision).into(), data);
            return Some(known.unwrap_or_else(|| Expression::Other("target".to_owned())));
        }
        let verdict = i32::from_ne_bytes(number(data, 0)?.to_ne_bytes());
        let verdict = match verdict {
            -1 => Verdict::Drop,
            -2 => Verdict::Accept,
            -5 => Verdict::Return,
            ..0 => return None,
            place => {
                let place = u32::try_from(place).ok()?;
                // To the next rule, which a rule without a target does.
                let chain = begins.get(&place).filter(|_| place != entry.next)?.clone();
                let flags = entry.head.get(self.flags).copied().unwrap_or_default();
                if flags & self.goto == 0 { Verdict::Jump(chain) } else { Verdict::Goto(chain) }
            }
        };
        Some(Expression::Immediate { to: VERDICT, data: Data::Verdict(verdict) })
    }
}

/// `struct ipt_entry` or `struct ip6t_entry`.
#[derive(Debug)]
struct Entry<'e> {
    /// Its first byte, and that of the next one, counted from the first entry.
    place: u32,
    next: u32,
    head: &'e [u8],
    matches: &'e [u8],
    target: Extension<'e>,
}

impl Entry<'_> {
    /// The name of the chain that begins behind this entry; the last one begins none.
    fn chain_name(&self) -> Option<String> {
        (self.target.name == "ERROR").then(|| name(self.target.data))
    }
}

/// `struct xt_entry_match` and `struct xt_entry_target`, which begin alike.
#[derive(Debug)]
struct Extension<'e> {
    length: usize,
    name: String,
    revision: u8,
    data: &'e [u8],
}

impl<'e> Extension<'e> {
    fn parse(bytes: &'e [u8]) -> Option<Self> {
        let length = usize::from(short(bytes, 0)?);
        let data = bytes.get(EXTENSION..length)?;
        let name = name(bytes.get(2..EXTENSION - 1)?);
        Some(Self { length, name, revision: *bytes.get(EXTENSION - 1)?, data })
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v6 = || bytes.first_chunk::<16>().map(|it| Ipv6Addr::from(*it).into());
    v6().or_else(|| bytes.first_chunk::<4>().map(|it| Ipv4Addr::from(*it).into()))
}

/// Text up to a zero byte.
fn name(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    escape::text_from_bytes(text).into_owned()
}

fn short(bytes: &[u8], place: usize) -> Option<u16> {
    bytes.get(place..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn number(bytes: &[u8], place: usize) -> Option<u32> {
    bytes.get(place..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

/// Tables that can send a packet elsewhere, and when they are asked.
const TABLES: [(&str, i32); 2] = [("mangle", -150), ("nat", -100)];
/// Chains by the number of their hook, `NF_INET_*`.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

// include/uapi/linux/netfilter/x_tables.h, netfilter_ipv4/ip_tables.h; those of IPv6 are the same.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
const NAME: usize = 32;
const INFO: usize = 84;
/// Of `struct ipt_get_entries`, where the entries begin.
const ENTRIES: usize = 40;
const EXTENSION: usize = 32;
const INTERFACE: usize = 16;
const INV_IN: u8 = 0x01;
const INV_OUT: u8 = 0x02;
const INV_SOURCE: u8 = 0x08;
const INV_DESTINATION: u8 = 0x10;
const INV_PROTOCOL: u8 = 0x40;

/// What nftables calls the number of the transport: a register, and the key of `meta`.
const REGISTER: u32 = 1;
const L4PROTO: u32 = 16;

/// What is read at most, and how often it is tried.
const MAX_BYTES: usize = 64 << 20;
const RULES: usize = 262_144;
const TRIES: u32 = 3;

#[cfg(test)]
mod tests;
