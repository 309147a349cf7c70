//! Several views of the same thing, held against each other: what one shows and another does not.
//!
//! No I/O: a [`Look`] is what was seen in one go. The host changes while it is looked at, so what
//! disagrees in one look proves nothing; [`Suspicions`] says what goes on to disagree.

mod suspicions;
mod tables;
mod taken;
mod unheld;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use crate::endpoint::{Endpoint, Netns, Transport};
use crate::host::adrift::Adrift;
use crate::host::nfs::Server;
use crate::host::shown::{Shown, Task};
use crate::host::sockets::Socket;
use crate::host::tunnels::Tunnel;
use crate::report::ViewReport;

pub use self::suspicions::Suspicions;
pub use self::unheld::Explanation;

/// What was seen in one go.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The tables of sockets, of each network namespace that was looked at.
    pub tables: Vec<Tables>,
    /// All descriptors of sockets on watched ports and of packet, raw and XDP sockets; `None`: the kernel
    /// did not tell.
    pub descriptors: Option<Vec<Descriptor>>,
    /// The processes that `/proc` does not show although the kernel has them; `None` likewise.
    pub processes: Option<Vec<(Task, String)>>,
    /// Who holds, without a descriptor, what is [adrift](Look::adrift).
    pub adrift: Adrift,
}

/// What came of a look.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Comparison {
    /// What disagrees.
    pub disagreements: Vec<Disagreement>,
    /// Who has sockets that nobody has a descriptor of, by their cookies.
    pub explanations: Vec<(u64, Explanation)>,
    /// The namespaces whose tables were looked at.
    pub tables: Vec<u64>,
    /// Descriptors were.
    pub descriptors: bool,
    /// Processes were.
    pub processes: bool,
}

/// The sockets of a network namespace on the watched ports, by each view of its tables. `None`: this view
/// was not to be had.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Which namespace.
    pub netns: Netns,
    /// As `sock_diag` lists them.
    pub sock_diag: Option<Vec<Socket>>,
    /// As `/proc/net` does.
    pub proc_net: Option<Vec<Socket>>,
    /// As the iterators over the kernel's tables do.
    pub iterators: Option<Vec<Socket>>,
    /// Cookies of those that the kernel made for itself.
    pub kernel_made: BTreeSet<u64>,
    /// Devices for which it does.
    pub tunnels: Vec<Tunnel>,
    /// What the kernel's NFS server listens on, a socket each.
    pub nfs: Vec<(Transport, u16)>,
    /// The servers that its NFS client talks to.
    pub nfs_servers: Vec<Server>,
    /// Ports that could not be bound, if that was tried.
    pub taken: BTreeSet<(Transport, u16)>,
}

/// A descriptor that the kernel has of a socket, and whether `/proc` shows it.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// The TCP or UDP socket; `None` for one of another kind.
    pub socket: Option<Socket>,
    /// Inode of its file.
    pub inode: u64,
    /// It is of Multipath TCP: TCP sockets that the kernel has made for it tell the same inode.
    pub is_multipath: bool,
    /// What it is, in words that come after an article.
    pub what: String,
    /// Its cookie.
    pub cookie: u64,
    /// Whose it is.
    pub task: Task,
    /// Its number.
    pub fd: u32,
    /// What `/proc` says.
    pub shown: Shown,
}

/// What a disagreement is about.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Subject {
    /// A socket that a table lacks: namespace, transport, both ends, cookie.
    Socket(u64, Transport, Endpoint, Option<Endpoint>, u64),
    /// A socket that `/proc` does not show with its process: pid, start, cookie.
    Descriptor(u32, u64, u64),
    /// A process that `/proc` does not show: pid and start.
    Process(u32, u64),
    /// A socket that nobody holds: namespace and cookie.
    Unheld(u64, u64),
    /// A port that is taken by nobody: namespace, transport, port.
    Port(u64, Transport, u16),
}

/// Two views that disagree, as seen in one look.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Disagreement {
    /// What it is about.
    pub subject: Subject,
    /// It is `/proc` that hides something, rather than another view.
    pub in_proc: bool,
    /// In one sentence.
    pub message: String,
    /// What each view says.
    pub views: Vec<ViewReport>,
    /// The process it is about.
    pub task: Option<Task>,
}

/// The names of the views.
pub mod view {
    /// `sock_diag` over netlink, which `ss` asks.
    pub const SOCK_DIAG: &str = "sock_diag";
    /// `/proc/net`, which `netstat` reads.
    pub const PROC_NET: &str = "/proc/net";
    /// The iterators over the kernel's tables of sockets.
    pub const TABLES: &str = "socket tables (BPF iterator)";
    /// The iterator over all descriptors.
    pub const DESCRIPTORS: &str = "descriptors (BPF iterator)";
    /// The iterator over all tasks.
    pub const TASKS: &str = "tasks (BPF iterator)";
    /// Whether a port can be bound.
    pub const BIND: &str = "bind(2)";
    /// `/proc/PID`.
    pub const PROC: &str = "/proc";
}

impl Look {
    /// Holds the views against each other.
    pub fn compare(&self) -> Comparison {
        let descriptors = self.descriptors.as_deref();
        let mut found: Vec<Disagreement> =
            self.tables.iter().flat_map(|tables| tables.disagreements(descriptors)).collect();
        found.extend(descriptors.into_iter().flatten().filter_map(Descriptor::disagreement));
        let is_told = |task: &Task| {
            found.iter().any(|it| match it.subject {
                Subject::Descriptor(pid, start_ns, _) => {
                    (pid, start_ns) == (task.pid, task.start_ns)
                }
                _ => false,
            })
        };
        let processes = self.processes.iter().flatten().filter(|(task, _)| !is_told(task));
        let hidden: Vec<_> = processes.map(|(task, says)| hidden_process(task, says)).collect();
        found.extend(hidden);
        found.extend(self.unheld_disagreements());
        found.extend(self.tables.iter().flat_map(|tables| tables.taken_disagreements(descriptors)));
        // A process may have several descriptors of a socket.
        let mut seen = HashSet::new();
        found.retain(|it| seen.insert(it.subject.clone()));
        found.truncate(MAX_DISAGREEMENTS);
        let mut explanations = self.explanations();
        explanations.truncate(MAX_EXPLANATIONS);
        Comparison {
            disagreements: found,
            explanations,
            tables: self.tables.iter().map(|tables| tables.netns.inode).collect(),
            descriptors: self.descriptors.is_some(),
            processes: self.processes.is_some(),
        }
    }
}

impl Comparison {
    /// Was that which a disagreement is about looked at?
    fn covers(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Socket(netns, ..) | Subject::Port(netns, ..) => self.tables.contains(netns),
            Subject::Descriptor(..) => self.descriptors,
            Subject::Process(..) => self.processes,
            Subject::Unheld(netns, _) => self.descriptors && self.tables.contains(netns),
        }
    }
}

impl Descriptor {
    fn disagreement(&self) -> Option<Disagreement> {
        let Shown::No(says) = &self.shown else { return None };
        let Self { what, cookie, task, fd, .. } = self;
        Some(Disagreement {
            subject: Subject::Descriptor(task.pid, task.start_ns, *cookie),
            in_proc: true,
            message: format!(
                "{} holds {} {what}, and /proc does not show it.",
                named(task),
                article(what)
            ),
            views: vec![
                says_that(view::DESCRIPTORS, format!("pid {} has it as descriptor {fd}", task.pid)),
                says_that(view::PROC, says.clone()),
            ],
            task: Some(task.clone()),
        })
    }
}

fn hidden_process(task: &Task, says: &str) -> Disagreement {
    Disagreement {
        subject: Subject::Process(task.pid, task.start_ns),
        in_proc: true,
        message: format!("{} is a process that /proc hides.", named(task)),
        views: vec![
            says_that(view::TASKS, format!("pid {} is there, its name is {}", task.pid, task.name)),
            says_that(view::PROC, says.to_owned()),
        ],
        task: Some(task.clone()),
    }
}

fn named(task: &Task) -> String {
    let name = if task.name.is_empty() { "an unnamed process" } else { &task.name };
    format!("{name} (pid {})", task.pid)
}

fn article(what: &str) -> &'static str {
    if what.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'X']) { "an" } else { "a" }
}

fn says_that(name: &'static str, says: String) -> ViewReport {
    ViewReport { name: Cow::Borrowed(name), says }
}

/// `tcp 0.0.0.0:3516 (LISTEN)`.
fn in_words(socket: &Socket) -> String {
    let Socket { transport, local, remote, state, .. } = socket;
    let remote = remote.map(|remote| format!(" > {remote}")).unwrap_or_default();
    format!("{} {local}{remote} ({})", transport.name(), state.name())
}

/// Disagreements told of one look: whoever hides that much is found out all the same.
const MAX_DISAGREEMENTS: usize = 256;
/// Sockets explained in one look.
const MAX_EXPLANATIONS: usize = 1_024;

#[cfg(test)]
mod tests;
