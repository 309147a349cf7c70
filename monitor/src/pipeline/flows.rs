//! Reports of flows and samples.

use bytes::Bytes;
use monitor_ebpf::wire::{Place, SampleRecord};

use crate::app::Masked;
use crate::endpoint::{Direction, Endpoint, Transport};
use crate::flow::{Flow, FlowId};
use crate::owner::{Owner, Side};
use crate::pipeline::{FLOW_PATIENCE_NS, Payload, Pipeline};
use crate::report::{Body, FlowChange, FlowReport, FlowRole, PlaceCount, SampleReport};

impl Pipeline {
    pub(super) fn report_started_flows(&mut self, now_ns: u64) {
        let known = &self.known;
        let started = self.flows.started(now_ns, FLOW_PATIENCE_NS, |flow| {
            let answer = known.of_flow(flow, None);
            answer.settled && !answer.attribution.owners.is_empty()
        });
        for flow in started {
            self.meet_strangers(&flow);
            let report = self.flow_report(&flow, false, now_ns);
            let found = self.found_at_ends(flow.id, &report, now_ns);
            self.report(flow.start_ns, Body::Flow(FlowChange::Started, Box::new(report)));
            self.judge_flow(flow.id, found, false, now_ns);
        }
    }

    pub(super) fn report_flows(&mut self, changes: Vec<(FlowChange, Flow)>, now_ns: u64) {
        for (change, flow) in changes {
            self.meet_strangers(&flow);
            let over = matches!(change, FlowChange::Ended(_));
            let time_ns = if change == FlowChange::Started { flow.start_ns } else { now_ns };
            let report = self.flow_report(&flow, over, now_ns);
            let found = self.found_at_ends(flow.id, &report, now_ns);
            self.report(time_ns, Body::Flow(change, Box::new(report)));
            if over {
                self.hearing.forget(&flow);
            }
            self.judge_flow(flow.id, found, over, now_ns);
        }
    }

    fn flow_report(&self, flow: &Flow, over: bool, now_ns: u64) -> FlowReport {
        let (opener, other) = (flow.opener, flow.opener.other());
        let mut role = flow.role(&self.ports, over, now_ns);
        let attribution = self.known.of_flow(flow, role).attribution;
        let receives = |owner: &Owner| owner.side == Some(Side::Destination);
        // A datagram need not be answered to have reached its receiver.
        if role == Some(FlowRole::Unanswered)
            && flow.id.transport == Transport::Udp
            && attribution.owners.iter().any(receives)
        {
            role = Some(FlowRole::Server);
        }
        let (source_packets, source_bytes) = flow.sent_by(opener);
        let (destination_packets, destination_bytes) = flow.sent_by(other);
        let tcp = flow.id.transport == Transport::Tcp;
        FlowReport {
            source: flow.id.endpoint(opener),
            destination: flow.id.endpoint(other),
            transport: flow.id.transport,
            family: flow.id.family,
            port: flow.port,
            direction: flow.direction,
            role,
            source_packets,
            source_bytes,
            destination_packets,
            destination_bytes,
            start_unix_ns: self.clock.unix_ns(flow.start_ns),
            last_unix_ns: self.clock.unix_ns(flow.last_ns.max(flow.start_ns)),
            tcp_flags: tcp.then_some(flow.low.tcp_flags | flow.high.tcp_flags),
            state: None,
            netns: None,
            interfaces: self.places(flow),
            community_id: community_id(
                flow.id.endpoint(opener),
                flow.id.endpoint(other),
                flow.id.transport,
            ),
            app: flow.app.clone(),
            attribution,
        }
    }

    /// Every interface and direction, both ends of the flow added up.
    fn places(&self, flow: &Flow) -> Vec<PlaceCount> {
        let mut counts: Vec<PlaceCount> = Vec::with_capacity(flow.places.len());
        for place in &flow.places {
            let (interface, netns) = self.observed.at(place.interface);
            let same = |count: &&mut PlaceCount| {
                count.interface.ifindex == interface.ifindex
                    && count.netns.inode == netns.inode
                    && count.direction == place.direction
            };
            match counts.iter_mut().find(same) {
                Some(count) => {
                    count.packets = count.packets.wrapping_add(place.packets);
                    count.bytes = count.bytes.wrapping_add(place.bytes);
                }
                None => counts.push(PlaceCount {
                    interface,
                    netns,
                    direction: place.direction,
                    packets: place.packets,
                    bytes: place.bytes,
                }),
            }
        }
        counts
    }

    /// `masked` is what may be shown of the payload if not all of it may.
    pub(super) fn sample_report(
        &self,
        sample: &SampleRecord,
        data: &[u8],
        masked: &Masked,
    ) -> SampleReport {
        let place = Place(sample.key.place);
        let (id, sender) = FlowId::of(&sample.key);
        let (source, destination) = (id.endpoint(sender), id.endpoint(sender.other()));
        let (interface, netns) = self.observed.at(place.interface());
        let data = data.get(..self.snaplen).unwrap_or(data);
        let headers = usize::try_from(sample.payload_offset).unwrap_or(0).min(data.len());
        let (headers, payload) = data.split_at(headers);
        let (shown, blanked) = match self.payload {
            Payload::None => (Vec::new(), 0),
            Payload::Masked => {
                let Masked { bytes, blanked } = masked;
                let shown = bytes.get(..payload.len()).unwrap_or(bytes);
                let blanked = blanked.iter().take(shown.len()).filter(|blanked| **blanked);
                ([headers, shown].concat(), blanked.count())
            }
            Payload::Full => (data.to_vec(), 0),
        };
        SampleReport {
            source,
            destination,
            transport: id.transport,
            community_id: community_id(source, destination, id.transport),
            interface,
            netns,
            direction: if place.is_egress() { Direction::Egress } else { Direction::Ingress },
            length: sample.length,
            represents: sample.represents,
            captured: u32::try_from(data.len()).unwrap_or(u32::MAX),
            data: Bytes::from(shown),
            blanked: u32::try_from(blanked).unwrap_or(u32::MAX),
        }
    }
}

/// Community ID v1 with seed 0: the same for both directions, and in Zeek, Suricata and Wireshark.
pub(super) fn community_id(
    source: Endpoint,
    destination: Endpoint,
    transport: Transport,
) -> String {
    community_id::calculate_community_id(
        0,
        source.ip,
        destination.ip,
        Some(source.port),
        Some(destination.port),
        transport.iana_number(),
        false,
    )
    // Both ends of a packet have one family; were it otherwise, there would be no such id.
    .unwrap_or_default()
}
