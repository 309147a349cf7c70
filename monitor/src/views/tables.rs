//! The sockets of one network namespace: four ways to list them.

use std::collections::{HashMap, HashSet};

use crate::endpoint::{Endpoint, Transport};
use crate::host::sockets::{Socket, State};
use crate::views::{Descriptor, Disagreement, Subject, Tables, in_words, says_that, view};

/// What a socket is by its addresses: all that `/proc/net` tells, besides its inode.
type Ends = (Transport, Endpoint, Option<Endpoint>);

/// How one socket looks in the views that have it.
#[derive(Default)]
struct Sightings<'a> {
    sock_diag: Option<&'a Socket>,
    iterators: Option<&'a Socket>,
    descriptor: Option<(&'a Socket, &'a Descriptor)>,
}

impl Tables {
    pub(super) fn disagreements(&self, descriptors: Option<&[Descriptor]>) -> Vec<Disagreement> {
        let by_cookie = self.sightings(descriptors);
        let mut in_proc: HashMap<Ends, Vec<&Socket>> = HashMap::new();
        for socket in self.proc_net.iter().flatten() {
            in_proc.entry(ends(socket)).or_default().push(socket);
        }
        let mut found = Vec::new();
        for (cookie, sightings) in &by_cookie {
            let Some(socket) = sightings.any() else { continue };
            let of_same_ends = in_proc.get(&ends(socket)).map(Vec::as_slice).unwrap_or_default();
            let proc_net = of_same_ends.iter().any(|it| is_same_file(it, sightings));
            found.extend(self.judge(*cookie, socket, sightings, proc_net));
        }
        let known: HashSet<Ends> =
            by_cookie.values().filter_map(Sightings::any).map(ends).collect();
        let only_in_proc = in_proc.iter().filter(|(ends, _)| !known.contains(*ends));
        for socket in only_in_proc.filter_map(|(_, sockets)| sockets.first()) {
            found.extend(self.judge(0, socket, &Sightings::default(), true));
        }
        found
    }

    /// By cookie: how each socket looks. One without a cookie cannot be recognised.
    fn sightings<'a>(
        &'a self,
        descriptors: Option<&'a [Descriptor]>,
    ) -> HashMap<u64, Sightings<'a>> {
        let mut by_cookie: HashMap<u64, Sightings<'a>> = HashMap::new();
        let with_cookie = |socket: &&Socket| socket.cookie != 0;
        for socket in self.sock_diag.iter().flatten().filter(with_cookie) {
            by_cookie.entry(socket.cookie).or_default().sock_diag = Some(socket);
        }
        for socket in self.iterators.iter().flatten().filter(with_cookie) {
            by_cookie.entry(socket.cookie).or_default().iterators = Some(socket);
        }
        for descriptor in descriptors.into_iter().flatten() {
            let is_here = |socket: &&Socket| socket.netns == self.netns.inode;
            if let Some(socket) = descriptor.socket.as_ref().filter(is_here).filter(with_cookie) {
                let sightings = by_cookie.entry(socket.cookie).or_default();
                sightings.descriptor = Some((socket, descriptor));
            }
        }
        by_cookie
    }

    fn judge(
        &self,
        cookie: u64,
        socket: &Socket,
        sightings: &Sightings<'_>,
        proc_net: bool,
    ) -> Option<Disagreement> {
        // What comes and goes is between two tables half of the time.
        if !sightings.all().chain([socket]).all(lasts) {
            return None;
        }
        let tables = [
            (view::SOCK_DIAG, self.sock_diag.is_some(), sightings.sock_diag.is_some()),
            (view::TABLES, self.iterators.is_some(), sightings.iterators.is_some()),
            (view::PROC_NET, self.proc_net.is_some(), proc_net),
        ];
        let lacking: Vec<&str> = tables
            .iter()
            .filter(|(_, is_there, lists)| *is_there && !lists)
            .map(|(name, ..)| *name)
            .collect();
        if lacking.is_empty() {
            return None;
        }
        let mut views: Vec<_> = tables
            .iter()
            .filter(|(_, is_there, _)| *is_there)
            .map(|(name, _, lists)| {
                let says = if *lists { in_words(socket) } else { "does not list it".to_owned() };
                says_that(name, says)
            })
            .collect();
        let holder = sightings.descriptor.map(|(_, descriptor)| descriptor);
        if let Some(Descriptor { task, fd, .. }) = holder {
            let has = format!("pid {} ({}) has it as descriptor {fd}", task.pid, task.name);
            views.push(says_that(view::DESCRIPTORS, has));
        }
        Some(Disagreement {
            subject: Subject::Socket(
                self.netns.inode,
                socket.transport,
                socket.local,
                socket.remote,
                cookie,
            ),
            in_proc: lacking == [view::PROC_NET],
            message: format!(
                "The socket {} of network namespace {} is there, and {} does not list it.",
                in_words(socket),
                self.netns,
                lacking.join(" and ")
            ),
            views,
            task: holder.map(|descriptor| descriptor.task.clone()),
        })
    }
}

impl<'a> Sightings<'a> {
    fn all(&self) -> impl Iterator<Item = &'a Socket> {
        let held = self.descriptor.map(|(socket, _)| socket);
        [self.sock_diag, self.iterators, held].into_iter().flatten()
    }

    fn any(&self) -> Option<&'a Socket> {
        self.all().next()
    }
}

/// The inodes agree as far as both views tell one.
fn is_same_file(in_proc: &Socket, sightings: &Sightings<'_>) -> bool {
    let mut inodes = sightings.all().map(|socket| socket.inode).filter(|inode| *inode != 0);
    in_proc.inode == 0 || inodes.next().is_none_or(|inode| inode == in_proc.inode)
}

fn ends(socket: &Socket) -> Ends {
    (socket.transport, socket.local, socket.remote)
}

/// It stays in the tables until somebody closes it.
fn lasts(socket: &Socket) -> bool {
    match socket.transport {
        Transport::Tcp => {
            matches!(socket.state, State::Established | State::Listen | State::CloseWait)
        }
        Transport::Udp => true,
    }
}
