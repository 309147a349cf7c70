//! Listeners, flows and samples: `network`, `source`, `destination`, `server` and ours.

use std::net::IpAddr;

use base64::display::Base64Display;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD};
use serde::{Serialize, Serializer};

use crate::endpoint::{Direction, Endpoint, Family, Interface, Netns, Transport};
use crate::report::{
    FlowChange, FlowReport, FlowRole, ListenerReport, PlaceCount, SampleReport, Verdict,
};

use super::document::{Document, Hook, HookInterface, Rule, Time, known};

impl<'a> Document<'a> {
    /// A listener, also the one a finding is about.
    pub(super) fn listener(&mut self, listener: &'a ListenerReport) {
        let ListenerReport {
            local,
            transport,
            family,
            netns,
            interface,
            cookie,
            unit,
            attribution,
            verdict,
        } = listener;
        self.network = Some(Network::of(*transport, *family));
        self.destination = Some(Peer::of(*local));
        self.server = Some(Peer::of(*local));
        self.portwatch.listener = Some(ListenerFields {
            ip: local.ip,
            port: local.port,
            transport: transport.name(),
            family: family.name(),
            netns: netns.as_ref().map(NetnsFields::of),
            interface: interface.as_deref(),
            cookie: *cookie,
            unit: unit.as_deref(),
        });
        self.related.ip(local.ip);
        self.attribution(attribution);
        match verdict {
            Verdict::Expected { rule, reason } => {
                self.portwatch.verdict = Some("expected");
                self.rule = Some(Rule { id: rule, name: None, description: reason.as_deref() });
            }
            Verdict::Unknown { nearest: _ } => self.portwatch.verdict = Some("unknown"),
        }
    }

    /// A flow.
    pub(super) fn flow(&mut self, change: FlowChange, flow: &'a FlowReport) {
        // Of a connection that was only looked up no packet was seen: its counts are not 0 but
        // unknown.
        let counted = !flow.interfaces.is_empty();
        if counted {
            self.event.start = Some(Time(flow.start_unix_ns));
        }
        if counted && change != FlowChange::Started {
            let lasted = flow.last_unix_ns.saturating_sub(flow.start_unix_ns);
            self.event.duration = Some(u64::try_from(lasted).unwrap_or_default());
        }
        if let FlowChange::Ended(reason) = change {
            self.event.end = Some(Time(flow.last_unix_ns));
            self.event.reason = Some(reason.words());
        }
        let bytes = flow.source_bytes.saturating_add(flow.destination_bytes);
        let packets = flow.source_packets.saturating_add(flow.destination_packets);
        self.network = Some(Network {
            community_id: known(&flow.community_id),
            direction: Some(flow.direction.name()),
            bytes: counted.then_some(bytes),
            packets: counted.then_some(packets),
            ..Network::of(flow.transport, flow.family)
        });
        let nat = |end: Endpoint, there: Endpoint| (there != end).then(|| Translated::of(there));
        self.source = Some(Peer {
            nat: flow.nat.and_then(|(source, _)| nat(flow.source, source)),
            bytes: counted.then_some(flow.source_bytes),
            packets: counted.then_some(flow.source_packets),
            ..Peer::of(flow.source)
        });
        self.destination = Some(Peer {
            nat: flow.nat.and_then(|(_, destination)| nat(flow.destination, destination)),
            bytes: counted.then_some(flow.destination_bytes),
            packets: counted.then_some(flow.destination_packets),
            ..Peer::of(flow.destination)
        });
        self.portwatch.flow = Some(FlowFields {
            port: flow.port,
            role: flow.role.map(FlowRole::name),
            state: flow.state,
            netns: flow.netns.as_ref().map(NetnsFields::of),
            tcp_flags: flow.tcp_flags,
            interfaces: flow.interfaces.iter().map(|place| PlaceFields::of(place, None)).collect(),
        });
        if let Some(likeness) = flow.app.as_deref() {
            self.app(likeness);
        }
        self.related.ip(flow.source.ip);
        self.related.ip(flow.destination.ip);
        for there in flow.nat.into_iter().flat_map(|(source, destination)| [source, destination]) {
            self.related.ip(there.ip);
        }
        self.attribution(&flow.attribution);
    }

    /// A sampled packet; its source is its sender, whoever opened the flow.
    pub(super) fn sample(&mut self, sample: &'a SampleReport) {
        self.network = Some(Network {
            community_id: known(&sample.community_id),
            direction: Some(sample.direction.name()),
            ..Network::of(sample.transport, sample.source.family())
        });
        self.source = Some(Peer::of(sample.source));
        self.destination = Some(Peer::of(sample.destination));
        self.hook(sample.direction, &sample.interface);
        self.portwatch.sample = Some(SampleFields {
            length: sample.length,
            captured: sample.captured,
            represents: sample.represents,
            netns: NetnsFields::of(&sample.netns),
            blanked: (sample.blanked > 0).then_some(sample.blanked),
            data: (!sample.data.is_empty()).then_some(Base64(&sample.data)),
        });
        self.related.ip(sample.source.ip);
        self.related.ip(sample.destination.ip);
    }

    /// Where it was observed.
    pub(super) fn hook(&mut self, direction: Direction, interface: &'a Interface) {
        let hook = Some(Hook {
            interface: HookInterface {
                id: interface.ifindex.to_string(),
                name: known(&interface.name),
            },
        });
        match direction {
            Direction::Ingress => self.observer.ingress = hook,
            Direction::Egress => self.observer.egress = hook,
        }
    }
}

/// `network.*`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Network<'a> {
    transport: &'static str,
    #[serde(rename = "type")]
    family: &'static str,
    iana_number: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    community_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<u64>,
}

impl Network<'_> {
    fn of(transport: Transport, family: Family) -> Self {
        Self {
            transport: transport.name(),
            family: family.name(),
            iana_number: transport.iana_number().to_string(),
            ..Self::default()
        }
    }
}

/// `source.*`, `destination.*` or `server.*`.
#[derive(Debug, Serialize)]
pub(super) struct Peer {
    ip: IpAddr,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    nat: Option<Translated>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<u64>,
}

impl Peer {
    const fn of(endpoint: Endpoint) -> Self {
        Self { ip: endpoint.ip, port: endpoint.port, nat: None, bytes: None, packets: None }
    }
}

/// `source.nat.*`, `destination.nat.*`: the same end on the other side of a translation.
#[derive(Debug, Serialize)]
struct Translated {
    ip: IpAddr,
    port: u16,
}

impl Translated {
    const fn of(endpoint: Endpoint) -> Self {
        Self { ip: endpoint.ip, port: endpoint.port }
    }
}

/// `portwatch.listener.*`.
#[derive(Debug, Serialize)]
pub(super) struct ListenerFields<'a> {
    ip: IpAddr,
    port: u16,
    transport: &'static str,
    family: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<NetnsFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    cookie: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
}

/// `portwatch.flow.*`.
#[derive(Debug, Serialize)]
pub(super) struct FlowFields<'a> {
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<NetnsFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_flags: Option<u8>,
    interfaces: Vec<PlaceFields<'a>>,
}

/// Packets at one place: `portwatch.flow.interfaces[]`.
#[derive(Debug, Serialize)]
pub(super) struct PlaceFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    ifindex: u32,
    netns: NetnsFields<'a>,
    /// Only in `portwatch.counters.interfaces[]`: a flow has one port.
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    direction: &'static str,
    packets: u64,
    bytes: u64,
}

impl<'a> PlaceFields<'a> {
    /// The fields of one place, with the port where it does not go without saying.
    pub(super) fn of(place: &'a PlaceCount, port: Option<u16>) -> Self {
        let PlaceCount { interface, netns, direction, packets, bytes } = place;
        Self {
            name: known(&interface.name),
            ifindex: interface.ifindex,
            netns: NetnsFields::of(netns),
            port,
            direction: direction.name(),
            packets: *packets,
            bytes: *bytes,
        }
    }
}

/// `{inode, name}`.
#[derive(Debug, Serialize)]
pub(super) struct NetnsFields<'a> {
    inode: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

impl<'a> NetnsFields<'a> {
    /// The fields of one namespace.
    pub(super) fn of(netns: &'a Netns) -> Self {
        Self { inode: netns.inode, name: netns.name.as_deref().and_then(known) }
    }
}

/// `portwatch.sample.*`.
#[derive(Debug, Serialize)]
pub(super) struct SampleFields<'a> {
    length: u32,
    captured: u32,
    represents: u32,
    netns: NetnsFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blanked: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Base64<'a>>,
}

#[derive(Debug)]
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::<GeneralPurpose>::new(self.0, &STANDARD))
    }
}
