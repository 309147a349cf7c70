//! A policy written from what was seen, for a person to review: what `policy learn` makes of reports.
//!
//! A rule is as specific as can be: unit, package and path of what runs, or the hash of what no package
//! has installed. What anybody could put something else in the place of is not learned, and is said.

mod identity;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::civil::Date;

use self::identity::Identity;
pub(super) use self::identity::is_interpreter;
use crate::endpoint::Transport;
use crate::owner::{Owner, Process, Role, Side};
use crate::policy::ClientView;
use crate::report::{Body, FlowChange, FlowReport, ListenerChange, ListenerReport, Report};

/// Open listeners followed at once, different ones remembered, processes of each, and addresses of each
/// client: what is beyond is counted.
const MAX_OPEN: usize = 4096;
const MAX_LEARNED: usize = 1024;
const MAX_PROCESSES: usize = 64;
const MAX_REMOTES: usize = 64;

/// Why others than root could change an executable, if they can.
pub type LooksExposed = fn(&Path, owner: Option<u32>) -> Option<String>;

/// A policy in the making.
#[derive(Debug)]
pub struct Draft {
    settings: Settings,
    open: BTreeMap<u64, Seen>,
    listeners: BTreeMap<Place, BTreeSet<IpAddr>>,
    clients: BTreeMap<Place, BTreeSet<IpAddr>>,
    /// What a rule rests on, by rule.
    evidence: BTreeMap<Place, String>,
    /// Why something was not learned, a line each.
    refused: BTreeSet<String>,
    /// What found no room any more.
    beyond: u64,
}

/// What a draft is made for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this host. Foreign text.
    pub host: String,
    /// The ports that are observed.
    pub ports: String,
    /// How it was looked, in words: `one look`, `24h`.
    pub how: String,
    /// The first day of the rules.
    pub today: Date,
    /// Also write who talks.
    pub with_clients: bool,
    /// Looks at an executable on this host.
    pub exposed: LooksExposed,
}

/// What a rule is about, the addresses aside.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Place {
    port: u16,
    transport: Transport,
    /// `None`: of clients on other hosts nothing is known.
    identity: Option<Identity>,
}

/// An open listener.
#[derive(Debug)]
struct Seen {
    report: ListenerReport,
    /// All that owned it while they lived.
    processes: Vec<Arc<Process>>,
    time_unix_ns: i64,
}

impl Draft {
    /// An empty one.
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            open: BTreeMap::new(),
            listeners: BTreeMap::new(),
            clients: BTreeMap::new(),
            evidence: BTreeMap::new(),
            refused: BTreeSet::new(),
            beyond: 0,
        }
    }

    /// Takes in a report; only those of listeners and flows tell something.
    pub fn take(&mut self, report: &Report) {
        match &report.body {
            Body::Listener(change, listener) => {
                self.listener(*change, listener, report.time_unix_ns);
            }
            // Of one that has just started not everything is known yet.
            Body::Flow(change, flow)
                if self.settings.with_clients && *change != FlowChange::Started =>
            {
                self.client(flow, report.time_unix_ns);
            }
            _ => {}
        }
    }

    /// The policy, with its comments.
    pub fn render(&mut self) -> String {
        for (_, seen) in std::mem::take(&mut self.open) {
            self.learn(seen);
        }
        text::render(self)
    }

    fn listener(&mut self, change: ListenerChange, report: &ListenerReport, time_unix_ns: i64) {
        let is_known = self.open.contains_key(&report.cookie);
        if change == ListenerChange::Closed {
            if let Some(seen) = self.open.remove(&report.cookie) {
                self.learn(seen);
            }
            return;
        }
        if !is_known && self.open.len() >= MAX_OPEN {
            self.beyond += 1;
            return;
        }
        let seen = self.open.entry(report.cookie).or_insert_with(|| Seen {
            report: report.clone(),
            processes: Vec::new(),
            time_unix_ns,
        });
        let counts = |owner: &&Owner| owner.role != Role::Releaser && !owner.is_gone();
        for owner in report.attribution.owners.iter().filter(counts) {
            // What became known of it since counts, as long as it runs the same.
            let is_same = |known: &Arc<Process>| {
                let identity = |it: &Process| (it.pid, it.start_ticks, it.executable.clone());
                identity(known) == identity(&owner.process)
            };
            let process = Arc::clone(&owner.process);
            match seen.processes.iter().position(is_same) {
                Some(known) => {
                    if let Some(known) = seen.processes.get_mut(known) {
                        *known = process;
                    }
                }
                None if seen.processes.len() < MAX_PROCESSES => seen.processes.push(process),
                None => self.beyond += 1,
            }
        }
    }

    fn learn(&mut self, seen: Seen) {
        let Seen { report, processes, time_unix_ns } = seen;
        let (local, transport) = (report.local, report.transport);
        let processes: Vec<&Process> = processes.iter().map(|process| &**process).collect();
        match Identity::of(&processes, self.settings.exposed) {
            Ok(identity) => {
                let evidence = text::evidence(&processes, time_unix_ns);
                let place = Place { port: local.port, transport, identity: Some(identity) };
                self.put(false, place, local.ip, evidence);
            }
            Err(why) => {
                let who = text::who(&processes);
                self.refuse(format!("{} {local}{who}: {why}", transport.name()));
            }
        }
    }

    fn client(&mut self, flow: &FlowReport, time_unix_ns: i64) {
        let Some(view) = ClientView::of(flow) else { return };
        let processes = view.processes();
        let identity = if view.is_here {
            match Identity::of(&processes, self.settings.exposed) {
                Ok(identity) => Some(identity),
                Err(why) => {
                    let who = text::who(&processes);
                    let (transport, remote) = (view.transport.name(), view.remote);
                    let line = format!("{transport} port {} with {remote}{who}: {why}", view.port);
                    return self.refuse(line);
                }
            }
        } else {
            None
        };
        let evidence = match flow.attribution.owners.iter().find(|it| it.side == Some(Side::Source))
        {
            Some(_) => text::evidence(&processes, time_unix_ns),
            None => text::when(time_unix_ns),
        };
        let place = Place { port: view.port, transport: view.transport, identity };
        self.put(true, place, view.remote, evidence);
    }

    fn put(&mut self, is_client: bool, place: Place, ip: IpAddr, evidence: String) {
        let rules = if is_client { &mut self.clients } else { &mut self.listeners };
        if !rules.contains_key(&place) && rules.len() >= MAX_LEARNED {
            self.beyond += 1;
            return;
        }
        let addresses = rules.entry(place.clone()).or_default();
        if addresses.len() > MAX_REMOTES {
            // One more than can be written: it says that there are too many.
            return;
        }
        addresses.insert(ip);
        self.evidence.entry(place).or_insert(evidence);
    }

    fn refuse(&mut self, line: String) {
        if self.refused.len() < MAX_LEARNED {
            self.refused.insert(line);
        } else {
            self.beyond += 1;
        }
    }
}

#[cfg(test)]
mod tests;
