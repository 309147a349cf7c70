//! What containerd keeps of a running container: its OCI bundle, where annotations have what whoever
//! asked for the container calls it.
//!
//! Kubernetes says there by CRI what name, image and pod are, nerdctl what the name is, and `ctr`
//! nothing. The rest is in a database of containerd's own, which is not read.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::{Told, contents, image_id, is_roots_alone, repository, text};
use crate::host::proc;
use crate::owner::Image;

/// `config.json`, as far as it is of use.
#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    annotations: Option<Annotations>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "io.kubernetes.cri.container-type")]
    kind: Option<String>,
    #[serde(rename = "io.kubernetes.cri.container-name")]
    name: Option<String>,
    /// As the pod asks for it, else as containerd has it.
    #[serde(rename = "io.kubernetes.cri.image-name")]
    image: Option<String>,
    /// Of what only holds a pod's namespaces.
    #[serde(rename = "io.kubernetes.cri.podsandbox.image-name")]
    sandbox_image: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-name")]
    pod_name: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-namespace")]
    pod_namespace: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-uid")]
    pod_uid: Option<String>,
    #[serde(rename = "nerdctl/name")]
    nerdctl_name: Option<String>,
}

/// What is kept of the container with this id, in the first of these states that has it; `None` if it
/// is Docker's, who knows more of it. An error is in words.
pub(super) fn read(states: &[PathBuf], id: &str) -> Result<Option<Told>, String> {
    if !is_identifier(id) {
        return Err("containerd has no such ids".to_owned());
    }
    for state in states {
        let mut found = bundles(state, id).map_err(|error| format!("containerd: {error}"))?;
        let Some((namespace, bundle)) = found.pop() else { continue };
        if !found.is_empty() {
            return Err("containerd has it in more than one of its namespaces".to_owned());
        }
        if namespace == DOCKER {
            return Ok(None);
        }
        let config = config(&bundle)?;
        return Ok(Some(told(config.annotations.unwrap_or_default(), &namespace)));
    }
    Err("containerd does not know it".to_owned())
}

/// The bundles of this id, each with the namespace of containerd that it is in.
fn bundles(state: &Path, id: &str) -> std::io::Result<Vec<(String, OwnedFd)>> {
    let mut found = Vec::new();
    // Where that is, the administrator says: it may be a link.
    let tasks = match rustix::fs::open(state.join(TASKS), DIRECTORY, Mode::empty()) {
        Ok(tasks) => roots_alone(tasks)?,
        Err(Errno::NOENT) => return Ok(found),
        Err(error) => return Err(error.into()),
    };
    let names = Dir::read_from(&tasks)?.filter_map(Result::ok);
    let names = names.filter_map(|entry| Some(entry.file_name().to_str().ok()?.to_owned()));
    for namespace in names.filter(|name| is_identifier(name)).take(NAMESPACES) {
        // One may be gone by now, as containers come and go.
        let Some(of_namespace) = below(&tasks, &namespace)? else { continue };
        if let Some(bundle) = below(&of_namespace, id)? {
            found.push((namespace, bundle));
        }
    }
    Ok(found)
}

/// A directory of root's in another one.
fn below(directory: &OwnedFd, name: &str) -> std::io::Result<Option<OwnedFd>> {
    let flags = DIRECTORY | OFlags::NOFOLLOW;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(found) => roots_alone(found).map(Some),
        // Nothing is there, or no directory.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn roots_alone(directory: OwnedFd) -> std::io::Result<OwnedFd> {
    let directory = File::from(directory);
    is_roots_alone(&directory.metadata()?)?;
    Ok(directory.into())
}

fn config(bundle: &OwnedFd) -> Result<Config, String> {
    let bytes = contents(bundle.as_fd(), Path::new(CONFIG), MAX_CONFIG);
    let bytes = bytes.map_err(|error| format!("{CONFIG}: {}", proc::words(&error)))?;
    // What is wrong is not told: the error quotes the file.
    serde_json::from_slice(&bytes).ok().ok_or_else(|| format!("{CONFIG}: not understood"))
}

fn told(annotations: Annotations, namespace: &str) -> Told {
    let known = |value: Option<String>| value.and_then(|value| text(&value));
    if annotations.kind.is_none() {
        let name = known(annotations.nerdctl_name);
        let untold = match &name {
            Some(_) => "containerd tells no image of it".to_owned(),
            None => format!("containerd tells neither name nor image (its namespace {namespace})"),
        };
        return Told { name, untold: Some(untold), ..Told::default() };
    }
    let image = known(annotations.image).or_else(|| known(annotations.sandbox_image)).map(image);
    let untold = match &image {
        None => Some("containerd tells no image of it"),
        Some(image) if image.hashes().is_empty() => Some("containerd tells no hash of its image"),
        Some(_) => None,
    };
    Told {
        name: known(annotations.name),
        image,
        pod_namespace: known(annotations.pod_namespace),
        pod_name: known(annotations.pod_name),
        pod_uid: known(annotations.pod_uid),
        untold: untold.map(str::to_owned),
        ..Told::default()
    }
}

/// An image by its name, which may have what it is by contents.
fn image(name: String) -> Image {
    let digest = name.split_once('@').and_then(|(_, digest)| image_id(digest));
    let digests = digest.map(|digest| format!("{}@{digest}", repository(&name)));
    Image { id: image_id(&name), digests: digests.into_iter().collect(), name }
}

/// Whether containerd could have given this to a namespace or a container: words of letters and digits,
/// with a single `.`, `_` or `-` between them.
fn is_identifier(name: &str) -> bool {
    let mut words = name.split(['.', '_', '-']);
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    name.len() <= MAX_IDENTIFIER && words.all(is_word)
}

/// Where bundles lie in the state of a containerd.
const TASKS: &str = "io.containerd.runtime.v2.task";
const CONFIG: &str = "config.json";
/// The namespace of Docker's own containers.
const DOCKER: &str = "moby";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Namespaces looked at: there are seldom more than three.
const NAMESPACES: usize = 256;
const MAX_IDENTIFIER: usize = 76;
/// Three kilobytes are usual; environment variables and mounts of pods make it more.
const MAX_CONFIG: u64 = 4 << 20;

#[cfg(test)]
mod tests;
