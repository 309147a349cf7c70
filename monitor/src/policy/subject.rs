//! What rules are held against: a listener with who owns it, or a conversation with who began it.

use std::net::IpAddr;

use crate::endpoint::{Endpoint, Transport};
use crate::owner::{Attribution, Owner, Ownership, Process, Role, Side};
use crate::report::{FlowReport, FlowRole, ListenerReport, RuleKey};

/// What of a listener a policy looks at.
#[derive(Clone, Copy, Debug)]
pub struct ListenerView<'a> {
    /// Local address and port; the unspecified address means all.
    pub local: Endpoint,
    /// TCP or UDP.
    pub transport: Transport,
    /// Who.
    pub attribution: &'a Attribution,
}

/// What of a conversation on a watched port a policy looks at.
#[derive(Clone, Copy, Debug)]
pub struct ClientView<'a> {
    /// The watched port that was called.
    pub port: u16,
    /// TCP or UDP.
    pub transport: Transport,
    /// The other end: of who calls from here whom they call, of who calls us where they call from.
    pub remote: IpAddr,
    /// The client is a process of this host.
    pub is_here: bool,
    /// Who is at both ends.
    pub attribution: &'a Attribution,
}

impl<'a> From<&'a ListenerReport> for ListenerView<'a> {
    fn from(report: &'a ListenerReport) -> Self {
        Self { local: report.local, transport: report.transport, attribution: &report.attribution }
    }
}

impl<'a> ClientView<'a> {
    /// The client of a flow; `None` of what is none: refused, unanswered, passing through, or a client
    /// of ours that merely got a watched port as its own.
    pub fn of(flow: &'a FlowReport) -> Option<Self> {
        let remote = match flow.role? {
            FlowRole::Client => flow.destination.ip,
            FlowRole::Server => flow.source.ip,
            FlowRole::Ephemeral
            | FlowRole::Forwarded
            | FlowRole::Refused
            | FlowRole::Unanswered => return None,
        };
        let attribution = &flow.attribution;
        let is_here = flow.role == Some(FlowRole::Client)
            || remote.is_loopback()
            || attribution.owners.iter().any(is_client);
        let port = flow.destination.port;
        Some(Self { port, transport: flow.transport, remote, is_here, attribution })
    }

    /// Who it is, as far as processes are known.
    pub fn processes(&self) -> Vec<&'a Process> {
        let clients = || self.attribution.owners.iter().filter(|owner| is_client(owner));
        let used = |owner: &&Owner| owner.role != Role::Releaser;
        // Who let go of it is all that is known of what was given away.
        let is_any = clients().any(|owner| used(&owner));
        each_once(clients().filter(|owner| !is_any || used(owner)))
    }
}

/// What the keys of a rule are compared with.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) port: u16,
    pub(super) transport: Transport,
    pub(super) ip: IpAddr,
    /// What `ip` is: [`RuleKey::Address`] or [`RuleKey::Remote`].
    pub(super) ip_key: RuleKey,
    /// Those for whom a key about processes must hold.
    pub(super) processes: Vec<&'a Process>,
    /// What is said where there are none.
    pub(super) nobody: &'static str,
}

impl<'a> Subject<'a> {
    /// Who is alive and opened, holds or used the socket: one that is not expected could answer on
    /// it, whoever else has it.
    pub(super) fn listener(view: &ListenerView<'a>) -> Self {
        let ListenerView { local, transport, attribution } = *view;
        let counts = |owner: &&Owner| owner.role != Role::Releaser && !owner.is_gone();
        let nobody = if attribution.ownership == Ownership::Kernel {
            "not known: the kernel owns it"
        } else if attribution.owners.is_empty() {
            "not known: nobody is seen to own it"
        } else {
            "not known: its owners have exited"
        };
        let processes = each_once(attribution.owners.iter().filter(counts));
        let (port, ip, ip_key) = (local.port, local.ip, RuleKey::Address);
        Self { port, transport, ip, ip_key, processes, nobody }
    }

    /// The processes that called, dead or alive: what they did they have done.
    pub(super) fn client(view: &ClientView<'a>) -> Self {
        let nobody = if view.is_here {
            "not known: no process is seen with it"
        } else {
            "not known: the client is on another host"
        };
        Self {
            port: view.port,
            transport: view.transport,
            ip: view.remote,
            ip_key: RuleKey::Remote,
            processes: view.processes(),
            nobody,
        }
    }
}

fn is_client(owner: &Owner) -> bool {
    owner.side == Some(Side::Source)
}

fn each_once<'a>(owners: impl Iterator<Item = &'a Owner>) -> Vec<&'a Process> {
    let mut processes: Vec<&Process> = Vec::new();
    for owner in owners {
        if !processes.contains(&&*owner.process) {
            processes.push(&owner.process);
        }
    }
    processes
}
