//! The document: ECS field sets as structs, in the order in which they are written.
//!
//! What is unknown is `None` and left out, never `null` or `""`. What is known to be nothing is
//! there: `0`, `false`, `[]`.

use std::borrow::Cow;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::report::Report;

use super::app::{AppFields, HttpFields, OurTlsFields, TlsFields};
use super::check::CheckFields;
use super::class::{Class, class};
use super::counters::CounterFields;
use super::finding::{FindingFields, Threat};
use super::identity::{Container, Orchestrator, PackageFields, ProcessFields};
use super::network::{FlowFields, ListenerFields, Network, Peer, SampleFields};
use super::ownership::OwnerFields;
use super::policy::PolicyFields;
use super::portless::PortlessFields;
use super::run::{InterfaceFields, RunFields};
use super::{RunIdentity, VERSION};

/// One document.
#[derive(Debug, Default, Serialize)]
pub(super) struct Document<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: Time,
    ecs: Ecs,
    pub(super) event: Event<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<&'a str>,
    host: Host<'a>,
    pub(super) observer: Observer<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<Network<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) destination: Option<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<TlsFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http: Option<HttpFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<ProcessFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container: Option<Container<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) orchestrator: Option<Orchestrator<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) package: Option<PackageFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<Rule<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) threat: Option<Threat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Failed<'a>>,
    #[serde(skip_serializing_if = "Related::is_empty")]
    pub(super) related: Related<'a>,
    pub(super) portwatch: Portwatch<'a>,
}

impl<'a> Document<'a> {
    /// What every document has.
    pub(super) fn new(identity: &'a RunIdentity, sequence: u64, report: &'a Report) -> Self {
        let Class { kind, categories, types, action, dataset } = class(&report.body);
        Self {
            timestamp: Time(report.time_unix_ns),
            event: Event {
                kind,
                categories,
                types,
                action,
                module: "portwatch",
                dataset,
                sequence,
                ..Event::default()
            },
            host: Host { name: known(&identity.host_name), id: known(&identity.host_id) },
            observer: Observer {
                vendor: "portwatch",
                product: "portwatch",
                version: known(&identity.version),
                ..Observer::default()
            },
            portwatch: Portwatch { run_id: known(&identity.run_id), ..Portwatch::default() },
            ..Self::default()
        }
    }
}

#[derive(Debug, Serialize)]
struct Ecs {
    version: &'static str,
}

impl Default for Ecs {
    fn default() -> Self {
        Self { version: VERSION }
    }
}

/// `event.*`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Event<'a> {
    kind: &'static str,
    #[serde(rename = "category")]
    categories: &'static [&'static str],
    #[serde(rename = "type")]
    types: &'static [&'static str],
    action: &'static str,
    module: &'static str,
    dataset: &'static str,
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) severity: Option<u8>,
}

/// `error.*`: why something was not done.
#[derive(Debug, Serialize)]
pub(super) struct Failed<'a> {
    pub(super) message: &'a str,
}

#[derive(Debug, Default, Serialize)]
struct Host<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

/// `observer.*`: portwatch itself, and where it looked.
#[derive(Debug, Default, Serialize)]
pub(super) struct Observer<'a> {
    vendor: &'static str,
    product: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ingress: Option<Hook<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) egress: Option<Hook<'a>>,
}

/// `observer.ingress.*` or `observer.egress.*`.
#[derive(Debug, Serialize)]
pub(super) struct Hook<'a> {
    pub(super) interface: HookInterface<'a>,
}

/// `observer.ingress.interface.*`; ECS wants the id as text.
#[derive(Debug, Serialize)]
pub(super) struct HookInterface<'a> {
    pub(super) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
}

/// `rule.*`: the rule of the policy or the built-in one that decided.
#[derive(Debug, Serialize)]
pub(super) struct Rule<'a> {
    pub(super) id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<&'a str>,
}

/// `related.*`: what to search for next.
#[derive(Debug, Default, Serialize)]
pub(super) struct Related<'a> {
    #[serde(rename = "ip", skip_serializing_if = "Vec::is_empty")]
    ips: Vec<IpAddr>,
    #[serde(rename = "user", skip_serializing_if = "Vec::is_empty")]
    users: Vec<Cow<'a, str>>,
    #[serde(rename = "hash", skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<&'a str>,
}

impl<'a> Related<'a> {
    const fn is_empty(&self) -> bool {
        self.ips.is_empty() && self.users.is_empty() && self.hashes.is_empty()
    }

    /// Names an address; "all addresses" leads nowhere and is left out.
    pub(super) fn ip(&mut self, ip: IpAddr) {
        if !ip.is_unspecified() && !self.ips.contains(&ip) {
            self.ips.push(ip);
        }
    }

    /// Names a user.
    pub(super) fn user(&mut self, user: Cow<'a, str>) {
        if !self.users.contains(&user) {
            self.users.push(user);
        }
    }

    /// Names a hash.
    pub(super) fn hash(&mut self, hash: &'a str) {
        if !self.hashes.contains(&hash) {
            self.hashes.push(hash);
        }
    }
}

/// `portwatch.*`: what ECS has no field for.
#[derive(Debug, Default, Serialize)]
pub(super) struct Portwatch<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<RunFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<PolicyFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) finding: Option<FindingFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) listener: Option<ListenerFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) flow: Option<FlowFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) app: Option<AppFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<OurTlsFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) portless: Option<PortlessFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sample: Option<SampleFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ownership: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ownership_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owners: Option<Vec<OwnerFields<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) interface: Option<InterfaceFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) counters: Option<CounterFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) check: Option<CheckFields<'a>>,
}

/// Nanoseconds since the Unix epoch, written as RFC 3339 in UTC with nine digits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Time(pub(super) i64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The years 1677 to 2262 are all that 64 bits can say, and jiff knows them all.
        let time = Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or_default();
        serializer.collect_str(&format_args!("{time:.9}"))
    }
}

/// Text that says something.
pub(super) fn known(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
