//! What this host offers, as portwatch found it when it started: its own words, no guess by version.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::Value;

use crate::host::{netns, packages};
use crate::kernel::{cgroup, object, tracepoint};
use crate::report::{CheckOutcome, CheckPart, CheckReport};

/// Inode of the initial pid namespace: `PROC_PID_INIT_INO` of `include/linux/proc_ns.h`.
const HOSTS_PIDS: u64 = 0xefff_fffc;

/// What the observer said of itself in `run-started`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Started {
    /// How it is attached to an interface.
    pub(super) interface_mode: String,
    /// Programs, and how they are attached.
    pub(super) attached: Vec<(String, String)>,
    /// What this host does not offer, a sentence each.
    pub(super) degraded: Vec<String>,
}

impl Started {
    /// Reads the document.
    pub(super) fn read(document: &Value) -> Self {
        let list = |path: &str| document.pointer(path).and_then(Value::as_array);
        let text = |value: &Value, key: &str| {
            value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let attached = list("/portwatch/run/attached").into_iter().flatten();
        let degraded = list("/portwatch/run/degraded").into_iter().flatten();
        let interface = document.pointer("/portwatch/run/interfaces/0");
        Self {
            interface_mode: interface.map(|it| text(it, "mode")).unwrap_or_default(),
            attached: attached.map(|it| (text(it, "program"), text(it, "mode"))).collect(),
            degraded: degraded.filter_map(|it| it.as_str().map(str::to_owned)).collect(),
        }
    }

    /// How many programs are attached in this way.
    fn attached_by(&self, mode: &str) -> usize {
        self.attached.iter().filter(|(_, its_mode)| its_mode == mode).count()
    }

    /// The sentence that says that this is missing, if one does.
    fn lacks(&self, meaning: &str) -> Option<&str> {
        self.degraded.iter().map(String::as_str).find(|line| line.starts_with(meaning))
    }
}

/// What only the host itself tells, read while we may.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Facts {
    kernel: String,
    /// The pids that the kernel names are those of `/proc`.
    has_hosts_pids: bool,
    enters_namespaces: bool,
    databases: Vec<&'static str>,
}

impl Facts {
    /// Asks the host.
    pub(super) fn read() -> Self {
        let system = rustix::system::uname();
        let part = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let parts = [system.sysname(), system.release(), system.machine()].map(part);
        Self {
            kernel: parts.join(" "),
            has_hosts_pids: fs::metadata("/proc/self/ns/pid")
                .is_ok_and(|it| it.ino() == HOSTS_PIDS),
            enters_namespaces: netns::marks_need_entering(),
            databases: packages::kinds(),
        }
    }
}

/// A line for each thing that may be there or not, with what it means.
pub(super) fn checks(facts: &Facts, started: &Started) -> Vec<CheckReport> {
    let mut checks = vec![
        ok("kernel", "a kernel that can be observed", facts.kernel.clone()),
        ok("packets", "how packets are seen", packets(&started.interface_mode)),
        sockets(started),
        pids(facts),
        readers(started),
        holders(started),
        namespaces(facts),
        databases(facts),
    ];
    let told = [object::UNSEEN_USERS, object::IN_PROC, cgroup::OUTSIDE];
    let others = started.degraded.iter().filter(|line| !told.iter().any(|it| line.starts_with(it)));
    checks.extend(others.map(|line| less("limit", "said at the start", line)));
    checks
}

fn packets(mode: &str) -> String {
    match mode {
        "clsact" => "filters on clsact; this kernel has no TCX, so other filters may come first",
        "tcx" => "TCX links, gone with portwatch however it ends",
        other => other,
    }
    .to_owned()
}

fn sockets(started: &Started) -> CheckReport {
    let count = started.attached_by("cgroup");
    let subject = "who opens, connects, sends and closes, named in the system call";
    match started.lacks(cgroup::OUTSIDE) {
        Some(why) => check("socket-hooks", subject, CheckOutcome::Missed, why.to_owned()),
        None => ok("socket-hooks", subject, format!("{count} cgroup programs at the root")),
    }
}

fn pids(facts: &Facts) -> CheckReport {
    let subject = "who a pid is that the kernel names";
    if facts.has_hosts_pids {
        return ok("pids", subject, "portwatch is in the host's pid namespace".to_owned());
    }
    let why = "portwatch is in a pid namespace of its own, whose /proc knows other pids: run it outside \
               containers, or with the host's pids (docker run --pid=host)";
    check("pids", subject, CheckOutcome::Missed, why.to_owned())
}

fn readers(started: &Started) -> CheckReport {
    let subject = "who serves what another process opened";
    if let Some(why) = started.lacks(object::UNSEEN_USERS) {
        return less("readers", subject, why);
    }
    let count = started.attached_by(tracepoint::MODE);
    ok("readers", subject, format!("{count} tracepoints in reads and writes"))
}

fn holders(started: &Started) -> CheckReport {
    let subject = "who holds a socket that is older than portwatch";
    match started.lacks(object::IN_PROC) {
        Some(why) => less("holders", subject, why),
        None => ok("holders", subject, "an iterator over all descriptors of the host".to_owned()),
    }
}

fn namespaces(facts: &Facts) -> CheckReport {
    let seen = if facts.enters_namespaces {
        "known by cookies that this kernel tells only inside each, so CAP_SYS_ADMIN is kept"
    } else {
        "known by cookies, which this kernel tells from outside"
    };
    ok("namespaces", "which network namespace a socket is in", seen.to_owned())
}

fn databases(facts: &Facts) -> CheckReport {
    let subject = "which package installed an executable";
    match facts.databases.as_slice() {
        [] => less("packages", subject, "this host has neither a dpkg nor an rpm database"),
        kinds => ok("packages", subject, format!("the database of {}", kinds.join(" and "))),
    }
}

fn ok(name: &'static str, subject: &str, seen: String) -> CheckReport {
    check(name, subject, CheckOutcome::Ok, seen)
}

fn less(name: &'static str, subject: &str, why: &str) -> CheckReport {
    check(name, subject, CheckOutcome::Degraded, why.to_owned())
}

fn check(name: &'static str, subject: &str, outcome: CheckOutcome, seen: String) -> CheckReport {
    let part = CheckPart::Host;
    CheckReport {
        part,
        name,
        subject: subject.to_owned(),
        outcome,
        expected: String::new(),
        seen,
        evidence: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_start_said_is_missing_is_degraded_or_missed_by_name() {
        let degraded = [
            format!("{}: no BTF", object::UNSEEN_USERS),
            format!("{}: no BTF", object::IN_PROC),
            cgroup::OUTSIDE.to_owned(),
            "something else".to_owned(),
        ];
        let document = json!({"portwatch": {"run": {
            "interfaces": [{"mode": "clsact"}], "attached": [], "degraded": degraded,
        }}});

        let facts = Facts { has_hosts_pids: false, ..Facts::default() };
        let checks = checks(&facts, &Started::read(&document));

        let outcomes: Vec<_> = checks.iter().map(|check| (check.name, check.outcome)).collect();
        assert_eq!(
            outcomes,
            [
                ("kernel", CheckOutcome::Ok),
                ("packets", CheckOutcome::Ok),
                ("socket-hooks", CheckOutcome::Missed),
                ("pids", CheckOutcome::Missed),
                ("readers", CheckOutcome::Degraded),
                ("holders", CheckOutcome::Degraded),
                ("namespaces", CheckOutcome::Ok),
                ("packages", CheckOutcome::Degraded),
                ("limit", CheckOutcome::Degraded),
            ]
        );
    }
}
