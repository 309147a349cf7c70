//! What podman and CRI-O keep of containers and images: the JSON files of containers/storage.
//!
//! Only root's storage, by files that only root can write: what users run without root is theirs to
//! describe, hence not asked.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Told, image_id, text};
use crate::host::proc;
use crate::owner::Image;

/// An entry of `containers.json`.
#[derive(Debug, Deserialize)]
struct ContainerEntry {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    /// Id of the image.
    #[serde(default)]
    image: String,
    /// JSON once more, of whoever made the container.
    #[serde(default)]
    metadata: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Metadata {
    /// The image as it was asked for.
    image_name: String,
}

/// An entry of `images.json`.
#[derive(Debug, Deserialize)]
struct ImageEntry {
    id: String,
    /// Of the manifest.
    #[serde(default)]
    digest: String,
    #[serde(default)]
    names: Vec<String>,
}

/// What is kept of the container with this id; an error is in words.
pub(super) fn read(storage: &Path, id: &str) -> Result<Told, String> {
    let mut of_containers = Vec::new();
    for name in CONTAINERS {
        of_containers.extend(entries::<ContainerEntry>(&storage.join(name))?);
    }
    let container = of_containers.into_iter().find(|container| container.id == id);
    let container = container.ok_or("its storage does not know it")?;
    let image = match container.image.as_str() {
        "" => None,
        image => Some(image_of(storage, image, &container.metadata)?),
    };
    Ok(Told { name: container.names.first().and_then(|name| text(name)), image })
}

fn image_of(storage: &Path, id: &str, metadata: &str) -> Result<Image, String> {
    let images: Vec<ImageEntry> = entries(&storage.join(IMAGES))?;
    let known = images.into_iter().find(|image| image.id == id);
    let asked_for = serde_json::from_str(metadata).ok();
    let asked_for = asked_for.and_then(|Metadata { image_name }| text(&image_name));
    let names = known.as_ref().map(|image| image.names.as_slice()).unwrap_or_default();
    let first = names.first().and_then(|name| text(name));
    let digest = known.as_ref().map(|image| image.digest.as_str()).and_then(image_id);
    let digests = digest.map(|digest| {
        let mut digests: Vec<String> = names
            .iter()
            .filter_map(|name| Some(format!("{}@{digest}", repository(&text(name)?))))
            .collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    });
    let name = asked_for.or(first).unwrap_or_else(|| id.to_owned());
    Ok(Image { name, id: image_id(id), digests: digests.unwrap_or_default() })
}

/// A name without tag and digest: a colon behind the last slash begins a tag, one before it a port.
fn repository(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// The entries of a file; none where there is no file.
fn entries<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bytes = match contents(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{name}: {}", proc::words(&error))),
    };
    // What is wrong is not told: the error quotes the file.
    serde_json::from_slice(&bytes).ok().ok_or_else(|| format!("{name}: not understood"))
}

/// A file of root's, not followed through a link.
fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
    let about = file.metadata()?;
    if !about.is_file() || about.uid() != 0 || about.mode() & 0o022 != 0 {
        return Err(std::io::Error::other("others than root can write it"));
    }
    if about.len() > MAX_FILE {
        return Err(std::io::Error::other("too long"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Those that last, and those of `--rm`.
const CONTAINERS: [&str; 2] =
    ["overlay-containers/containers.json", "overlay-containers/volatile-containers.json"];
const IMAGES: &str = "overlay-images/images.json";
/// Thousands of containers.
const MAX_FILE: u64 = 16 << 20;
