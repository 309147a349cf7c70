//! Ports that nobody can bind although no view has a socket on them.

use crate::endpoint::Transport;
use crate::host::sockets::Socket;
use crate::views::{Descriptor, Disagreement, Subject, Tables, says_that, view};

impl Tables {
    /// Held against every view, whatever the address, family and state of a socket: each of them can be in
    /// the way.
    pub(super) fn taken_disagreements(
        &self,
        descriptors: Option<&[Descriptor]>,
    ) -> Vec<Disagreement> {
        let is_here = |socket: &&Socket| socket.netns == self.netns.inode;
        let held = descriptors.into_iter().flatten().filter_map(|it| it.socket.as_ref());
        let sockets: Vec<&Socket> = self
            .sock_diag
            .iter()
            .chain(&self.proc_net)
            .chain(&self.iterators)
            .flatten()
            .chain(held.filter(is_here))
            .collect();
        // A TCP socket that is bound and does not listen is in no table before Linux 6.8: only who holds it
        // tells.
        let is_known = |transport| transport == Transport::Udp || descriptors.is_some();
        self.taken
            .iter()
            .filter(|(transport, _)| self.sock_diag.is_some() && is_known(*transport))
            .filter(|(transport, port)| {
                !sockets.iter().any(|it| it.transport == *transport && it.local.port == *port)
            })
            .map(|(transport, port)| self.taken_disagreement(*transport, *port))
            .collect()
    }

    fn taken_disagreement(&self, transport: Transport, port: u16) -> Disagreement {
        let (name, netns) = (transport.name(), &self.netns);
        let nothing = || format!("no {name} socket on port {port}");
        let views = [
            (view::SOCK_DIAG, self.sock_diag.is_some()),
            (view::TABLES, self.iterators.is_some()),
            (view::PROC_NET, self.proc_net.is_some()),
        ];
        let there = views.into_iter().filter(|(_, is_there)| *is_there);
        let bind = says_that(view::BIND, format!("{name} port {port} is in use"));
        Disagreement {
            subject: Subject::Port(netns.inode, transport, port),
            in_proc: false,
            message: format!(
                "Nobody can bind {name} port {port} in network namespace {netns}, and no view of this \
                 host has a socket on it."
            ),
            views: [bind]
                .into_iter()
                .chain(there.map(|(name, _)| says_that(name, nothing())))
                .collect(),
            task: None,
        }
    }
}
