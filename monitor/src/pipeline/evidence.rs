//! What a finding about a process rests on, a line for each fact.

use std::borrow::Cow;
use std::iter;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::escape::text_from_bytes;
use crate::owner::{
    Ancestor, Attribution, Container, Context, Image, Integrity, Owner, Packaging, Process,
};
use crate::pipeline::relays;
use crate::report::ListenerReport;

/// Programs named in one line before the rest is only counted.
const MAX_PROGRAMS: usize = 8;

/// What a finding about a listener rests on, a line each; `found_unix_ns` is when it was made.
pub(super) fn of_listener(
    report: &ListenerReport,
    owner: Option<&Owner>,
    found_unix_ns: i64,
) -> Vec<String> {
    let mut lines = vec![report.attribution.reason.clone()];
    if let Some(unit) = &report.unit
        && owner.is_none_or(|owner| owner.process.unit.as_ref() != Some(unit))
    {
        lines.push(format!("the socket was made in systemd unit {unit}"));
    }
    let Some(owner) = owner else { return lines };
    lines.extend(of_owner(owner, found_unix_ns));
    lines.extend(programs(&report.attribution));
    lines
}

/// What is known of a process, a line each.
pub(super) fn of_owner(owner: &Owner, found_unix_ns: i64) -> Vec<String> {
    let mut lines = Vec::new();
    let process = &owner.process;
    if let Some(noted) = &process.noted_name {
        lines.push(format!(
            "the kernel noted the name {noted}: of a thread, or of what it ran before execve"
        ));
    }
    lines.extend(executable(process));
    if let Some(sha256) = &process.sha256 {
        lines.push(format!("sha256: {sha256}"));
    }
    lines.extend(origin(process));
    if !process.args.is_empty() {
        lines.push(format!("command line: {}", process.args.join(" ")));
    }
    lines.extend(relays::in_words(process));
    if let Some(directory) = &process.context.working_directory {
        lines.push(format!("working directory: {}", text(directory)));
    }
    if let Some(start_unix_ns) = process.start_unix_ns {
        let lasted = lasted(found_unix_ns.saturating_sub(start_unix_ns));
        lines.push(format!("running for {lasted} when this was found"));
    }
    lines.extend(started_by(process));
    lines.extend(login(&process.context));
    lines.extend(place(process));
    lines.extend(process.missing.iter().map(|missing| format!("not known: {missing}")));
    lines
}

/// Who else has to do with it, each program once: which process it is may change all the time.
fn programs(attribution: &Attribution) -> Option<String> {
    let mut programs: Vec<String> = Vec::new();
    for Owner { process, replaced, .. } in &attribution.owners {
        let path = process.executable.as_deref().map(|path| format!(" {}", text(path)));
        let user = process.user.as_ref().map(|user| format!(" of user {user}"));
        let former = if *replaced { " (it runs another by now)" } else { "" };
        let (path, user) = (path.unwrap_or_default(), user.unwrap_or_default());
        let program = [process.name.clone(), path, user, former.to_owned()];
        let program = program.concat();
        if !programs.contains(&program) {
            programs.push(program);
        }
    }
    if programs.len() < 2 {
        return None;
    }
    let more = programs.len().saturating_sub(MAX_PROGRAMS);
    programs.truncate(MAX_PROGRAMS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("programs that had to do with it: {}{more}", programs.join(", ")))
}

fn executable(process: &Process) -> Option<String> {
    let place = match process.on_host {
        _ if process.deleted => " (deleted)",
        Some(false) => " (of another mount namespace: not this host's file of that name)",
        Some(true) | None => "",
    };
    process.executable.as_deref().map(|path| format!("executable: {}{place}", text(path)))
}

/// What the package database says.
fn origin(process: &Process) -> Option<String> {
    let package = match &process.packaging {
        Packaging::Unknown => return None,
        Packaging::NoPackage => return Some("package: none has installed this file".to_owned()),
        Packaging::Package(package) => package,
        Packaging::Replaced(package) => {
            let version = package.version.as_deref().unwrap_or_default();
            let line = format!(
                "package: the file that has its path now is the one of {} {version} ({})",
                package.name,
                package.format.name()
            );
            return Some(line);
        }
    };
    let version = package.version.as_deref().unwrap_or_default();
    let state = match &package.integrity {
        Integrity::Unmodified => "the file is as it was installed".to_owned(),
        Integrity::Modified => "the file is NOT as it was installed".to_owned(),
        Integrity::Unverifiable(why) => format!("whether the file is as installed is open: {why}"),
    };
    Some(format!("package: {} {version} ({}); {state}", package.name, package.format.name()))
}

fn started_by(process: &Process) -> Option<String> {
    let parent = |parent: &Ancestor| format!("{}[{}]", parent.name, parent.pid);
    let parents: Vec<String> = process.ancestors.iter().map(parent).collect();
    (!parents.is_empty()).then(|| format!("started by: {}", parents.join(" ← ")))
}

/// `login: alice, session 3, terminal pts/1`.
fn login(context: &Context) -> Option<String> {
    let mut facts = Vec::new();
    if let Some(login) = &context.login {
        facts.push(login.user.clone().unwrap_or_else(|| format!("uid {}", login.uid)));
        facts.extend(login.session.map(|session| format!("session {session}")));
    }
    facts.extend(context.terminal.map(|terminal| format!("terminal {terminal}")));
    (!facts.is_empty()).then(|| format!("login: {}", facts.join(", ")))
}

/// Unit, container, label.
fn place(process: &Process) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(unit) = &process.unit {
        lines.push(format!("systemd unit: {unit}"));
    }
    if let Some(container) = &process.container {
        let runtime =
            container.runtime.as_ref().map(|runtime| format!(" ({runtime})")).unwrap_or_default();
        let pod = pod(container).map(|pod| format!(", pod {pod}")).unwrap_or_default();
        let inner = process.context.inner_pid;
        let inner = inner.map(|pid| format!(", pid {pid} in there")).unwrap_or_default();
        lines.push(format!("container: {}{runtime}{pod}{inner}", container.id));
        lines.extend(container.name.as_ref().map(|name| format!("container name: {name}")));
        lines.extend(container.image.as_ref().map(image));
    } else if let Some(pid) = process.context.inner_pid {
        lines.push(format!("pid in its own pid namespace: {pid}"));
    }
    if let Some(label) = &process.context.label {
        lines.push(format!("security label: {label}"));
    }
    lines
}

/// `default/web-0 (UID)`, or what is known of that.
fn pod(container: &Container) -> Option<String> {
    let uid = container.pod_uid.as_deref();
    let name = container.pod_namespace.as_deref().zip(container.pod_name.as_deref());
    Some(match (name, uid) {
        (Some((namespace, name)), Some(uid)) => format!("{namespace}/{name} ({uid})"),
        (Some((namespace, name)), None) => format!("{namespace}/{name}"),
        (None, uid) => uid?.to_owned(),
    })
}

/// `container image: registry.example/web:1.4, registry.example/web@sha256:…`.
fn image(image: &Image) -> String {
    let names: Vec<&str> =
        iter::once(&image.name).chain(&image.digests).map(String::as_str).collect();
    format!("container image: {}", names.join(", "))
}

/// Two units of time, as a person would say it: `4 d 3 h`.
fn lasted(ns: i64) -> String {
    let seconds = ns / 1_000_000_000;
    match seconds {
        ..60 => format!("{} s", seconds.max(0)),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn text(path: &Path) -> Cow<'_, str> {
    text_from_bytes(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_told_in_its_two_largest_units() {
        let table = [
            (-5, "0 s"),
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3_599, "59 min 59 s"),
            (3_600, "1 h 0 min"),
            (86_399, "23 h 59 min"),
            (90_000, "1 d 1 h"),
        ];
        for (seconds, expected) in table {
            assert_eq!(lasted(seconds * 1_000_000_000), expected);
        }
    }
}
