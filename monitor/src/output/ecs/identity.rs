//! The process to name where there is room for one: `process`, `container`, `orchestrator`, `package`.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde::Serialize;

use crate::escape::text_from_bytes;
use crate::owner::{self, Ancestor, Package, Process, Terminal};

use super::document::{Time, known};

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
    working_directory: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<Hash<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
    /// The pid in its own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    vpid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tty: Option<Tty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_leader: Option<Leader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Parent<'a>>,
}

impl<'a> ProcessFields<'a> {
    pub(super) fn of(process: &'a Process) -> Self {
        let context = &process.context;
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
            working_directory: context.working_directory.as_deref().map(path),
            hash: process.sha256.as_deref().map(|sha256| Hash { sha256 }),
            user: (user.id.is_some() || user.name.is_some()).then_some(user),
            vpid: context.inner_pid,
            tty: context
                .terminal
                .map(|Terminal { major, minor }| Tty { char_device: CharDevice { major, minor } }),
            session_leader: context.session.map(|pid| Leader { pid }),
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
    #[serde(flatten)]
    relative: Relative<'a>,
    #[serde(flatten)]
    arguments: Arguments<'a>,
}

impl<'a> Parent<'a> {
    fn of(parent: &'a Ancestor) -> Self {
        Self { relative: Relative::of(parent), arguments: Arguments::of(&parent.args) }
    }
}

/// What is told of a parent, wherever it stands.
#[derive(Debug, Serialize)]
pub(super) struct Relative<'a> {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<Cow<'a, str>>,
}

impl<'a> Relative<'a> {
    pub(super) fn of(ancestor: &'a Ancestor) -> Self {
        Self {
            pid: ancestor.pid,
            entity_id: ancestor.entity_id.as_deref(),
            name: known(&ancestor.name),
            executable: ancestor.executable.as_deref().map(path),
        }
    }
}

/// `process.tty.*`.
#[derive(Debug, Serialize)]
struct Tty {
    char_device: CharDevice,
}

#[derive(Debug, Serialize)]
struct CharDevice {
    major: u32,
    minor: u32,
}

/// `process.session_leader.*`.
#[derive(Debug, Serialize)]
struct Leader {
    pid: u32,
}

/// `container.*`.
#[derive(Debug, Serialize)]
pub(super) struct Container<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Image<'a>>,
}

impl<'a> Container<'a> {
    pub(super) fn of(container: &'a owner::Container) -> Self {
        Self {
            id: &container.id,
            name: container.name.as_deref().and_then(known),
            runtime: container.runtime.as_deref(),
            image: container.image.as_ref().map(Image::of),
        }
    }
}

/// `container.image.*`.
#[derive(Debug, Serialize)]
struct Image<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<Hashes<'a>>,
}

#[derive(Debug, Serialize)]
struct Hashes<'a> {
    all: Vec<&'a str>,
}

impl<'a> Image<'a> {
    fn of(image: &'a owner::Image) -> Self {
        let all = image.hashes();
        Self { name: &image.name, hash: (!all.is_empty()).then_some(Hashes { all }) }
    }
}

/// `orchestrator.*`: the pod of a container.
#[derive(Debug, Serialize)]
pub(super) struct Orchestrator<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    resource: Resource<'a>,
}

#[derive(Debug, Serialize)]
struct Resource<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

impl<'a> Orchestrator<'a> {
    pub(super) fn of(container: &'a owner::Container) -> Option<Self> {
        let id = container.pod_uid.as_deref()?;
        let name = container.pod_name.as_deref();
        Some(Self {
            kind: "kubernetes",
            namespace: container.pod_namespace.as_deref(),
            resource: Resource { kind: "pod", id, name },
        })
    }
}

/// `package.*`: the package that installed the executable.
#[derive(Debug, Serialize)]
pub(super) struct PackageFields<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl<'a> PackageFields<'a> {
    pub(super) fn of(package: &'a Package) -> Self {
        Self {
            name: &package.name,
            version: package.version.as_deref(),
            architecture: package.architecture.as_deref(),
            kind: package.format.name(),
        }
    }
}

pub(super) fn path(path: &Path) -> Cow<'_, str> {
    text_from_bytes(path.as_os_str().as_bytes())
}
