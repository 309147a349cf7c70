//! One rule, and how each of its keys compares with what is there.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::civil::Date;

use super::pins::{Pins, fact};
use super::subject::Subject;
use crate::endpoint::Transport;
use crate::escape;
use crate::ports::PortSet;
use crate::report::{Difference, RuleKey};

/// Values or processes named in one sentence before the rest is only counted.
const MAX_NAMED: usize = 3;

/// Columns of a list of ports in a sentence.
const MAX_PORT_COLUMNS: usize = 60;

/// What a rule is about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RuleKind {
    /// Who may listen: `[[listener]]`.
    #[default]
    Listener,
    /// Who may talk: `[[client]]`.
    Client,
}

/// A listener or a client that is expected. An empty list is a key that was not given: it holds for all.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    pub(super) kind: RuleKind,
    pub(super) id: String,
    pub(super) reason: Option<String>,
    pub(super) expires: Option<Date>,
    pub(super) port: Option<PortSet>,
    pub(super) transport: Vec<Transport>,
    /// Of a listener `address`, of a client `remote`.
    pub(super) network: Vec<AddressPin>,
    pub(super) pins: Pins,
    /// Byte offset of the rule in its file, and of the values of its keys.
    pub(super) offset: usize,
    pub(super) values: Vec<(RuleKey, usize)>,
}

/// A key of a rule beside what is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Comparison {
    /// The key, what the rule says and what is there.
    pub difference: Difference,
    /// They agree after all.
    pub holds: bool,
}

/// An address or a network; one address is a network of full length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct AddressPin(pub(super) IpNet);

impl RuleKind {
    /// The name of its tables in a policy file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Client => "client",
        }
    }
}

impl Rule {
    /// No key narrows it down: it would expect everything.
    pub(super) fn matches_everything(&self) -> bool {
        !self.names_place() && self.transport.is_empty() && self.pins.given().next().is_none()
    }

    /// The rule is about a port or an address, not just about somebody.
    pub(super) fn names_place(&self) -> bool {
        self.port.is_some() || !self.network.is_empty()
    }

    /// The rule holds through the day it names.
    pub(super) fn expired(&self, today: Date) -> Option<Date> {
        self.expires.filter(|&last_day| last_day < today)
    }

    /// Every key that was given holds; expiry is not looked at.
    pub(super) fn holds(&self, subject: &Subject<'_>) -> bool {
        self.port_holds(subject.port)
            && self.transport_holds(subject.transport)
            && self.network_holds(subject.ip)
            && self.pins.given().all(|key| self.pin_holds(key, subject))
    }

    /// Every key that was given beside what is there; expiry is not looked at.
    pub(super) fn compare(&self, subject: &Subject<'_>) -> Vec<Comparison> {
        let place = |key, expected: String, actual: String, holds| Comparison {
            difference: Difference { key, expected, actual, is_known: true },
            holds,
        };
        let port = self.port.as_ref().map(|ports| {
            let ports = ports.to_string();
            let expected = escape::truncate(&ports, MAX_PORT_COLUMNS).into_owned();
            let holds = self.port_holds(subject.port);
            place(RuleKey::Port, expected, subject.port.to_string(), holds)
        });
        let transport = (!self.transport.is_empty()).then(|| {
            let expected = alternatives(self.transport.iter().map(|it| it.name()));
            let holds = self.transport_holds(subject.transport);
            place(RuleKey::Transport, expected, subject.transport.name().to_owned(), holds)
        });
        let network = (!self.network.is_empty()).then(|| {
            let all = if subject.ip.is_unspecified() { " (all addresses)" } else { "" };
            let actual = format!("{}{all}", subject.ip);
            let holds = self.network_holds(subject.ip);
            place(subject.ip_key, alternatives(&self.network), actual, holds)
        });
        let pins = self.pins.given().map(|key| self.compare_pin(key, subject));
        [port, transport, network].into_iter().flatten().chain(pins).collect()
    }

    fn compare_pin(&self, key: RuleKey, subject: &Subject<'_>) -> Comparison {
        let holds = self.pin_holds(key, subject);
        let is_one = subject.processes.len() == 1;
        let mut is_known = false;
        // All of them, or those for whom it does not hold.
        let told = subject.processes.iter().filter(|it| holds || !self.pins.hold(key, it));
        let facts = told.map(|process| {
            let fact = fact(key, process);
            is_known |= fact.is_known;
            if is_one { fact.words } else { format!("{} (pid {})", fact.words, process.pid) }
        });
        let facts = enumerate(facts.collect(), ", ", "and");
        let actual = if facts.is_empty() { subject.nobody.to_owned() } else { facts };
        let expected = alternatives(self.pins.allowed(key));
        Comparison { difference: Difference { key, expected, actual, is_known }, holds }
    }

    fn port_holds(&self, port: u16) -> bool {
        self.port.as_ref().is_none_or(|ports| ports.contains(port))
    }

    fn transport_holds(&self, transport: Transport) -> bool {
        self.transport.is_empty() || self.transport.contains(&transport)
    }

    fn network_holds(&self, ip: IpAddr) -> bool {
        self.network.is_empty() || self.network.iter().any(|pin| pin.holds(ip))
    }

    /// It holds for every process, and there is one.
    fn pin_holds(&self, key: RuleKey, subject: &Subject<'_>) -> bool {
        !subject.processes.is_empty()
            && subject.processes.iter().all(|process| self.pins.hold(key, process))
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

fn alternatives<T: fmt::Display>(values: impl IntoIterator<Item = T>) -> String {
    enumerate(values.into_iter().map(|value| value.to_string()).collect(), " or ", "or")
}

fn enumerate(mut values: Vec<String>, separator: &str, last: &str) -> String {
    let more = values.len().saturating_sub(MAX_NAMED);
    values.truncate(MAX_NAMED);
    let named = values.join(separator);
    if more > 0 { format!("{named} {last} {more} more") } else { named }
}
