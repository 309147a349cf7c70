//! `portwatch scan`: one look at every listener and connection on the port, in every network
//! namespace, and who owns it.
//!
//! Attaches nothing. The kernel side is loaded only for its iterator, which finds the holders of a
//! socket without walking `/proc`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::cli;
use crate::clock::{self, Clock};
use crate::crossview::Wanted;
use crate::explanation::Standing;
use crate::failure::{self, Failure};
use crate::host::cgroup::Hierarchy;
use crate::host::identity::Identity;
use crate::host::netns;
use crate::host::sockets::Socket;
use crate::kernel::cgroup;
use crate::kernel::object::{self, Object};
use crate::kernel::preflight::{self, Needs};
use crate::kernel::programs::Programs;
use crate::lookup::{Answer, Lookup, Places};
use crate::output::{Output, Style};
use crate::pipeline::{Input, Payload, Pipeline, Settings};
use crate::policy::Policy;
use crate::ports::PortSet;
use crate::privilege::{self, Thread, Work};
use crate::report::{PolicyReport, Report, RunStarted};
use crate::session::policy::PolicyFile;
use crate::session::{self, Snapshot};

/// A scan waits this long for `/proc` and for hashes; what is not known by then is said to be missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks once; the exit code.
pub async fn run(args: cli::Scan, identity: &Identity, style: Style) -> Result<u8, Failure> {
    let (policy, in_force) = PolicyFile::of(&args.common).open()?;
    let ports = args.common.ports();
    let wanted = Wanted { ports: &ports, probes: args.probe_bind, has_hooks: false };
    let mut look = Look::begin(wanted, policy, identity)?;
    let output = Output::stdout(style)?;
    look.complete(in_force).await;
    for report in look.take_reports() {
        output.send_last(report);
    }
    output.drain();
    Ok(if output.has_failed() {
        failure::OUTPUT_FAILED
    } else if look.pipeline.findings() > 0 {
        failure::FINDINGS
    } else {
        failure::DONE
    })
}

/// One look at everything on some ports.
#[derive(Debug)]
pub(crate) struct Look {
    ports: PortSet,
    pipeline: Pipeline,
    lookup: Lookup,
    answers: mpsc::Receiver<Answer>,
    sockets: Vec<Socket>,
    standing: Vec<Standing>,
    degraded: Vec<String>,
}

impl Look {
    /// Gives up rights, looks, and asks who everybody is.
    pub(crate) fn begin(
        wanted: Wanted<'_>,
        policy: Policy,
        identity: &Identity,
    ) -> Result<Self, Failure> {
        Self::begin_with(Work::default(), wanted, policy, identity)
    }

    /// The same; keeps also the rights for what is to be done after it.
    pub(crate) fn begin_with(
        after: Work,
        wanted: Wanted<'_>,
        policy: Policy,
        identity: &Identity,
    ) -> Result<Self, Failure> {
        let obstacles = preflight::obstacles(Needs::Look);
        if !obstacles.is_empty() {
            return Err(Failure::Unobservable(obstacles));
        }
        let ports = wanted.ports;
        let mut degraded = Vec::new();
        let mut object = load(ports, &mut degraded);
        // Where it cannot be opened, units of sockets are not known: those of processes are.
        let cgroups = cgroup::root().map(Hierarchy::new).ok();
        let asks_for_bpf = object.as_ref().is_some_and(Object::asks_for_bpf);
        let work = Work { asks_for_bpf, binds_ports: wanted.probes, ..after };
        // While their names can still be asked for.
        let programs = Programs::read();
        degraded.extend(privilege::confine(work));
        let mut pipeline = Pipeline::new(Settings {
            ports: ports.clone(),
            policy,
            payload: Payload::None,
            snaplen: 0,
            interval: Duration::MAX,
            idle_timeout: Duration::MAX,
            slots: 0,
            jiffy_ns: object::jiffy_ns()?,
            netns: netns::own().context("reading the own network namespace")?.netns,
            clock: Clock::of_host(),
            names_ends: false,
        });
        let (snapshot, standing) =
            Snapshot::take(wanted, &programs, cgroups.as_ref(), object.as_mut())?;
        let sockets = snapshot.apply(object.as_mut(), &mut pipeline, &mut degraded)?;
        let places = Places { watched: None, cgroups };
        let (lookup, answers) = Lookup::start(identity, work, places, programs)?;
        privilege::reduce(Thread::Main, work);
        let ports = ports.clone();
        Ok(Self { ports, pipeline, lookup, answers, sockets, standing, degraded })
    }

    /// Waits until everybody is known, and makes the reports.
    pub(crate) async fn complete(&mut self, policy: Option<PolicyReport>) {
        let started = RunStarted {
            command: "scan".into(),
            ports: self.ports.to_string(),
            interfaces: Vec::new(),
            attached: Vec::new(),
            resumed: false,
            payload: None,
            policy,
            degraded: std::mem::take(&mut self.degraded),
        };
        let pipeline = &mut self.pipeline;
        pipeline.apply(Input::Started { started, now_ns: clock::boot_ns() });
        let found = std::mem::take(&mut self.standing);
        pipeline.apply(Input::Standing { found, now_ns: clock::boot_ns() });
        settle(pipeline, &self.lookup, &mut self.answers).await;
        let now_ns = clock::boot_ns();
        pipeline.apply(Input::Finish { now_ns });
        let found = std::mem::take(&mut self.sockets).into();
        pipeline.apply(Input::Connections { found, now_ns });
        let reason = "looked once".to_owned();
        pipeline.apply(Input::Ended { reason, counts: None, now_ns: clock::boot_ns() });
    }

    /// Everybody who is known by now to have to do with the ports.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.pipeline.pids()
    }

    /// Takes the reports: how it was looked, everything that was found, and the end.
    pub(crate) fn take_reports(&mut self) -> Vec<Report> {
        self.pipeline.take_reports()
    }
}

/// The kernel side, for its iterators. Without them `/proc` is walked, which says so.
fn load(ports: &PortSet, degraded: &mut Vec<String>) -> Option<Object> {
    let settings = object::Settings {
        ports: ports.clone(),
        ring_bytes: 4096,
        flow_table_bytes: 0,
        sample_every: 0,
        snaplen: 1,
    };
    match Object::load(&settings) {
        Ok(object) => {
            degraded.extend_from_slice(object.degraded());
            Some(object)
        }
        Err(error) => {
            degraded.push(format!("holders of sockets are looked up in /proc: {error:#}"));
            None
        }
    }
}

/// Asks and takes in answers until nothing is outstanding.
async fn settle(pipeline: &mut Pipeline, lookup: &Lookup, answers: &mut mpsc::Receiver<Answer>) {
    let deadline = Instant::now() + PATIENCE;
    pipeline.take_up_requests();
    session::ask(pipeline, lookup);
    while !pipeline.is_settled() {
        match timeout_at(deadline, answers.recv()).await {
            Ok(Some(answer)) => session::answer(pipeline, answer),
            Ok(None) | Err(_) => return,
        }
        pipeline.take_up_requests();
        session::ask(pipeline, lookup);
    }
}
