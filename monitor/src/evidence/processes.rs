//! The processes and their parents: taken hold of as soon as they are known, told when it is known who
//! matters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::selection::Subject;
use super::store::Store;
use super::{executables, in_time};
use crate::clock;
use crate::escape;
use crate::host::artifacts::{self, Held, IT_IS_GONE, Lines};
use crate::host::process::Reader;
use crate::owner::{Integrity, Packaging, Process};

/// Processes that are held.
#[derive(Debug, Default)]
pub(super) struct Crew {
    held: BTreeMap<Key, Arc<Held>>,
    /// Why somebody could not be taken hold of.
    lost: BTreeMap<u32, String>,
    parents: BTreeMap<Key, Result<Key, String>>,
}

/// A pid and the start in ticks.
type Key = (u32, u64);

/// How processes are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) with_environment: bool,
    pub(super) max_file: u64,
    /// `CLOCK_BOOTTIME` in nanoseconds after which no more are begun.
    pub(super) until_ns: u64,
}

impl Crew {
    /// Takes hold of these, and then of their parents.
    pub(super) fn hold(&mut self, pids: &[u32]) {
        let children: Vec<Key> = pids.iter().filter_map(|pid| self.hold_one(*pid)).collect();
        for child in children {
            self.hold_parents(child);
        }
    }

    /// When the process with this pid started that is held.
    pub(super) fn start_of(&self, pid: u32) -> Option<u64> {
        self.held.keys().find(|(it, _)| *it == pid).map(|(_, start)| *start)
    }

    fn hold_one(&mut self, pid: u32) -> Option<Key> {
        if self.held.len() >= PROCESSES {
            self.lost.insert(pid, format!("more than {PROCESSES} processes"));
            return None;
        }
        match in_time(PATIENCE, move || Held::of(pid)).unwrap_or_else(|| Err(SILENT.to_owned())) {
            Ok(held) => Some(self.keep(held)),
            Err(why) => {
                self.lost.insert(pid, why);
                None
            }
        }
    }

    fn keep(&mut self, held: Held) -> Key {
        let key = (held.pid, held.start_ticks);
        self.held.entry(key).or_insert_with(|| Arc::new(held));
        key
    }

    fn hold_parents(&mut self, mut child: Key) {
        for _ in 0..GENERATIONS {
            if self.parents.contains_key(&child) {
                return;
            }
            let Some(held) = self.held.get(&child).map(Arc::clone) else { return };
            if self.held.len() >= PROCESSES {
                self.parents.insert(child, Err(format!("more than {PROCESSES} processes")));
                return;
            }
            let parent = in_time(PATIENCE, move || artifacts::lineage(&held));
            match parent.unwrap_or_else(|| Some(Err(SILENT.to_owned()))) {
                None => return,
                Some(Ok(parent)) => {
                    let parent = self.keep(parent);
                    self.parents.insert(child, Ok(parent));
                    child = parent;
                }
                Some(Err(why)) => {
                    self.parents.insert(child, Err(why));
                    return;
                }
            }
        }
    }

    /// Tells these and their parents into the store. Gives how many there are, and who the first of them is.
    pub(super) fn tell(
        &mut self,
        subjects: &BTreeMap<Subject, String>,
        reader: &Arc<Reader>,
        told: Told,
        store: &mut Store,
    ) -> Vec<String> {
        let crew = self.select(subjects, store);
        let mut names = Vec::new();
        for (key, held, _) in &crew {
            tell_files(*key, held, told, store);
        }
        let mut copies = executables::Copies::new(told.max_file);
        for (key, held, why) in crew {
            let directory = directory(key);
            if clock::boot_ns() > told.until_ns {
                store.miss(format!("{directory}: executable and package"), OUT_OF_TIME);
                continue;
            }
            let copied = copies.copy(&held, store);
            let process = read(key, reader);
            match process {
                Ok(process) => {
                    let name = escape::truncate(&process.name, 32).into_owned();
                    names.push(format!("{name}[{}]", key.0));
                    let mut lines = Lines::default();
                    lines.push(&summary(&process, &why, copied.as_deref()));
                    let source = format!("/proc/{} as portwatch reads it", key.0);
                    store.put(&format!("{directory}/process.json"), source, &lines.into_content());
                }
                Err(reason) => {
                    names.push(format!("[{}]", key.0));
                    store.miss(format!("{directory}/process.json"), reason);
                }
            }
        }
        names
    }

    /// Who is meant, each with why, those on the ports before their parents.
    fn select(
        &mut self,
        subjects: &BTreeMap<Subject, String>,
        store: &mut Store,
    ) -> Vec<(Key, Arc<Held>, String)> {
        let mut selected = Vec::new();
        let mut known = BTreeSet::new();
        for ((pid, start), why) in subjects {
            let key = start.map(|start| (*pid, start));
            let is_held = key.is_some_and(|key| self.held.contains_key(&key));
            if !is_held && key.is_some() && !self.lost.contains_key(pid) {
                self.hold(&[*pid]);
            }
            match key.and_then(|key| Some((key, self.held.get(&key)?))) {
                Some((key, held)) if known.insert(key) => {
                    selected.push((key, Arc::clone(held), why.clone()));
                }
                Some(_) => {}
                None => {
                    let reason = self.lost.get(pid).map_or(IT_IS_GONE, String::as_str);
                    store.miss(format!("process {pid}, {why}"), reason);
                }
            }
        }
        let mut next = 0;
        while let Some((key, _, _)) = selected.get(next) {
            let key = *key;
            next = next.saturating_add(1);
            match self.parents.get(&key) {
                Some(Ok(parent)) if known.insert(*parent) => {
                    let held = self.held.get(parent).map(Arc::clone);
                    let why = format!("parent of {}", key.0);
                    selected.extend(held.map(|held| (*parent, held, why)));
                }
                Some(Err(reason)) => store.miss(format!("parent of process {}", key.0), reason),
                _ => {}
            }
        }
        selected
    }
}

fn directory((pid, start): Key) -> String {
    format!("processes/{pid}-{start}")
}

/// Its files in `/proc`, as far as they come in time.
fn tell_files(key: Key, held: &Arc<Held>, told: Told, store: &mut Store) {
    let directory = directory(key);
    if clock::boot_ns() > told.until_ns {
        return store.miss(directory, OUT_OF_TIME);
    }
    let (send, artifacts) = sync_channel(2);
    let held = Arc::clone(held);
    let tell = move || {
        held.tell(told.with_environment, &mut |artifact| send.send(artifact).is_ok());
    };
    if let Err(error) = thread::Builder::new().name("pw-process".to_owned()).spawn(tell) {
        return store.miss(directory, error.to_string());
    }
    let until_ns = clock::boot_ns().saturating_add(nanoseconds(PATIENCE));
    loop {
        let left = Duration::from_nanos(until_ns.saturating_sub(clock::boot_ns()));
        match artifacts.recv_timeout(left) {
            Ok(artifact) => store.take(&directory, artifact),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                return store.miss(format!("{directory}: the other files"), SILENT);
            }
        }
    }
}

/// What portwatch makes of a process, with its package.
fn read((pid, start_ticks): Key, reader: &Arc<Reader>) -> Result<Process, String> {
    let reader = Arc::clone(reader);
    let read = in_time(PATIENCE, move || {
        let mut process = Arc::unwrap_or_clone(reader.read(pid, None));
        if process.start_ticks == Some(start_ticks) {
            match reader.packaging(&process) {
                Ok(packaging) => process.packaging = packaging,
                Err(why) => process.missing.push(why),
            }
        }
        process
    });
    let process = read.ok_or(SILENT)?;
    if process.start_ticks == Some(start_ticks) { Ok(process) } else { Err(IT_IS_GONE.to_owned()) }
}

fn summary(process: &Process, why: &str, sha256: Option<&str>) -> Value {
    let path = |path: &std::path::Path| {
        escape::text_from_bytes(path.as_os_str().as_encoded_bytes()).into_owned()
    };
    let package = match &process.packaging {
        Packaging::Package(package) | Packaging::Replaced(package) => Some(json!({
            "type": package.format.name(),
            "name": package.name,
            "version": package.version,
            "why": match &package.integrity {
                Integrity::Unverifiable(why) => Some(why),
                Integrity::Unmodified | Integrity::Modified => None,
            },
        })),
        Packaging::Unknown | Packaging::NoPackage => None,
    };
    json!({
        "pid": process.pid,
        "start_ticks": process.start_ticks,
        "entity_id": process.entity_id,
        "preserved_as": why,
        "name": process.name,
        "executable": process.executable.as_deref().map(path),
        "deleted": process.deleted,
        "on_host": process.on_host,
        "world_writable": process.world_writable.as_deref().map(path),
        "copy_sha256": sha256,
        "package_state": process.packaging.state(),
        "package": package,
        "args": process.args,
        "uid": process.uid,
        "user": process.user,
        "login_uid": process.context.login.as_ref().map(|login| login.uid),
        "terminal": process.context.terminal.map(|it| it.to_string()),
        "unit": process.unit,
        "container": process.container.as_ref().map(|it| it.id.as_str()),
        "netns": process.netns,
        "parents": process.ancestors.iter().map(|it| it.pid).collect::<Vec<_>>(),
        "missing": process.missing,
    })
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Processes preserved, parents included: each takes two descriptors.
const PROCESSES: usize = 256;
const GENERATIONS: usize = 32;
/// A process may make `/proc` wait for it for ever.
const PATIENCE: Duration = Duration::from_secs(3);
pub(super) const SILENT: &str = "no answer in time";
pub(super) const OUT_OF_TIME: &str = "there was no time left for it";
