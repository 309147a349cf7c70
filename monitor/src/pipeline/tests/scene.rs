//! A pipeline on a made-up host: records as the hooks write them, and answers as `/proc` gives them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{
    FlowKey, FlowRecord, Header, Place, Slot, SocketRecord, WIRE_VERSION, action, kind, program,
};
use zerocopy::{FromZeros as _, Immutable, IntoBytes};

use crate::attribution::Request;
use crate::clock::Clock;
use crate::endpoint::Netns;
use crate::explanation::Explanation;
use crate::host::netns::Mark;
use crate::kernel::flow_table::Reading;
use crate::owner::{Evidence, Packaging, Process, Role};
use crate::pipeline::{Input, Payload, Pipeline, Settings};
use crate::policy::Policy;
use crate::report::{
    Body, FlowChange, FlowReport, ListenerChange, ListenerReport, PolicyChange, PolicyReport,
    Report,
};

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const PORT: u16 = 3516;
/// The cookie of the only network namespace, and its inode.
const NETNS: u64 = 1;
const INODE: u64 = 4_026_531_840;
/// Of the process that listens.
pub(super) const PID: u32 = 4712;
pub(super) const LISTENER: u64 = 10;

pub(super) type Address = ([u8; 4], u16);
pub(super) const CLIENT: Address = ([10, 0, 0, 1], 40_000);
pub(super) const SERVER: Address = ([10, 0, 0, 2], PORT);

/// A pipeline, and what is on the host it is told of.
pub(super) struct Scene {
    pub(super) pipeline: Pipeline,
    pub(super) clock: Clock,
    /// What `/proc` says of each process; the default for others.
    pub(super) processes: BTreeMap<u32, Process>,
    /// What else can answer for a port.
    pub(super) explanation: Explanation,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self::with(settings())
    }

    /// Expects what these rules say.
    pub(super) fn with_policy(rules: &str) -> Self {
        Self::with_policy_at(Clock::of_host(), rules)
    }

    /// The same, by this clock.
    pub(super) fn with_policy_at(clock: Clock, rules: &str) -> Self {
        let policy = Policy::parse(Path::new("p"), &format!("version = 1\n{rules}")).unwrap();
        Self::with(Settings { policy, clock, ..settings() })
    }

    /// The policy is read again: these rules, or something that is refused.
    pub(super) fn read_policy(&mut self, rules: Option<&str>, now_ns: u64) {
        let policy = PolicyReport {
            file: "p".to_owned(),
            is_default: false,
            listener_rules: 1,
            client_rules: 0,
        };
        let change = match rules {
            Some(_) => PolicyChange::Reloaded(policy),
            None => PolicyChange::Refused { stays: Some(policy), problem: "p:1:1: bad".to_owned() },
        };
        let text = rules.map(|rules| format!("version = 1\n{rules}"));
        self.pipeline.apply(Input::PolicyRead { text, change, now_ns });
    }

    pub(super) fn with(settings: Settings) -> Self {
        let clock = settings.clock;
        let mut pipeline = Pipeline::new(settings);
        pipeline.namespaces(vec![(netns(), Mark::Cookie(NETNS))]);
        Self { pipeline, clock, processes: BTreeMap::new(), explanation: Explanation::default() }
    }

    /// Hands over a record at the moment it was written.
    pub(super) fn ingest(&mut self, record: &(impl Immutable + IntoBytes)) {
        let bytes = record.as_bytes();
        let ktime_ns = u64::from_ne_bytes(bytes[8..16].try_into().unwrap());
        self.read_record(bytes, ktime_ns);
    }

    /// Hands over what is a record, or none.
    pub(super) fn read_record(&mut self, bytes: &[u8], now_ns: u64) {
        self.pipeline.apply(Input::Record { bytes: bytes.into(), now_ns });
    }

    /// Hands over what the flow table holds; what is reported of it.
    pub(super) fn read_table(&mut self, slots: &[(u32, Slot)], now_ns: u64) -> Vec<Report> {
        for &(slot, content) in slots {
            self.pipeline.reading(&Reading { slot, content }, now_ns);
        }
        self.pipeline.report_started_flows(now_ns);
        self.pipeline.take_reports()
    }

    /// Answers what is asked until nothing is.
    pub(super) fn answer(&mut self, now_ns: u64) {
        loop {
            let requests = self.requests();
            if requests.is_empty() {
                return;
            }
            for request in requests {
                match request {
                    Request::Hash { key } => self.pipeline.hashed(key, Ok(SHA256.to_owned())),
                    Request::Package { key } => {
                        self.pipeline.packaged(key, Ok(Packaging::NoPackage));
                    }
                    Request::Identify { .. } => self.identify(request, now_ns),
                    Request::Translate { flow, .. } => {
                        self.pipeline.apply(Input::Translated { flow, there: None, now_ns });
                    }
                    Request::Explain { number, .. } => {
                        let explanation = self.explanation.clone();
                        self.pipeline.apply(Input::Explained { number, explanation, now_ns });
                    }
                    Request::Relay { key, .. } => self.pipeline.relayed(key, None, now_ns),
                    Request::Container { .. } | Request::Recognise { .. } | Request::Namespaces => {
                        panic!("{request:?}")
                    }
                }
            }
        }
    }

    /// Answers who a process is, which makes its executable the next questions.
    pub(super) fn identify(&mut self, request: Request, now_ns: u64) {
        let Request::Identify { key, pid, .. } = request else { panic!("{request:?}") };
        let process = self.processes.get(&pid).cloned().unwrap_or_else(|| cardbridged(pid));
        self.pipeline.identified(key, Arc::new(process), now_ns);
    }

    pub(super) fn requests(&mut self) -> Vec<Request> {
        self.pipeline.take_up_requests();
        self.pipeline.take_requests()
    }

    /// Lets time pass; what was reported.
    pub(super) fn tick(&mut self, now_ns: u64) -> Vec<Report> {
        self.pipeline.tick(now_ns);
        self.pipeline.take_reports()
    }
}

pub(super) fn bodies(reports: Vec<Report>) -> Vec<Body> {
    reports.into_iter().map(|report| report.body).collect()
}

pub(super) fn listeners(reports: &[Report]) -> Vec<(ListenerChange, ListenerReport)> {
    let listener = |report: &Report| match &report.body {
        Body::Listener(change, listener) => Some((*change, (**listener).clone())),
        _ => None,
    };
    reports.iter().filter_map(listener).collect()
}

/// The only listener that is reported, which has to be this change.
pub(super) fn only(change: ListenerChange, reports: &[Report]) -> ListenerReport {
    match &listeners(reports)[..] {
        [(found, listener)] if *found == change => listener.clone(),
        _ => panic!("{reports:#?}"),
    }
}

pub(super) fn owners(listener: &ListenerReport) -> Vec<(Role, Evidence, u32)> {
    let owners = listener.attribution.owners.iter();
    owners.map(|owner| (owner.role, owner.evidence, owner.process.pid)).collect()
}

pub(super) fn flows(reports: &[Report]) -> Vec<(FlowChange, FlowReport)> {
    let flow = |report: &Report| match &report.body {
        Body::Flow(change, flow) => Some((*change, (**flow).clone())),
        _ => None,
    };
    reports.iter().filter_map(flow).collect()
}

pub(super) fn settings() -> Settings {
    Settings {
        ports: "3516,4000".parse().unwrap(),
        policy: Policy::default(),
        payload: Payload::Masked,
        snaplen: 128,
        interval: Duration::from_secs(10),
        idle_timeout: Duration::from_mins(1),
        slots: 16,
        jiffy_ns: 4_000_000,
        netns: netns(),
        clock: Clock::of_host(),
        names_ends: false,
    }
}

pub(super) fn netns() -> Netns {
    Netns { inode: INODE, name: None }
}

/// Expects the listener of [`cardbridged`].
pub(super) const RULE: &str = "[[listener]]\nid = 'card'\nport = 3516\nuser = 'cardbridge'";

/// What `/proc` says of a process that was just started.
pub(super) fn cardbridged(pid: u32) -> Process {
    Process {
        pid,
        start_ticks: Some(u64::from(pid)),
        name: "cardbridged".to_owned(),
        executable: Some("/usr/sbin/cardbridged".into()),
        on_host: Some(true),
        user: Some("cardbridge".to_owned()),
        ..Process::default()
    }
}

pub(super) const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The server listens at [`SERVER`].
pub(super) fn listen(ktime_ns: u64) -> SocketRecord {
    socket(action::LISTEN, ktime_ns)
}

/// The server does something with its listener.
pub(super) fn socket(action: u8, ktime_ns: u64) -> SocketRecord {
    let mut record = SocketRecord::new_zeroed();
    record.header = header(kind::SOCKET, program::SOCK_OPS, ktime_ns);
    record.comm[..11].copy_from_slice(b"cardbridged");
    let task = SocketRecord { tgid: PID, uid: 990, in_process: 1, ..record };
    let socket = SocketRecord { cookie: LISTENER, netns_cookie: NETNS, family: 4, ..task };
    SocketRecord { local: mapped(SERVER.0), local_port: PORT, protocol: 6, action, ..socket }
}

/// The slots that both directions of a flow take.
pub(super) const THERE: u32 = 3;
pub(super) const BACK: u32 = 4;

/// A flow takes a slot that was free.
pub(super) fn announce(key: FlowKey, generation: u32, ktime_ns: u64) -> FlowRecord {
    let mut record = FlowRecord::new_zeroed();
    record.header = header(kind::FLOW, program::INGRESS, ktime_ns);
    (record.slot, record.generation) = (THERE, generation);
    record.tcp_flags = tcp::SYN;
    FlowRecord { key, jiffies: u32::try_from(ktime_ns / 4_000_000).unwrap(), ..record }
}

/// What a slot holds after this many packets of 100 bytes, the last of them just now.
pub(super) fn slot(key: FlowKey, generation: u64, packets: u64, now_ns: u64) -> Slot {
    let mut slot = Slot::new_zeroed();
    slot.count = generation << Slot::PACKET_BITS | packets;
    slot.last_jiffies = u32::try_from(now_ns / 4_000_000).unwrap();
    Slot { key, bytes: packets * 100, tcp_flags: tcp::SYN, ..slot }
}

/// A flow key at interface 2.
pub(super) fn key(source: Address, destination: Address, egress: bool) -> FlowKey {
    let place = 2 << Place::INTERFACE_SHIFT | u32::from(egress);
    FlowKey::new((mapped(source.0), source.1), (mapped(destination.0), destination.1), place)
}

pub(super) const fn header(kind: u16, program: u32, ktime_ns: u64) -> Header {
    Header { version: WIRE_VERSION, kind, program, ktime_ns }
}

pub(super) fn mapped(ip: [u8; 4]) -> [u8; 16] {
    std::net::Ipv4Addr::from(ip).to_ipv6_mapped().octets()
}
