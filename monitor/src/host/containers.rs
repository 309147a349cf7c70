//! What a container runtime says of a container: its name, and the image it was made from.
//!
//! Docker is asked on its socket. podman and CRI-O keep what they know in files, which are read: their
//! sockets are often not there, and one that is may start a service. containerd answers only in gRPC,
//! but has a file of each container that runs. Nothing here is required: a runtime that does not answer
//! costs its names.

mod containerd;
mod docker;
mod storage;

use std::borrow::Cow;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use rustix::fs::{Mode, OFlags};
use rustix::time::{ClockId, Timespec};

use crate::owner::{Container, Image};

/// The runtimes of this host.
#[derive(Debug)]
pub(super) struct Runtimes {
    /// The socket of Docker.
    docker: PathBuf,
    /// Where podman and CRI-O keep containers and images.
    storage: PathBuf,
    /// Where a containerd has its state: its own, and those that come with a Kubernetes.
    containerd: Vec<PathBuf>,
    /// How long one may take to answer.
    patience: Duration,
    asked: Mutex<Asked>,
}

#[derive(Debug)]
struct Asked {
    /// What came of it, by the id of the container.
    known: LruCache<String, Known>,
    /// When, by [`since_boot`], there will have been rest enough for all that was asked: what asking
    /// costs stays bounded.
    rested_at: Duration,
}

#[derive(Clone, Debug)]
struct Known {
    told: Result<Told, String>,
    until: Duration,
}

/// What a runtime tells of a container.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Told {
    name: Option<String>,
    image: Option<Image>,
    pod_namespace: Option<String>,
    pod_name: Option<String>,
    pod_uid: Option<String>,
    /// Who told, where that was not known before.
    runtime: Option<&'static str>,
    /// What of it is not told, in words.
    untold: Option<String>,
}

impl Runtimes {
    /// Where they are by default.
    pub(super) fn of_host() -> Self {
        let asked = Asked { known: LruCache::new(CONTAINERS), rested_at: Duration::ZERO };
        Self {
            docker: "/run/docker.sock".into(),
            storage: "/var/lib/containers/storage".into(),
            containerd: CONTAINERD.map(PathBuf::from).into(),
            patience: PATIENCE,
            asked: Mutex::new(asked),
        }
    }

    /// The container with the name and the image that its runtime tells, and what that does not tell;
    /// an error is in words.
    ///
    /// May take [`PATIENCE`], and remembers the answer for [`VALID`].
    pub(super) fn describe(
        &self,
        container: &Container,
    ) -> Result<(Container, Option<String>), String> {
        // A cache has no state that a panic elsewhere could leave half done.
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = since_boot();
        let known = asked.known.get(&container.id).filter(|known| now < known.until).cloned();
        let told = match known {
            Some(known) => known.told,
            None if asked.rested_at > now.saturating_add(BURST.saturating_mul(REST)) => {
                return Err("too many containers at once".to_owned());
            }
            None => {
                let told = self.ask(container);
                let took = since_boot().saturating_sub(now);
                asked.rested_at =
                    asked.rested_at.max(now).saturating_add(took.saturating_mul(REST));
                let known = Known { told: told.clone(), until: now.saturating_add(VALID) };
                asked.known.put(container.id.clone(), known);
                told
            }
        };
        let told = told?;
        let Container { id, runtime, pod_uid, .. } = container.clone();
        let described = Container {
            id,
            runtime: runtime.or_else(|| told.runtime.map(Cow::Borrowed)),
            pod_uid: pod_uid.or(told.pod_uid),
            name: told.name,
            image: told.image,
            pod_namespace: told.pod_namespace,
            pod_name: told.pod_name,
        };
        Ok((described, told.untold))
    }

    fn ask(&self, container: &Container) -> Result<Told, String> {
        match container.runtime.as_deref() {
            Some("docker") => docker::ask(&self.docker, &container.id, self.patience),
            Some("podman" | "cri-o") => storage::read(&self.storage, &container.id),
            Some("containerd") => self.ask_containerd(&container.id),
            Some("lxc" | "systemd-nspawn") => Ok(Told::default()),
            Some(other) => Err(format!("{other} is not asked for name and image")),
            // Where containerd makes cgroups without systemd, their path does not say whose they are.
            None => self
                .ask_containerd(&container.id)
                .map_err(|why| format!("its runtime is not known, and {why}")),
        }
    }

    fn ask_containerd(&self, id: &str) -> Result<Told, String> {
        let (runtime, told) = match containerd::read(&self.containerd, id)? {
            None => ("docker", docker::ask(&self.docker, id, self.patience)?),
            Some(told) => ("containerd", told),
        };
        Ok(Told { runtime: Some(runtime), ..told })
    }
}

/// `sha256:` and 64 hex digits, of an id with or without the algorithm; anything else is none.
fn image_id(id: &str) -> Option<String> {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (digits.len() == 64 && digits.bytes().all(is_hex)).then(|| format!("sha256:{digits}"))
}

/// A name, if it is one: not empty, and no longer than any registry allows.
fn text(name: &str) -> Option<String> {
    (!name.is_empty() && name.len() <= MAX_NAME).then(|| name.to_owned())
}

/// A name without tag and digest: a colon behind the last slash begins a tag, one before it a port.
fn repository(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// A file that only root can write, and that is no link; at most `max` bytes.
fn contents(directory: BorrowedFd<'_>, path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat(directory, path, flags, Mode::empty())?);
    let about = file.metadata()?;
    is_roots_alone(&about)?;
    if !about.is_file() {
        return Err(std::io::Error::other("no file"));
    }
    if about.len() > max {
        return Err(std::io::Error::other("too long"));
    }
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_roots_alone(about: &Metadata) -> std::io::Result<()> {
    if about.uid() != 0 || about.mode() & 0o022 != 0 {
        return Err(std::io::Error::other("others than root can write it"));
    }
    Ok(())
}

/// Time since boot.
fn since_boot() -> Duration {
    let Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(tv_nsec).unwrap_or_default())
}

/// The states of containerd: as it is by default, with k3s and RKE2, k0s and `MicroK8s`.
const CONTAINERD: [&str; 4] = [
    "/run/containerd",
    "/run/k3s/containerd",
    "/run/k0s/containerd",
    "/var/snap/microk8s/common/run/containerd",
];
/// How long a runtime may take to answer.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long an answer holds, also that there is none: a container may be renamed.
const VALID: Duration = Duration::from_mins(1);
/// Rest due for an answer, in times of what it took: in the long run asking takes a fifth of the thread.
const REST: u32 = 4;
/// What may be asked for without rest.
const BURST: Duration = Duration::from_secs(1);
/// Containers remembered.
const CONTAINERS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Longest name of a container or an image.
const MAX_NAME: usize = 512;

#[cfg(test)]
mod tests;
