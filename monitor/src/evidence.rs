//! `portwatch evidence`: preserves what there is on the port before it vanishes.
//!
//! What vanishes first is taken first: processes are held as soon as they are known, then one look as `scan`
//! takes it, then executables and files of the processes, tables, rules and the host. Nothing is changed and
//! nothing is run but a `portwatch watch` for the packets, if they are asked for. Whatever a process or file system does, it is waited for with patience, and what did not
//! come is listed.

mod archive;
mod custody;
mod executables;
mod manifest;
mod packets;
mod place;
mod processes;
mod selection;
mod store;
mod summary;
mod tables;
mod verify;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use self::custody::Case;
use self::packets::Capture;
use self::place::Place;
use self::processes::{Crew, Told, nanoseconds};
use self::selection::Seen;
use self::store::Store;
use self::summary::Summary;
use crate::cli::{self, Selection};
use crate::clock::{self, Clock};
use crate::crossview::Wanted;
use crate::escape;
use crate::failure::{self, Failure};
use crate::host::artifacts::{self, Content};
use crate::host::identity::Identity;
use crate::host::process::Reader;
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
    let (policy, in_force) = PolicyFile::of(&args.common()).open()?;
    let mut place = Place::make(args.directory.as_deref().unwrap_or(Path::new("")))?;
    let store = &mut place.store;
    let case = Case::open(&args, identity, &run, store.now());
    // While they can still be asked for, and before anybody goes.
    store.take("system", artifacts::clock());
    let capture = args.duration.and_then(|duration| {
        let begun = Capture::begin(&args, duration, store);
        begun.map_err(|why| store.miss(packets::PACKETS, why)).ok()
    });
    if args.duration.is_none() {
        store.miss(packets::PACKETS, NOT_ASKED_FOR);
    }
    let mut crew = Crew::default();
    if let Selection::Pid(pid) = args.selection() {
        crew.hold(&[pid]);
    }
    let ports = args.common().ports();
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
    let reports = look.take_reports();
    let seen = Seen::of(&reports, args.selection());
    events(&reports, run, store);
    let names = processes(&args, &seen, crew, identity, store);
    drop(reports);
    tables::preserve(store);
    if let Some(policy) = in_force {
        tables::policy(&policy.file, store);
    }
    if let Some(capture) = capture {
        capture.conclude(store).await;
    }
    Ok(conclude(place, case, &Summary { args: &args, seen: &seen, names: &names }))
}

/// Verifies; the exit code.
pub fn verify(args: &cli::VerifyEvidence) -> Result<u8, Failure> {
    let name = escape::quote(&args.path.to_string_lossy()).into_owned();
    let verified = verify::verify(&args.path)
        .map_err(|why| Failure::Usage(format!("{name}: no evidence: {}", escape::escape(&why))))?;
    let header = &verified.manifest.header;
    let mut text = String::new();
    for difference in &verified.differences {
        _ = writeln!(text, "{}", escape::escape(difference));
    }
    let verdict = match verified.differences.len() {
        0 => format!("intact: {} files", verified.manifest.items.len()),
        1 => "1 difference".to_owned(),
        count => format!("{count} differences"),
    };
    let [host, started] = [&header.host.name, &header.started].map(|it| manifest::shown(it));
    _ = writeln!(text, "{verdict}; of host {host}, {started}");
    _ = writeln!(text, "sha256 of {}: {}", manifest::NAME, verified.sha256);
    let is_intact = verified.differences.is_empty();
    Ok(print(&text, if is_intact { failure::DONE } else { failure::FINDINGS }))
}

/// Everything that the look has seen, as documents.
fn events(reports: &[Report], run: RunIdentity, store: &mut Store) {
    let mut encoder = Encoder::new(run);
    let mut content = Content::default();
    let mut lost = 0_usize;
    for report in reports {
        let is_full = content.bytes.len() > EVENT_BYTES;
        if is_full || encoder.encode(report, &mut content.bytes).is_err() {
            lost = lost.saturating_add(1);
        }
    }
    content.cut = (lost > 0).then(|| format!("{lost} events"));
    store.put("events.ndjson", "what `portwatch scan` sees", &content);
}

/// Who is meant, with parents and executables; gives their names.
fn processes(
    args: &cli::Evidence,
    seen: &Seen,
    mut crew: Crew,
    identity: &Identity,
    store: &mut Store,
) -> Vec<String> {
    let mut subjects = seen.subjects.clone();
    if let Selection::Pid(pid) = args.selection()
        && !subjects.keys().any(|(it, _)| *it == pid)
    {
        subjects.insert((pid, crew.start_of(pid)), "asked for".to_owned());
    }
    let told = Told {
        with_environment: args.with_environment,
        max_file: args.max_file,
        until_ns: clock::boot_ns().saturating_add(nanoseconds(PROCESS_TIME)),
    };
    crew.tell(&subjects, &Arc::new(Reader::new(identity)), told, store)
}

/// Writes the manifest, packs, and says what there is; the exit code.
fn conclude(place: Place, case: Case, summary: &Summary<'_>) -> u8 {
    let Place { directory, store, archive: (path, file) } = place;
    let finished = match store.finish(case.close()) {
        Ok(finished) => finished,
        Err(error) => {
            let name = manifest::NAME;
            tracing::error!("writing {name}: {error}; without it there is no evidence");
            place::remove(&path);
            return failure::OUTPUT_FAILED;
        }
    };
    let seconds = Clock::of_host().unix_ns(clock::boot_ns()) / 1_000_000_000;
    let mtime = u64::try_from(seconds).unwrap_or_default();
    let packed = archive::write(&finished, archive::top(&directory), mtime, file);
    if let Err(error) = &packed {
        tracing::error!("writing {}: {error}", escape::quote(&path.to_string_lossy()));
        place::remove(&path);
    }
    let has_failed = finished.has_failed || packed.is_err();
    let archive = packed.ok().map(|sha256| (&*path, sha256));
    let text = summary.text(&finished, &directory, archive);
    print(&text, if has_failed { failure::OUTPUT_FAILED } else { failure::DONE })
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

/// No process is begun with after this time.
const PROCESS_TIME: Duration = Duration::from_mins(1);
const EVENT_BYTES: usize = 256 << 20;
const NOT_ASKED_FOR: &str = "not asked for: `--for` captures for a while";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_never_answers_is_not_waited_for() {
        let (never, answer) = sync_channel::<()>(0);

        assert_eq!(in_time(Duration::from_millis(1), move || answer.recv()), None);
        drop(never);
        assert_eq!(in_time(Duration::from_mins(1), || 7), Some(7));
    }
}
