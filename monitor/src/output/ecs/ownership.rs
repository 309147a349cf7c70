//! Who: all owners with role and evidence in `portwatch.owners`.

use std::borrow::Cow;

use serde::Serialize;

use crate::owner::{Ancestor, Attribution, Integrity, Login, Owner, Packaging, Process, Side};

use super::document::{Document, Time, known};
use super::identity::{Container, Orchestrator, PackageFields, ProcessFields, Relative, path};

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
            self.container = process.container.as_ref().map(Container::of);
            self.orchestrator = process.container.as_ref().and_then(Orchestrator::of);
            self.package = process.packaging.package().map(PackageFields::of);
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

/// `portwatch.owners[]`.
#[derive(Debug, Serialize)]
pub(super) struct OwnerFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<&'static str>,
    role: &'static str,
    evidence: &'static str,
    exited: bool,
    replaced: bool,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    noted_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<Cow<'a, str>>,
    /// Only with an executable: of what could not be read nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable_on_host: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    world_writable: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a str>,
    #[serde(flatten)]
    package: OwnerPackage<'a>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    args: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    working_directory: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    login: Option<LoginFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tty: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slice: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_runtime: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_image: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    container_image_digests: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "NamespaceFields::is_empty")]
    namespaces: NamespaceFields,
    #[serde(skip_serializing_if = "Option::is_none")]
    inner_pid: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ancestors: Vec<AncestorFields<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    missing: &'a [String],
}

impl<'a> OwnerFields<'a> {
    fn of(owner: &'a Owner) -> Self {
        let Owner { side, role, evidence, exited, replaced, process } = owner;
        let (context, container) = (&process.context, process.container.as_ref());
        let image = container.and_then(|container| container.image.as_ref());
        let executable_known = process.executable.is_some() || process.deleted;
        Self {
            side: side.map(Side::name),
            role: role.name(),
            evidence: evidence.name(),
            exited: *exited,
            replaced: *replaced,
            pid: process.pid,
            entity_id: process.entity_id.as_deref(),
            start: process.start_unix_ns.map(Time),
            name: known(&process.name),
            noted_name: process.noted_name.as_deref(),
            executable: process.executable.as_deref().map(path),
            deleted: executable_known.then_some(process.deleted),
            executable_on_host: process.on_host,
            world_writable: process.world_writable.as_deref().map(path),
            sha256: process.sha256.as_deref(),
            package: OwnerPackage::of(&process.packaging),
            args: &process.args,
            working_directory: context.working_directory.as_deref().map(path),
            user: user(process),
            login: context.login.as_ref().map(LoginFields::of),
            session: context.session,
            tty: context.terminal.map(|terminal| terminal.to_string()),
            unit: process.unit.as_deref(),
            slice: process.slice.as_deref(),
            cgroup: process.cgroup.as_deref(),
            container_id: container.map(|container| container.id.as_str()),
            container_runtime: container.and_then(|container| container.runtime.as_deref()),
            container_name: container.and_then(|container| container.name.as_deref()),
            container_image: image.map(|image| image.name.as_str()),
            container_image_digests: image.map(|image| &*image.digests).unwrap_or_default(),
            pod_uid: container.and_then(|container| container.pod_uid.as_deref()),
            pod_namespace: container.and_then(|container| container.pod_namespace.as_deref()),
            pod_name: container.and_then(|container| container.pod_name.as_deref()),
            label: context.label.as_deref(),
            namespaces: NamespaceFields {
                net: process.netns,
                mnt: context.namespaces.mnt,
                pid: context.namespaces.pid,
                user: context.namespaces.user,
            },
            inner_pid: context.inner_pid,
            ancestors: process.ancestors.iter().map(AncestorFields::of).collect(),
            missing: &process.missing,
        }
    }
}

/// `portwatch.owners[].package` and its like.
#[derive(Debug, Serialize)]
struct OwnerPackage<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    package: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    package_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    package_state: Option<&'static str>,
    /// Where it could be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    package_intact: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    package_reason: Option<&'a str>,
}

impl<'a> OwnerPackage<'a> {
    fn of(packaging: &'a Packaging) -> Self {
        let package = packaging.package();
        let (intact, reason) = match package.map(|package| &package.integrity) {
            Some(Integrity::Unmodified) => (Some(true), None),
            Some(Integrity::Modified) => (Some(false), None),
            Some(Integrity::Unverifiable(reason)) => (None, Some(reason.as_str())),
            None => (None, None),
        };
        Self {
            package: package.map(|package| package.name.as_str()),
            package_version: package.and_then(|package| package.version.as_deref()),
            package_state: packaging.state(),
            package_intact: intact,
            package_reason: reason,
        }
    }
}

/// `portwatch.owners[].login`.
#[derive(Debug, Serialize)]
struct LoginFields<'a> {
    user: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u32>,
}

impl<'a> LoginFields<'a> {
    fn of(login: &'a Login) -> Self {
        let Login { uid, user, session } = login;
        let name = user.as_deref().and_then(known).map(Cow::Borrowed);
        Self { user: name.unwrap_or_else(|| uid.to_string().into()), session: *session }
    }
}

/// `portwatch.owners[].namespaces`, each as its inode.
#[derive(Debug, Serialize)]
struct NamespaceFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    net: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mnt: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<u64>,
}

impl NamespaceFields {
    const fn is_empty(&self) -> bool {
        let Self { net, mnt, pid, user } = self;
        net.is_none() && mnt.is_none() && pid.is_none() && user.is_none()
    }
}

/// `portwatch.owners[].ancestors[]`.
#[derive(Debug, Serialize)]
struct AncestorFields<'a> {
    #[serde(flatten)]
    relative: Relative<'a>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    args: &'a [String],
}

impl<'a> AncestorFields<'a> {
    fn of(ancestor: &'a Ancestor) -> Self {
        Self { relative: Relative::of(ancestor), args: &ancestor.args }
    }
}

/// The name of the user, or as `ls -l` the number where it has none.
fn user(process: &Process) -> Option<Cow<'_, str>> {
    match (process.user.as_deref().and_then(known), process.uid) {
        (Some(name), _) => Some(Cow::Borrowed(name)),
        (None, uid) => uid.map(|uid| Cow::Owned(uid.to_string())),
    }
}
