//! Who: `process`, `container`, and all owners with role and evidence in `portwatch.owners`.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde::Serialize;

use crate::escape::text_from_bytes;
use crate::owner::{Ancestor, Attribution, Owner, Process, Side};

use super::document::{Document, Time, known};

impl<'a> Document<'a> {
    /// The whole answer to "who".
    pub(super) fn attribution(&mut self, attribution: &'a Attribution) {
        let Attribution { ownership, reason, owners } = attribution;
        self.portwatch.ownership = Some(ownership.name());
        self.portwatch.ownership_reason = known(reason);
        self.portwatch.owners = Some(owners.iter().map(OwnerFields::of).collect());
        if let Some(principal) = attribution.principal() {
            let process = &*principal.process;
            self.process = Some(ProcessFields::of(process));
            self.container = process.container_id.as_deref().map(|id| Container { id });
        }
        for owner in owners {
            if let Some(user) = user(&owner.process) {
                self.related.user(user);
            }
            if let Some(sha256) = &owner.process.sha256 {
                self.related.hash(sha256);
            }
        }
    }
}

/// `process.*`: the process to name where there is room for one.
#[derive(Debug, Serialize)]
pub(super) struct ProcessFields<'a> {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<Cow<'a, str>>,
    #[serde(flatten)]
    arguments: Arguments<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<Hash<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Parent<'a>>,
}

impl<'a> ProcessFields<'a> {
    fn of(process: &'a Process) -> Self {
        let user = User {
            id: process.uid.map(|uid| uid.to_string()),
            name: process.user.as_deref().and_then(known),
        };
        Self {
            pid: process.pid,
            entity_id: process.entity_id.as_deref(),
            name: known(&process.name),
            start: process.start_unix_ns.map(Time),
            executable: process.executable.as_deref().map(path),
            arguments: Arguments::of(&process.args),
            hash: process.sha256.as_deref().map(|sha256| Hash { sha256 }),
            user: (user.id.is_some() || user.name.is_some()).then_some(user),
            parent: process.ancestors.first().map(Parent::of),
        }
    }
}

/// `process.args` and what ECS derives from it.
#[derive(Debug, Default, Serialize)]
struct Arguments<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args_count: Option<usize>,
    #[serde(skip_serializing_if = "String::is_empty")]
    command_line: String,
}

impl<'a> Arguments<'a> {
    fn of(args: &'a [String]) -> Self {
        if args.is_empty() {
            return Self::default();
        }
        Self { args: Some(args), args_count: Some(args.len()), command_line: args.join(" ") }
    }
}

#[derive(Debug, Serialize)]
struct Hash<'a> {
    sha256: &'a str,
}

#[derive(Debug, Serialize)]
struct User<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

/// `process.parent.*`.
#[derive(Debug, Serialize)]
struct Parent<'a> {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<Cow<'a, str>>,
    #[serde(flatten)]
    arguments: Arguments<'a>,
}

impl<'a> Parent<'a> {
    fn of(parent: &'a Ancestor) -> Self {
        Self {
            pid: parent.pid,
            entity_id: parent.entity_id.as_deref(),
            name: known(&parent.name),
            executable: parent.executable.as_deref().map(path),
            arguments: Arguments::of(&parent.args),
        }
    }
}

/// `container.*`.
#[derive(Debug, Serialize)]
pub(super) struct Container<'a> {
    id: &'a str,
}

/// `portwatch.owners[]`.
#[derive(Debug, Serialize)]
pub(super) struct OwnerFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<&'static str>,
    role: &'static str,
    evidence: &'static str,
    exited: bool,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<Cow<'a, str>>,
    /// Only with an executable: of what could not be read nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ancestors: Vec<AncestorFields<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    missing: &'a [String],
}

impl<'a> OwnerFields<'a> {
    fn of(owner: &'a Owner) -> Self {
        let Owner { side, role, evidence, exited, process } = owner;
        let executable_known = process.executable.is_some() || process.deleted;
        Self {
            side: side.map(Side::name),
            role: role.name(),
            evidence: evidence.name(),
            exited: *exited,
            pid: process.pid,
            entity_id: process.entity_id.as_deref(),
            start: process.start_unix_ns.map(Time),
            name: known(&process.name),
            executable: process.executable.as_deref().map(path),
            deleted: executable_known.then_some(process.deleted),
            sha256: process.sha256.as_deref(),
            user: user(process),
            unit: process.unit.as_deref(),
            container_id: process.container_id.as_deref(),
            ancestors: process.ancestors.iter().map(AncestorFields::of).collect(),
            missing: &process.missing,
        }
    }
}

/// `portwatch.owners[].ancestors[]`.
#[derive(Debug, Serialize)]
struct AncestorFields<'a> {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<Cow<'a, str>>,
}

impl<'a> AncestorFields<'a> {
    fn of(ancestor: &'a Ancestor) -> Self {
        Self {
            pid: ancestor.pid,
            entity_id: ancestor.entity_id.as_deref(),
            name: known(&ancestor.name),
            executable: ancestor.executable.as_deref().map(path),
        }
    }
}

/// The name of the user, or as `ls -l` the number where it has none.
fn user(process: &Process) -> Option<Cow<'_, str>> {
    match (process.user.as_deref().and_then(known), process.uid) {
        (Some(name), _) => Some(Cow::Borrowed(name)),
        (None, uid) => uid.map(|uid| Cow::Owned(uid.to_string())),
    }
}

fn path(path: &Path) -> Cow<'_, str> {
    text_from_bytes(path.as_os_str().as_bytes())
}
