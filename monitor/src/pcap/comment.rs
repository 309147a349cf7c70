//! What is said of a packet: who is at its end, in the form of ptcpdump, and in our own.
//!
//! Everything here was chosen by others: it is bounded, and escaped as for a terminal.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::escape;
use crate::owner::{Ancestor, Container, Process};
use crate::report::{NearEnd, SampleReport, Verdict};

/// Bytes of a value, such as a path or a name, before they are escaped; an escape takes four times
/// as many at most, and a comment has room for 64 KiB.
const MAX_VALUE: usize = 1024;

/// The same of all arguments of a process together.
const MAX_ARGS: usize = 4096;

/// What ptcpdump writes where it has cut.
const CUT: &str = "...";

/// The comments of a packet: first those that ptcpdump would write, then ours.
pub(super) fn of_packet(sample: &SampleReport) -> Vec<String> {
    let near = sample.near.as_deref();
    let owner = near.and_then(|near| near.owner.as_ref());
    let mut comments = owner.map_or_else(Vec::new, |owner| as_ptcpdump(&owner.process));
    comments.push(as_portwatch(sample, near));
    comments
}

/// In the form of `internal/writer/pcapng.go` of ptcpdump, which it reads again.
fn as_ptcpdump(process: &Process) -> Vec<String> {
    let command = command(process.executable.as_deref(), &process.name);
    let arguments_ = arguments(&process.args);
    let mut comments = vec![format!("PID: {}\nCmd: {command}\nArgs: {arguments_}", process.pid)];
    comments.extend(process.uid.map(|uid| format!("UserId: {uid}")));
    comments.extend(process.ancestors.first().map(of_parent));
    comments.extend(process.container.as_ref().map(of_container));
    comments
}

fn of_parent(parent: &Ancestor) -> String {
    let command = command(parent.executable.as_deref(), &parent.name);
    let arguments = arguments(&parent.args);
    format!("ParentPID: {}\nParentCmd: {command}\nParentArgs: {arguments}", parent.pid)
}

fn of_container(container: &Container) -> String {
    let name = shown(container.name.as_deref().unwrap_or_default());
    let image = container.image.as_ref().map_or("", |image| &image.name);
    let (id, image) = (shown(&container.id), shown(image));
    format!("ContainerName: {name}\nContainerId: {id}\nContainerImage: {image}")
}

/// The path of what runs, else its name.
fn command(executable: Option<&Path>, name: &str) -> String {
    let Some(path) = executable else { return shown(name) };
    let bytes = path.as_os_str().as_bytes();
    match bytes.get(..MAX_VALUE) {
        Some(start) if start.len() < bytes.len() => {
            format!("{}{CUT}", escape::escape_bytes(start))
        }
        _ => escape::escape_bytes(bytes).into_owned(),
    }
}

/// Arguments with spaces between them, as ptcpdump has them.
fn arguments(args: &[String]) -> String {
    let mut line = String::new();
    let mut left = MAX_ARGS;
    for (position, argument) in args.iter().enumerate() {
        if position > 0 {
            line.push(' ');
            left = left.saturating_sub(1);
        }
        let start = beginning(argument, left);
        line.push_str(&escape::escape(start));
        left -= start.len();
        if start.len() < argument.len() || left == 0 && position + 1 < args.len() {
            line.push_str(CUT);
            break;
        }
    }
    line
}

/// One line of `key=value`, each value one word.
fn as_portwatch(sample: &SampleReport, near: Option<&NearEnd>) -> String {
    let mut line = "portwatch:".to_owned();
    let mut add = |key: &str, text: &str| {
        let start = beginning(text, MAX_VALUE);
        let cut = if start.len() < text.len() { CUT } else { "" };
        // Writing into memory cannot fail.
        let _written = write!(line, " {key}={}{cut}", escape::quote(start));
    };
    match near.and_then(|near| near.owner.as_ref()) {
        Some(owner) => {
            let process = &*owner.process;
            for (key, text) in [
                ("entity", process.entity_id.as_deref()),
                ("name", Some(&*process.name)),
                ("sha256", process.sha256.as_deref()),
                ("unit", process.unit.as_deref()),
                ("user", process.user.as_deref()),
                ("role", Some(owner.role.name())),
                ("evidence", Some(owner.evidence.name())),
                ("gone", owner.is_gone().then_some("yes")),
            ] {
                if let Some(text) = text {
                    add(key, text);
                }
            }
        }
        None => add("owner", near.map_or("unknown", |near| near.ownership.name())),
    }
    match near.and_then(|near| near.verdict.as_ref()) {
        Some(Verdict::Expected { rule, .. }) => {
            add("verdict", "expected");
            add("rule", rule);
        }
        Some(Verdict::Unknown { .. }) => add("verdict", "unknown"),
        None => {}
    }
    add("community_id", &sample.community_id);
    add("represents", &sample.represents.to_string());
    if sample.blanked > 0 {
        add("blanked", &sample.blanked.to_string());
    }
    line
}

/// A text of others, bounded and escaped.
pub(super) fn shown(text: &str) -> String {
    let start = beginning(text, MAX_VALUE);
    let cut = if start.len() < text.len() { CUT } else { "" };
    format!("{}{cut}", escape::escape(start))
}

/// So many bytes of a text at most.
fn beginning(text: &str, max: usize) -> &str {
    let at = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.split_at(at).0
}
