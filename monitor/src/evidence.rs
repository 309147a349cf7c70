//! `portwatch evidence`: preserves what there is on the port before it vanishes.
//!
//! What vanishes first is taken first: processes are held as soon as they are known, then one look as `scan`
//! takes it, then executables and files of the processes, tables, rules and the host. Nothing is changed and
//! nothing is run. Whatever a process or file system does, it is waited for with patience, and what did not
//! come is listed.

mod archive;
mod executables;
mod manifest;
mod processes;
mod selection;
mod store;
mod verify;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use serde_json::json;

use self::manifest::{Header, Host, Operator, Tool};
use self::processes::{Crew, OUT_OF_TIME, Told, nanoseconds};
use self::selection::Seen;
use self::store::{Finished, Store};
use crate::cli::{self, Format, Selection};
use crate::clock::{self, Clock};
use crate::crossview::Wanted;
use crate::descriptor;
use crate::escape;
use crate::failure::{self, Failure};
use crate::host::artifacts::{self, Content};
use crate::host::identity::Identity;
use crate::host::process::Reader;
use crate::host::{executable, netns};
use crate::kernel::inventory;
use crate::output::ecs::{Encoder, RunIdentity};
use crate::privilege::Work;
use crate::report::Report;
use crate::rulebook::print;
use crate::scan::Look;
use crate::session::policy::PolicyFile;

/// Preserves; the exit code.
pub async fn run(
    args: cli::Evidence,
    identity: &Identity,
    run: RunIdentity,
) -> Result<u8, Failure> {
    let directory = args.directory.clone().unwrap_or_default();
    let (policy, in_force) = PolicyFile::of(&args.common()).open()?;
    let mut place = Place::make(&directory)?;
    let mut case = Case { ports: args.common().ports().to_string(), args, run, identity };
    let started = place.store.now();
    place.store.take("system", artifacts::clock());
    // While it can still be asked for, and before anything of it goes.
    let mut crew = Crew::default();
    if let Selection::Pid(pid) = case.args.selection() {
        crew.hold(&[pid]);
    }
    let ports = case.args.common().ports();
    let work = Work { preserves: true, ..Work::default() };
    let mut look = match Look::begin_with(work, Wanted::of(&ports), policy, identity) {
        Ok(look) => look,
        Err(failure) => {
            place.remove();
            return Err(failure);
        }
    };
    crew.hold(&look.pids());
    look.complete(in_force.clone()).await;
    let mut reports = look.take_reports();
    let seen = Seen::of(&reports, case.args.selection());
    case.events(&mut reports, &mut place.store);
    let names = case.processes(&seen, crew, &mut place.store);
    case.host(&mut place.store);
    if let Some(policy) = in_force {
        case.policy(&policy.file, &mut place.store);
    }
    let reason = "evidence takes one look and captures no packets: `portwatch watch --pcap` does";
    place.store.miss("packets", reason);
    let header = case.header(started);
    let finished = place.store.finish(header);
    case.conclude(finished, place.archive, &place.directory, &seen, &names)
}

/// Verifies; the exit code.
pub fn verify(args: &cli::VerifyEvidence) -> Result<u8, Failure> {
    let name = escape::quote(&args.path.to_string_lossy()).into_owned();
    let verified = verify::verify(&args.path)
        .map_err(|why| Failure::Usage(format!("{name}: no evidence: {}", escape::escape(&why))))?;
    let header = &verified.manifest.header;
    let mut text = String::new();
    for difference in &verified.differences {
        text.push_str(&escape::escape(difference));
        text.push('\n');
    }
    let verdict = match verified.differences.len() {
        0 => format!("intact: {} files", verified.manifest.items.len()),
        1 => "1 difference".to_owned(),
        count => format!("{count} differences"),
    };
    let [host, started] = [&header.host.name, &header.started].map(|it| manifest::shown(it));
    text.push_str(&format!("{verdict}; of host {host}, {started}\n"));
    text.push_str(&format!("sha256 of {}: {}\n", manifest::NAME, verified.sha256));
    let is_intact = verified.differences.is_empty();
    Ok(print(&text, if is_intact { failure::DONE } else { failure::FINDINGS }))
}

/// Where evidence goes: made first of all, so that what cannot be written is said before anything is looked
/// at.
struct Place {
    directory: PathBuf,
    store: Store,
    archive: (PathBuf, File),
}

impl Place {
    fn make(directory: &Path) -> Result<Self, Failure> {
        let usage = |path: &Path, why: &str| {
            Failure::Usage(format!("{}: {why}", escape::quote(&path.to_string_lossy())))
        };
        let Some(name) = directory.file_name() else {
            return Err(usage(directory, "name a directory that evidence can be written to"));
        };
        let archive =
            directory.with_file_name(OsStr::from_bytes(&[name.as_bytes(), b".tar"].concat()));
        let file = descriptor::create(&archive).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => usage(&archive, "is there already"),
            _ => usage(&archive, &error.to_string()),
        })?;
        let store = Store::create(directory, Clock::of_host()).map_err(|why| {
            remove(&archive);
            usage(directory, &why)
        })?;
        Ok(Self { directory: directory.to_owned(), store, archive: (archive, file) })
    }

    /// Nothing was obtained.
    fn remove(self) {
        remove(&self.archive.0);
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::debug!("removing what was made: {error}");
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!("removing what was made: {error}");
    }
}

/// What was asked, where and by which run.
struct Case<'a> {
    args: cli::Evidence,
    ports: String,
    run: RunIdentity,
    identity: &'a Identity,
}

impl Case<'_> {
    /// Everything that the look has seen, as documents.
    fn events(&mut self, reports: &mut Vec<Report>, store: &mut Store) {
        let mut encoder = Encoder::new(self.run.clone());
        let mut content = Content::default();
        let mut lost = 0_usize;
        for report in reports.drain(..) {
            let is_full = content.bytes.len() > EVENT_BYTES;
            if is_full || encoder.encode(&report, &mut content.bytes).is_err() {
                lost = lost.saturating_add(1);
            }
        }
        content.cut = (lost > 0).then(|| format!("{lost} events"));
        store.put("events.ndjson", "what `portwatch scan` sees", &content);
    }

    fn processes(&self, seen: &Seen, mut crew: Crew, store: &mut Store) -> Vec<String> {
        let mut subjects = seen.subjects.clone();
        if let Selection::Pid(pid) = self.args.selection()
            && !subjects.keys().any(|(it, _)| *it == pid)
        {
            subjects.insert((pid, crew.start_of(pid)), "asked for".to_owned());
        }
        let told = Told {
            with_environment: self.args.with_environment,
            max_file: self.args.max_file,
            until_ns: clock::boot_ns().saturating_add(nanoseconds(PROCESS_TIME)),
        };
        crew.tell(&subjects, &Arc::new(Reader::new(self.identity)), told, store)
    }

    /// Tables and rules of every network namespace, what is loaded of BPF, and the host itself.
    fn host(&self, store: &mut Store) {
        let until_ns = clock::boot_ns().saturating_add(nanoseconds(HOST_TIME));
        let namespaces = netns::list(&mut netns::Descriptors::default());
        let (found, unseen) = match namespaces {
            Ok(namespaces) => (namespaces.found, namespaces.unseen),
            Err(error) => (Vec::new(), vec![error.to_string()]),
        };
        let mut lines = artifacts::Lines::default();
        lines.lack(unseen);
        for (count, namespace) in found.iter().enumerate() {
            let inode = namespace.netns.inode;
            lines.push(&json!({ "inode": inode, "name": namespace.netns.name }));
            let directory = format!("namespaces/{inode}");
            if count >= NAMESPACES {
                store.miss(directory, format!("more than {NAMESPACES} network namespaces"));
            } else if clock::boot_ns() > until_ns {
                store.miss(directory, OUT_OF_TIME);
            } else {
                let told = artifacts::of_namespace(namespace, &mut |artifact| {
                    store.take(&directory, artifact);
                    true
                });
                if let Err(error) = told {
                    store.miss(&directory, error.to_string());
                }
                store.take(&directory, inventory::of_namespace(namespace));
            }
        }
        store.put("namespaces/list.ndjson", "/proc, mounts and descriptors", &lines.into_content());
        for artifact in inventory::read() {
            store.take("system", artifact);
        }
        artifacts::of_system(&mut |artifact| {
            store.take("system", artifact);
            true
        });
    }

    /// By which it was judged.
    fn policy(&self, path: &str, store: &mut Store) {
        match artifacts::read_path(Path::new(path), POLICY_BYTES) {
            Ok(content) => store.put("policy.toml", path, &content),
            Err(error) => store.miss("policy.toml", error.to_string()),
        }
    }

    fn header(&self, started: String) -> Header {
        let arguments = std::env::args_os().skip(1);
        let arguments = arguments.map(|it| escape::text_from_bytes(it.as_bytes()).into_owned());
        let kernel = rustix::system::uname();
        let text = |part: &std::ffi::CStr| escape::text_from_bytes(part.to_bytes()).into_owned();
        Header {
            portwatch: Tool {
                version: self.run.version.clone(),
                sha256: executable::sha256_of(Path::new("/proc/self/exe")).ok(),
            },
            run_id: self.run.run_id.clone(),
            host: Host {
                name: self.identity.name.clone(),
                machine_id: self.identity.machine_id.clone(),
                boot_id: self.identity.boot_id.clone(),
                kernel: format!("{} {}", text(kernel.release()), text(kernel.machine())),
            },
            arguments: arguments.collect(),
            ports: self.ports.clone(),
            selection: match self.args.selection() {
                Selection::Ports => "everybody on the ports".to_owned(),
                Selection::Pid(pid) => format!("process {pid}"),
                Selection::Listener(address) => format!("who listens on {address}"),
                Selection::Flow(one, other) => format!("both ends of {one} and {other}"),
            },
            by: operator(self.identity),
            started,
            ended: String::new(),
        }
    }

    /// Packs, says what there is, and gives the exit code.
    fn conclude(
        &self,
        finished: std::io::Result<Finished>,
        archive: (PathBuf, File),
        directory: &Path,
        seen: &Seen,
        names: &[String],
    ) -> Result<u8, Failure> {
        let finished = match finished {
            Ok(finished) => finished,
            Err(error) => {
                tracing::error!(
                    "writing {}: {error}; there is no evidence without it",
                    manifest::NAME
                );
                remove(&archive.0);
                return Ok(failure::OUTPUT_FAILED);
            }
        };
        let seconds = Clock::of_host().unix_ns(clock::boot_ns()) / 1_000_000_000;
        let mtime = u64::try_from(seconds).unwrap_or_default();
        let packed = archive::write(&finished, archive::top(directory), mtime, archive.1);
        if let Err(error) = &packed {
            tracing::error!("writing {}: {error}", escape::escape(&archive.0.to_string_lossy()));
            remove(&archive.0);
        }
        let is_failed = finished.has_failed || packed.is_err();
        let code = if is_failed { failure::OUTPUT_FAILED } else { failure::DONE };
        let archive = packed.ok().map(|sha256| (archive.0.as_path(), sha256));
        Ok(print(&self.summary(&finished, directory, archive, seen, names), code))
    }

    fn summary(
        &self,
        finished: &Finished,
        directory: &Path,
        archive: Option<(&Path, String)>,
        seen: &Seen,
        names: &[String],
    ) -> String {
        let shown = |path: &Path| escape::text_from_bytes(path.as_os_str().as_bytes()).into_owned();
        let (items, missing) = (finished.manifest.items.len(), finished.manifest.missing.len());
        if self.args.format == Format::Json {
            let summary = json!({
                "directory": shown(directory),
                "archive": archive.as_ref().map(|(path, _)| shown(path)),
                "archive_sha256": archive.as_ref().map(|(_, sha256)| sha256),
                "manifest_sha256": finished.sha256,
                "listeners": seen.listeners,
                "flows": seen.flows,
                "findings": seen.findings,
                "processes": names.len(),
                "files": items,
                "bytes": finished.bytes,
                "missing": missing,
            });
            return format!("{}\n", escape::in_json(&summary.to_string()));
        }
        let count = |count: u64, one: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{count} {one}s"),
        };
        let mut lines = Vec::new();
        if seen.is_nothing() {
            lines.push(format!("nothing on the port ({}); the tables are preserved", self.ports));
        } else {
            let counts = [(seen.listeners, "listener"), (seen.flows, "connection")];
            let counts = counts.map(|(number, one)| count(number, one)).join(", ");
            lines.push(format!("on {}: {counts}, {}", self.ports, count(seen.findings, "finding")));
        }
        if !seen.is_selected && self.args.selection() != Selection::Ports {
            lines.push("of what was selected there is nothing on the port".to_owned());
        }
        if !names.is_empty() {
            let more = names.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let some: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
            lines.push(format!("processes  {}{more}", some.join(", ")));
        }
        let mebibytes = finished.bytes.div_ceil(1 << 20);
        let place = escape::quote(&directory.to_string_lossy()).into_owned();
        lines.push(format!("files      {items}, {mebibytes} MiB, in {place}"));
        lines.push(format!("missing    {missing}: {} says what and why", manifest::NAME));
        if let Some((path, sha256)) = archive {
            let path = escape::quote(&path.to_string_lossy()).into_owned();
            lines.push(format!("archive    {path}, sha256 {sha256}"));
        }
        lines.push(format!("sha256 of {}: {}", manifest::NAME, finished.sha256));
        lines.push(String::new());
        lines.join("\n")
    }
}

fn operator(identity: &Identity) -> Operator {
    let process = Reader::new(identity).read(std::process::id(), None);
    let login = process
        .context
        .login
        .as_ref()
        .map(|login| login.user.clone().unwrap_or_else(|| login.uid.to_string()));
    Operator {
        uid: process.uid,
        user: process.user.clone(),
        login,
        terminal: process.context.terminal.map(|terminal| terminal.to_string()),
        parents: process.ancestors.iter().map(|it| format!("{}[{}]", it.name, it.pid)).collect(),
    }
}

/// Runs something that a process or a file system may hold up for ever: on a thread that is then left behind.
fn in_time<T: Send + 'static>(
    patience: Duration,
    run: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (send, receive) = sync_channel(1);
    let run = move || drop(send.send(run()));
    thread::Builder::new().name("pw-evidence".to_owned()).spawn(run).ok()?;
    receive.recv_timeout(patience).ok()
}

/// No more is begun after this time: of processes, and of the rest.
const PROCESS_TIME: Duration = Duration::from_secs(60);
const HOST_TIME: Duration = Duration::from_secs(30);
const NAMESPACES: usize = 256;
const EVENT_BYTES: usize = 256 << 20;
const POLICY_BYTES: usize = 4 << 20;
/// Processes named in the summary.
const NAMED: usize = 6;
