//! Answers that no socket on the port explains. Before one becomes a finding it is asked what else can answer
//! there; what was checked, and what came of it, is the finding's evidence.

use std::collections::{BTreeMap, HashSet};

use monitor_ebpf::packet::tcp;

use crate::attribution::{Place, Request, Translation};
use crate::endpoint::{Endpoint, Transport};
use crate::explanation::{Cause, Explanation};
use crate::flow::Flow;
use crate::host::nftables::Action;
use crate::owner::{Attribution, Owner, Process, Side};
use crate::pipeline::findings::Ground;
use crate::pipeline::judgement::{self, name};
use crate::pipeline::{Pipeline, evidence, next_steps, relays};
use crate::report::{Finding, FindingKind, FlowReport, Severity, Technique};

/// Findings that wait at a time; what is beyond is found without an explanation.
const MAX_WAITING: usize = 64;
/// How long one waits.
const PATIENCE_NS: u64 = 3_000_000_000;
/// How long before that it is waited for who has a socket.
const NAMING_NS: u64 = 1_000_000_000;
/// Answers remembered before all are forgotten.
const MAX_FOUND: usize = 16_384;

/// The answers that wait for an explanation, and those that were found.
#[derive(Debug, Default)]
pub(super) struct Odd {
    waiting: BTreeMap<u64, (Suspicion, u64)>,
    last_number: u64,
    /// Sockets that it is asked of who has them.
    unnamed: Vec<Unnamed>,
    found: HashSet<(Transport, Endpoint, Kind)>,
}

/// A socket that answers although no listener has accepted it, and since when nobody is known to have it.
#[derive(Debug)]
struct Unnamed {
    flow: Flow,
    cookie: u64,
    since_ns: u64,
}

/// An answer that no socket on the port explains.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    /// What is odd about it.
    pub(super) kind: Kind,
    /// The transport.
    pub(super) transport: Transport,
    /// What answered.
    pub(super) answered: Endpoint,
    /// What the finding stands on.
    pub(super) ground: Ground,
    /// `tcp 10.0.0.2:3516 is answered by sshd (pid 812), whose socket is on port 22`.
    pub(super) sentence: String,
    /// What that rests on.
    pub(super) proof: Vec<String>,
    /// What is known of who answers.
    pub(super) owner: Vec<String>,
    /// What makes the program of who answers the same when it is found again.
    pub(super) program: String,
    /// Commands that tell more.
    pub(super) next_steps: Vec<String>,
}

/// What is odd about an answer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Kind {
    /// It comes from a socket on another port.
    OtherPort(u16),
    /// It comes from this place, says connection tracking.
    SentOn {
        /// Where.
        to: Endpoint,
        /// A process of the container runtime says the same.
        is_published: bool,
    },
    /// It comes from a socket on the port, but nobody has listened there.
    NoListener,
    /// It comes from no socket.
    NoSocket,
}

impl Pipeline {
    /// Looks whether a flow was answered by something odd.
    pub(super) fn suspect(&mut self, flow: &Flow, report: &FlowReport, now_ns: u64) {
        let server = flow.opener.other();
        let answered = flow.id.endpoint(server);
        let is_answer = flow.sent_by(server).0 > 0 && flow.is_local(server);
        if !is_answer || !self.ports.contains(answered.port) {
            return;
        }
        self.ask_for_relays(flow);
        let translation = self.known.translations.get(&flow.id);
        let sent_on = translation.filter(|it| it.is_before() && it.end(server) != answered);
        let cookie = flow.sender(server);
        let suspicion = match sent_on {
            // Whose packets carry a cookie is looked for as a stranger.
            Some(translation) if cookie == 0 => self.sent_on(flow, translation, report, now_ns),
            Some(_) => return,
            None if !is_whole(flow) => return,
            None if cookie == 0 => {
                if translation.is_some() || self.known.has_socket(flow, server) {
                    return;
                }
                no_socket(flow, answered)
            }
            None => return self.suspect_socket(flow, cookie, &report.attribution, now_ns),
        };
        self.explain(suspicion, self.netns_of(flow), now_ns);
    }

    /// Looks whether a socket on the port can have come by a connection at all. Who has it is asked first, if
    /// nobody is known: nobody is seen to use what no listener has accepted.
    fn suspect_socket(&mut self, flow: &Flow, cookie: u64, attribution: &Attribution, now_ns: u64) {
        let subject = (flow.id.transport, flow.id.endpoint(flow.opener.other()), Kind::NoListener);
        if self.odd.found.contains(&subject) || !self.lacks_listener(flow, cookie) {
            return;
        }
        let owner = attribution.principal_at(Side::Destination);
        let unnamed = &mut self.odd.unnamed;
        if owner.is_none() && unnamed.len() < MAX_WAITING {
            if !unnamed.iter().any(|it| it.cookie == cookie) {
                unnamed.push(Unnamed { flow: flow.clone(), cookie, since_ns: now_ns });
                self.ask_who_holds(cookie);
            }
            return;
        }
        let suspicion = self.no_listener(flow, cookie, owner, now_ns);
        self.explain(suspicion, self.netns_of(flow), now_ns);
    }

    /// Suspects those of whom it is known by now who has them, or is not in time.
    fn suspect_named(&mut self, now_ns: u64, all: bool) {
        for it in std::mem::take(&mut self.odd.unnamed) {
            let Unnamed { flow, cookie, since_ns } = &it;
            let answer = self.known.of_flow(flow, None);
            let owner = answer.attribution.principal_at(Side::Destination);
            let waited = all || now_ns.saturating_sub(*since_ns) >= NAMING_NS;
            if waited || owner.is_some() && answer.settled {
                let suspicion = self.no_listener(flow, *cookie, owner, now_ns);
                self.explain(suspicion, self.netns_of(flow), now_ns);
            } else {
                self.odd.unnamed.push(it);
            }
        }
    }

    /// Inode of the namespace in which a flow was seen first.
    fn netns_of(&self, flow: &Flow) -> u64 {
        let netns = flow.places.first().map_or(0, |place| place.interface.netns());
        self.known.observed.get(&netns).copied().unwrap_or_default()
    }

    /// Asks what explains an answer, once for each.
    pub(super) fn explain(&mut self, mut suspicion: Suspicion, netns: u64, now_ns: u64) {
        let Suspicion { kind, transport, answered, .. } = suspicion;
        let odd = &mut self.odd;
        if odd.found.len() >= MAX_FOUND {
            odd.found.clear();
        }
        if !odd.found.insert((transport, answered, kind)) {
            return;
        }
        odd.last_number = odd.last_number.saturating_add(1);
        let number = odd.last_number;
        if let Ground::Answer(of) = &mut suspicion.ground {
            *of = number;
        }
        if odd.waiting.len() >= MAX_WAITING {
            return self.found_odd(&suspicion, None, now_ns);
        }
        odd.waiting.insert(number, (suspicion, now_ns));
        self.requests.push(Request::Explain { number, transport, answered, netns });
    }

    /// Takes in what can answer for a port.
    pub(super) fn explained(&mut self, number: u64, explanation: &Explanation, now_ns: u64) {
        if let Some((suspicion, _)) = self.odd.waiting.remove(&number) {
            self.found_odd(&suspicion, Some(explanation), now_ns);
        }
    }

    /// Finds what was not explained in time; with `all`, everything.
    pub(super) fn report_unexplained(&mut self, now_ns: u64, all: bool) {
        self.suspect_named(now_ns, all);
        let is_over = |_: &u64, (_, since_ns): &mut (Suspicion, u64)| {
            all || now_ns.saturating_sub(*since_ns) >= PATIENCE_NS
        };
        let over: Vec<_> = self.odd.waiting.extract_if(.., is_over).collect();
        for (_, (suspicion, _)) in over {
            self.found_odd(&suspicion, None, now_ns);
        }
    }

    fn found_odd(&mut self, suspicion: &Suspicion, explanation: Option<&Explanation>, now_ns: u64) {
        if let Some(finding) = suspicion.finding(explanation) {
            self.find(finding, suspicion.ground, now_ns);
        }
    }

    fn sent_on(
        &self,
        flow: &Flow,
        translation: &Translation,
        report: &FlowReport,
        now_ns: u64,
    ) -> Suspicion {
        let server = flow.opener.other();
        let (answered, to) = (flow.id.endpoint(server), translation.end(server));
        let transport = flow.id.transport;
        let publisher = self.publisher(transport, answered, to);
        let owner = report.attribution.principal_at(Side::Destination);
        let place = match &translation.place {
            Place::Same | Place::Unasked => String::new(),
            Place::Other(netns) => format!(" in network namespace {netns}"),
            Place::Elsewhere => ", which is no address of this host".to_owned(),
        };
        let who = owner.map(|owner| format!(", where {} serves", of(owner))).unwrap_or_default();
        let mut proof = vec![translation.words(flow)];
        proof.extend(publisher.as_ref().map(|process| {
            format!(
                "{} (pid {}) listens there as well, and says that it serves {to}: a published port \
                 of a container",
                process.name, process.pid
            )
        }));
        Suspicion {
            kind: Kind::SentOn { to, is_published: publisher.is_some() },
            transport,
            answered,
            ground: Ground::Answer(0),
            sentence: format!("{} {answered} is answered by {to}{place}{who}", transport.name()),
            proof,
            owner: self.owner_lines(owner, now_ns),
            program: owner.map(|owner| judgement::program(&owner.process)).unwrap_or_default(),
            next_steps: next_steps::of_answer(owner.map(|owner| &*owner.process)),
        }
    }

    /// Who listens on the port and serves this for a container, as it says and is to be believed.
    fn publisher(
        &self,
        transport: Transport,
        answered: Endpoint,
        to: Endpoint,
    ) -> Option<std::sync::Arc<Process>> {
        let listeners = self.known.sockets.listeners(transport, answered.port);
        let owners = listeners.filter(|it| it.gets(answered)).flat_map(|it| &it.owners);
        let mut processes =
            owners.filter_map(|owner| self.known.processes.get(owner.process).map(|(it, _)| it));
        let publishes = |process: &&std::sync::Arc<Process>| {
            relays::published(process) == Some(to) && relays::is_believed(process)
        };
        processes.find(publishes).cloned()
    }

    /// No listener of its namespace can have accepted this connection.
    fn lacks_listener(&self, flow: &Flow, cookie: u64) -> bool {
        let transport = flow.id.transport;
        let answered = flow.id.endpoint(flow.opener.other());
        let Some(socket) = self.known.sockets.get(cookie) else { return false };
        let mut listeners = self.known.sockets.listeners(transport, answered.port);
        let listens = listeners.any(|it| it.netns == socket.netns && it.gets(answered));
        let is_tcp = transport == Transport::Tcp && socket.stranger.is_none();
        is_tcp && socket.netns.is_some() && !listens
    }

    fn no_listener(
        &self,
        flow: &Flow,
        cookie: u64,
        owner: Option<&Owner>,
        now_ns: u64,
    ) -> Suspicion {
        let transport = flow.id.transport;
        let answered = flow.id.endpoint(flow.opener.other());
        let netns = self.known.sockets.get(cookie).and_then(|socket| socket.netns.as_ref());
        let netns = netns.map_or_else(|| "of it".to_owned(), ToString::to_string);
        let who = owner.map_or_else(|| "a socket that no process is seen with".to_owned(), of);
        Suspicion {
            kind: Kind::NoListener,
            transport,
            answered,
            ground: Ground::Answer(0),
            sentence: format!(
                "{} {answered} is answered by {who}, though nobody listens on that port",
                transport.name()
            ),
            proof: vec![format!(
                "the packets carry the cookie of a socket that no listener on port {} in network \
                 namespace {netns} can have accepted",
                answered.port
            )],
            owner: self.owner_lines(owner, now_ns),
            program: owner.map(|owner| judgement::program(&owner.process)).unwrap_or_default(),
            next_steps: next_steps::of_answer(owner.map(|owner| &*owner.process)),
        }
    }

    /// What is known of who answers.
    pub(super) fn owner_lines(&self, owner: Option<&Owner>, now_ns: u64) -> Vec<String> {
        let now_unix_ns = self.clock.unix_ns(now_ns);
        owner.into_iter().flat_map(|it| evidence::of_owner(it, now_unix_ns)).collect()
    }
}

fn of(owner: &Owner) -> String {
    format!("{} (pid {})", name(&owner.process), owner.process.pid)
}

/// Who answers, in a few words.
pub(super) fn who(owner: Option<&Owner>) -> String {
    owner.map_or_else(|| "a process that is gone".to_owned(), of)
}

/// Its beginning was seen, so that every socket that had to do with it is known.
fn is_whole(flow: &Flow) -> bool {
    let answer = flow.tcp_flags.of(flow.opener.other());
    flow.id.transport == Transport::Udp || flow.opening_seen && answer & tcp::SYN != 0
}

fn no_socket(flow: &Flow, answered: Endpoint) -> Suspicion {
    let transport = flow.id.transport;
    let (asked, answers) = (flow.sent_by(flow.opener).0, flow.sent_by(flow.opener.other()).0);
    let whose = if flow.is_turned_round(flow.opener.other()) {
        "the answers carry the cookie of the socket that asked: its own packets came back, turned round"
    } else {
        "no answer carries the cookie of a socket, and of no socket on the port any hook has told"
    };
    Suspicion {
        kind: Kind::NoSocket,
        transport,
        answered,
        ground: Ground::Answer(0),
        sentence: format!(
            "{} {answered} is answered, but no socket that is known",
            transport.name()
        ),
        proof: vec![
            format!("{asked} packets came for it, {answers} answers went out"),
            whose.to_owned(),
        ],
        owner: Vec::new(),
        program: String::new(),
        next_steps: next_steps::of_answer(None),
    }
}

impl Suspicion {
    /// The finding; `None` where the explanation says that there is nothing to find.
    fn finding(&self, explanation: Option<&Explanation>) -> Option<Finding> {
        let cause = explanation.and_then(|explanation| self.cause(explanation));
        let Self { kind, sentence, answered, .. } = self;
        let port = answered.port;
        let redirected = |severity, cause: Option<&Cause>| {
            let by = cause.map_or_else(|| "a rule or program".to_owned(), Cause::to_string);
            (FindingKind::RedirectedPort, severity, format!("{sentence}: {by} redirects {port}."))
        };
        let (what, severity, message) = match kind {
            Kind::OtherPort(_) => redirected(Severity::High, cause),
            Kind::SentOn { is_published: true, .. } => redirected(Severity::Low, cause),
            Kind::SentOn { is_published: false, .. } => redirected(Severity::Medium, cause),
            Kind::NoListener => redirected(Severity::High, Some(cause?)),
            // One that nobody holds: the kernel's own, or its holder hides.
            Kind::NoSocket if explanation.is_some_and(|it| it.has_socket) => return None,
            Kind::NoSocket if cause.is_some() => {
                let by = cause.map_or_else(String::new, Cause::to_string);
                let message = format!("{sentence} sends that: {by} redirects {port}.");
                (FindingKind::RedirectedPort, Severity::Medium, message)
            }
            Kind::NoSocket => {
                let why = if explanation.is_some_and(|it| it.has_programs) {
                    "programs of others are on the way, which can answer"
                } else {
                    "nothing that portwatch knows explains it"
                };
                let message = format!("{sentence} sends that, and {why}.");
                (FindingKind::AnswerWithoutSocket, Severity::High, message)
            }
        };
        let mut evidence = self.proof.clone();
        match explanation {
            Some(explanation) => evidence.extend(explanation.checked.iter().cloned()),
            None => evidence.push("not checked in time: rules, programs, sockets".to_owned()),
        }
        evidence.extend(self.owner.iter().cloned());
        let next_steps = cause.and_then(next_steps::of_cause).into_iter();
        let technique = if what == FindingKind::AnswerWithoutSocket {
            &Technique::TRAFFIC_SIGNALING
        } else {
            &Technique::NON_STANDARD_PORT
        };
        Some(Finding {
            evidence,
            next_steps: next_steps.chain(self.next_steps.iter().cloned()).collect(),
            techniques: vec![technique],
            ..Finding::new(what, &self.subject(), severity, message)
        })
    }

    /// What is the same when this is found again.
    fn subject(&self) -> String {
        let Self { kind, transport, answered, program, .. } = self;
        let kind = match kind {
            Kind::OtherPort(port) => format!("socket on port {port}"),
            Kind::SentOn { to, .. } => to.to_string(),
            Kind::NoListener => "no listener".to_owned(),
            Kind::NoSocket => "no socket".to_owned(),
        };
        format!("{}|{answered}|{kind}|{program}", transport.name())
    }

    /// What most likely explains it: what leads to where the answer comes from, for certain if there is such.
    fn cause<'e>(&self, explanation: &'e Explanation) -> Option<&'e Cause> {
        let leads_there = |cause: &&Cause| match (cause, self.kind) {
            (Cause::Rule(rule), Kind::OtherPort(port)) => match rule.action {
                Action::Redirect { ports } => {
                    ports.is_none_or(|(first, last)| (first..=last).contains(&port))
                }
                Action::Dnat { port: to, .. } | Action::Tproxy { port: to, .. } => {
                    to.is_none_or(|to| to == port)
                }
            },
            (Cause::Rule(rule), Kind::SentOn { to, .. }) => match rule.action {
                Action::Dnat { ip, port } => {
                    ip.is_none_or(|ip| ip == to.ip) && port.is_none_or(|port| port == to.port)
                }
                Action::Redirect { .. } | Action::Tproxy { .. } => false,
            },
            // A translated connection has another address than its socket; this one has not.
            (Cause::Rule(rule), Kind::NoListener) => matches!(rule.action, Action::Tproxy { .. }),
            (Cause::Rule(_), Kind::NoSocket) => true,
            (Cause::Service(_), kind) => matches!(kind, Kind::SentOn { .. } | Kind::NoSocket),
            (Cause::Chooser(_), kind) => matches!(kind, Kind::OtherPort(_) | Kind::NoListener),
        };
        let is_certain = |cause: &&&Cause| match cause {
            Cause::Rule(rule) => !rule.is_conditional,
            Cause::Service(_) | Cause::Chooser(_) => true,
        };
        let leading: Vec<&Cause> = explanation.causes.iter().filter(leads_there).collect();
        leading.iter().find(is_certain).or_else(|| leading.first()).copied()
    }
}
