//! The processes that have to do with watched sockets, from what the kernel captured to what `/proc`
//! could add.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::attribution::Request;
use crate::endpoint::Endpoint;
use crate::escape;
use crate::host::process::{GONE, has_ended};
use crate::owner::{Container, Packaging, Process, Seen};

/// A process in [`Processes`]. Never reused within a run.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ProcessKey(u64);

/// A pid that was verified this recently is still the same process, if its name and user are too:
/// the kernel does not reuse a pid before it has gone through all others.
const TRUST_NS: u64 = 1_000_000_000;

/// What is looked up of every process: who it is, the hash and the package of what it runs.
const ANSWERS: u8 = 3;

/// What a hook captured of the task that made a system call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Captured<'a> {
    /// Thread group id.
    pub pid: u32,
    /// Real user id.
    pub uid: u32,
    /// `comm` of the thread, up to the first NUL.
    pub comm: &'a [u8],
    /// Id of its cgroup in the v2 hierarchy, where the hook can tell.
    pub cgroup_id: Option<u64>,
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub seen_ns: u64,
}

/// A known process.
#[derive(Debug)]
struct Entry {
    process: Arc<Process>,
    comm: Vec<u8>,
    captured_uid: Option<u32>,
    /// The process was certainly there at this moment.
    verified_ns: u64,
    exited: bool,
    /// It has called `execve`: what it is now is another entry.
    replaced: bool,
    /// The kernel has it although `/proc` does not show it: that it cannot be read says nothing of its
    /// end.
    hides: bool,
    /// Answers that are awaited.
    answers_due: u8,
}

/// All known processes; bounded.
#[derive(Debug)]
pub struct Processes {
    entries: HashMap<ProcessKey, Entry>,
    by_pid: HashMap<u32, ProcessKey>,
    /// A process that calls `execve` becomes another entry: what it did before is not what it is now.
    by_start: HashMap<(u32, u64, Option<PathBuf>), ProcessKey>,
    next: u64,
    capacity: usize,
    requests: Vec<Request>,
}

impl Processes {
    /// Knows nobody yet; forgets the oldest beyond `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            by_pid: HashMap::new(),
            by_start: HashMap::new(),
            next: 0,
            capacity: capacity.max(1),
            requests: Vec::new(),
        }
    }

    /// The process a hook captured in the act.
    pub fn captured(&mut self, captured: &Captured<'_>) -> ProcessKey {
        let Captured { pid, uid, cgroup_id, seen_ns, .. } = *captured;
        let seen = Seen { at_ns: seen_ns, uid: Some(uid), cgroup_id };
        if let Some(key) = self.by_pid.get(&captured.pid).copied()
            && let Some(entry) = self.entries.get_mut(&key)
            && entry.is_still(captured)
        {
            if entry.process.uid.is_none() {
                // Found by its descriptors only, and perhaps gone before it was read: the note may say
                // more.
                let process = Arc::make_mut(&mut entry.process);
                process.uid = Some(uid);
                if process.name.is_empty() {
                    process.name = escape::text_from_bytes(captured.comm).into_owned();
                }
                (entry.comm, entry.captured_uid) = (captured.comm.to_vec(), Some(uid));
                entry.answers_due = entry.answers_due.saturating_add(ANSWERS);
                self.requests.push(Request::Identify { key, pid, seen });
            }
            return key;
        }
        let process = Process {
            pid: captured.pid,
            name: escape::text_from_bytes(captured.comm).into_owned(),
            uid: Some(captured.uid),
            ..Process::default()
        };
        self.add(process, captured.comm, seen)
    }

    /// The process that has this pid now. Those that have exited have to be known by now: a process
    /// that was not reported as exited still has its pid.
    pub fn present(&mut self, pid: u32, now_ns: u64) -> ProcessKey {
        if let Some(key) = self.by_pid.get(&pid)
            && let Some(entry) = self.entries.get(key)
            && !(entry.exited || entry.replaced)
        {
            return *key;
        }
        let seen = Seen { at_ns: now_ns, ..Seen::default() };
        self.add(Process { pid, ..Process::default() }, &[], seen)
    }

    fn add(&mut self, process: Process, comm: &[u8], seen: Seen) -> ProcessKey {
        let pid = process.pid;
        let key = self.enter(process, comm, seen);
        self.requests.push(Request::Identify { key, pid, seen });
        key
    }

    fn enter(&mut self, process: Process, comm: &[u8], seen: Seen) -> ProcessKey {
        self.make_room();
        let key = ProcessKey(self.next);
        self.next += 1;
        self.by_pid.insert(process.pid, key);
        let entry = Entry {
            process: Arc::new(process),
            comm: comm.to_vec(),
            captured_uid: seen.uid,
            verified_ns: seen.at_ns,
            exited: false,
            replaced: false,
            hides: false,
            answers_due: ANSWERS,
        };
        self.entries.insert(key, entry);
        key
    }

    /// What `/proc` said at `now_ns`. Returns the key under which the process is known from now on:
    /// an older one when it turns out to be a process we know.
    pub fn identified(&mut self, key: ProcessKey, found: Arc<Process>, now_ns: u64) -> ProcessKey {
        let known = found.start_ticks.and_then(|start_ticks| {
            let incarnation = (found.pid, start_ticks, found.executable.clone());
            let known = self.by_start.get(&incarnation).copied();
            let known = known.filter(|known| *known != key && self.entries.contains_key(known));
            if known.is_none() {
                self.by_start.insert(incarnation, key);
            }
            known
        });
        if let Some(known) = known {
            self.entries.remove(&key);
            self.by_pid.insert(found.pid, known);
            if let Some(entry) = self.entries.get_mut(&known) {
                entry.verified_ns = entry.verified_ns.max(now_ns);
                entry.replaced = false;
            }
            return known;
        }
        let Some(entry) = self.entries.get_mut(&key) else { return key };
        entry.answers_due = entry.answers_due.saturating_sub(1);
        if found.start_ticks.is_none() {
            entry.process = Arc::new(merge(&entry.process, &found));
            (entry.answers_due, entry.exited) = (0, !entry.hides);
            entry.is_not_gone();
        } else {
            let noted_name = entry.noted_name(&found);
            entry.exited |= has_ended(&found);
            entry.process = found;
            if noted_name.is_some() {
                Arc::make_mut(&mut entry.process).noted_name = noted_name;
            }
            entry.verified_ns = entry.verified_ns.max(now_ns);
            self.requests.extend([Request::Hash { key }, Request::Package { key }]);
        }
        if entry.process.container.is_some() {
            entry.answers_due = entry.answers_due.saturating_add(1);
            self.requests.push(Request::Container { key });
        }
        key
    }

    /// What `/proc` says of it by now is not what it said before: another user, another place, or, after
    /// `execve`, another program. Returns the key of what it is now: what another program did before is
    /// not what this one did.
    pub fn changed(&mut self, key: ProcessKey, found: Arc<Process>, now_ns: u64) -> ProcessKey {
        let Some(entry) = self.entries.get_mut(&key) else { return key };
        // That it has exited is for others to say.
        if found.start_ticks.is_none() || entry.process.start_ticks != found.start_ticks {
            return key;
        }
        if entry.process.executable != found.executable {
            entry.replaced = true;
            let pid = found.pid;
            let process = Process { pid, name: found.name.clone(), ..Process::default() };
            let successor = self.enter(process, &[], Seen { at_ns: now_ns, ..Seen::default() });
            return self.identified(successor, found, now_ns);
        }
        let before = Arc::clone(&entry.process);
        entry.verified_ns = entry.verified_ns.max(now_ns);
        entry.process = found;
        let process = Arc::make_mut(&mut entry.process);
        process.noted_name.clone_from(&before.noted_name);
        if process.cgroup == before.cgroup {
            process.container.clone_from(&before.container);
        } else if process.container.is_some() {
            entry.answers_due = entry.answers_due.saturating_add(1);
            self.requests.push(Request::Container { key });
        }
        if process.sha256.is_none() || process.sha256 != before.sha256 {
            entry.answers_due = entry.answers_due.saturating_add(2);
            self.requests.extend([Request::Hash { key }, Request::Package { key }]);
        } else {
            process.packaging.clone_from(&before.packaging);
        }
        key
    }

    /// What hashing the executable gave.
    pub fn hashed(&mut self, key: ProcessKey, hash: Result<String, String>) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.answers_due = entry.answers_due.saturating_sub(1);
        let process = Arc::make_mut(&mut entry.process);
        match hash {
            Ok(hash) => process.sha256 = Some(hash),
            Err(reason) => process.missing.push(reason),
        }
    }

    /// What looking for the package of the executable gave.
    pub fn packaged(&mut self, key: ProcessKey, packaging: Result<Packaging, String>) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.answers_due = entry.answers_due.saturating_sub(1);
        let process = Arc::make_mut(&mut entry.process);
        match packaging {
            Ok(packaging) => process.packaging = packaging,
            Err(reason) => process.missing.push(reason),
        }
    }

    /// It has a connection to where it says that it passes on what comes.
    pub fn relays(&mut self, key: ProcessKey, to: Endpoint) {
        if let Some(entry) = self.entries.get_mut(&key) {
            Arc::make_mut(&mut entry.process).relays_to = Some(to);
        }
    }

    /// What its container's runtime said, and a line about what it did not.
    pub fn contained(
        &mut self,
        key: ProcessKey,
        container: Result<Container, String>,
        untold: Option<String>,
    ) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.answers_due = entry.answers_due.saturating_sub(1);
        let process = Arc::make_mut(&mut entry.process);
        match container {
            Ok(container) => process.container = Some(container),
            Err(reason) => process.missing.push(reason),
        }
        process.missing.extend(untold);
    }

    /// The process is no longer there.
    pub fn exited(&mut self, key: ProcessKey) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.exited = true;
        }
    }

    /// The process hides from `/proc`. `name` is what the kernel calls it.
    pub fn hides(&mut self, key: ProcessKey, name: &str) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        (entry.hides, entry.exited) = (true, false);
        if entry.process.name.is_empty() {
            name.clone_into(&mut Arc::make_mut(&mut entry.process).name);
        }
        entry.is_not_gone();
    }

    /// Takes what is to be looked up.
    pub fn take_requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }

    /// What is known of a process, and whether it has exited.
    pub fn get(&self, key: ProcessKey) -> Option<(&Arc<Process>, bool)> {
        self.entries.get(&key).map(|entry| (&entry.process, entry.exited))
    }

    /// It runs another program by now.
    pub fn is_replaced(&self, key: ProcessKey) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.replaced)
    }

    /// Nothing is being looked up for this process.
    pub fn is_settled(&self, key: ProcessKey) -> bool {
        self.entries.get(&key).is_none_or(Entry::is_settled)
    }

    /// Nothing is being looked up for any process.
    pub fn are_settled(&self) -> bool {
        self.entries.values().all(Entry::is_settled)
    }

    /// Processes that were alive when last seen, with pid and start, to see whether they still are.
    pub fn alive(&self) -> Vec<(ProcessKey, u32, u64)> {
        self.entries
            .iter()
            .filter(|(_, entry)| !entry.exited)
            .filter_map(|(key, entry)| Some((*key, entry.process.pid, entry.process.start_ticks?)))
            .collect()
    }

    /// The pids of those that are not known to have exited.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.entries.values().filter(|entry| !entry.exited).map(|entry| entry.process.pid)
    }

    fn make_room(&mut self) {
        if self.entries.len() < self.capacity {
            return;
        }
        // Keys count up, so that the lower half is the older half.
        let middle = self.next.saturating_sub(self.capacity as u64 / 2);
        self.entries.retain(|key, entry| key.0 >= middle || !entry.exited);
        let entries = &self.entries;
        self.by_pid.retain(|_, key| entries.contains_key(key));
        self.by_start.retain(|_, key| entries.contains_key(key));
    }
}

impl Entry {
    const fn is_settled(&self) -> bool {
        self.answers_due == 0
    }

    /// The name that a hook noted, where the process found has another.
    fn noted_name(&self, found: &Process) -> Option<String> {
        let noted = escape::text_from_bytes(&self.comm);
        (!noted.is_empty() && noted != found.name).then(|| noted.into_owned())
    }

    /// Another name may be that of another program by now, or only of another thread: looking again
    /// tells.
    fn has_name(&self, comm: &[u8]) -> bool {
        if !self.comm.is_empty() {
            return self.comm == comm;
        }
        // No hook has named it yet: then as /proc did, if that was asked.
        self.process.start_ticks.is_none() || self.process.name == escape::text_from_bytes(comm)
    }

    /// Of one that hides `/proc` has nothing, which does not mean that it is gone.
    fn is_not_gone(&mut self) {
        if self.hides && self.process.missing.iter().any(|line| line.ends_with(GONE)) {
            for line in &mut Arc::make_mut(&mut self.process).missing {
                *line = line.replace(GONE, "/proc does not show it");
            }
        }
    }

    fn is_still(&self, captured: &Captured<'_>) -> bool {
        if captured.seen_ns <= self.verified_ns && !self.exited {
            return true;
        }
        let recent = captured.seen_ns.saturating_sub(self.verified_ns) < TRUST_NS;
        let same_user = self.captured_uid.is_none_or(|uid| uid == captured.uid);
        recent && same_user && self.has_name(captured.comm)
    }
}

/// What the kernel captured of a process that `/proc` no longer shows.
fn merge(captured: &Process, found: &Process) -> Process {
    Process { name: captured.name.clone(), uid: captured.uid, ..found.clone() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_process_that_is_gone_keeps_what_the_kernel_captured() {
        let mut processes = Processes::new(8);
        let key = processes.captured(&captured(7, b"short", 100));
        let gone = Process { pid: 7, missing: vec!["gone".to_owned()], ..Process::default() };

        processes.identified(key, Arc::new(gone), 200);

        let (process, exited) = processes.get(key).unwrap();
        assert!(exited && processes.is_settled(key));
        assert_eq!((process.name.as_str(), process.uid), ("short", Some(1000)));
        assert_eq!(process.missing, ["gone"]);
    }

    #[test]
    fn the_same_task_in_two_events_is_one_process_and_one_look_up() {
        let mut processes = Processes::new(8);

        let first = processes.captured(&captured(7, b"nc", 100));
        let second = processes.captured(&captured(7, b"nc", 200));

        assert_eq!(first, second);
        assert_eq!(processes.take_requests().len(), 1);
    }

    #[test]
    fn another_name_under_the_same_pid_is_looked_up_anew() {
        let mut processes = Processes::new(8);
        let first = processes.captured(&captured(7, b"nc", 100));

        let second = processes.captured(&captured(7, b"ssh", 200));

        assert_ne!(first, second);
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let mut processes = Processes::new(8);
        let first = processes.captured(&captured(7, b"nc", 100));
        processes.identified(first, started(7, 1), 150);
        let second = processes.captured(&captured(7, b"nc", 100 + 2 * TRUST_NS));

        assert_eq!(processes.identified(second, started(7, 2), 100 + 2 * TRUST_NS), second);
        assert_ne!(first, second);
    }

    #[test]
    fn a_process_found_again_keeps_its_first_key() {
        let mut processes = Processes::new(8);
        let first = processes.captured(&captured(7, b"nc", 100));
        processes.identified(first, started(7, 1), 150);
        let second = processes.captured(&captured(7, b"nc", 100 + 2 * TRUST_NS));

        assert_eq!(processes.identified(second, started(7, 1), 100 + 2 * TRUST_NS), first);
        assert!(processes.get(second).is_none());
    }

    #[test]
    fn a_process_that_was_seen_to_hold_and_is_gone_has_the_name_that_the_kernel_noted_later() {
        let mut processes = Processes::new(8);
        let gone = || Arc::new(Process { pid: 7, ..Process::default() });
        let key = processes.present(7, 100);
        processes.identified(key, gone(), 200);

        assert_eq!(processes.captured(&captured(7, b"short", 90)), key);
        processes.identified(key, gone(), 300);

        let (process, _) = processes.get(key).unwrap();
        assert_eq!((process.name.as_str(), process.uid), ("short", Some(1000)));
    }

    #[test]
    fn what_the_kernel_notes_of_a_process_that_was_only_seen_to_hold_is_looked_up() {
        let mut processes = Processes::new(8);
        let held = processes.present(7, 100);
        let used = processes.captured(&captured(7, b"nc", 50));
        let again = processes.captured(&captured(7, b"nc", 60));

        let seen = |uid, at_ns| Seen { at_ns, uid, cgroup_id: None };
        let asked = |seen| Request::Identify { key: held, pid: 7, seen };
        assert_eq!(
            processes.take_requests(),
            [asked(seen(None, 100)), asked(seen(Some(1000), 50))]
        );
        assert_eq!([used, again], [held; 2]);
        for _ in 0..2 {
            assert!(!processes.is_settled(held));
            assert_eq!(processes.identified(held, started(7, 1), 200), held);
            processes.hashed(held, Ok(String::new()));
            processes.packaged(held, Ok(Packaging::NoPackage));
        }
        assert!(processes.is_settled(held));
    }

    #[test]
    fn another_program_in_a_process_is_another_entry_and_the_former_one_stays() {
        let mut processes = Processes::new(8);
        let first = known(&mut processes, "/usr/bin/starter");
        let found = running("/usr/sbin/service");

        let second = processes.changed(first, found, 300);

        assert_ne!(first, second);
        assert!(processes.is_replaced(first) && !processes.is_replaced(second));
        let executable = |key| processes.get(key).unwrap().0.executable.clone().unwrap();
        assert_eq!(executable(first), Path::new("/usr/bin/starter"));
        assert_eq!(executable(second), Path::new("/usr/sbin/service"));
        assert_eq!(processes.present(7, 400), second);
        // Back again it is who it was.
        assert_eq!(processes.changed(second, running("/usr/bin/starter"), 500), first);
    }

    #[test]
    fn who_was_only_seen_to_hold_and_acts_under_another_name_is_looked_up_anew() {
        let mut processes = Processes::new(8);
        let held = processes.present(7, 100);
        processes.identified(held, running("/usr/bin/starter"), 200);

        assert_eq!(processes.captured(&captured(7, b"service", 300)), held);
        let other = processes.captured(&captured(7, b"other", 400));

        assert_ne!(other, held);
        // A thread of the same program it may be, after all.
        assert_eq!(processes.identified(other, running("/usr/bin/starter"), 500), held);
    }

    #[test]
    fn another_user_of_the_same_program_is_the_same_entry() {
        let mut processes = Processes::new(8);
        let key = known(&mut processes, "/usr/sbin/service");
        processes.hashed(key, Ok("9f2c".to_owned()));
        processes.packaged(key, Ok(Packaging::NoPackage));
        let found = Process {
            uid: Some(33),
            sha256: Some("9f2c".to_owned()),
            ..(*running("/usr/sbin/service")).clone()
        };

        assert_eq!(processes.changed(key, Arc::new(found), 300), key);

        let (process, _) = processes.get(key).unwrap();
        assert_eq!((process.uid, &process.packaging), (Some(33), &Packaging::NoPackage));
        assert!(processes.is_settled(key));
    }

    #[test]
    fn who_comes_after_a_process_that_exited_is_not_what_it_became() {
        let mut processes = Processes::new(8);
        let key = known(&mut processes, "/usr/sbin/service");
        let other = Process { start_ticks: Some(2), ..(*running("/usr/bin/other")).clone() };

        assert_eq!(processes.changed(key, Arc::new(other), 300), key);

        let executable = processes.get(key).unwrap().0.executable.clone().unwrap();
        assert_eq!(executable, Path::new("/usr/sbin/service"));
    }

    #[test]
    fn the_name_that_the_kernel_noted_is_kept_beside_another_one() {
        let mut processes = Processes::new(8);
        for (pid, comm, expected) in [(7, &b"worker-1"[..], Some("worker-1")), (8, b"java", None)] {
            let key = processes.captured(&captured(pid, comm, 100));
            let found = Process { name: "java".to_owned(), ..(*started(pid, 1)).clone() };

            processes.identified(key, Arc::new(found), 200);

            assert_eq!(processes.get(key).unwrap().0.noted_name.as_deref(), expected);
        }
    }

    /// A process of which everything is known but hash and package.
    fn known(processes: &mut Processes, executable: &str) -> ProcessKey {
        let key = processes.captured(&captured(7, b"service", 100));
        processes.identified(key, running(executable), 200)
    }

    fn running(executable: &str) -> Arc<Process> {
        let executable = Some(executable.into());
        Arc::new(Process { executable, name: "service".to_owned(), ..(*started(7, 1)).clone() })
    }

    fn captured(pid: u32, comm: &[u8], seen_ns: u64) -> Captured<'_> {
        Captured { pid, uid: 1000, comm, cgroup_id: None, seen_ns }
    }

    fn started(pid: u32, ticks: u64) -> Arc<Process> {
        Arc::new(Process { pid, start_ticks: Some(ticks), ..Process::default() })
    }
}
