//! Listeners that nobody has a descriptor of: the kernel's own, those registered with `io_uring`, and what
//! is left; and the kernel's own connections.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::endpoint::Transport;
use crate::host::nfs::{PORTLIST, SERVERS, Server};
use crate::host::shown::Task;
use crate::host::sockets::Socket;
use crate::host::tunnels::Tunnel;
use crate::views::{Descriptor, Disagreement, Look, Subject, Tables, in_words, says_that, view};

/// Who has a socket that nobody has a descriptor of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Explanation {
    /// The kernel itself, with the reason.
    Kernel(String),
    /// A process that has it registered with `io_uring`, or a socket of Multipath TCP for which the kernel
    /// has made it.
    Registered(Task),
}

impl Look {
    /// The listeners that nobody has a descriptor of and that the kernel did not make, by inode: who has
    /// them is to be looked for.
    pub fn adrift(&self) -> BTreeSet<u64> {
        self.unheld()
            .filter(|(tables, it)| !tables.is_kernels(it) && !self.is_nfs_servers(tables, it))
            .map(|(_, it)| it.inode)
            .collect()
    }

    /// Who has a listener that nobody has a descriptor of, and connections of the kernel's, by cookie, where
    /// that can be told.
    pub(super) fn explanations(&self) -> Vec<(u64, Explanation)> {
        let given = self.unheld().filter(|(tables, socket)| {
            !tables.is_kernels(socket) && self.is_nfs_servers(tables, socket)
        });
        let kernels = self.kernel_made().chain(given).chain(self.kernels_connections());
        let kernels = kernels.map(|(tables, socket)| {
            (socket.cookie, Explanation::Kernel(tables.kernel_reason(socket)))
        });
        let registered = self.unheld().filter_map(|(_, socket)| {
            let holder = self.multipath(socket).or_else(|| self.registrar(socket.inode))?;
            Some((socket.cookie, Explanation::Registered(holder)))
        });
        registered.chain(kernels).collect()
    }

    pub(super) fn unheld_disagreements(&self) -> Vec<Disagreement> {
        self.unheld()
            .filter(|(tables, socket)| {
                !tables.is_kernels(socket) && !self.is_nfs_servers(tables, socket)
            })
            // Where the kernel does not tell whether it made a socket, nothing can be concluded.
            .filter(|(tables, _)| tables.iterators.is_some())
            .filter(|(_, socket)| {
                self.multipath(socket).is_none() && self.registrar(socket.inode).is_none()
            })
            .map(|(tables, socket)| self.unheld_disagreement(tables, socket))
            .collect()
    }

    fn unheld_disagreement(&self, tables: &Tables, socket: &Socket) -> Disagreement {
        let mut views = vec![
            says_that(view::TABLES, format!("{}, made by a process", in_words(socket))),
            says_that(view::DESCRIPTORS, "no process has a descriptor of it".to_owned()),
        ];
        if tables.sock_diag.iter().flatten().any(|it| it.cookie == socket.cookie) {
            let says = format!("{}, inode {}", in_words(socket), socket.inode);
            views.insert(0, says_that(view::SOCK_DIAG, says));
        }
        let carriers: Vec<String> = self.adrift.carriers.iter().map(u32::to_string).collect();
        let says = if carriers.is_empty() {
            "no io_uring has it registered, no Unix socket has descriptors on their way".to_owned()
        } else {
            let pids = carriers.join(", ");
            format!(
                "it may be on its way over a Unix socket: descriptors wait in one of pid {pids}"
            )
        };
        views.push(says_that(view::PROC, says));
        Disagreement {
            subject: Subject::Unheld(tables.netns.inode, socket.cookie),
            in_proc: true,
            message: format!(
                "The socket {} of network namespace {} is there, and no process holds it.",
                in_words(socket),
                tables.netns
            ),
            views,
            task: None,
        }
    }

    /// Listeners without a descriptor.
    fn unheld(&self) -> impl Iterator<Item = (&Tables, &Socket)> {
        self.without_descriptor().filter(|(_, socket)| socket.is_listener())
    }

    fn without_descriptor(&self) -> impl Iterator<Item = (&Tables, &Socket)> {
        let held: Option<BTreeSet<u64>> =
            self.descriptors.as_ref().map(|them| them.iter().map(|it| it.cookie).collect());
        let is_unheld = move |socket: &Socket| {
            socket.cookie != 0 && held.as_ref().is_some_and(|held| !held.contains(&socket.cookie))
        };
        self.sockets().filter(move |(_, socket)| is_unheld(socket))
    }

    /// Connections that the kernel has for itself, by its own mark. One without an inode is over, or of
    /// Multipath TCP and not accepted yet; of those that are, a process has another socket.
    fn kernels_connections(&self) -> impl Iterator<Item = (&Tables, &Socket)> {
        let is_kernels = |(tables, socket): &(&Tables, &Socket)| {
            !socket.is_listener()
                && socket.inode != 0
                && tables.kernel_made.contains(&socket.cookie)
                && self.multipath(socket).is_none()
        };
        self.without_descriptor().filter(is_kernels)
    }

    fn kernel_made(&self) -> impl Iterator<Item = (&Tables, &Socket)> {
        let is_kernels = |(tables, socket): &(&Tables, &Socket)| {
            tables.is_kernels(socket) && self.multipath(socket).is_none()
        };
        self.listeners().filter(is_kernels)
    }

    /// Has the kernel's NFS server a socket that nobody else has? A process may have made it: `rpc.nfsd`
    /// hands it over and exits. The list has no addresses, so that it has to be long enough for all
    /// sockets it may be about.
    fn is_nfs_servers(&self, tables: &Tables, socket: &Socket) -> bool {
        let is_of =
            |it: &Socket| (it.transport, it.local.port) == (socket.transport, socket.local.port);
        let unheld = self
            .unheld()
            .filter(|(theirs, it)| theirs.netns.inode == tables.netns.inode && is_of(it));
        tables.nfs_listeners(socket) >= unheld.count().max(1)
    }

    fn listeners(&self) -> impl Iterator<Item = (&Tables, &Socket)> {
        self.sockets().filter(|(_, socket)| socket.is_listener())
    }

    /// Each once, as `sock_diag` has it, with its inode, if that lists it.
    fn sockets(&self) -> impl Iterator<Item = (&Tables, &Socket)> {
        self.tables.iter().flat_map(|tables| {
            let mut by_cookie: BTreeMap<u64, &Socket> = BTreeMap::new();
            for socket in tables.iterators.iter().chain(&tables.sock_diag).flatten() {
                by_cookie.insert(socket.cookie, socket);
            }
            by_cookie.into_values().map(move |it| (tables, it))
        })
    }

    /// Who has the socket of Multipath TCP for which the kernel has made this one.
    fn multipath(&self, socket: &Socket) -> Option<Task> {
        let is_for = |it: &&Descriptor| it.is_multipath && it.inode == socket.inode;
        let holder = self.descriptors.iter().flatten().find(is_for);
        holder.filter(|_| socket.inode != 0).map(|it| it.task.clone())
    }

    fn registrar(&self, inode: u64) -> Option<Task> {
        let mut registered = self.adrift.registered.iter();
        let (_, pid) = registered.find(|(socket, _)| *socket == inode && inode != 0)?;
        Some(Task { pid: *pid, ..Task::default() })
    }
}

impl Tables {
    /// Did the kernel make this socket for itself? Its own table says so; where that is not to be had, a
    /// device that uses the port does.
    fn is_kernels(&self, socket: &Socket) -> bool {
        match &self.iterators {
            Some(_) => self.kernel_made.contains(&socket.cookie),
            None => self.device(socket).is_some(),
        }
    }

    /// The device that uses the port of a socket.
    fn device(&self, socket: &Socket) -> Option<&Tunnel> {
        let is_of_port = |it: &&Tunnel| it.port == Some(socket.local.port);
        self.tunnels.iter().find(is_of_port).filter(|_| socket.transport == Transport::Udp)
    }

    /// How many listeners the NFS server has with the transport and the port of a socket.
    fn nfs_listeners(&self, socket: &Socket) -> usize {
        let of_socket = (socket.transport, socket.local.port);
        self.nfs.iter().filter(|it| **it == of_socket).count()
    }

    /// The server that the NFS client talks to by a socket.
    fn nfs_server(&self, socket: &Socket) -> Option<&Server> {
        let is_there = |it: &&Server| Some(it.at) == socket.remote;
        self.nfs_servers.iter().find(is_there).filter(|_| socket.transport == Transport::Tcp)
    }

    fn kernel_reason(&self, socket: &Socket) -> String {
        if let Some(Server { at, version }) = self.nfs_server(socket) {
            return format!("the kernel's NFS client has it: {SERVERS} lists {at} (NFS {version})");
        }
        if self.nfs_listeners(socket) > 0 {
            let (transport, port) = (socket.transport.name(), socket.local.port);
            return format!("the kernel's NFS server has it: {PORTLIST} lists {transport} {port}");
        }
        if let Some(Tunnel { name, kind, .. }) = self.device(socket) {
            let port = socket.local.port;
            return format!("the kernel made it: {kind} device {name} uses UDP {port}");
        }
        let silent: Vec<String> = self
            .tunnels
            .iter()
            .filter(|it| it.port.is_none() && socket.transport == Transport::Udp)
            .map(|it| format!("{} device {}", it.kind, it.name))
            .collect();
        if silent.is_empty() {
            return "the kernel made it for itself, as NFS, SMB and tunnels do".to_owned();
        }
        format!("the kernel made it; here it has {}, whose port is not told", silent.join(", "))
    }
}
