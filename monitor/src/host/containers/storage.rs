//! What podman and CRI-O keep of containers and images: the JSON files of containers/storage.
//!
//! Only root's storage, by files that only root can write: what users run without root is theirs to
//! describe, hence not asked.

use std::path::Path;

use rustix::fs::CWD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Told, contents, image_id, repository, text};
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
    let name = container.names.first().and_then(|name| text(name));
    Ok(Told { name, image, ..Told::default() })
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

/// The entries of a file; none where there is no file.
fn entries<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bytes = match contents(CWD, path, MAX_FILE) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{name}: {}", proc::words(&error))),
    };
    // What is wrong is not told: the error quotes the file.
    serde_json::from_slice(&bytes).ok().ok_or_else(|| format!("{name}: not understood"))
}

/// Those that last, and those of `--rm`.
const CONTAINERS: [&str; 2] =
    ["overlay-containers/containers.json", "overlay-containers/volatile-containers.json"];
const IMAGES: &str = "overlay-images/images.json";
/// Thousands of containers.
const MAX_FILE: u64 = 16 << 20;
