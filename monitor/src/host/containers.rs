//! What a container runtime says of a container: its name, and the image it was made from.
//!
//! Docker is asked on its socket. podman and CRI-O keep what they know in files, which are read: their
//! sockets are often not there, and one that is may start a service. containerd can only be asked in
//! gRPC, and is not. Nothing here is required: a runtime that does not answer costs its names.

mod docker;
mod storage;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use rustix::time::{ClockId, Timespec};

use crate::owner::{Container, Image};

/// The runtimes of this host.
#[derive(Debug)]
pub(super) struct Runtimes {
    /// The socket of Docker.
    docker: PathBuf,
    /// Where podman and CRI-O keep containers and images.
    storage: PathBuf,
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
}

impl Runtimes {
    /// Where they are by default.
    pub(super) fn of_host() -> Self {
        Self::at("/run/docker.sock".into(), "/var/lib/containers/storage".into(), PATIENCE)
    }

    fn at(docker: PathBuf, storage: PathBuf, patience: Duration) -> Self {
        let asked = Asked { known: LruCache::new(CONTAINERS), rested_at: Duration::ZERO };
        Self { docker, storage, patience, asked: Mutex::new(asked) }
    }

    /// The container with the name and the image that its runtime tells; an error is in words.
    ///
    /// May take [`PATIENCE`], and remembers the answer for [`VALID`].
    pub(super) fn describe(&self, container: &Container) -> Result<Container, String> {
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
        let Told { name, image } = told?;
        Ok(Container { name, image, ..container.clone() })
    }

    fn ask(&self, container: &Container) -> Result<Told, String> {
        match container.runtime.as_deref() {
            Some("docker") => docker::ask(&self.docker, &container.id, self.patience),
            Some("podman" | "cri-o") => storage::read(&self.storage, &container.id),
            Some("lxc" | "systemd-nspawn") => Ok(Told::default()),
            Some(other) => Err(format!("{other} is not asked for name and image")),
            None => Err("its runtime is not known, nor asked for name and image".to_owned()),
        }
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

/// Time since boot.
fn since_boot() -> Duration {
    let Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(tv_nsec).unwrap_or_default())
}

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
