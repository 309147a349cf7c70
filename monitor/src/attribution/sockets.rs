//! The sockets on watched ports, by cookie, with everybody who had to do with each.

use std::collections::{BTreeSet, HashMap, VecDeque};

use monitor_ebpf::wire::{SocketRecord, action};

use crate::attribution::namespaces::Namespaces;
use crate::attribution::processes::{Captured, ProcessKey, Processes};
use crate::endpoint::{Endpoint, Family, Netns, SocketKind, Transport};
use crate::host;
use crate::owner::{Evidence, Role};

/// How long a closed socket is remembered for the flows it had.
const REMEMBER_NS: u64 = 60_000_000_000;
/// `TCP_CLOSE` of `include/net/tcp_states.h`.
const TCP_CLOSE: u8 = 7;

/// One process with a role in a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OwnerKey {
    /// What it did.
    pub role: Role,
    /// How that is known.
    pub evidence: Evidence,
    /// Who.
    pub process: ProcessKey,
}

/// A socket on a watched port.
#[derive(Clone, Debug, PartialEq)]
pub struct Socket {
    /// Its cookie.
    pub cookie: u64,
    /// TCP or UDP.
    pub transport: Transport,
    /// Family of the socket.
    pub family: Family,
    /// Cookie of its network namespace; 0 when unknown.
    pub netns_cookie: u64,
    /// Its network namespace.
    pub netns: Option<Netns>,
    /// Local end, once known.
    pub local: Option<Endpoint>,
    /// Remote end of a connected socket.
    pub remote: Option<Endpoint>,
    /// Whom it has addressed last without being connected, of those on watched ports.
    pub addressed: Option<Endpoint>,
    /// Interface index it is bound to; 0: none.
    pub interface: u32,
    /// Anybody may talk to it: TCP that listens, UDP that is bound and not connected.
    pub listens: bool,
    /// It was there when portwatch looked, rather than opened while it watched.
    pub found: bool,
    /// When it was found or opened.
    pub since_ns: u64,
    /// When it was closed.
    pub closed_ns: Option<u64>,
    /// Nobody needs to be asked to let go of it any more.
    pub released: bool,
    /// The systemd unit in whose cgroup it was made, of one that was found.
    pub unit: Option<String>,
    /// Why no process has it, of one that was found without.
    pub unowned: Option<&'static str>,
    /// What it is, of a socket that sent from a watched port without any hook telling of it.
    pub stranger: Option<SocketKind>,
    /// The kernel made it for itself: why that is known.
    pub kernel: Option<String>,
    /// Holds it without a descriptor, registered with `io_uring`.
    pub registrar: Option<ProcessKey>,
    /// Everybody who had to do with it.
    pub owners: Vec<OwnerKey>,
}

impl Socket {
    /// Is it for certain at that end of a conversation rather than here: it talks to here, or is on the port of
    /// that end?
    pub fn is_at_other_end(&self, here: Endpoint, there: Endpoint) -> bool {
        match self.stranger {
            Some(SocketKind::Tcp(bound) | SocketKind::Udp(bound)) => bound == there.port,
            Some(SocketKind::Raw | SocketKind::Packet) => false,
            None => {
                self.local.is_none_or(|local| local.port != here.port)
                    && [self.remote, self.addressed].contains(&Some(here))
            }
        }
    }

    /// Transport, local and remote end of a connected socket.
    fn ends(&self) -> Option<(Transport, Endpoint, Endpoint)> {
        self.local.zip(self.remote).map(|(local, remote)| (self.transport, local, remote))
    }

    /// Does it get what is sent to this address and port, as far as its own address tells?
    pub fn gets(&self, destination: Endpoint) -> bool {
        self.local.is_some_and(|bound| {
            bound.ip == destination.ip
                || bound.ip.is_unspecified()
                    && (bound.ip.is_ipv6() || bound.ip.is_ipv4() == destination.ip.is_ipv4())
        })
    }

    /// It listens from now on, unless it does already.
    fn start_listening(&mut self, now_ns: u64) {
        if !self.listens {
            (self.listens, self.since_ns) = (true, now_ns);
        }
    }

    /// Adds an owner; a second act in the same role only makes the evidence better.
    fn own(&mut self, role: Role, evidence: Evidence, process: ProcessKey) {
        let same = |owner: &&mut OwnerKey| owner.role == role && owner.process == process;
        match self.owners.iter_mut().find(same) {
            Some(owner) => owner.evidence = owner.evidence.min(evidence),
            None => self.owners.push(OwnerKey { role, evidence, process }),
        }
    }
}

/// All sockets on watched ports; bounded.
#[derive(Debug)]
pub struct Sockets {
    by_cookie: HashMap<u64, Socket>,
    by_ends: HashMap<(Transport, Endpoint, Endpoint), Vec<u64>>,
    listeners: HashMap<(Transport, u16), Vec<u64>>,
    heard: Heard,
    capacity: usize,
    forgotten: u64,
    /// Sockets whose listener state or owners changed since they were last asked for.
    changed: Vec<u64>,
}

impl Sockets {
    /// Knows none yet; forgets closed ones, then the oldest, beyond `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self {
            by_cookie: HashMap::new(),
            by_ends: HashMap::new(),
            listeners: HashMap::new(),
            heard: Heard::default(),
            capacity: capacity.max(1),
            forgotten: 0,
            changed: Vec::new(),
        }
    }

    /// A socket by cookie.
    pub fn get(&self, cookie: u64) -> Option<&Socket> {
        self.by_cookie.get(&cookie)
    }

    /// Sockets that had to be forgotten although they were open.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Connected sockets with these ends, in any namespace.
    pub fn with_ends(
        &self,
        transport: Transport,
        local: Endpoint,
        remote: Endpoint,
    ) -> impl Iterator<Item = &Socket> {
        let cookies = self.by_ends.get(&(transport, local, remote));
        cookies.into_iter().flatten().filter_map(|cookie| self.by_cookie.get(cookie))
    }

    /// Listeners on a port, in any namespace, closed ones that are remembered included.
    pub fn listeners(&self, transport: Transport, port: u16) -> impl Iterator<Item = &Socket> {
        let cookies = self.listeners.get(&(transport, port));
        cookies.into_iter().flatten().filter_map(|cookie| self.by_cookie.get(cookie))
    }

    /// Sockets on a local port whose process was seen to receive from `remote`, in any namespace.
    pub fn that_heard(
        &self,
        transport: Transport,
        port: u16,
        remote: Endpoint,
    ) -> impl Iterator<Item = &Socket> {
        let cookies = self.heard.by_sender.get(&(transport, port, remote));
        cookies.into_iter().flatten().filter_map(|cookie| self.by_cookie.get(cookie))
    }

    /// Does anybody listen now?
    pub fn anybody_listens(&self) -> bool {
        let mut cookies = self.listeners.values().flatten();
        cookies.any(|cookie| {
            let socket = self.by_cookie.get(cookie);
            socket.is_some_and(|socket| socket.listens && socket.closed_ns.is_none())
        })
    }

    /// All listeners.
    pub fn all_listeners(&self) -> impl Iterator<Item = &Socket> {
        self.by_cookie.values().filter(|socket| socket.listens)
    }

    /// All that are open.
    pub fn open(&self) -> impl Iterator<Item = &Socket> {
        self.by_cookie.values().filter(|socket| socket.closed_ns.is_none())
    }

    /// Takes the cookies of sockets that changed.
    pub fn take_changed(&mut self) -> Vec<u64> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// Something happened to a socket.
    pub fn record(
        &mut self,
        record: &SocketRecord,
        processes: &mut Processes,
        namespaces: &mut Namespaces,
    ) {
        let Some(transport) = Transport::from_iana_number(record.protocol) else { return };
        if namespaces.is_witness(record.cookie) {
            if namespaces.hear(record.cookie, record.netns_cookie) {
                self.resolve(namespaces);
            }
            return;
        }
        let now_ns = record.header.ktime_ns;
        let process = caller(record, processes);
        let family = if record.family == 6 { Family::Ipv6 } else { Family::Ipv4 };
        let socket = self.entry(record.cookie, transport, family, now_ns);
        if record.netns_cookie != 0 {
            socket.netns_cookie = record.netns_cookie;
            socket.netns = namespaces.ask(record.netns_cookie).or(socket.netns.take());
        }
        if let Some((role, process)) = role_of(record.action).zip(process) {
            socket.own(role, Evidence::Exact, process);
        }
        let former_ends = socket.ends();
        let former_listener = socket.local.filter(|_| socket.listens);
        let local = Endpoint::from_mapped(record.local, record.local_port);
        let remote = Endpoint::from_mapped(record.remote, record.remote_port);
        match record.action {
            action::BIND => {
                socket.local = Some(local);
                if transport == Transport::Udp {
                    socket.start_listening(now_ns);
                }
            }
            action::LISTEN => {
                socket.local = Some(local);
                socket.start_listening(now_ns);
                socket.closed_ns = None;
            }
            action::CONNECT => {
                socket.remote = Some(remote);
                if record.local_port != 0 {
                    socket.local = Some(local);
                }
                socket.listens = false;
            }
            action::SEND => socket.addressed = Some(remote),
            action::ESTABLISHED_ACTIVE | action::ESTABLISHED_PASSIVE => {
                (socket.local, socket.remote) = (Some(local), Some(remote));
            }
            action::RECEIVE => {
                let sender = (transport, record.local_port, remote);
                self.heard.add(sender, record.cookie, self.capacity);
                self.index(record.cookie);
                return;
            }
            action::STATE if record.new_state == TCP_CLOSE => socket.closed_ns = Some(now_ns),
            action::RELEASE => {
                socket.closed_ns = Some(now_ns);
                socket.released = true;
            }
            _ => {}
        }
        let former_listener = former_listener.filter(|_| !socket.listens);
        let former_ends = former_ends.filter(|former| socket.ends() != Some(*former));
        if let Some(former) = former_listener {
            self.changed.push(record.cookie);
            remove(&mut self.listeners, &(transport, former.port), record.cookie);
        }
        if let Some(former) = former_ends {
            remove(&mut self.by_ends, &former, record.cookie);
        }
        self.index(record.cookie);
    }

    /// A socket that was there when portwatch looked. What the hooks said of it stays.
    pub fn found(&mut self, found: &host::sockets::Socket, namespaces: &Namespaces, now_ns: u64) {
        let is_new = !self.by_cookie.contains_key(&found.cookie);
        let socket = self.entry(found.cookie, found.transport, found.family, now_ns);
        socket.found |= is_new;
        socket.netns.get_or_insert_with(|| namespaces.by_inode(found.netns));
        socket.local = Some(found.local);
        socket.remote = found.remote.or(socket.remote);
        socket.interface = found.interface;
        socket.unit.clone_from(&found.unit);
        socket.unowned = found.unowned();
        socket.listens |= found.is_listener();
        self.index(found.cookie);
    }

    /// A socket that no hook told of, met in a packet.
    pub fn meet(&mut self, cookie: u64, transport: Transport, family: Family, now_ns: u64) {
        self.entry(cookie, transport, family, now_ns);
    }

    /// What such a socket is.
    pub fn recognise(&mut self, cookie: u64, kind: SocketKind) {
        if let Some(socket) = self.by_cookie.get_mut(&cookie) {
            socket.stranger = Some(kind);
        }
    }

    /// The processes that hold descriptors of a socket now, all of them.
    pub fn held_by(&mut self, cookie: u64, holders: &[ProcessKey]) {
        let Some(socket) = self.by_cookie.get_mut(&cookie) else { return };
        let before = socket.owners.clone();
        let registrar = socket.registrar;
        socket.owners.retain(|owner| {
            let process = owner.process;
            owner.role != Role::Holder || holders.contains(&process) || registrar == Some(process)
        });
        for holder in holders {
            socket.own(Role::Holder, Evidence::Observed, *holder);
        }
        if socket.owners != before {
            self.changed.push(cookie);
        }
    }

    /// The kernel made a socket for itself.
    pub fn is_kernels(&mut self, cookie: u64, reason: &str) {
        let Some(socket) = self.by_cookie.get_mut(&cookie) else { return };
        if socket.kernel.as_deref() != Some(reason) {
            socket.kernel = Some(reason.to_owned());
            self.changed.push(cookie);
        }
    }

    /// A process holds a socket without a descriptor.
    pub fn registered_by(&mut self, cookie: u64, process: ProcessKey) {
        let Some(socket) = self.by_cookie.get_mut(&cookie) else { return };
        if socket.registrar != Some(process) {
            socket.registrar = Some(process);
            socket.own(Role::Holder, Evidence::Observed, process);
            self.changed.push(cookie);
        }
    }

    /// A listener was reported as closed: it is remembered only for the flows it had.
    pub fn no_longer_listens(&mut self, cookie: u64) {
        if let Some(socket) = self.by_cookie.get_mut(&cookie) {
            socket.listens = false;
        }
    }

    /// Two entries turned out to be one process.
    pub fn rename(&mut self, from: ProcessKey, to: ProcessKey) {
        for socket in self.by_cookie.values_mut() {
            let mut renamed = false;
            for owner in socket.owners.iter_mut().filter(|owner| owner.process == from) {
                owner.process = to;
                renamed = true;
            }
            if renamed {
                let owners = std::mem::take(&mut socket.owners);
                for owner in owners {
                    socket.own(owner.role, owner.evidence, owner.process);
                }
            }
        }
    }

    /// A process runs another program by now, which has the descriptors that it had.
    pub fn hand_on(&mut self, from: ProcessKey, to: ProcessKey) {
        for socket in self.by_cookie.values_mut() {
            let before = socket.owners.len();
            socket.owners.retain(|owner| owner.role != Role::Holder || owner.process != from);
            if socket.owners.len() < before {
                socket.own(Role::Holder, Evidence::Observed, to);
            }
        }
    }

    /// Everybody who has to do with listeners that are open, each once.
    pub fn owners_of_open_listeners(&self) -> BTreeSet<ProcessKey> {
        let open = self.all_listeners().filter(|socket| socket.closed_ns.is_none());
        open.flat_map(|socket| &socket.owners).map(|owner| owner.process).collect()
    }

    /// More is known of a process: the listeners it owns may have to be reported anew.
    pub fn process_changed(&mut self, process: ProcessKey) {
        let owns = |socket: &&Socket| {
            socket.listens && socket.owners.iter().any(|owner| owner.process == process)
        };
        self.changed.extend(self.by_cookie.values().filter(owns).map(|socket| socket.cookie));
    }

    /// Namespaces became known.
    pub fn resolve(&mut self, namespaces: &mut Namespaces) {
        // What a witness had to say may have come before it was known as one.
        for witness in namespaces.unheard() {
            let Some(socket) = self.by_cookie.remove(&witness) else { continue };
            self.unindex(&socket);
            namespaces.hear(witness, socket.netns_cookie);
        }
        for socket in self.by_cookie.values_mut().filter(|socket| socket.netns.is_none()) {
            socket.netns = namespaces.by_cookie(socket.netns_cookie);
            if socket.netns.is_some() && socket.listens {
                self.changed.push(socket.cookie);
            }
        }
    }

    /// Forgets sockets that have been closed for long. Returns those that were closed without being
    /// released, since nobody ever accepted them: the kernel side still remembers them.
    pub fn expire(&mut self, now_ns: u64) -> Vec<u64> {
        let expired = |socket: &Socket| {
            socket.closed_ns.is_some_and(|closed| now_ns.saturating_sub(closed) >= REMEMBER_NS)
        };
        let gone: Vec<Socket> = self
            .by_cookie
            .extract_if(|_, socket| expired(socket))
            .map(|(_, socket)| socket)
            .collect();
        for socket in &gone {
            self.unindex(socket);
        }
        gone.iter().filter(|socket| !socket.released).map(|socket| socket.cookie).collect()
    }

    fn entry(
        &mut self,
        cookie: u64,
        transport: Transport,
        family: Family,
        now_ns: u64,
    ) -> &mut Socket {
        if !self.by_cookie.contains_key(&cookie) && self.by_cookie.len() >= self.capacity {
            self.make_room();
        }
        self.by_cookie.entry(cookie).or_insert_with(|| Socket {
            cookie,
            transport,
            family,
            netns_cookie: 0,
            netns: None,
            local: None,
            remote: None,
            addressed: None,
            interface: 0,
            listens: false,
            found: false,
            since_ns: now_ns,
            closed_ns: None,
            released: false,
            unit: None,
            unowned: None,
            stranger: None,
            kernel: None,
            registrar: None,
            owners: Vec::new(),
        })
    }

    /// Forgets the oldest half of what is not a listener, closed ones first.
    fn make_room(&mut self) {
        let mut by_age: Vec<(bool, u64, u64)> = self
            .by_cookie
            .values()
            .filter(|socket| !socket.listens)
            .map(|socket| (socket.closed_ns.is_none(), socket.since_ns, socket.cookie))
            .collect();
        by_age.sort_unstable();
        for (open, _, cookie) in by_age.into_iter().take((self.capacity / 2).max(1)) {
            self.forgotten += u64::from(open);
            if let Some(socket) = self.by_cookie.remove(&cookie) {
                self.unindex(&socket);
            }
        }
    }

    fn index(&mut self, cookie: u64) {
        let Some(socket) = self.by_cookie.get(&cookie) else { return };
        if socket.listens {
            self.changed.push(cookie);
        }
        let Some(local) = socket.local else { return };
        let list = match socket.remote {
            Some(remote) => self.by_ends.entry((socket.transport, local, remote)).or_default(),
            None if socket.listens => {
                self.listeners.entry((socket.transport, local.port)).or_default()
            }
            None => return,
        };
        if !list.contains(&cookie) {
            list.push(cookie);
        }
    }

    fn unindex(&mut self, socket: &Socket) {
        let Some(local) = socket.local else { return };
        let ends = socket.remote.map(|remote| (socket.transport, local, remote));
        if let Some(ends) = ends {
            remove(&mut self.by_ends, &ends, socket.cookie);
        }
        remove(&mut self.listeners, &(socket.transport, local.port), socket.cookie);
    }
}

/// Who was seen to receive from whom: the only thing that tells which unconnected socket a datagram
/// went to. Bounded: anybody can invent senders.
#[derive(Debug, Default)]
struct Heard {
    by_sender: HashMap<Sender, Vec<u64>>,
    oldest_first: VecDeque<(Sender, u64)>,
}

/// Transport, local port, and the other end.
type Sender = (Transport, u16, Endpoint);

impl Heard {
    /// The socket received from `sender`; forgets the oldest beyond `capacity`.
    fn add(&mut self, sender: Sender, cookie: u64, capacity: usize) {
        let cookies = self.by_sender.entry(sender).or_default();
        if cookies.contains(&cookie) {
            return;
        }
        cookies.push(cookie);
        self.oldest_first.push_back((sender, cookie));
        if self.oldest_first.len() > capacity
            && let Some((sender, cookie)) = self.oldest_first.pop_front()
        {
            remove(&mut self.by_sender, &sender, cookie);
        }
    }
}

fn remove<K: Eq + std::hash::Hash>(index: &mut HashMap<K, Vec<u64>>, key: &K, cookie: u64) {
    if let Some(list) = index.get_mut(key) {
        list.retain(|other| *other != cookie);
        if list.is_empty() {
            index.remove(key);
        }
    }
}

/// The process in whose system call it happened, if the kernel told.
fn caller(record: &SocketRecord, processes: &mut Processes) -> Option<ProcessKey> {
    (record.in_process == 1 && record.tgid != 0).then(|| {
        let end = record.comm.iter().position(|byte| *byte == 0).unwrap_or(record.comm.len());
        processes.captured(&Captured {
            pid: record.tgid,
            uid: record.uid,
            comm: record.comm.get(..end).unwrap_or_default(),
            cgroup_id: (record.cgroup_id != 0).then_some(record.cgroup_id),
            seen_ns: record.header.ktime_ns,
        })
    })
}

const fn role_of(action: u8) -> Option<Role> {
    match action {
        action::BIND | action::LISTEN | action::CONNECT => Some(Role::Opener),
        action::SEND | action::RECEIVE | action::USE => Some(Role::User),
        action::RELEASE => Some(Role::Releaser),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
