//! Listeners: found, opened, updated, closed.

use std::collections::HashMap;

use crate::app::Protocol;
use crate::attribution::Socket;
use crate::owner::{Attribution, Role};
use crate::pipeline::Pipeline;
use crate::policy::ListenerView;
use crate::report::{Body, ListenerChange, ListenerReport};

/// A listener is reported when everything about it is known, or after this long.
pub(super) const PATIENCE_NS: u64 = 500_000_000;

/// What was reported of listeners.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// Open listeners by cookie, as last reported.
    reported: HashMap<u64, ListenerReport>,
    /// What conversations with them looked like, where that is what no service is for.
    spoken: HashMap<u64, Protocol>,
    /// Changed, but not everything is known yet.
    waiting: HashMap<u64, Waiting>,
}

/// Of a listener that is to be reported.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since_ns: u64,
    /// It was looked for who has it, since nobody who is known to have had to do with it is there any more.
    is_sought: bool,
}

impl Waiting {
    const fn since(since_ns: u64) -> Self {
        Self { since_ns, is_sought: false }
    }
}

impl Pipeline {
    /// Every open listener is to be judged again.
    pub(super) fn judge_listeners_anew(&mut self, now_ns: u64) {
        let Listeners { reported, waiting, spoken: _ } = &mut self.listeners;
        for cookie in reported.keys() {
            waiting.entry(*cookie).or_insert(Waiting::since(now_ns));
        }
    }

    /// Reports what changed and is settled, or has waited long enough; with `all`, everything.
    pub(super) fn report_listeners(&mut self, now_ns: u64, all: bool) {
        for cookie in self.known.sockets.take_changed() {
            self.listeners.waiting.entry(cookie).or_insert(Waiting::since(now_ns));
        }
        let mut ready: Vec<u64> = Vec::new();
        for (&cookie, waiting) in &self.listeners.waiting {
            let waited = all || now_ns.saturating_sub(waiting.since_ns) >= PATIENCE_NS;
            let settled = self.known.sockets.get(cookie).is_none_or(|socket| {
                let is_known = waiting.is_sought || !self.known.is_abandoned(socket);
                is_known && self.known.of_socket(socket).settled
            });
            if waited || settled {
                ready.push(cookie);
            }
        }
        ready.sort_unstable();
        for cookie in ready {
            self.listeners.waiting.remove(&cookie);
            if let Some(socket) = self.known.sockets.get(cookie).cloned() {
                self.report_listener(&socket, now_ns);
            }
        }
    }

    /// The listeners that are to be reported although everybody known to have had to do with them is gone:
    /// who has one by now is worth looking for at once. systemd has its sockets opened by a process that
    /// lives a millisecond, and a daemon by the parent of the one that stays.
    pub fn abandoned_listeners(&self) -> Vec<u64> {
        let waiting = self.listeners.waiting.iter().filter(|(_, waiting)| !waiting.is_sought);
        let sockets = waiting.filter_map(|(cookie, _)| self.known.sockets.get(*cookie));
        let abandoned = sockets.filter(|socket| self.known.is_abandoned(socket));
        abandoned.map(|socket| socket.cookie).collect()
    }

    /// It is being looked for who has these sockets: all that will be found is known now.
    pub(super) fn have_sought(&mut self, sockets: &[u64]) {
        for cookie in sockets {
            let Some(socket) = self.known.sockets.get(*cookie) else { continue };
            if self.known.is_abandoned(socket)
                && let Some(waiting) = self.listeners.waiting.get_mut(cookie)
            {
                waiting.is_sought = true;
            }
        }
    }

    fn report_listener(&mut self, socket: &Socket, now_ns: u64) {
        let Some((report, expired)) = self.listener_report(socket, now_ns) else { return };
        if !socket.listens {
            // A datagram socket that was connected: from now on only one peer can reach it.
            self.report_closed(socket, report, now_ns);
            return;
        }
        let before = self.listeners.reported.get(&socket.cookie);
        let change = match before {
            None if socket.found => Some((ListenerChange::Found, now_ns)),
            None => Some((ListenerChange::Opened, socket.since_ns)),
            // The last change of a closed listener is part of the report that it is closed.
            Some(before) if *before != report && socket.closed_ns.is_none() => {
                Some((ListenerChange::Updated, now_ns))
            }
            Some(_) => None,
        };
        if let Some((change, time_ns)) = change {
            if change != ListenerChange::Updated {
                self.counting.listeners += 1;
            }
            self.listeners.reported.insert(socket.cookie, report.clone());
            self.report(time_ns, Body::Listener(change, Box::new(report.clone())));
            self.judge(&report, expired.as_deref(), now_ns);
        }
        if socket.closed_ns.is_some() && self.report_closed(socket, report, now_ns) {
            self.known.sockets.no_longer_listens(socket.cookie);
        }
    }

    /// Reports that a listener is gone; true if it had been reported.
    fn report_closed(&mut self, socket: &Socket, report: ListenerReport, now_ns: u64) -> bool {
        if self.listeners.reported.remove(&socket.cookie).is_none() {
            return false;
        }
        self.listeners.spoken.remove(&socket.cookie);
        self.judge_closed(&report, now_ns);
        let time_ns = socket.closed_ns.unwrap_or(now_ns);
        self.report(time_ns, Body::Listener(ListenerChange::Closed, Box::new(report)));
        true
    }

    /// The open listeners as they were last reported.
    pub(super) fn open_reports(&self) -> impl Iterator<Item = &ListenerReport> {
        self.listeners.reported.values()
    }

    /// What a conversation with this listener looked like, if that is what no service is for.
    pub(super) fn spoken_with(&self, cookie: u64) -> Option<Protocol> {
        self.listeners.spoken.get(&cookie).copied()
    }

    /// A conversation with this open listener looks like that; true if it is news.
    pub(super) fn speaks(&mut self, cookie: u64, protocol: Protocol) -> bool {
        let known = self.listeners.spoken.insert(cookie, protocol);
        if known == Some(Protocol::Shell) {
            // Nothing is worse.
            self.listeners.spoken.insert(cookie, Protocol::Shell);
            return false;
        }
        known != Some(protocol)
    }

    /// An open listener as it was last reported, and the expired rule that would expect it.
    pub(super) fn reported_listener(
        &self,
        cookie: u64,
        now_ns: u64,
    ) -> Option<(ListenerReport, Option<String>)> {
        let report = self.listeners.reported.get(&cookie)?.clone();
        let judgement = self.policy.judge(&ListenerView::from(&report), self.clock.date(now_ns));
        Some((report, judgement.expired))
    }

    pub(super) fn listener_report(
        &self,
        socket: &Socket,
        now_ns: u64,
    ) -> Option<(ListenerReport, Option<String>)> {
        let local = socket.local?;
        let attribution = self.known.of_socket(socket).attribution;
        let view = ListenerView { local, transport: socket.transport, attribution: &attribution };
        let judgement = self.policy.judge(&view, self.clock.date(now_ns));
        let report = ListenerReport {
            local,
            transport: socket.transport,
            family: socket.family,
            netns: socket.netns.clone(),
            interface: (socket.interface != 0)
                .then(|| self.observed.name(socket.netns.as_ref(), socket.interface)),
            cookie: socket.cookie,
            unit: socket.unit.clone().or_else(|| unit_of_opener(&attribution)),
            attribution,
            verdict: judgement.verdict,
        };
        Some((report, judgement.expired))
    }
}

/// Where a socket was made that opened while we watched: its opener was there.
fn unit_of_opener(attribution: &Attribution) -> Option<String> {
    let mut owners = attribution.owners.iter();
    let opener = owners.find(|owner| owner.role == Role::Opener)?;
    opener.process.unit.clone()
}
