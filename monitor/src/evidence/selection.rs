//! Whose processes are preserved: everybody on the ports, or who has to do with one listener or flow.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::cli::Selection;
use crate::endpoint::Endpoint;
use crate::owner::Attribution;
use crate::report::{Body, Report};

/// What a look has found.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) listeners: u64,
    pub(super) flows: u64,
    pub(super) portless: u64,
    pub(super) findings: u64,
    /// Processes by pid and start in ticks, which is not known of who was gone; with what they have to do
    /// with it.
    pub(super) subjects: BTreeMap<Subject, String>,
    /// The selection is among it.
    pub(super) is_selected: bool,
}

/// A pid and the start in ticks.
pub(super) type Subject = (u32, Option<u64>);

impl Seen {
    /// Of these reports.
    pub(super) fn of(reports: &[Report], selection: Selection) -> Self {
        let mut seen = Self::default();
        for report in reports {
            seen.take(&report.body, selection);
        }
        seen
    }

    /// There is nothing on the ports.
    pub(super) const fn is_nothing(&self) -> bool {
        self.listeners == 0 && self.flows == 0 && self.portless == 0
    }

    fn take(&mut self, body: &Body, selection: Selection) {
        let is_all = selection == Selection::Ports;
        match body {
            Body::Listener(_, listener) => {
                self.listeners = self.listeners.saturating_add(1);
                let local = listener.local;
                let is_meant = matches!(selection, Selection::Listener(it) if is(it, local));
                let what = || format!("listener {} {local}", listener.transport.name());
                self.select(is_all || is_meant, selection, &listener.attribution, what);
            }
            Body::Flow(_, flow) => {
                self.flows = self.flows.saturating_add(1);
                let (from, to) = (flow.source, flow.destination);
                let is_meant = matches!(selection, Selection::Flow(a, b)
                    if is(a, from) && is(b, to) || is(a, to) && is(b, from));
                let what = || format!("connection {} {from} > {to}", flow.transport.name());
                self.select(is_all || is_meant, selection, &flow.attribution, what);
            }
            Body::Portless(portless) => {
                self.portless = self.portless.saturating_add(1);
                let what = || portless.socket.kind.to_string();
                self.select(is_all, selection, &portless.attribution, what);
            }
            Body::Finding(finding) => {
                self.findings = self.findings.saturating_add(1);
                let finding = &finding.finding;
                let what = || format!("finding {}", finding.id);
                let listener = finding.listener.iter().map(|it| &it.attribution);
                for attribution in listener.chain(finding.flow.iter().map(|it| &it.attribution)) {
                    self.select(is_all, selection, attribution, what);
                }
            }
            _ => {}
        }
    }

    fn select(
        &mut self,
        is_whole: bool,
        selection: Selection,
        attribution: &Attribution,
        what: impl Fn() -> String,
    ) {
        self.is_selected |= is_whole;
        for owner in &attribution.owners {
            let process = &owner.process;
            let is_meant = matches!(selection, Selection::Pid(pid) if pid == process.pid);
            self.is_selected |= is_meant;
            if is_whole || is_meant {
                let what = || format!("{} of {}", owner.role.name(), what());
                self.subjects.entry((process.pid, process.start_ticks)).or_insert_with(what);
            }
        }
    }
}

fn is(address: SocketAddr, endpoint: Endpoint) -> bool {
    (address.ip().to_canonical(), address.port()) == (endpoint.ip, endpoint.port)
}
