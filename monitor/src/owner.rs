//! The vocabulary of the process side: who has to do with a socket, in which role, on what evidence.

mod container;
mod context;
mod package;

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;

pub use container::{Container, Image};
pub use context::{Context, Login, Namespaces, Terminal};
pub use package::{Integrity, Package, PackageFormat, Packaging};

/// A process, identified by pid **and** start time: a pid alone is reused.
///
/// Everything here may have been chosen by an attacker: escape before showing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Process {
    /// Thread group id in the initial pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`; `None` when the process
    /// was gone before it could be read.
    pub start_ticks: Option<u64>,
    /// Start time in nanoseconds since the Unix epoch.
    pub start_unix_ns: Option<i64>,
    /// `comm` of the thread group leader, or of the thread the kernel saw when that is all there is.
    pub name: String,
    /// The name the kernel noted in the system call, where that is another one: of a thread, or of
    /// what the process ran before it called `execve`.
    pub noted_name: Option<String>,
    /// What `/proc/PID/exe` points to, without the kernel's ` (deleted)` mark.
    #[serde(with = "crate::verbatim::path")]
    pub executable: Option<PathBuf>,
    /// The executable was unlinked, or never had a name (memfd).
    pub deleted: bool,
    /// The executable is the file that has its path on this host, in portwatch's own root: same
    /// device, same inode. `Some(false)` in a container or a mount namespace that shows another
    /// file there, and for what was deleted; `None` when it could not be compared.
    pub on_host: Option<bool>,
    /// The executable itself, or the first directory on its path, if anybody can write to it: as it
    /// was when it was first looked at.
    #[serde(default, with = "crate::verbatim::path")]
    pub world_writable: Option<PathBuf>,
    /// SHA-256 of what really runs, in lower-case hex, read through `/proc/PID/exe`.
    pub sha256: Option<String>,
    /// The package that installed the executable.
    pub packaging: Packaging,
    /// Arguments; each is bytes, made text with `\xNN` for what is not UTF-8.
    pub args: Vec<String>,
    /// Effective user id.
    pub uid: Option<u32>,
    /// Name of that user.
    pub user: Option<String>,
    /// Path in the cgroup v2 hierarchy (or of the v1 `systemd` hierarchy on hybrid hosts).
    pub cgroup: Option<String>,
    /// systemd unit, from the cgroup path.
    pub unit: Option<String>,
    /// The innermost systemd slice above that unit, from the cgroup path.
    pub slice: Option<String>,
    /// The container, from the cgroup path.
    pub container: Option<Container>,
    /// Inode of its network namespace.
    pub netns: Option<u64>,
    /// Where else it stands.
    pub context: Context,
    /// Parents, nearest first, up to init.
    pub ancestors: Vec<Ancestor>,
    /// Stable across events and restarts of portwatch, safe against pid reuse: base64url of the
    /// first 16 bytes of SHA-256 over machine id, boot id, pid and start ticks.
    pub entity_id: Option<String>,
    /// It says that it passes on to there what comes for a port, and has a connection to there.
    #[serde(default)]
    pub relays_to: Option<Endpoint>,
    /// What could not be read, and why: `"exe: permission denied"`, `"exe, args, cwd: gone before they
    /// could be read"`.
    pub missing: Vec<String>,
}

impl Process {
    /// It is one of the kernel's own: these run no file, and one of them is the parent of all others.
    pub fn is_kernel_thread(&self) -> bool {
        let parent = self.ancestors.first().map(|parent| parent.pid);
        self.executable.is_none() && parent == Some(KTHREADD)
    }

    /// The same program, by path and contents, under the same name, of the same user, in the same place.
    pub fn is_as(&self, before: &Self) -> bool {
        (&self.executable, self.deleted, &self.sha256)
            == (&before.executable, before.deleted, &before.sha256)
            && (&self.name, self.uid, &self.cgroup) == (&before.name, before.uid, &before.cgroup)
    }
}

/// The pid of the kernel's thread that starts its others.
const KTHREADD: u32 = 2;

/// What the kernel noted of a process in the act.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Seen {
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub at_ns: u64,
    /// Real user id.
    pub uid: Option<u32>,
    /// Id of its cgroup in the v2 hierarchy.
    pub cgroup_id: Option<u64>,
}

/// A parent (or its parent) of a process.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ancestor {
    /// Thread group id.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_ticks: Option<u64>,
    /// `comm`.
    pub name: String,
    /// What `/proc/PID/exe` points to.
    #[serde(with = "crate::verbatim::path")]
    pub executable: Option<PathBuf>,
    /// Arguments.
    pub args: Vec<String>,
    /// As [`Process::entity_id`].
    pub entity_id: Option<String>,
}

/// What a process had to do with the socket.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// Bound, connected or listened.
    Opener,
    /// Read from or wrote to it.
    User,
    /// Has a descriptor of it now.
    Holder,
    /// Closed the last descriptor.
    Releaser,
}

impl Role {
    /// The name in `portwatch.owners[].role`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opener => "opener",
            Self::User => "user",
            Self::Holder => "holder",
            Self::Releaser => "releaser",
        }
    }
}

/// How it is known.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Evidence {
    /// The kernel named the task while it was in the system call.
    Exact,
    /// The process holds a descriptor of the socket now.
    Observed,
    /// Joined by addresses and ports.
    Inferred,
}

impl Evidence {
    /// The name in `portwatch.owners[].evidence`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Observed => "observed",
            Self::Inferred => "inferred",
        }
    }
}

/// Which end of a flow.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// The side that opened the flow.
    Source,
    /// The other one; a listener is always this side.
    Destination,
}

impl Side {
    /// The name in `portwatch.owners[].side`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// One process with a role in one socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// The end of the flow; listeners have none.
    pub side: Option<Side>,
    /// What it did.
    pub role: Role,
    /// How that is known.
    pub evidence: Evidence,
    /// The process has exited.
    pub exited: bool,
    /// The process runs another program by now: what it did, it did as this one.
    pub replaced: bool,
    /// Who.
    pub process: Arc<Process>,
}

impl Owner {
    /// Is there nothing left of who did it? The process has exited, or runs another program.
    pub const fn is_gone(&self) -> bool {
        self.exited || self.replaced
    }

    /// Is it init with a socket that is for those whom it starts?
    pub fn is_init_holding(&self) -> bool {
        self.role == Role::Holder && self.process.pid == INIT
    }

    /// The lower, the more telling: of a flow whoever used it, dead or alive, of a listener whoever is
    /// still there; of the destination side first, since that is the server. Of holders init
    /// is the last.
    fn rank(&self) -> (bool, bool, bool, u8, Evidence) {
        let role = match self.role {
            Role::User => 0,
            Role::Opener => 1,
            Role::Holder if !self.is_init_holding() => 2,
            Role::Holder => 3,
            Role::Releaser => 4,
        };
        let used = self.side.is_some() && self.role == Role::User;
        (self.side == Some(Side::Source), !used, self.is_gone(), role, self.evidence)
    }
}

/// The pid of the first process.
const INIT: u32 = 1;

/// What kind of answer "who owns it" has.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Ownership {
    /// Processes own it; they are listed.
    Process,
    /// The kernel itself does (WireGuard, NFS, VXLAN…).
    Kernel,
    /// A socket in another network namespace.
    OtherNamespace,
    /// Traffic that passes through this host.
    Forwarded,
    /// Nobody: there is no such socket.
    None,
    /// It could not be found out.
    Unknown,
}

impl Ownership {
    /// The name in `portwatch.ownership`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Kernel => "kernel",
            Self::OtherNamespace => "other-namespace",
            Self::Forwarded => "forwarded",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// The whole answer to "who".
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attribution {
    /// What kind of answer it is.
    pub ownership: Ownership,
    /// Why that is the answer, in words for a person.
    pub reason: String,
    /// All owners, the most telling first.
    pub owners: Vec<Owner>,
}

impl Attribution {
    /// Nobody could say, and why.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self { ownership: Ownership::Unknown, reason: reason.into(), owners: Vec::new() }
    }

    /// The kernel itself, and why; `owners` are those in whose system calls it made the socket.
    pub fn kernel(reason: impl Into<String>, mut owners: Vec<Owner>) -> Self {
        owners.sort_by_key(Owner::rank);
        Self { ownership: Ownership::Kernel, reason: reason.into(), owners }
    }

    /// These processes, and why; puts the most telling first, of each side.
    pub fn of_processes(reason: impl Into<String>, mut owners: Vec<Owner>) -> Self {
        owners.sort_by_key(Owner::rank);
        Self { ownership: Ownership::Process, reason: reason.into(), owners }
    }

    /// The process to name where there is room for one: the user if known, else the opener, else a
    /// holder.
    pub fn principal(&self) -> Option<&Owner> {
        self.owners.iter().min_by_key(|owner| owner.rank())
    }

    /// The same of one side of a flow: who called does not answer.
    pub fn principal_at(&self, side: Side) -> Option<&Owner> {
        let owners = self.owners.iter().filter(|owner| owner.side == Some(side));
        owners.min_by_key(|owner| owner.rank())
    }
}
