//! Reports of flows and samples.

use std::cell::RefCell;

use bytes::Bytes;
use monitor_ebpf::wire::{self, SampleRecord};

use crate::app::Masked;
use crate::attribution::{Place, Request, Sender, Translation};
use crate::endpoint::{Direction, Endpoint, Transport};
use crate::flow::{End, Flow, FlowId};
use crate::host::conntrack::{Ends, Translated, Tuple};
use crate::host::serving;
use crate::owner::{Attribution, Owner, Ownership, Process, Side};
use crate::pipeline::{FLOW_PATIENCE_NS, Payload, Pipeline};
use crate::report::{
    Body, FlowChange, FlowReport, FlowRole, NearEnd, PlaceCount, SampleReport, Verdict,
};

/// Why it is left open what the sender is to a flow.
const FROM_OPEN_SOCKET: &str = "; it was heard first, from a socket on the port that anybody may write to: it \
    may ask, or answer what was not seen";

/// The same of one whose ends may both have been heard first.
const FROM_EITHER_END: &str = "; which end asked is not known: both were heard within one tick of the kernel's clock, \
    which is not read for every packet of a flood";

impl Pipeline {
    pub(super) fn report_started_flows(&mut self, now_ns: u64) {
        let known = &self.known;
        let unsettled = RefCell::new(Vec::new());
        let started = self.flows.started(now_ns, FLOW_PATIENCE_NS, |flow| {
            let answer = known.of_flow(flow, None);
            let is_open =
                known.may_be_translated(flow) && !known.translations.is_answered(&flow.id);
            if is_open {
                unsettled.borrow_mut().push(flow.clone());
            }
            !is_open && answer.settled && !answer.attribution.owners.is_empty()
        });
        for flow in unsettled.into_inner() {
            self.ask_for_translation(&flow);
        }
        for flow in started {
            self.meet_strangers(&flow);
            self.await_caller(&flow, now_ns);
            let report = self.flow_report(&flow, false, now_ns);
            let found = self.found_at_ends(flow.id, &report, now_ns);
            self.suspect(&flow, &report, now_ns);
            self.hear_of(&report, now_ns);
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
            self.judge_call(&flow, change, &report, now_ns);
            let found = self.found_at_ends(flow.id, &report, now_ns);
            self.suspect(&flow, &report, now_ns);
            self.hear_of(&report, now_ns);
            if over {
                self.known.translations.forget(&flow.id);
            } else if self.known.may_be_translated(&flow) {
                self.ask_for_translation(&flow);
            }
            self.report(time_ns, Body::Flow(change, Box::new(report)));
            if over {
                self.hearing.forget(&flow);
            }
            self.judge_flow(flow.id, found, over, now_ns);
        }
    }

    /// Asks what a flow is called on the other side of a translation, once: where portwatch runs if it was
    /// seen there, else where it was seen first.
    fn ask_for_translation(&mut self, flow: &Flow) {
        let Some(place) = flow.places.iter().min_by_key(|place| place.interface.netns() != 0)
        else {
            return;
        };
        let Some(&netns) = self.known.observed.get(&place.interface.netns()) else { return };
        if self.known.translations.ask(flow) {
            let (source, destination) =
                (flow.id.endpoint(flow.opener), flow.id.endpoint(flow.opener.other()));
            let ends = Ends { source, destination };
            let tuple = Tuple { transport: flow.id.transport, ends };
            self.requests.push(Request::Translate { flow: flow.id, tuple, netns });
        }
    }

    /// Takes in what a flow is called on the other side of a translation.
    pub(super) fn translated(
        &mut self,
        flow: FlowId,
        there: Option<(Translated, Option<serving::Place>)>,
        now_ns: u64,
    ) {
        let Some(opener) = self.known.translations.answered(&flow) else { return };
        let Some((translated, place)) = there else { return };
        let mut owners = Vec::new();
        let place = match place {
            None => Place::Unasked,
            Some(serving::Place::Elsewhere) => Place::Elsewhere,
            Some(serving::Place::Here { netns, pids }) => {
                let present = |pid: u32| self.known.processes.present(pid, now_ns);
                owners.extend(pids.into_iter().map(present));
                if self.known.observed.get(&0) == Some(&netns) {
                    Place::Same
                } else {
                    Place::Other(self.known.namespaces.by_inode(netns))
                }
            }
        };
        let translation = Translation::new(opener, translated, place, owners);
        self.known.translations.learn(flow, translation);
    }

    pub(super) fn flow_report(&self, flow: &Flow, over: bool, now_ns: u64) -> FlowReport {
        let (opener, other) = (flow.opener, flow.opener.other());
        let mut role = flow.role(&self.ports, over, now_ns);
        let is_guess = role == Some(FlowRole::Ephemeral) && !self.is_from_a_client(flow);
        if is_guess {
            role = None;
        }
        let mut attribution = self.known.of_flow(flow, role).attribution;
        if is_guess && attribution.ownership == Ownership::Unknown {
            attribution.reason = self.why_from_nobody(flow);
        } else if is_guess {
            attribution.reason.push_str(FROM_OPEN_SOCKET);
        } else if flow.is_order_open {
            attribution.reason.push_str(FROM_EITHER_END);
        }
        let receives = |owner: &Owner| owner.side == Some(Side::Destination);
        // A datagram need not be answered to have reached its receiver.
        if role == Some(FlowRole::Unanswered)
            && flow.id.transport == Transport::Udp
            && attribution.owners.iter().any(receives)
        {
            role = Some(FlowRole::Server);
        }
        let translation = self.known.translations.get(&flow.id);
        // What answers is on another host.
        let is_sent_on = translation.is_some_and(|it| it.place == Place::Elsewhere);
        if is_sent_on && role == Some(FlowRole::Server) {
            role = Some(FlowRole::Forwarded);
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
            tcp_flags: tcp.then(|| flow.tcp_flags_of_both()),
            state: None,
            netns: None,
            interfaces: self.places(flow),
            community_id: community_id(
                flow.id.endpoint(opener),
                flow.id.endpoint(other),
                flow.id.transport,
            ),
            app: flow.app.clone(),
            nat: translation.map(|it| (it.end(opener), it.end(other))),
            attribution,
        }
    }

    /// Does anything say that a client has the watched port that these packets come from, rather than that
    /// they answer what was not seen? Of one on this host a socket does that is nobody else's to write to, of
    /// another that it is answered.
    fn is_from_a_client(&self, flow: &Flow) -> bool {
        if flow.is_local(flow.opener) {
            return self.known.sender(flow, flow.opener) == Sender::Known;
        }
        flow.opening_seen || flow.sent_by(flow.opener.other()).0 > 0
    }

    /// Why nobody can be named who sends from the watched port: what was not seen, and why, where that is
    /// known.
    fn why_from_nobody(&self, flow: &Flow) -> String {
        let is_here = flow.is_local(flow.opener);
        let what = match (is_here, flow.sent_by(flow.opener.other()).0 > 0) {
            (true, true) => "packets leave from the port, and no socket was seen that sends them",
            (true, false) => {
                "packets leave from the port, and neither a socket was seen that sends them nor \
                 what they may answer"
            }
            (false, _) => {
                "packets come from the port of another host, and neither what they may answer was \
                 seen nor an answer to them"
            }
        };
        let opposite = if is_here { Direction::Ingress } else { Direction::Egress };
        let gap = flow.counted_at(flow.opener).and_then(|place| {
            let (interface, netns) = self.observed.at(place.interface);
            self.coverage.of(&netns, interface.ifindex, opposite)
        });
        gap.map_or_else(|| what.to_owned(), |gap| format!("{what}. {gap}"))
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
        let place = wire::Place(sample.key.place);
        let (id, sender) = FlowId::of(&sample.key);
        let (source, destination) = (id.endpoint(sender), id.endpoint(sender.other()));
        let (interface, netns) = self.observed.at(place.interface());
        let data = data.get(..self.snaplen).unwrap_or(data);
        let headers = usize::try_from(sample.payload_offset).unwrap_or(0).min(data.len());
        let (headers, payload) = data.split_at(headers);
        let (packet, blanked) = match self.payload {
            Payload::None => (headers.to_vec(), 0),
            Payload::Masked => {
                let Masked { bytes, blanked } = masked;
                let shown = bytes.get(..payload.len()).unwrap_or(bytes);
                let blanked = blanked.iter().take(shown.len()).filter(|blanked| **blanked);
                ([headers, shown].concat(), blanked.count())
            }
            Payload::Full => (data.to_vec(), 0),
        };
        let packet = Bytes::from(packet);
        let shown = if self.payload == Payload::None { Bytes::new() } else { packet.clone() };
        let end = if place.is_egress() { sender } else { sender.other() };
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
            data: shown,
            blanked: u32::try_from(blanked).unwrap_or(u32::MAX),
            packet,
            near: self.names_ends.then(|| Box::new(self.near_end(&id, end))),
        }
    }

    /// Who is at one end of a flow, as far as that is known by now.
    fn near_end(&self, id: &FlowId, end: End) -> NearEnd {
        let Some(flow) = self.flows.get(id) else {
            return NearEnd { ownership: Ownership::Unknown, owner: None, verdict: None };
        };
        let side = if end == flow.opener { Side::Source } else { Side::Destination };
        let Attribution { ownership, owners, .. } = self.known.of_flow(flow, None).attribution;
        let owner = owners.into_iter().find(|owner| owner.side == Some(side));
        // That of the other end says nothing of this one.
        let ownership = match (ownership, &owner) {
            (Ownership::Process, None) => Ownership::Unknown,
            (ownership, _) => ownership,
        };
        let serves = owner.as_ref().filter(|_| side == Side::Destination);
        let verdict = serves.and_then(|owner| self.verdict_of(flow, end, &owner.process));
        NearEnd { ownership, owner, verdict }
    }

    /// What the policy says of the listener that a process serves at an end of a flow.
    fn verdict_of(&self, flow: &Flow, end: End, process: &Process) -> Option<Verdict> {
        let (transport, port) = (flow.id.transport, flow.id.endpoint(end).port);
        let has = |owner: &Owner| {
            (owner.process.pid, owner.process.start_ticks) == (process.pid, process.start_ticks)
        };
        let mut listeners = self.open_reports().filter(|listener| {
            (listener.transport, listener.local.port) == (transport, port)
                && listener.attribution.owners.iter().any(has)
        });
        listeners.next().map(|listener| listener.verdict.clone())
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
