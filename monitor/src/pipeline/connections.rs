//! Reports of connections that are there, for a command that looks at sockets and watches no packets.

use std::collections::BTreeMap;

use crate::attribution::Socket;
use crate::endpoint::{Direction, Endpoint, Transport};
use crate::flow::FlowId;
use crate::host::sockets::Socket as Found;
use crate::owner::{Ownership, Side};
use crate::pipeline::Pipeline;
use crate::pipeline::flows::community_id;
use crate::report::{Body, FlowChange, FlowReport, FlowRole};

/// What the two sockets of a connection within this host have in common: transport, the end that
/// called, the end that was called. Loopback addresses mean another host in each namespace.
type Ends = (Transport, Endpoint, Endpoint, Option<u64>);

impl Pipeline {
    /// Reports each connection once, also when both of its ends are on this host.
    pub(super) fn report_connections(&mut self, sockets: &[Found], now_ns: u64) {
        let mut connections: BTreeMap<Ends, Vec<FlowReport>> = BTreeMap::new();
        for found in sockets.iter().filter(|socket| !socket.is_listener()) {
            let Some(report) = self.connection_report(found, now_ns) else { continue };
            let netns = report.netns.as_ref().map(|netns| netns.inode);
            let netns = netns.filter(|_| report.source.ip.is_loopback());
            let ends = (report.transport, report.source, report.destination, netns);
            connections.entry(ends).or_default().push(report);
        }
        for report in connections.into_values().flat_map(joined) {
            let (source, destination) = (report.source, report.destination);
            let id = FlowId {
                transport: report.transport,
                family: report.family,
                low: source.min(destination),
                high: source.max(destination),
                inside: 0,
            };
            if !matches!(report.state, Some("SYN-SENT" | "SYN-RECV")) {
                self.judge_caller(id, &report, now_ns);
            }
            let found = self.found_at_ends(id, &report, now_ns);
            self.report(now_ns, Body::Flow(FlowChange::Updated, Box::new(report)));
            self.judge_flow(id, found, false, now_ns);
        }
    }

    fn connection_report(&self, found: &Found, now_ns: u64) -> Option<FlowReport> {
        let (local, remote) = (found.local, found.remote?);
        let socket = self.known.sockets.get(found.cookie)?;
        let called = self.was_called(socket, local);
        let (source, destination, side, role) = match (called, self.ports.contains(remote.port)) {
            (true, _) => (remote, local, Side::Destination, FlowRole::Server),
            (false, true) => (local, remote, Side::Source, FlowRole::Client),
            (false, false) => (local, remote, Side::Source, FlowRole::Ephemeral),
        };
        let port = if self.ports.contains(local.port) { local.port } else { remote.port };
        let now_unix_ns = self.clock.unix_ns(now_ns);
        Some(FlowReport {
            source,
            destination,
            transport: found.transport,
            family: local.family(),
            port,
            direction: if called { Direction::Ingress } else { Direction::Egress },
            role: Some(role),
            source_packets: 0,
            source_bytes: 0,
            destination_packets: 0,
            destination_bytes: 0,
            start_unix_ns: now_unix_ns,
            last_unix_ns: now_unix_ns,
            tcp_flags: None,
            state: Some(found.state.name()),
            netns: socket.netns.clone(),
            interfaces: Vec::new(),
            community_id: community_id(source, destination, found.transport),
            app: None,
            nat: None,
            attribution: self.known.of_connection(socket, side).attribution,
        })
    }

    /// Whoever listens on the local port was called; otherwise this end is the caller.
    fn was_called(&self, socket: &Socket, local: Endpoint) -> bool {
        let mut listeners = self.known.sockets.listeners(socket.transport, local.port);
        listeners.any(|listener| listener.netns == socket.netns && listener.gets(local))
    }
}

/// One report of the two sockets of a connection; anything else than one socket for each end stays as
/// it is, since nobody can say which belong together.
fn joined(mut reports: Vec<FlowReport>) -> Vec<FlowReport> {
    let is_server = |report: &FlowReport| report.role == Some(FlowRole::Server);
    reports.sort_by_key(|report| !is_server(report));
    match <[FlowReport; 2]>::try_from(reports) {
        Ok([mut server, client]) if is_server(&server) && !is_server(&client) => {
            let [of_server, of_client] = [&server, &client].map(|it| it.attribution.ownership);
            if matches!(of_client, Ownership::None | Ownership::Kernel)
                && client.attribution.reason != server.attribution.reason
            {
                let (reason, of_client) = (&server.attribution.reason, &client.attribution.reason);
                server.attribution.reason = format!("{reason}; the client's end: {of_client}");
            }
            server.attribution.owners.extend(client.attribution.owners);
            if ![Ownership::Process, Ownership::Kernel].contains(&of_server) {
                server.attribution.ownership = client.attribution.ownership;
                server.attribution.reason = client.attribution.reason;
            }
            vec![server]
        }
        Ok(pair) => pair.into(),
        Err(reports) => reports,
    }
}
