//! The whole way from records to reports, on one page: decode → ledger → flows and sockets →
//! attribution → policy → reports.
//!
//! No I/O, no clock, no lock: one task owns it and hands it records, readings, answers and the time, each
//! as an [`Input`]. The same inputs give the same reports, live or replayed.

mod callers;
mod clients;
mod connections;
mod counting;
mod coverage;
mod evidence;
mod findings;
mod flows;
mod hearing;
mod indicators;
mod hidden;
mod input;
mod judgement;
mod listeners;
mod next_steps;
mod observed;
mod odd;
mod standing;
mod portless;
mod relays;
mod strangers;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use monitor_ebpf::wire::{FlowRecord, SampleRecord};
use serde::{Deserialize, Serialize};

use crate::attribution::{
    Known, Namespaces, ProcessKey, Processes, Request, Sockets, Translations,
};
use crate::clock::Clock;
use crate::decode::{self, Event};
use crate::endpoint::Netns;
use crate::flow::{Doubt, FlowId, FlowTable, Limits};
use crate::host;
use crate::host::netns::Mark;
use crate::kernel::flow_table::Reading;
use crate::ledger::Ledger;
use crate::owner::{Container, Packaging, Process};
use crate::policy::Policy;
use crate::ports::PortSet;
use crate::report::{Body, InterfaceChange, InterfaceReport, PolicyChange, Report};

pub use counting::Kernel as KernelCounts;
pub use hearing::Impression;
pub use input::{Input, Tap};

/// Flows followed at once.
const MAX_FLOWS: usize = 65_536;
/// Sockets remembered at once.
const MAX_SOCKETS: usize = 65_536;
/// Processes remembered at once.
const MAX_PROCESSES: usize = 16_384;
/// Owners of listeners that are looked at again in one go.
const MAX_LOOKED_AT: usize = 1024;
/// A flow's start waits this long for the names of its processes.
const FLOW_PATIENCE_NS: u64 = 250_000_000;
/// Time between two sweeps of the flow table for flows that are over.
const SWEEP_NS: u64 = 500_000_000;

/// What may be shown of a sampled packet.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Payload {
    /// Nothing of its bytes.
    None,
    /// Headers, and of the payload what names its protocol: everything else may be a secret.
    #[default]
    Masked,
    /// Everything that was captured.
    Full,
}

impl Payload {
    /// The name in `portwatch.run.payload`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Masked => "masked",
            Self::Full => "full",
        }
    }
}

/// What a pipeline is made for.
#[derive(Debug)]
pub struct Settings {
    /// The watched ports.
    pub ports: PortSet,
    /// What is expected.
    pub policy: Policy,
    /// What may be shown of samples.
    pub payload: Payload,
    /// Bytes of a packet, from its IP header on, that are shown at most. What tells the protocol of a
    /// flow is looked at at greater length.
    pub snaplen: usize,
    /// Time between two reports of an active flow.
    pub interval: Duration,
    /// A flow without a packet for this long is over.
    pub idle_timeout: Duration,
    /// Slots of the kernel's flow table; 0 when no packets are watched.
    pub slots: usize,
    /// Nanoseconds of a jiffy of the kernel.
    pub jiffy_ns: u64,
    /// The namespace portwatch runs in.
    pub netns: Netns,
    /// Boot time to Unix time.
    pub clock: Clock,
    /// Samples are told with who is at their end: somebody captures them.
    pub names_ends: bool,
}

/// The core: records, readings and answers in; reports and requests out.
#[derive(Debug)]
pub struct Pipeline {
    ports: PortSet,
    policy: Policy,
    payload: Payload,
    snaplen: usize,
    names_ends: bool,
    observed: observed::Observed,
    clock: Clock,
    ledger: Ledger,
    flows: FlowTable,
    known: Known,
    listeners: listeners::Listeners,
    findings: findings::Findings,
    counting: counting::Counting,
    coverage: coverage::Coverage,
    strangers: strangers::Strangers,
    hearing: hearing::Hearing,
    odd: odd::Odd,
    callers: callers::Callers,
    /// The date when time was last let pass.
    today: Date,
    hidden: hidden::Hidden,
    portless: portless::Portless,
    relays: relays::Relays,
    last_sweep_ns: u64,
    is_behind: bool,
    is_finished: bool,
    reports: Vec<Report>,
    requests: Vec<Request>,
    expired: Vec<u64>,
    tap: Option<Box<dyn Tap>>,
}

impl Pipeline {
    /// A pipeline that has seen nothing.
    pub fn new(settings: Settings) -> Self {
        let limits = Limits {
            capacity: MAX_FLOWS,
            idle_timeout: settings.idle_timeout,
            update_interval: settings.interval,
            jiffy_ns: settings.jiffy_ns,
        };
        Self {
            ports: settings.ports,
            policy: settings.policy,
            payload: settings.payload,
            snaplen: settings.snaplen,
            names_ends: settings.names_ends,
            clock: settings.clock,
            ledger: Ledger::new(settings.slots),
            flows: FlowTable::new(limits),
            known: Known {
                processes: Processes::new(MAX_PROCESSES),
                sockets: Sockets::new(MAX_SOCKETS),
                namespaces: Namespaces::default(),
                observed: HashMap::from([(0, settings.netns.inode)]),
                translations: Translations::default(),
            },
            observed: observed::Observed::new(settings.netns),
            listeners: listeners::Listeners::default(),
            findings: findings::Findings::default(),
            counting: counting::Counting::default(),
            coverage: coverage::Coverage::default(),
            strangers: strangers::Strangers::default(),
            hearing: hearing::Hearing::new(),
            odd: odd::Odd::default(),
            callers: callers::Callers::default(),
            today: Date::default(),
            hidden: hidden::Hidden::default(),
            portless: portless::Portless::default(),
            relays: relays::Relays::default(),
            last_sweep_ns: 0,
            is_behind: false,
            is_finished: false,
            reports: Vec::new(),
            requests: Vec::new(),
            expired: Vec::new(),
            tap: None,
        }
    }

    /// Takes in that the policy was read again, and its text if it is in force from now on.
    fn policy_read(&mut self, text: Option<&str>, change: PolicyChange, now_ns: u64) {
        // Read and found good before it was handed on.
        if let Some(Ok(policy)) = text.map(|text| Policy::parse(Path::new(""), text)) {
            self.policy = policy;
            self.judge_listeners_anew(now_ns);
            self.judge_callers_anew();
        }
        self.report(now_ns, Body::Policy(change));
    }

    /// Takes in one record of either ring, and if it is a sample, what came of listening to it.
    fn ingest(&mut self, record: &[u8], impression: &Impression, now_ns: u64) {
        self.counting.read(record);
        match decode::decode(record) {
            Ok(Event::Flow(flow)) => self.flow_record(&flow, now_ns),
            Ok(Event::Sample(sample, data)) => self.sample(&sample, data, impression),
            Ok(Event::Socket(socket)) => {
                let Known { processes, sockets, namespaces, .. } = &mut self.known;
                sockets.record(&socket, processes, namespaces);
            }
            // Counted; a log line per record would be a flood that others could cause.
            Err(_refused) => self.counting.undecodable(record),
        }
    }

    /// Would reading this slot of the flow table tell nothing new?
    pub fn is_current(&self, slot: u32, count: u64) -> bool {
        self.ledger.is_current(slot, count)
    }

    /// Is what this reading shows of a flow whose record was not taken in yet?
    pub fn awaits_record(&self, reading: &Reading) -> bool {
        self.ledger.awaits_record(reading.slot, &reading.content)
    }

    /// The connection that is known by the ports of this record, if the record begins one and the flow table
    /// may tell that the known one is over: to be looked at before the record is taken in.
    pub fn in_doubt(&self, record: &[u8]) -> Option<Doubt> {
        match decode::decode(record) {
            Ok(Event::Flow(flow)) => self.flows.in_doubt(&flow),
            _ => None,
        }
    }

    /// Takes in some slots of the kernel's flow table.
    fn readings(&mut self, readings: &[Reading], now_ns: u64) {
        for reading in readings {
            self.flows.touch(reading.slot);
        }
        for reading in readings {
            self.reading(reading, now_ns);
        }
    }

    /// Takes in one slot of the kernel's flow table.
    fn reading(&mut self, reading: &Reading, now_ns: u64) {
        if let Some(credit) = self.ledger.read(reading.slot, &reading.content) {
            self.counting.credit(&credit, &self.ports);
            self.flows.credit(&credit, now_ns, &self.ports);
        }
    }

    fn flow_record(&mut self, record: &FlowRecord, now_ns: u64) {
        // First what the slot held: its FIN or RST tells that the same ports begin a flow of their own.
        if let Some(credit) = self.ledger.taken(record) {
            self.counting.credit(&credit, &self.ports);
            self.flows.credit(&credit, now_ns, &self.ports);
        }
        self.flows.announce(record, &self.ports);
    }

    fn sample(&mut self, sample: &SampleRecord, data: &[u8], impression: &Impression) {
        self.counting.sampled();
        self.believe(&FlowId::of(&sample.key).0, impression);
        let report = self.sample_report(sample, data, &impression.shown);
        self.report(sample.header.ktime_ns, Body::Sample(Box::new(report)));
    }

    /// Takes in sockets that were there before anything was seen of them.
    fn sockets(&mut self, sockets: &[host::sockets::Socket], now_ns: u64) {
        for socket in sockets {
            self.known.sockets.found(socket, &self.known.namespaces, now_ns);
        }
    }

    /// Takes in the network namespaces of the host.
    fn namespaces(&mut self, namespaces: Vec<(Netns, Mark)>) {
        self.known.namespaces.learn(namespaces);
        self.known.sockets.resolve(&mut self.known.namespaces);
    }

    /// Takes in who holds descriptors of these sockets now: `(cookie, pid)`, complete for all of them.
    fn holders(&mut self, sockets: &[u64], holders: &[(u64, u32)], now_ns: u64) {
        let mut sorted = holders.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        self.have_sought(sockets);
        for &cookie in sockets {
            let start = sorted.partition_point(|(other, _)| *other < cookie);
            let of_socket = sorted.iter().skip(start).take_while(|(other, _)| *other == cookie);
            let processes: Vec<ProcessKey> =
                of_socket.map(|(_, pid)| self.known.processes.present(*pid, now_ns)).collect();
            self.known.sockets.held_by(cookie, &processes);
        }
    }

    /// The open listeners, whose holders are worth asking for again.
    pub fn open_listeners(&self) -> Vec<u64> {
        let open = self.known.sockets.all_listeners().filter(|socket| socket.closed_ns.is_none());
        open.map(|socket| socket.cookie).collect()
    }

    /// Does anybody listen now?
    pub fn anybody_listens(&self) -> bool {
        self.known.sockets.anybody_listens()
    }

    /// Takes in what `/proc` says of a process.
    fn identified(&mut self, key: ProcessKey, process: Arc<Process>, now_ns: u64) {
        let known = self.known.processes.identified(key, process, now_ns);
        if known != key {
            self.known.sockets.rename(key, known);
            self.known.translations.rename(key, known);
        }
        self.known.sockets.process_changed(known);
    }

    /// Takes in the hash of a process's executable, or why there is none.
    fn hashed(&mut self, key: ProcessKey, hash: Result<String, String>) {
        self.known.processes.hashed(key, hash);
        self.known.sockets.process_changed(key);
    }

    /// Takes in the package of a process's executable, or why it is not known.
    fn packaged(&mut self, key: ProcessKey, packaging: Result<Packaging, String>) {
        self.known.processes.packaged(key, packaging);
        self.known.sockets.process_changed(key);
    }

    /// Takes in what its container's runtime says of the container of a process.
    fn contained(
        &mut self,
        key: ProcessKey,
        container: Result<Container, String>,
        untold: Option<String>,
    ) {
        self.known.processes.contained(key, container, untold);
        self.known.sockets.process_changed(key);
    }

    /// Processes that were alive when last seen: `(key, pid, start ticks)`.
    pub fn alive(&self) -> Vec<(ProcessKey, u32, u64)> {
        self.known.processes.alive()
    }

    /// The pids of everybody who has to do with a watched port, as far as they are known by now.
    pub fn pids(&self) -> Vec<u32> {
        self.known.processes.pids().collect()
    }

    /// Takes in that a process has exited.
    fn exited(&mut self, key: ProcessKey) {
        self.known.processes.exited(key);
        self.known.sockets.process_changed(key);
    }

    /// Takes in that processes are not what they were.
    fn changed(&mut self, processes: Vec<(ProcessKey, Arc<Process>)>, now_ns: u64) {
        for (key, process) in processes {
            let successor = self.known.processes.changed(key, process, now_ns);
            if successor != key {
                self.known.sockets.hand_on(key, successor);
                self.known.sockets.process_changed(key);
            }
            self.known.sockets.process_changed(successor);
        }
    }

    /// The processes that have to do with open listeners, as they are known: it is worth looking whether
    /// they still are that.
    pub fn owners_of_listeners(&self) -> Vec<(ProcessKey, Arc<Process>)> {
        let owners = self.known.sockets.owners_of_open_listeners();
        let present = owners.into_iter().filter_map(|key| {
            let (process, exited) = self.known.processes.get(key)?;
            let is_there = !exited && !self.known.processes.is_replaced(key);
            (is_there && process.start_ticks.is_some()).then(|| (key, Arc::clone(process)))
        });
        present.take(MAX_LOOKED_AT).collect()
    }

    /// What is known of a process.
    pub fn process(&self, key: ProcessKey) -> Option<Arc<Process>> {
        self.known.processes.get(key).map(|(process, _)| Arc::clone(process))
    }

    /// Lets time pass: reports what is ready, ends what is over.
    fn tick(&mut self, now_ns: u64) {
        let today = self.clock.date(now_ns);
        if std::mem::replace(&mut self.today, today) != today {
            // A rule may have ended with the day.
            self.judge_listeners_anew(now_ns);
        }
        self.report_listeners(now_ns, false);
        self.report_strangers(now_ns, false);
        self.report_unexplained(now_ns, false);
        self.report_callers(now_ns);
        self.report_hidden(now_ns, false);
        self.report_portless(now_ns, false);
        if now_ns.saturating_sub(self.last_sweep_ns) >= SWEEP_NS {
            // A conversation whose last packets were not read yet must not end without them.
            let changes = if self.is_behind {
                self.flows.displaced()
            } else {
                self.last_sweep_ns = now_ns;
                self.flows.sweep(now_ns)
            };
            self.report_flows(changes, now_ns);
        }
        self.report_findings(now_ns, false);
        self.take_up_requests();
    }

    /// Collects what is to be looked up, without waiting for the next tick.
    pub fn take_up_requests(&mut self) {
        self.requests.extend(self.known.processes.take_requests());
        if self.known.namespaces.take_missing() {
            self.requests.push(Request::Namespaces);
        }
    }

    fn expire_sockets(&mut self, now_ns: u64) {
        let expired = self.known.sockets.expire(now_ns);
        self.expired.extend(expired);
    }

    /// Takes the cookies of sockets that were closed but never released: the kernel side may forget them.
    pub fn take_expired(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.expired)
    }

    /// Ends everything that is going on, some flows at a time.
    fn finish(&mut self, now_ns: u64) {
        self.report_listeners(now_ns, true);
        self.report_strangers(now_ns, true);
        self.report_hidden(now_ns, true);
        self.report_portless(now_ns, true);
        let changes = self.flows.finish();
        self.is_finished = changes.is_empty();
        self.report_flows(changes, now_ns);
        self.report_unexplained(now_ns, true);
        self.report_findings(now_ns, true);
    }

    /// Everything that was going on has ended. Until then there is more to end, once the reports are
    /// taken.
    pub const fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Reports of flows that were not made, because more flows came and went than anybody could read;
    /// since the last call.
    pub fn take_unreported(&mut self) -> u64 {
        self.flows.take_unreported()
    }

    /// An interface came or went.
    fn interface(&mut self, change: InterfaceChange, interface: InterfaceReport, now_ns: u64) {
        self.observe(&interface);
        self.report(now_ns, Body::Interface(change, interface));
    }

    /// Interfaces that are observed from the start, without an event of their own.
    fn observe(&mut self, interface: &InterfaceReport) {
        self.observed.learn(interface);
        if let Some(id) = interface.id {
            self.known.observed.insert(id.netns(), interface.netns.inode);
        }
    }

    /// Nothing is being looked up for any process.
    pub fn is_settled(&self) -> bool {
        self.requests.is_empty() && self.known.processes.are_settled()
    }

    /// Adds a report, dated.
    fn report(&mut self, time_ns: u64, body: Body) {
        let time_unix_ns = self.clock.unix_ns(time_ns);
        self.reports.push(Report { time_unix_ns, body });
    }

    /// Takes the reports made so far.
    pub fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// Takes what is to be looked up on the host.
    pub fn take_requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }
}

#[cfg(test)]
mod tests;
