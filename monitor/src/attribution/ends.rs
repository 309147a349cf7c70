//! Who is at each end of a flow, and of a listener: joins flows to sockets and sockets to processes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::attribution::{
    Answer, Namespaces, OwnerKey, ProcessKey, Processes, Socket, Sockets, Translation, Translations,
};
use crate::endpoint::{Endpoint, Family, Transport};
use crate::flow::{End, Flow};
use crate::owner::{Attribution, Evidence, Owner, Ownership, Role, Side};
use crate::report::FlowRole;

/// The longest jiffy there is (100 Hz): the time of a flow's last packet is that coarse.
const JIFFY_NS: u64 = 10_000_000;

/// Everything attribution knows.
#[derive(Debug)]
pub struct Known {
    /// Processes.
    pub processes: Processes,
    /// Sockets.
    pub sockets: Sockets,
    /// Network namespaces.
    pub namespaces: Namespaces,
    /// The namespaces in which packets are seen: inodes by the numbers that packets tell.
    pub observed: HashMap<u32, u64>,
    /// What flows are called on the other side of a translation of addresses.
    pub translations: Translations,
}

/// How a flow's end was joined to a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Join {
    /// A packet carried the socket's cookie, or the kernel told cookie and both ends together.
    Exact,
    /// The addresses fit.
    Addresses,
}

/// What is known of the socket that sends from an end of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sender {
    /// Nothing says that there is one.
    Unknown,
    /// There is one.
    Known,
    /// There is one, of UDP, bound and not connected. Anybody may write to it, so whether it asks or answers
    /// only the order of packets tells, as far as all were seen.
    OpenToAll,
}

impl Known {
    /// The owners of a socket itself.
    pub fn of_socket(&self, socket: &Socket) -> Answer {
        let owners = self.owners(socket, None, Join::Exact);
        let mut settled = self.are_settled(socket);
        if socket.netns.is_none() {
            settled = false;
        }
        let attribution = if let Some(reason) = &socket.kernel {
            Attribution::kernel(reason, owners)
        } else if owners.is_empty() {
            Attribution::unknown(
                "no process has a descriptor of it: the kernel may own it (WireGuard, NFS, VXLAN), \
                 or its holder hides",
            )
        } else {
            Attribution::of_processes(reason(&owners), owners)
        };
        Answer { attribution, settled }
    }

    /// Is everybody gone who is known to have had to do with an open listener?
    pub fn is_abandoned(&self, socket: &Socket) -> bool {
        let is_gone = |owner: &OwnerKey| {
            let process = self.processes.get(owner.process);
            process.is_none_or(|(_, exited)| exited) || self.processes.is_replaced(owner.process)
        };
        socket.listens
            && socket.closed_ns.is_none()
            && socket.kernel.is_none()
            && !socket.owners.is_empty()
            && socket.owners.iter().all(is_gone)
    }

    /// The owners of a connected socket that stands for one end of a connection.
    pub fn of_connection(&self, socket: &Socket, side: Side) -> Answer {
        let mut answer = self.of_socket(socket);
        for owner in &mut answer.attribution.owners {
            owner.side = Some(side);
        }
        if !answer.attribution.owners.is_empty() || socket.kernel.is_some() {
            return answer;
        }
        // What was not accepted yet belongs to those who listen.
        let listens = |listener: &&Socket| {
            listener.netns == socket.netns && socket.local.is_some_and(|local| listener.gets(local))
        };
        if let Some(reason) = socket.unowned {
            answer.attribution = nobody_has(reason);
            return answer;
        }
        let port = socket.local.map_or(0, |local| local.port);
        let listeners: Vec<&Socket> =
            self.sockets.listeners(socket.transport, port).filter(listens).collect();
        let owners: Vec<Owner> = listeners
            .iter()
            .flat_map(|listener| self.owners(listener, Some(side), Join::Addresses))
            .collect();
        let kernel = listeners.iter().find_map(|listener| listener.kernel.as_deref());
        if let Some(reason) = kernel {
            // Whoever handed it the listener has had to do with that, not with this.
            let reason = format!("no process has a descriptor of it; of who listens: {reason}");
            answer.attribution = Attribution::kernel(reason, Vec::new());
        } else if owners.is_empty() {
            "no process has a descriptor of it: it is closing, or the kernel's"
                .clone_into(&mut answer.attribution.reason);
        } else {
            let reason = "not accepted yet: it belongs to those who listen";
            answer.attribution = Attribution::of_processes(reason, owners);
        }
        answer
    }

    /// The owners of both ends of a flow.
    pub fn of_flow(&self, flow: &Flow, role: Option<FlowRole>) -> Answer {
        let mut owners = Vec::new();
        // A socket that sends from a port that it is not on.
        let mut stranger = None;
        let mut unowned = None;
        let mut kernel = Vec::new();
        let mut settled = true;
        let translation = self.translations.get(&flow.id);
        // Some end is known only by what it is called on the other side.
        let mut was_translated = false;
        for (side, end) in [(Side::Destination, flow.opener.other()), (Side::Source, flow.opener)] {
            let mut sockets = self.sockets_at(flow, end);
            let is_elsewhere = !is_certain(flow, end, &sockets);
            if let Some(translation) = translation.filter(|_| is_elsewhere) {
                // Of who listens on the port here nobody gets what is sent on.
                sockets.retain(|(socket, _)| socket.stranger.is_some());
                let (local, remote) = (translation.end(end), translation.end(end.other()));
                let there = self.sockets.with_ends(flow.id.transport, local, remote);
                sockets.extend(there.map(|socket| (socket, Join::Addresses)));
                was_translated |= sockets.iter().any(|(socket, _)| socket.stranger.is_none());
                if sockets.is_empty() && side == Side::Destination {
                    let served = self.serving(translation);
                    was_translated |= !served.is_empty();
                    owners.extend(served);
                    settled &= translation.owners.iter().all(|it| self.processes.is_settled(*it));
                }
            }
            let served = sockets.iter().any(|(socket, _)| is_served(socket));
            if served {
                keep_listeners_of_servers(&mut sockets);
            }
            let (before, mut of_nobody) = (owners.len(), None);
            for (socket, join) in sockets {
                let mut of_socket = self.owners(socket, Some(side), join);
                if served && socket.remote.is_none() {
                    keep_openers(&mut of_socket);
                }
                owners.extend(of_socket);
                settled &= self.are_settled(socket);
                stranger = stranger.or(socket.stranger);
                of_nobody = of_nobody.or(socket.unowned);
                kernel.extend(socket.kernel.as_deref().map(|reason| (side, reason)));
            }
            if owners.len() == before {
                unowned = unowned.or(of_nobody.map(|why| (side, why)));
            }
        }
        let attribution = match translation {
            None if let Some(reason) = of_kernels(&kernel, &owners) => {
                Attribution::kernel(reason, owners)
            }
            Some(translation) if owners.is_empty() => translation.to_nobody(flow),
            Some(translation) if was_translated => translation.joined(flow, owners),
            _ if owners.is_empty() => {
                unowned.map_or_else(|| nobody(role), |(_, why)| nobody_has(why))
            }
            _ => {
                let why = match stranger {
                    Some(kind) => format!("the packets carry the cookie of a {kind}"),
                    None => reason(&owners).to_owned(),
                };
                unowned = unowned.or(kernel.first().copied());
                let why = match unowned {
                    Some((Side::Source, left)) => format!("{why}; the client's end: {left}"),
                    Some((Side::Destination, left)) => format!("{why}; the server's end: {left}"),
                    None => why,
                };
                Attribution::of_processes(why, owners)
            }
        };
        Answer { attribution, settled }
    }

    /// Who serves at the end of a translation, by the tables of sockets.
    fn serving(&self, translation: &Translation) -> Vec<Owner> {
        let holder = |process: &ProcessKey| {
            let (role, evidence) = (Role::Holder, Evidence::Inferred);
            self.owner(OwnerKey { role, evidence, process: *process }, Some(Side::Destination))
        };
        translation.owners.iter().filter_map(holder).collect()
    }

    /// Is a socket known that may be at this end?
    pub fn has_socket(&self, flow: &Flow, end: End) -> bool {
        !self.sockets_at(flow, end).is_empty()
    }

    /// What is known of the socket that sends from this end: its packets carry a cookie, or a socket is known
    /// that has both ends, or listens there.
    pub fn sender(&self, flow: &Flow, end: End) -> Sender {
        let (local, during) = (flow.id.endpoint(end), flow.start_ns);
        let netns = flow.counted_at(end).map(|place| place.interface.netns());
        let netns = netns.and_then(|netns| self.observed.get(&netns).copied());
        let is_there = |listener: &Socket| {
            let inode = listener.netns.as_ref().map(|netns| netns.inode);
            listener.gets(local)
                && listener.closed_ns.is_none_or(|closed_ns| closed_ns >= during)
                && (netns.is_none() || inode.is_none() || netns == inode)
        };
        let (sockets, cookie) = (self.sockets_at(flow, end), self.cookie_at(flow, end));
        // Bound and not connected, which it also was that is closed by now.
        let is_open = |socket: &Socket| socket.local.is_some() && socket.remote.is_none();
        let listens = if sockets.is_empty() && cookie == 0 {
            self.sockets.listeners(flow.id.transport, local.port).any(is_there)
        } else {
            sockets.iter().any(|(socket, _)| is_open(socket))
        };
        if listens && flow.id.transport == Transport::Udp {
            Sender::OpenToAll
        } else if listens || cookie != 0 || !sockets.is_empty() {
            Sender::Known
        } else {
            Sender::Unknown
        }
    }

    /// Cookie of the socket that sends from an end, 0 if none is known. What somebody on the way has turned
    /// round keeps the cookie of who asked, and may be all that is seen.
    fn cookie_at(&self, flow: &Flow, end: End) -> u64 {
        let cookie = flow.sender(end);
        let (here, there) = (flow.id.endpoint(end), flow.id.endpoint(end.other()));
        let is_askers =
            |socket: &Socket| here.port != there.port && socket.is_at_other_end(here, there);
        if self.sockets.get(cookie).is_some_and(is_askers) { 0 } else { cookie }
    }

    /// A socket of this host should be at one end of a flow, and none is known; or it is one that sends from
    /// a port that it is not on. So the packets may have other addresses and ports where it is.
    pub fn may_be_translated(&self, flow: &Flow) -> bool {
        let is_answered = flow.sent_by(flow.opener.other()).0 > 0;
        is_answered
            && [End::Low, End::High]
                .into_iter()
                .filter(|end| flow.is_local(*end))
                .any(|end| !is_certain(flow, end, &self.sockets_at(flow, end)))
    }

    /// The sockets at one end: by cookie, by both ends, or the listener that gets what is sent there.
    fn sockets_at(&self, flow: &Flow, end: End) -> Vec<(&Socket, Join)> {
        let (local, remote) = (flow.id.endpoint(end), flow.id.endpoint(end.other()));
        let mut found: Vec<(&Socket, Join)> = Vec::new();
        let cookie = self.cookie_at(flow, end);
        if let Some(socket) = self.sockets.get(cookie).filter(|_| cookie != 0) {
            found.push((socket, Join::Exact));
        } else {
            // One that was found was there before anything was seen, however late it was found.
            let was_there = |socket: &Socket| {
                socket.found || socket.since_ns <= flow.last_ns.saturating_add(JIFFY_NS)
            };
            let during = |socket: &&Socket| {
                was_there(socket)
                    && socket.closed_ns.is_none_or(|closed_ns| closed_ns >= flow.start_ns)
            };
            let inside = flow.stays_inside().and_then(|netns| self.observed.get(&netns));
            let may_be_here = |socket: &&Socket| match (inside, &socket.netns) {
                (Some(inside), Some(netns)) => netns.inode == *inside,
                _ => true,
            };
            let connected = self.sockets.with_ends(flow.id.transport, local, remote);
            let connected: Vec<&Socket> = connected.filter(during).filter(may_be_here).collect();
            match connected.as_slice() {
                [] => {}
                // The hooks told cookie and ends of this one together, and there is no other.
                [one] => found.push((one, join(one, flow))),
                several => found.extend(several.iter().map(|one| (*one, Join::Addresses))),
            }
        }
        // What was accepted belongs to those who listen, until somebody is seen with it; and what
        // nobody answered went to them.
        let accepts = found.iter().all(|(socket, _)| !socket.listens && socket.remote.is_some());
        if accepts && flow.opener.other() == end {
            let netns = found.first().and_then(|(socket, _)| socket.netns.as_ref());
            let netns = netns.map(|netns| netns.inode);
            found.extend(self.listeners_for(flow, local, netns));
        }
        found
    }

    fn listeners_for(
        &self,
        flow: &Flow,
        local: Endpoint,
        netns: Option<u64>,
    ) -> Vec<(&Socket, Join)> {
        let accepted_in = netns;
        let arrived_in = flow
            .counted_at(flow.opener)
            .and_then(|place| self.observed.get(&place.interface.netns()).copied());
        let mut found: Vec<(&Socket, Join)> = self
            .sockets
            .listeners(flow.id.transport, local.port)
            .filter(|socket| socket.closed_ns.is_none_or(|closed| closed >= flow.start_ns))
            .filter(|socket| {
                let inode = socket.netns.as_ref().map(|netns| netns.inode);
                match accepted_in {
                    Some(accepted_in) => inode == Some(accepted_in),
                    // Nobody was seen to accept: only a listener in the namespace where the packets
                    // were seen to arrive can be the receiver.
                    None => {
                        inode.is_some() && inode == arrived_in && flow.is_local(flow.opener.other())
                    }
                }
            })
            .filter(|socket| socket.gets(local))
            .map(|socket| (socket, Join::Addresses))
            .collect();
        // With a socket of its own family bound, IPv4 does not go to one that listens on all of IPv6.
        let is_ipv4 = |(socket, _): &(&Socket, Join)| socket.family == Family::Ipv4;
        if local.ip.is_ipv4() && found.iter().any(is_ipv4) {
            found.retain(is_ipv4);
        }
        // A process was seen to receive from there: then it is that socket, whatever else would fit.
        let heard: Vec<u64> = self
            .sockets
            .that_heard(flow.id.transport, local.port, flow.id.endpoint(flow.opener))
            .map(|socket| socket.cookie)
            .collect();
        if let [cookie] = heard.as_slice()
            && let Some((socket, _)) = found.iter().find(|(socket, _)| socket.cookie == *cookie)
        {
            return vec![(socket, join(socket, flow))];
        }
        // A socket bound to the very address gets the packets, not one bound to all.
        if found.iter().any(|(socket, _)| socket.local == Some(local)) {
            found.retain(|(socket, _)| socket.local == Some(local));
        }
        if let ([(socket, how)], Some(_)) = (found.as_mut_slice(), accepted_in) {
            // The kernel told that a connection was accepted there, and only one socket listens.
            *how = join(socket, flow);
        }
        found
    }

    fn owners(&self, socket: &Socket, side: Option<Side>, join: Join) -> Vec<Owner> {
        let owner = |owner: &OwnerKey| {
            let evidence = match join {
                Join::Exact => owner.evidence,
                Join::Addresses => Evidence::Inferred,
            };
            self.owner(OwnerKey { evidence, ..*owner }, side)
        };
        socket.owners.iter().filter_map(owner).collect()
    }

    fn owner(&self, key: OwnerKey, side: Option<Side>) -> Option<Owner> {
        let OwnerKey { role, evidence, process } = key;
        let replaced = self.processes.is_replaced(process);
        let (process, exited) = self.processes.get(process)?;
        Some(Owner { side, role, evidence, exited, replaced, process: Arc::clone(process) })
    }

    fn are_settled(&self, socket: &Socket) -> bool {
        socket.owners.iter().all(|owner| self.processes.is_settled(owner.process))
    }
}

/// How a flow is joined to the only socket that fits. One that was closed within the jiffy in which the
/// flow started may have been closed before.
fn join(socket: &Socket, flow: &Flow) -> Join {
    if socket.closed_ns.is_none_or(|closed_ns| closed_ns >= flow.start_by_ns) {
        Join::Exact
    } else {
        Join::Addresses
    }
}

/// One of these sockets has to do with the packets of this end for certain: they carry its cookie, or it has
/// both addresses. A listener may have, one on another port has because something translates.
fn is_certain(flow: &Flow, end: End, sockets: &[(&Socket, Join)]) -> bool {
    sockets.iter().any(|(socket, _)| {
        let is_sender = flow.sender(end) == socket.cookie;
        socket.stranger.is_none() && (is_sender || socket.remote.is_some())
    })
}

/// Somebody was seen with this connection.
fn is_served(socket: &Socket) -> bool {
    socket.remote.is_some() && !socket.owners.is_empty()
}

/// Several listeners may share a port: then a connection came from the one that its user has to do
/// with, if there is such a one.
fn keep_listeners_of_servers(sockets: &mut Vec<(&Socket, Join)>) {
    let is_listener = |socket: &Socket| socket.remote.is_none();
    let servers: Vec<ProcessKey> = sockets
        .iter()
        .filter(|(socket, _)| !is_listener(socket))
        .flat_map(|(socket, _)| socket.owners.iter().map(|owner| owner.process))
        .collect();
    let is_theirs =
        |socket: &Socket| socket.owners.iter().any(|owner| servers.contains(&owner.process));
    let fits = |socket: &Socket| is_listener(socket) && is_theirs(socket);
    if sockets.iter().any(|(socket, _)| fits(socket)) {
        sockets.retain(|(socket, _)| !is_listener(socket) || is_theirs(socket));
    }
}

/// Of those who have to do with a listener only who opened it has to do with a connection that
/// somebody is seen with; where that is not known, who holds it. Its other workers have not, and who
/// closed it did not close the connection.
fn keep_openers(of_listener: &mut Vec<Owner>) {
    let kept = if of_listener.iter().any(|owner| owner.role == Role::Opener) {
        Role::Opener
    } else {
        Role::Holder
    };
    of_listener.retain(|owner| owner.role == kept);
}

/// Why a flow is the kernel's, by the ends that are: its server is, or its client and no process serves.
fn of_kernels(ends: &[(Side, &str)], owners: &[Owner]) -> Option<String> {
    let at = |side| ends.iter().find(|(of, _)| *of == side).map(|(_, reason)| *reason);
    let is_served = owners.iter().any(|owner| owner.side == Some(Side::Destination));
    match (at(Side::Destination), at(Side::Source)) {
        (Some(server), Some(client)) => Some(format!("{server}; the client's end: {client}")),
        (Some(server), None) => Some(server.to_owned()),
        (None, client) => client.filter(|_| !is_served).map(str::to_owned),
    }
}

/// The socket is there, and no process has it.
fn nobody_has(reason: &str) -> Attribution {
    Attribution { ownership: Ownership::None, reason: reason.to_owned(), owners: Vec::new() }
}

fn nobody(role: Option<FlowRole>) -> Attribution {
    let (ownership, reason) = match role {
        Some(FlowRole::Forwarded) => {
            (Ownership::Forwarded, "it came in at one interface and left at another")
        }
        Some(FlowRole::Refused) => {
            (Ownership::None, "the host answered with a reset: nobody listens")
        }
        Some(FlowRole::Unanswered) => (Ownership::Unknown, "nobody answered, and no socket fits"),
        _ => (Ownership::Unknown, "no socket with these ends was seen"),
    };
    Attribution { ownership, reason: reason.to_owned(), owners: Vec::new() }
}

/// Why the answer is what it is, in words.
fn reason(owners: &[Owner]) -> &'static str {
    let best = owners.iter().map(|owner| owner.evidence).min();
    match best {
        Some(Evidence::Exact) => {
            "the kernel named the process in the system call that opened or used the socket"
        }
        Some(Evidence::Observed) => {
            "the process has a descriptor of the socket; who opened it was before portwatch"
        }
        Some(Evidence::Inferred) | None => "the addresses and ports fit a socket of the process",
    }
}

#[cfg(test)]
mod tests;
