//! What portwatch may do once everything is attached: little, and each right for a reason.
//!
//! Capabilities belong to a thread, not to the process. So the main thread confines itself before it
//! starts others, which inherit that, and each of them then gives up what it does not need itself.

mod calls;

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// What is left to do once everything is attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "any combination of them is possible")]
pub struct Work {
    /// This kernel refuses every `bpf` call without `CAP_BPF`, also on maps that are open.
    pub asks_for_bpf: bool,
    /// This kernel tells the cookie of a network namespace only to who is inside.
    pub enters_namespaces: bool,
    /// The interfaces of all network namespaces are observed, also of those that appear later.
    pub observes_namespaces: bool,
    /// A command of the user's runs, which is killed when it outlives its watch.
    pub has_command: bool,
    /// Watched ports are bound for an instant, to see whether they are free.
    pub binds_ports: bool,
    /// What there is in every network namespace, and which BPF programs are loaded, is preserved.
    pub preserves: bool,
}

/// Who does it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Thread {
    /// The main thread, until it has looked at everything that was there before.
    Snapshot,
    /// The main thread from then on.
    Main,
    /// The thread that reads who a process is.
    Identities,
    /// The thread that hashes executables.
    Hashes,
    /// The thread that asks the kernel for rules and translations of addresses.
    Network,
    /// A thread that writes to an output.
    Output,
}

/// A capability that is kept, by whom, when, and what for.
struct Kept {
    capability: CapabilitySet,
    by: &'static [Thread],
    when: fn(Work) -> bool,
    /// Said in `degraded` where only the age of the kernel makes us keep it.
    age: Option<&'static str>,
}

const BPF_STAYS: &str = "CAP_BPF is kept: this kernel asks for it whenever a map is read (from Linux 5.19 on it does not)";
const SYS_ADMIN_STAYS: &str = "CAP_SYS_ADMIN is kept by the thread pw-identities: this kernel tells \
     the cookie of a network namespace only inside it (from Linux 6.18 on also outside)";

/// Everything that is kept. What is not here is gone.
const KEPT: [Kept; 10] = [
    // /proc/PID/{exe,fd,ns,root} of processes of others, and a /proc mounted with hidepid.
    Kept {
        capability: CapabilitySet::SYS_PTRACE,
        by: &[Thread::Snapshot, Thread::Main, Thread::Identities, Thread::Hashes, Thread::Network],
        when: |_| true,
        age: None,
    },
    // /proc/PID/fd of other users, and executables that only their owner may read.
    Kept {
        capability: CapabilitySet::DAC_READ_SEARCH,
        by: &[Thread::Snapshot, Thread::Main, Thread::Identities, Thread::Hashes, Thread::Network],
        when: |_| true,
        age: None,
    },
    // Who else is on a TCX hook, ahead of us or instead of us; filters and qdiscs of the clsact hook. Rules
    // of nftables, connection tracking.
    Kept {
        capability: CapabilitySet::NET_ADMIN,
        by: &[Thread::Snapshot, Thread::Main, Thread::Network],
        when: |_| true,
        age: None,
    },
    // Counters in maps that are not mapped, sockets that are forgotten, the iterator.
    Kept {
        capability: CapabilitySet::BPF,
        by: &[Thread::Snapshot, Thread::Main, Thread::Network],
        when: |work| work.asks_for_bpf,
        age: Some(BPF_STAYS),
    },
    // setns(2): sock_diag tells of the sockets of the namespace it is asked in.
    Kept {
        capability: CapabilitySet::SYS_ADMIN,
        by: &[Thread::Snapshot],
        when: |_| true,
        age: None,
    },
    // setns(2) and bpf(2): attaching to interfaces of namespaces that appear later, and what translates
    // addresses in there.
    Kept {
        capability: CapabilitySet::SYS_ADMIN,
        by: &[Thread::Main, Thread::Network],
        when: |work| work.observes_namespaces,
        age: None,
    },
    // setns(2): the tables of each namespace. bpf(2): programs, links and maps by their numbers.
    Kept {
        capability: CapabilitySet::SYS_ADMIN,
        by: &[Thread::Main],
        when: |work| work.preserves,
        age: None,
    },
    // setns(2): the cookie of a namespace that is new.
    Kept {
        capability: CapabilitySet::SYS_ADMIN,
        by: &[Thread::Identities],
        when: |work| work.enters_namespaces,
        age: Some(SYS_ADMIN_STAYS),
    },
    // bind(2) of a port below 1024.
    Kept {
        capability: CapabilitySet::NET_BIND_SERVICE,
        by: &[Thread::Snapshot],
        when: |work| work.binds_ports,
        age: None,
    },
    // kill(2): the command may have become another user.
    Kept {
        capability: CapabilitySet::KILL,
        by: &[Thread::Snapshot, Thread::Main],
        when: |work| work.has_command,
        age: None,
    },
];

impl Work {
    /// What a thread keeps.
    fn keeps(self, thread: Thread) -> CapabilitySet {
        self.kept().filter(|kept| kept.by.contains(&thread)).map(|kept| kept.capability).collect()
    }

    fn kept(self) -> impl Iterator<Item = &'static Kept> {
        KEPT.iter().filter(move |kept| (kept.when)(self))
    }
}

/// Confines the calling thread, and all that it will start, to what is needed from now on.
///
/// That is the capabilities of [`Thread::Snapshot`], an empty bounding set, no new privileges ever
/// (`PR_SET_NO_NEW_PRIVS`), and no system call that only an intruder would make.
///
/// Threads that run already are not touched. Returns what is kept because of the kernel, and what
/// could not be given up, a sentence each; the latter is also logged.
pub fn confine(work: Work) -> Vec<String> {
    let steps = [
        ("the capability bounding set stays", empty_bounding_set()),
        ("capabilities stay", keep(work.keeps(Thread::Snapshot))),
        ("new privileges stay possible", forbid_new_privileges()),
        ("system calls are not filtered", calls::deny().map_err(|error| format!("{error:#}"))),
    ];
    let failed =
        steps.into_iter().filter_map(|(what, step)| Some(format!("{what}: {}", step.err()?)));
    let failed: Vec<String> = failed.collect();
    for failure in &failed {
        tracing::warn!("{failure}");
    }
    let because_of_age = work.kept().filter_map(|kept| kept.age).map(str::to_owned);
    because_of_age.chain(failed).collect()
}

/// Gives up what the calling thread does not need as this thread. What stays is logged.
pub fn reduce(thread: Thread, work: Work) {
    if let Err(stays) = keep(work.keeps(thread)) {
        tracing::warn!("capabilities stay with a thread: {stays}");
    }
}

/// Starts a thread that has given up what it does not need by the time this returns.
pub fn spawn(
    name: String,
    thread: Thread,
    work: Work,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let (reduced, is_reduced) = sync_channel(1);
    thread::Builder::new().name(name).spawn(move || {
        reduce(thread, work);
        if reduced.send(()).is_ok() {
            run();
        }
    })?;
    is_reduced.recv().map_err(io::Error::other)
}

/// Gives up every capability of the calling thread. What stays is logged.
pub fn renounce() {
    if let Err(stays) = keep(CapabilitySet::empty()) {
        tracing::warn!("capabilities stay with a thread: {stays}");
    }
}

/// Keeps no other capabilities; an error says which stay and why.
fn keep(kept: CapabilitySet) -> Result<(), String> {
    let stays = |capabilities| move |error: Errno| format!("{} ({error})", names(capabilities));
    let before = rustix::thread::capabilities(None).map_err(stays(CapabilitySet::all()))?;
    let kept = before.permitted & with_stand_in(kept, before.permitted);
    // What is neither permitted nor inheritable leaves the ambient set by itself: capabilities(7).
    let after =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, after).map_err(stays(before.permitted))
}

/// `CAP_SYS_ADMIN` contains `CAP_BPF` and stands in where only that was given: capabilities(7).
fn with_stand_in(kept: CapabilitySet, permitted: CapabilitySet) -> CapabilitySet {
    let is_missing = kept.contains(CapabilitySet::BPF) && !permitted.contains(CapabilitySet::BPF);
    if is_missing { kept | CapabilitySet::SYS_ADMIN } else { kept }
}

/// Empties the bounding set, which takes `CAP_SETPCAP`.
fn empty_bounding_set() -> Result<(), String> {
    let mut left = CapabilitySet::empty();
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        // The first that the kernel does not know is behind the last.
        let Ok(is_there) = rustix::thread::capability_is_in_bounding_set(capability) else { break };
        if is_there && rustix::thread::remove_capability_from_bounding_set(capability).is_err() {
            left |= capability;
        }
    }
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("{}; emptying it takes CAP_SETPCAP", names(left)))
    }
}

fn forbid_new_privileges() -> Result<(), String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())
}

/// The names of capabilities, as capabilities(7) has them.
fn names(capabilities: CapabilitySet) -> String {
    let names: Vec<String> =
        capabilities.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW_KERNEL: Work = Work {
        asks_for_bpf: false,
        enters_namespaces: false,
        observes_namespaces: false,
        has_command: false,
        binds_ports: false,
        preserves: false,
    };

    #[test]
    fn a_new_kernel_leaves_what_proc_asks_for_and_the_look_at_hooks() {
        let of_proc = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;

        assert_eq!(NEW_KERNEL.keeps(Thread::Main), of_proc | CapabilitySet::NET_ADMIN);
        assert_eq!(NEW_KERNEL.keeps(Thread::Identities), of_proc);
        assert_eq!(NEW_KERNEL.keeps(Thread::Output), CapabilitySet::empty());
    }

    #[test]
    fn an_old_kernel_leaves_system_administration_to_one_thread_and_says_so() {
        let work = Work { enters_namespaces: true, asks_for_bpf: true, ..NEW_KERNEL };

        let keepers = [Thread::Main, Thread::Identities, Thread::Hashes, Thread::Output]
            .into_iter()
            .filter(|thread| work.keeps(*thread).contains(CapabilitySet::SYS_ADMIN));

        assert_eq!(keepers.collect::<Vec<_>>(), [Thread::Identities]);
        assert_eq!(work.kept().filter_map(|kept| kept.age).count(), 2);
        assert_eq!(NEW_KERNEL.kept().filter_map(|kept| kept.age).count(), 0);
    }

    #[test]
    fn system_administration_stands_in_for_a_right_to_maps_that_was_not_given() {
        let (bpf, admin) = (CapabilitySet::BPF, CapabilitySet::SYS_ADMIN);

        assert_eq!(with_stand_in(bpf, admin), bpf | admin);
        assert_eq!(with_stand_in(bpf, admin | bpf), bpf);
        assert_eq!(with_stand_in(CapabilitySet::KILL, admin), CapabilitySet::KILL);
    }

    #[test]
    fn whatever_is_given_up_is_gone_from_this_thread_and_stays_with_the_others() {
        let before = rustix::thread::capabilities(None).unwrap();

        let after = thread::spawn(|| {
            renounce();
            rustix::thread::capabilities(None).unwrap()
        });

        let nothing = CapabilitySet::empty();
        let gone = CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing };
        assert_eq!(after.join().unwrap(), gone);
        assert_eq!(rustix::thread::capabilities(None).unwrap(), before);
    }
}
