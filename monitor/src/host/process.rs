//! Who a pid is.
//!
//! A pid is reused and a process may call `execve`, change its user or its cgroup: so what is
//! remembered belongs to a pid *and* start time, and is used only while the signs of such a change
//! are the same. What is denied or already gone is a line in `missing`, never an error.

mod context;
mod facts;

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lru::LruCache;
use procfs::process::Stat;
use rustix::time::{ClockId, Timespec};
use sha2::{Digest as _, Sha256};
use uzers::{Users as _, UsersCache};

use self::facts::Signs;
use super::cgroup::{self, Hierarchy, Placement};
use super::containers::Runtimes;
use super::executable::{ANOTHER_PROGRAM, Algorithm, Executable, FileKey, Hashes};
use super::identity::Identity;
use super::packages::{Checksum, Installed, Packages};
use super::proc::{self, Directory};
use crate::escape;
use crate::owner::{Ancestor, Container, Integrity, Package, Packaging, Process, Seen};

/// Reads processes. Its methods block and may be called from several threads.
pub struct Reader {
    /// Machine id and boot id, as they begin the text that an entity id is the hash of.
    origin: Option<String>,
    tick_ns: u64,
    boot_unix_ns: i64,
    users: Mutex<UsersCache>,
    processes: Mutex<LruCache<Incarnation, Known>>,
    parents: Mutex<LruCache<Incarnation, (Signs, Ancestor)>>,
    hashes: Hashes,
    packages: Packages,
    /// What was found of files that are as they were.
    packaged: Mutex<LruCache<FileKey, Packaging>>,
    runtimes: Runtimes,
    cgroups: Option<Hierarchy>,
}

/// A pid and start time in ticks: one process, for as long as the host runs.
type Incarnation = (u32, u64);

#[derive(Clone)]
struct Known {
    signs: Signs,
    process: Arc<Process>,
}

impl Reader {
    /// A reader on this host.
    pub fn new(host: &Identity) -> Self {
        let origin = host.boot_id.as_ref().map(|boot_id| {
            let machine_id = host.machine_id.as_deref().unwrap_or_default();
            format!("{machine_id}|{boot_id}")
        });
        Self {
            origin,
            tick_ns: 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1),
            boot_unix_ns: boot_unix_ns(),
            users: Mutex::new(UsersCache::new()),
            processes: Mutex::new(LruCache::new(PROCESSES)),
            parents: Mutex::new(LruCache::new(PARENTS)),
            hashes: Hashes::new(),
            packages: Packages::of_host(),
            packaged: Mutex::new(LruCache::new(PROCESSES)),
            runtimes: Runtimes::of_host(),
            cgroups: None,
        }
    }

    /// The same, which can tell where a process was that is gone, and who could name its cgroup.
    #[must_use]
    pub fn with_cgroups(self, cgroups: Option<Hierarchy>) -> Self {
        Self { cgroups, ..self }
    }

    /// The process that had this pid at an instant (nanoseconds since boot, suspend included), or
    /// has it now if none is given. Without SHA-256, unless it is known, and package: see [`Self::hash`] and
    /// [`Self::packaging`].
    ///
    /// One that started later has only inherited the pid: then the one asked for is gone. Of one
    /// that was read before and shows no sign of change, arguments and parents are as they were.
    pub fn read(&self, pid: u32, not_after_boot_ns: Option<u64>) -> Arc<Process> {
        let read = Directory::open(pid).and_then(|directory| Ok((directory.stat()?, directory)));
        let (stat, directory) = match read {
            Ok(read) => read,
            Err(error) => return Arc::new(unread(pid, &error)),
        };
        // Start times are cut to a tick, so this is never true of the process itself.
        let start_ns = stat.starttime.saturating_mul(self.tick_ns);
        if not_after_boot_ns.is_some_and(|instant| start_ns > instant) {
            return Arc::new(gone(pid));
        }
        if facts::has_exited(&stat)
            && let Some(known) = self.recall(pid, stat.starttime)
        {
            return known;
        }
        let signs = Signs::of(&directory, &stat);
        if let Some(known) = lock(&self.processes).get(&(pid, stat.starttime))
            && known.signs == signs
        {
            return Arc::clone(&known.process);
        }
        let process = Arc::new(self.read_anew(pid, &directory, &stat, &signs));
        let known = Known { signs, process: Arc::clone(&process) };
        lock(&self.processes).put((pid, stat.starttime), known);
        process
    }

    /// As [`Self::read`], of a process that the kernel saw. Of one that is gone by now, or has exited
    /// and waits for its parent, what can still be said of its user and its cgroup.
    pub fn read_seen(&self, pid: u32, seen: Seen) -> Arc<Process> {
        let process = self.read(pid, Some(seen.at_ns));
        if process.uid.is_some() && process.cgroup.is_some() {
            return process;
        }
        let mut process = Arc::unwrap_or_clone(process);
        let is_gone = process == gone(pid);
        let mut missing: Vec<&str> = FACTS.to_vec();
        if let (None, Some(uid)) = (process.uid, seen.uid) {
            (process.uid, process.user) = (Some(uid), self.user(uid));
            process.missing.retain(|line| !line.starts_with("uid: "));
        }
        let path = seen.cgroup_id.zip(self.cgroups.as_ref()).filter(|_| process.cgroup.is_none());
        let path = path.and_then(|(id, cgroups)| cgroups.path_of(id).ok());
        let placement = path.and_then(|path| Placement::of_path(path.as_os_str().as_bytes()));
        if let Some(Placement { path, unit, slice, container }) = placement {
            process.missing.retain(|line| !line.starts_with("cgroup: "));
            missing.retain(|fact| *fact != CGROUP);
            process = Process { cgroup: Some(path), unit, slice, container, ..process };
        }
        if is_gone {
            process.missing = vec![gone_facts(&missing)];
        }
        Arc::new(process)
    }

    /// A process as it was last read, also when it is gone by now.
    pub fn recall(&self, pid: u32, start_ticks: u64) -> Option<Arc<Process>> {
        let mut processes = lock(&self.processes);
        processes.get(&(pid, start_ticks)).map(|known| Arc::clone(&known.process))
    }

    /// The name a user has on this host, in portwatch's own root.
    pub fn user(&self, uid: u32) -> Option<String> {
        let user = lock(&self.users).get_user_by_uid(uid)?;
        Some(escape::text_from_bytes(user.name().as_bytes()).into_owned())
    }

    /// SHA-256 of what a process runs that [`Self::read`] gave: lower-case hex, or the line for
    /// [`Process::missing`]. May take seconds.
    ///
    /// Refuses when it has called `execve` since, so that no process gets the hash of another
    /// program.
    pub fn hash(&self, process: &Process) -> Result<String, String> {
        let hash = self.program_of(process).and_then(|(directory, executable, key)| {
            let hash = self.hashes.compute(Algorithm::Sha256, &directory, &key)?;
            self.learn(process, &executable, |process| process.sha256 = Some(hash.clone()));
            Ok(hash)
        });
        // Of one that is gone by now, what another process told of the same file.
        let hash = hash.or_else(|why| {
            self.file_of(process).and_then(|key| self.hashes.known(&key)).ok_or(why)
        });
        hash.map_err(|why| format!("sha256: {why}"))
    }

    /// The package of what a process runs that [`Self::read`] gave, or the line for
    /// [`Process::missing`]. May take seconds, and refuses, as [`Self::hash`].
    pub fn packaging(&self, process: &Process) -> Result<Packaging, String> {
        let packaging = self.program_of(process).and_then(|(directory, executable, key)| {
            let packaging = self.packaging_of(&directory, &executable, &key)?;
            self.learn(process, &executable, |process| process.packaging = packaging.clone());
            lock(&self.packaged).put(key, packaging.clone());
            Ok(packaging)
        });
        let packaging = packaging.or_else(|why| {
            let known = |key| lock(&self.packaged).get(&key).cloned();
            self.file_of(process).and_then(known).ok_or(why)
        });
        packaging.map_err(|why| format!("package: {why}"))
    }

    /// The container of a process that [`Self::read`] gave, with name and image as the runtime tells
    /// them, and the line for [`Process::missing`] where it does not tell all; or only that line.
    pub fn container(&self, process: &Process) -> Result<(Container, Option<String>), String> {
        let described = process.container.as_ref().ok_or_else(|| "none".to_owned());
        let path = process.cgroup.as_deref().unwrap_or_default();
        let described = described.and_then(|container| {
            self.is_named_by_root(path)?;
            self.runtimes.describe(container)
        });
        let line = |why: String| format!("container: {why}");
        described.map(|(container, untold)| (container, untold.map(line))).map_err(line)
    }

    /// Refuses, in words, where others than root can call a cgroup like a container of root's.
    fn is_named_by_root(&self, path: &str) -> Result<(), String> {
        if cgroup::is_users_own(path) {
            return Err("runtimes of users other than root are not asked".to_owned());
        }
        let around = cgroup::around_container(path).zip(self.cgroups.as_ref());
        match around.map(|(around, cgroups)| cgroups.is_roots_alone(around)) {
            Some(Ok(Some(false))) => {
                Err("others than root can make cgroups there, and call them so".to_owned())
            }
            Some(Err(error)) => Err(format!("its cgroup: {}", proc::words(&error))),
            // Of a hierarchy of the first version only the path is looked at.
            None | Some(Ok(None | Some(true))) => Ok(()),
        }
    }

    /// Remembers of a process what reading this executable of it gave.
    fn learn(&self, process: &Process, executable: &Executable, learn: impl FnOnce(&mut Process)) {
        let incarnation = (process.pid, process.start_ticks.unwrap_or_default());
        if let Some(known) = lock(&self.processes).get_mut(&incarnation)
            && same_file(&known.signs, executable)
        {
            learn(Arc::make_mut(&mut known.process));
        }
    }

    /// Which contents a process ran when it was read.
    fn file_of(&self, process: &Process) -> Option<FileKey> {
        let incarnation = (process.pid, process.start_ticks?);
        let mut processes = lock(&self.processes);
        let executable = processes.get(&incarnation)?.signs.executable.as_ref().ok()?;
        (process.executable.as_ref() == Some(&executable.path)).then_some(executable.key)?
    }

    /// What a process runs now, if it is what it ran when it was read.
    fn program_of(&self, process: &Process) -> Result<(Directory, Executable, FileKey), String> {
        let words = |error: io::Error| proc::words(&error);
        let directory = Directory::open(process.pid).map_err(words)?;
        let start_ticks = directory.stat().map_err(words)?.starttime;
        if process.start_ticks != Some(start_ticks) {
            return Err("gone".to_owned());
        }
        let executable = Executable::of(&directory).map_err(words)?;
        let incarnation = (process.pid, start_ticks);
        let is_other = |known: &Known| !same_file(&known.signs, &executable);
        if process.executable.as_ref() != Some(&executable.path)
            || process.deleted && !executable.deleted
            || lock(&self.processes).get(&incarnation).is_some_and(is_other)
        {
            return Err(ANOTHER_PROGRAM.to_owned());
        }
        let key = executable.key.ok_or("permission denied")?;
        Ok((directory, executable, key))
    }

    /// The package of what a process runs. Only what is the host's own file under its path has one: the
    /// database says nothing of other files of the same name.
    fn packaging_of(
        &self,
        process: &Directory,
        executable: &Executable,
        key: &FileKey,
    ) -> Result<Packaging, String> {
        if executable.deleted {
            let replaced = self.replacement_of(process, executable)?;
            return replaced.ok_or_else(|| "what runs was deleted, or never had a name".to_owned());
        }
        if !executable.is_on_host()? {
            return Err(NOT_ON_HOST.to_owned());
        }
        let Some(installed) = self.packages.owner_of(&executable.path)? else {
            return Ok(Packaging::NoPackage);
        };
        let package = package(installed, |algorithm| self.hashes.compute(algorithm, process, key));
        Ok(Packaging::Package(package))
    }

    /// The package whose intact file has taken the place of a deleted one, since the process started:
    /// then it was upgraded, and not restarted.
    fn replacement_of(
        &self,
        process: &Directory,
        executable: &Executable,
    ) -> Result<Option<Packaging>, String> {
        let stat = process.stat().map_err(|error| proc::words(&error))?;
        let Some(file) = executable.successor(process, self.unix_ns(stat.starttime))? else {
            return Ok(None);
        };
        let Some(installed) = self.packages.owner_of(&executable.path)? else { return Ok(None) };
        let key = FileKey::of_file(&file).map_err(|error| proc::words(&error))?;
        let package = package(installed, |algorithm| self.hashes.of_file(algorithm, &file, &key));
        let is_intact = package.integrity == Integrity::Unmodified;
        Ok(is_intact.then_some(Packaging::Replaced(package)))
    }

    fn read_anew(&self, pid: u32, directory: &Directory, stat: &Stat, signs: &Signs) -> Process {
        let words = |error: io::Error| facts::words(stat, &error);
        let args = facts::args(directory, ARGS).map_err(words);
        let netns = directory.inode("ns/net").map_err(words);
        let (ancestors, ancestors_cut) = self.ancestors(stat);

        let mut missing = Vec::new();
        let executable = noted(&signs.executable, "exe", &mut missing);
        let args = noted(&args, "args", &mut missing).cloned().unwrap_or_default();
        let uid = noted(&signs.uid, "uid", &mut missing).copied();
        let cgroup = noted(&signs.cgroup, "cgroup", &mut missing);
        let netns = noted(&netns, "netns", &mut missing).copied();
        missing.extend(args.cut.into_iter().chain(ancestors_cut));
        let context = context::read(directory, stat, |uid| self.user(uid), &mut missing);
        let on_host = executable.map(Executable::is_on_host).transpose();
        let on_host = on_host.map_err(|why| missing.push(format!("exe on this host: {why}")));
        let on_host = on_host.ok().flatten();
        let world_writable = executable.map(|it| it.world_writable(directory, on_host)).transpose();
        let world_writable =
            world_writable.map_err(|why| missing.push(format!("who can write to exe: {why}")));

        let key = executable.and_then(|executable| executable.key);
        let placement = cgroup.and_then(|file| Placement::parse(file)).unwrap_or_default();
        Process {
            pid,
            start_ticks: Some(stat.starttime),
            start_unix_ns: Some(self.unix_ns(stat.starttime)),
            name: signs.name.clone(),
            noted_name: None,
            executable: executable.map(|executable| executable.path.clone()),
            deleted: executable.is_some_and(|executable| executable.deleted),
            on_host,
            world_writable: world_writable.ok().flatten().flatten(),
            sha256: key.and_then(|key| self.hashes.known(&key)),
            packaging: Packaging::Unknown,
            args: args.list,
            uid,
            user: uid.and_then(|uid| self.user(uid)),
            cgroup: Some(placement.path).filter(|path| !path.is_empty()),
            unit: placement.unit,
            slice: placement.slice,
            container: placement.container,
            netns,
            context,
            ancestors,
            relays_to: None,
            entity_id: self.entity_id(pid, stat.starttime),
            missing,
        }
    }

    /// The parents of a process, nearest first, and the line about why they end before init.
    fn ancestors(&self, child: &Stat) -> (Vec<Ancestor>, Option<String>) {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        let mut child = (child.ppid, child.starttime);
        // 0 is the parent of init, of the kernel's own, and of one in a pid namespace above ours.
        while let Ok(pid @ 1..) = u32::try_from(child.0) {
            if ancestors.len() == ANCESTORS || ancestors.iter().any(|known| known.pid == pid) {
                return (ancestors, Some(format!("parents: those after the first {ANCESTORS}")));
            }
            match self.ancestor(pid, child.1) {
                Ok((stat, ancestor)) => {
                    child = (stat.ppid, stat.starttime);
                    ancestors.push(ancestor);
                }
                Err(error) => {
                    let why = format!("parents: pid {pid}: {}", proc::words(&error));
                    return (ancestors, Some(why));
                }
            }
        }
        (ancestors, None)
    }

    /// The parent with this pid of a process that started then.
    fn ancestor(&self, pid: u32, child_start: u64) -> io::Result<(Stat, Ancestor)> {
        let directory = Directory::open(pid)?;
        let stat = directory.stat()?;
        // No parent is younger than its child: the pid belongs to somebody else by now.
        if stat.starttime > child_start {
            return Err(rustix::io::Errno::SRCH.into());
        }
        let signs = Signs::of(&directory, &stat);
        let incarnation = (pid, stat.starttime);
        if let Some((known, ancestor)) = lock(&self.parents).get(&incarnation)
            && *known == signs
        {
            return Ok((stat, ancestor.clone()));
        }
        let ancestor = Ancestor {
            pid,
            start_ticks: Some(stat.starttime),
            name: signs.name.clone(),
            executable: signs.executable.as_ref().ok().map(|executable| executable.path.clone()),
            args: facts::args(&directory, PARENT_ARGS).unwrap_or_default().list,
            entity_id: self.entity_id(pid, stat.starttime),
        };
        lock(&self.parents).put(incarnation, (signs, ancestor.clone()));
        Ok((stat, ancestor))
    }

    fn unix_ns(&self, ticks: u64) -> i64 {
        let since_boot = i64::try_from(ticks.saturating_mul(self.tick_ns)).unwrap_or(i64::MAX);
        self.boot_unix_ns.saturating_add(since_boot)
    }

    fn entity_id(&self, pid: u32, start_ticks: u64) -> Option<String> {
        let origin = self.origin.as_ref()?;
        let hash = Sha256::digest(format!("{origin}|{pid}|{start_ticks}"));
        Some(URL_SAFE_NO_PAD.encode(hash.get(..16)?))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("tick_ns", &self.tick_ns).finish_non_exhaustive()
    }
}

/// When the host booted by its clock of now, in nanoseconds since the Unix epoch.
fn boot_unix_ns() -> i64 {
    let ns = |Timespec { tv_sec, tv_nsec }: Timespec| {
        tv_sec.saturating_mul(1_000_000_000).saturating_add(tv_nsec)
    };
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    let since_boot = rustix::time::clock_gettime(ClockId::Boottime);
    ns(now).saturating_sub(ns(since_boot))
}

fn unread(pid: u32, error: &io::Error) -> Process {
    if proc::is_gone(error) {
        return gone(pid);
    }
    let missing = vec![format!("/proc/{pid}: {}", proc::words(error))];
    Process { pid, missing, ..Process::default() }
}

fn gone(pid: u32) -> Process {
    let missing = vec![gone_facts(&FACTS)];
    Process { pid, missing, ..Process::default() }
}

/// A package that has installed a file with this hash.
fn package(
    installed: Installed,
    hash: impl FnOnce(Algorithm) -> Result<String, String>,
) -> Package {
    let compared = installed.checksum.and_then(|checksum| {
        let (algorithm, sum) = match checksum {
            Checksum::Md5(sum) => (Algorithm::Md5, sum),
            Checksum::Sha256(sum) => (Algorithm::Sha256, sum),
        };
        Ok(sum == hash(algorithm)?)
    });
    Package {
        format: installed.format,
        name: installed.name,
        version: installed.version,
        architecture: installed.architecture,
        integrity: match compared {
            Ok(true) => Integrity::Unmodified,
            Ok(false) => Integrity::Modified,
            Err(why) => Integrity::Unverifiable(why),
        },
    }
}

/// The line about facts of a process that is gone.
fn gone_facts(facts: &[&str]) -> String {
    format!("{}: {GONE}", facts.join(", "))
}

/// Had it ended by the time when it was read? Then `/proc` had some of it, but not what it ran.
pub fn has_ended(process: &Process) -> bool {
    let why = process.missing.iter().find_map(|line| line.strip_prefix("exe: "));
    why.is_some_and(|why| [proc::IS_GONE, facts::HAS_EXITED].contains(&why))
}

/// Why nothing is known of a process that `/proc` does not have.
pub const GONE: &str = "gone before they could be read";

/// The value; else there is a line more about why there is none.
fn noted<'a, T>(
    read: &'a Result<T, String>,
    what: &str,
    missing: &mut Vec<String>,
) -> Option<&'a T> {
    read.as_ref().inspect_err(|why| missing.push(format!("{what}: {why}"))).ok()
}

fn same_file(signs: &Signs, executable: &Executable) -> bool {
    signs.executable.as_ref().is_ok_and(|known| known.is_same_file(executable))
}

/// The caches have no state that a panic elsewhere could leave half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is read of a process.
const FACTS: [&str; 12] = [
    "start time",
    "exe",
    "sha256",
    "package",
    "args",
    "cwd",
    CGROUP,
    "label",
    "namespaces",
    "terminal",
    "login",
    "parents",
];
const CGROUP: &str = "cgroup";
/// Why what a container's process runs has no package.
const NOT_ON_HOST: &str = "its path leads to another file on this host than in its own mount \
     namespace";
/// Parents told of one process.
const ANCESTORS: usize = 32;
/// What is read of the arguments.
const ARGS: facts::ArgLimits = facts::ArgLimits { bytes: 32 << 10, count: 256 };
/// Of a parent's: there are many, and the beginning says what it is.
const PARENT_ARGS: facts::ArgLimits = facts::ArgLimits { bytes: 2 << 10, count: 64 };
/// Processes remembered.
const PROCESSES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Parents remembered.
const PARENTS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

#[cfg(test)]
mod tests;
