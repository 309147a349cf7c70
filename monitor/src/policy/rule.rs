//! One rule, and what differs between it and a listener.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use globset::GlobSet;
use ipnet::IpNet;
use jiff::civil::Date;

use super::judge::ListenerView;
use crate::endpoint::Transport;
use crate::escape;
use crate::owner::{Ownership, Process, Role};
use crate::ports::PortSet;

/// Values or owners named in one sentence before the rest is only counted.
const MAX_NAMED: usize = 3;

/// Columns of a list of ports in a sentence.
const MAX_PORT_COLUMNS: usize = 60;

/// A listener that is expected. An empty list is a key that was not given: it holds for all.
#[derive(Clone, Debug, Default)]
pub(super) struct ListenerRule {
    pub(super) id: String,
    pub(super) reason: Option<String>,
    pub(super) expires: Option<Date>,
    pub(super) port: Option<PortSet>,
    pub(super) transport: Vec<Transport>,
    pub(super) address: Vec<AddressPin>,
    pub(super) exe: Vec<Pattern>,
    pub(super) sha256: Vec<String>,
    pub(super) user: Vec<String>,
    pub(super) unit: Vec<Pattern>,
}

/// An address or a network; one address is a network of full length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct AddressPin(pub(super) IpNet);

/// A glob, with the text it was written as.
#[derive(Clone)]
pub(super) struct Pattern {
    pub(super) text: String,
    pub(super) matcher: GlobSet,
}

impl ListenerRule {
    /// No key narrows it down: it would expect every listener.
    pub(super) fn matches_everything(&self) -> bool {
        let Self {
            id: _,
            reason: _,
            expires: _,
            port,
            transport,
            address,
            exe,
            sha256,
            user,
            unit,
        } = self;
        port.is_none()
            && transport.is_empty()
            && address.is_empty()
            && exe.is_empty()
            && sha256.is_empty()
            && user.is_empty()
            && unit.is_empty()
    }

    /// The rule holds through the day it names.
    pub(super) fn expired(&self, today: Date) -> Option<Date> {
        self.expires.filter(|&last_day| last_day < today)
    }

    /// A sentence for each key that does not hold; expiry is not looked at.
    pub(super) fn differences(&self, listener: &ListenerView<'_>) -> Vec<String> {
        let owners = Owners::of(listener);
        [
            self.port_difference(listener.local.port),
            self.transport_difference(listener.transport),
            self.address_difference(listener.local.ip),
            owners.difference(
                "exe",
                &self.exe,
                |pattern, process| exe_holds(pattern, process, !self.sha256.is_empty()),
                exe_fact,
            ),
            owners.difference("sha256", &self.sha256, sha256_holds, sha256_fact),
            owners.difference("user", &self.user, user_holds, user_fact),
            owners.difference("unit", &self.unit, unit_holds, unit_fact),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn port_difference(&self, port: u16) -> Option<String> {
        let ports = self.port.as_ref().filter(|ports| !ports.contains(port))?;
        let ports = ports.to_string();
        Some(format!("port: rule says {}, is {port}", escape::truncate(&ports, MAX_PORT_COLUMNS)))
    }

    fn transport_difference(&self, transport: Transport) -> Option<String> {
        if self.transport.is_empty() || self.transport.contains(&transport) {
            return None;
        }
        let allowed = alternatives(self.transport.iter().map(|transport| transport.name()));
        Some(format!("transport: rule says {allowed}, is {}", transport.name()))
    }

    fn address_difference(&self, ip: IpAddr) -> Option<String> {
        if self.address.is_empty() || self.address.iter().any(|pin| pin.holds(ip)) {
            return None;
        }
        let allowed = alternatives(&self.address);
        let all = if ip.is_unspecified() { " (all addresses)" } else { "" };
        Some(format!("address: rule says {allowed}, is {ip}{all}"))
    }
}

impl AddressPin {
    fn holds(self, ip: IpAddr) -> bool {
        let Self(net) = self;
        // 0.0.0.0/8 contains 0.0.0.0 as a number; as a bound address that means all of them.
        let says_all = net.prefix_len() == 0 || net.prefix_len() == net.max_prefix_len();
        net.contains(&ip) && (says_all || !ip.is_unspecified())
    }
}

impl fmt::Display for AddressPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(net) = self;
        if net.prefix_len() == net.max_prefix_len() { net.addr().fmt(f) } else { net.fmt(f) }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The compiled glob would fill pages.
impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// The processes that a rule about the owner must hold for, each once.
struct Owners<'a> {
    processes: Vec<&'a Process>,
    /// Why there is none, should there be none.
    none: &'static str,
}

/// What a process has under a key of a rule.
enum Fact {
    Is(String),
    HasNone,
    Unreadable,
}

impl<'a> Owners<'a> {
    /// Who is alive and opened, holds or used the socket: one that is not expected could answer on
    /// it, whoever else has it.
    fn of(listener: &ListenerView<'a>) -> Self {
        let attribution = listener.attribution;
        let mut processes: Vec<&Process> = Vec::new();
        for owner in &attribution.owners {
            let counts = match owner.role {
                Role::Opener | Role::User | Role::Holder => !owner.exited,
                Role::Releaser => false,
            };
            if counts && !processes.contains(&&*owner.process) {
                processes.push(&owner.process);
            }
        }
        let none = if attribution.ownership == Ownership::Kernel {
            "the kernel owns it"
        } else if attribution.owners.is_empty() {
            "its owner is not known"
        } else {
            "its owners have exited"
        };
        Self { processes, none }
    }

    /// A sentence unless each owner satisfies one of the values allowed.
    fn difference<T: fmt::Display>(
        &self,
        key: &str,
        allowed: &[T],
        holds: impl Fn(&T, &Process) -> bool,
        fact: impl Fn(&Process) -> Fact,
    ) -> Option<String> {
        if allowed.is_empty() {
            return None;
        }
        let says = alternatives(allowed);
        if self.processes.is_empty() {
            return Some(format!("{key}: rule says {says}, {}", self.none));
        }
        let mut readable = false;
        let mut facts: Vec<String> = Vec::new();
        for process in &self.processes {
            if allowed.iter().any(|value| holds(value, process)) {
                continue;
            }
            let fact = fact(process);
            readable |= !matches!(fact, Fact::Unreadable);
            let sentence = match fact {
                Fact::Is(value) => format!("is {value}"),
                Fact::HasNone => "has none".to_owned(),
                Fact::Unreadable => "could not be read".to_owned(),
            };
            facts.push(match self.processes.len() {
                1 => sentence,
                _ => format!("{sentence} (pid {})", process.pid),
            });
        }
        if facts.is_empty() {
            return None;
        }
        let facts = enumerate(facts, ", ", "and");
        if readable {
            Some(format!("{key}: rule says {says}, {facts}"))
        } else {
            Some(format!("{key}: {facts}"))
        }
    }
}

/// A path of another mount namespace is whatever somebody made it: it counts only where the contents
/// are pinned as well.
fn exe_holds(pattern: &Pattern, process: &Process, contents_pinned: bool) -> bool {
    if process.on_host != Some(true) && !contents_pinned {
        return false;
    }
    // Not only by its `deleted` mark: a memfd's path looks like that of a file in the root.
    let memfd = |path: &Path| path.as_os_str().as_encoded_bytes().starts_with(b"/memfd:");
    match &process.executable {
        Some(path) => {
            !process.deleted && path.is_absolute() && !memfd(path) && pattern.matcher.is_match(path)
        }
        None => false,
    }
}

fn exe_fact(process: &Process) -> Fact {
    match &process.executable {
        Some(path) => {
            let place = match process.on_host {
                _ if process.deleted => " (deleted)",
                Some(true) => "",
                Some(false) => " of another mount namespace, not this host's",
                None => ", which may not be this host's",
            };
            let path = escape::text_from_bytes(path.as_os_str().as_encoded_bytes());
            Fact::Is(format!("{path}{place}"))
        }
        None if process.deleted => Fact::Is("a deleted file".to_owned()),
        None => Fact::Unreadable,
    }
}

fn sha256_holds(allowed: &String, process: &Process) -> bool {
    process.sha256.as_ref() == Some(allowed)
}

fn sha256_fact(process: &Process) -> Fact {
    process.sha256.clone().map_or(Fact::Unreadable, Fact::Is)
}

fn user_holds(allowed: &String, process: &Process) -> bool {
    user_name(process).as_ref() == Some(allowed)
}

fn user_fact(process: &Process) -> Fact {
    user_name(process).map_or(Fact::Unreadable, Fact::Is)
}

/// The name, or the number of a user that has no name here, as in a container.
fn user_name(process: &Process) -> Option<String> {
    process.user.clone().or_else(|| process.uid.map(|uid| uid.to_string()))
}

fn unit_holds(pattern: &Pattern, process: &Process) -> bool {
    process.unit.as_ref().is_some_and(|unit| pattern.matcher.is_match(unit))
}

fn unit_fact(process: &Process) -> Fact {
    match (&process.unit, &process.cgroup) {
        (Some(unit), _) => Fact::Is(unit.clone()),
        (None, Some(_)) => Fact::HasNone,
        (None, None) => Fact::Unreadable,
    }
}

fn alternatives<T: fmt::Display>(values: impl IntoIterator<Item = T>) -> String {
    enumerate(values.into_iter().map(|value| value.to_string()).collect(), " or ", "or")
}

fn enumerate(mut values: Vec<String>, separator: &str, last: &str) -> String {
    let more = values.len().saturating_sub(MAX_NAMED);
    values.truncate(MAX_NAMED);
    let named = values.join(separator);
    if more > 0 { format!("{named} {last} {more} more") } else { named }
}
