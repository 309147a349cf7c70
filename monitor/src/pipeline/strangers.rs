//! Sockets that send from a watched port although none of them is on it: packets that a rule redirects, or
//! that somebody makes by hand. The packets name the socket, and the descriptors of the host who holds it.

use std::collections::{HashMap, HashSet};

use crate::attribution::{ProcessKey, Request};
use crate::endpoint::{Endpoint, SocketKind, Transport};
use crate::flow::{End, Flow, FlowId};
use crate::kernel::holders::Holder;
use crate::owner::Owner;
use crate::pipeline::findings::Ground;
use crate::pipeline::listeners::PATIENCE_NS;
use crate::pipeline::odd::{self, Kind, Suspicion};
use crate::pipeline::{Pipeline, evidence, judgement, next_steps};
use crate::report::{Finding, FindingKind, Severity, Technique};

/// Sockets looked for in one run before all that were are forgotten, and those that wait at a time.
const MAX_ASKED: usize = 16_384;
const MAX_WAITING: usize = 256;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    asked: HashSet<u64>,
    /// Whose holders are to be looked for.
    wanted: Vec<u64>,
    /// The flow in which each was met.
    met: HashMap<u64, (FlowId, End)>,
    /// Recognised, and since when it waits for the names of its processes.
    waiting: Vec<(u64, SocketKind, u64)>,
    /// What was found already.
    found: HashSet<(FindingKind, Transport, Endpoint, SocketKind)>,
}

impl Pipeline {
    /// Notes who sent the packets of a flow, if no hook has told of that socket.
    pub(super) fn meet_strangers(&mut self, flow: &Flow) {
        for end in [End::Low, End::High] {
            let cookie = flow.sender(end);
            let strangers = &mut self.strangers;
            if cookie == 0
                || self.known.sockets.get(cookie).is_some()
                || strangers.met.len() >= MAX_WAITING
            {
                continue;
            }
            if strangers.asked.len() >= MAX_ASKED {
                strangers.asked.clear();
            }
            if strangers.asked.insert(cookie) {
                strangers.wanted.push(cookie);
                strangers.met.insert(cookie, (flow.id, end));
            }
        }
    }

    /// Cookies of sockets whose holders are to be looked for; to be answered by
    /// [`strangers_held`](Self::strangers_held).
    pub fn take_strangers(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.strangers.wanted)
    }

    /// Takes in who holds descriptors of these sockets, complete for all of them.
    pub(super) fn strangers_held(&mut self, cookies: &[u64], holders: &[Holder], now_ns: u64) {
        for &cookie in cookies {
            let held = || holders.iter().filter(|holder| holder.cookie == cookie);
            let Some((id, _end)) = self.strangers.met.get(&cookie).copied() else {
                self.known_held(cookie, held().map(|holder| holder.tgid).collect(), now_ns);
                continue;
            };
            // The kernel's own sockets answer too, with a reset: nobody holds those.
            let Some(first) = held().next() else {
                self.strangers.met.remove(&cookie);
                continue;
            };
            self.known.sockets.meet(cookie, id.transport, id.family, now_ns);
            let processes: Vec<ProcessKey> =
                held().map(|holder| self.known.processes.present(holder.tgid, now_ns)).collect();
            self.known.sockets.held_by(cookie, &processes);
            self.requests.push(Request::Recognise { cookie, pid: first.tgid, fd: first.fd });
        }
    }

    /// Takes in who has a socket that is known but for that.
    fn known_held(&mut self, cookie: u64, pids: Vec<u32>, now_ns: u64) {
        let mut present = |pid| self.known.processes.present(pid, now_ns);
        let processes: Vec<ProcessKey> = pids.into_iter().map(&mut present).collect();
        self.known.sockets.held_by(cookie, &processes);
    }

    /// Asks who has a socket that is known but for that.
    pub(super) fn ask_who_holds(&mut self, cookie: u64) {
        self.strangers.wanted.push(cookie);
    }

    /// Takes in what kind of socket it is, where that can be told.
    pub(super) fn recognised(&mut self, cookie: u64, kind: Option<SocketKind>, now_ns: u64) {
        match kind {
            Some(kind) if self.strangers.met.contains_key(&cookie) => {
                self.known.sockets.recognise(cookie, kind);
                self.strangers.waiting.push((cookie, kind, now_ns));
            }
            _ => drop(self.strangers.met.remove(&cookie)),
        }
    }

    /// Reports those whose processes are known by now, or have not become known in time.
    pub(super) fn report_strangers(&mut self, now_ns: u64, all: bool) {
        for (cookie, kind, since_ns) in std::mem::take(&mut self.strangers.waiting) {
            let Some(socket) = self.known.sockets.get(cookie) else {
                self.strangers.met.remove(&cookie);
                continue;
            };
            let answer = self.known.of_socket(socket);
            let waited = all || now_ns.saturating_sub(since_ns) >= PATIENCE_NS;
            if !answer.settled && !waited {
                self.strangers.waiting.push((cookie, kind, since_ns));
                continue;
            }
            if let Some(met) = self.strangers.met.remove(&cookie) {
                let owner = answer.attribution.principal();
                self.judge_stranger(cookie, met, kind, owner, now_ns);
            }
        }
    }

    /// Asks what makes a socket on another port answer.
    fn suspect_redirection(
        &mut self,
        cookie: u64,
        (id, answered): (FlowId, Endpoint),
        kind: SocketKind,
        owner: Option<&Owner>,
        now_ns: u64,
    ) {
        let (SocketKind::Tcp(bound) | SocketKind::Udp(bound)) = kind else { return };
        let transport = id.transport;
        let holder = owner.map(|owner| &*owner.process);
        let suspicion = Suspicion {
            kind: Kind::OtherPort(bound),
            transport,
            answered,
            ground: Ground::Stranger(cookie),
            sentence: format!(
                "{} {answered} is answered by {}, whose socket is on port {bound}",
                transport.name(),
                odd::who(owner)
            ),
            proof: vec![PROOF.to_owned()],
            owner: self.owner_lines(owner, now_ns),
            program: holder.map(judgement::program).unwrap_or_default(),
            next_steps: next_steps::of_stranger(kind, holder),
        };
        let place = self.flows.get(&id).and_then(|flow| flow.places.first());
        let number = place.map_or(0, |place| place.interface.netns());
        let netns = self.known.observed.get(&number).copied().unwrap_or_default();
        self.explain(suspicion, netns, now_ns);
    }

    /// A finding where it answers for the watched port: on the other side it is a client, and its packets
    /// may come from anywhere.
    fn judge_stranger(
        &mut self,
        cookie: u64,
        (id, end): (FlowId, End),
        kind: SocketKind,
        owner: Option<&Owner>,
        now_ns: u64,
    ) {
        let endpoint = id.endpoint(end);
        let answers = self.flows.get(&id).is_none_or(|flow| flow.opener != end);
        if !answers || !self.ports.contains(endpoint.port) {
            return;
        }
        if let SocketKind::Tcp(bound) | SocketKind::Udp(bound) = kind {
            if bound != endpoint.port {
                self.suspect_redirection(cookie, (id, endpoint), kind, owner, now_ns);
            }
            return;
        }
        let what = FindingKind::AnswerWithoutSocket;
        if self.strangers.found.len() >= MAX_ASKED {
            self.strangers.found.clear();
        }
        if !self.strangers.found.insert((what, id.transport, endpoint, kind)) {
            return;
        }
        let message = format!(
            "{} {endpoint} is answered by {}, through a {kind}: nobody listens there.",
            id.transport.name(),
            odd::who(owner)
        );
        let mut evidence = vec![PROOF.to_owned()];
        let now_unix_ns = self.clock.unix_ns(now_ns);
        evidence.extend(owner.into_iter().flat_map(|it| evidence::of_owner(it, now_unix_ns)));
        let holder = owner.map(|owner| &*owner.process);
        let program = holder.map(judgement::program).unwrap_or_default();
        let subject = format!("{}|{endpoint}|{kind}|{program}", id.transport.name());
        let finding = Finding {
            evidence,
            next_steps: next_steps::of_stranger(kind, holder),
            techniques: vec![&Technique::TRAFFIC_SIGNALING],
            ..Finding::new(what, &subject, Severity::Critical, message)
        };
        self.find(finding, Ground::Stranger(cookie), now_ns);
        self.follow_portless(cookie);
    }
}

/// What says whose packets they are.
const PROOF: &str =
    "the packets carry the cookie of that socket, which the process has a descriptor of";
