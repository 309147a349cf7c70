//! Where evidence goes: made first of all, so that what cannot be written is said before anything is looked at.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::store::Store;
use crate::clock::Clock;
use crate::descriptor;
use crate::escape;
use crate::failure::Failure;

/// The directory, and the archive beside it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) store: Store,
    pub(super) archive: (PathBuf, File),
}

impl Place {
    /// Makes both.
    pub(super) fn make(directory: &Path) -> Result<Self, Failure> {
        let usage = |path: &Path, why: &str| {
            Failure::Usage(format!("{}: {why}", escape::quote(&path.to_string_lossy())))
        };
        let Some(name) = directory.file_name() else {
            return Err(usage(directory, "name a directory that evidence can be written to"));
        };
        let name = [name.as_bytes(), b".tar"].concat();
        let archive = directory.with_file_name(OsStr::from_bytes(&name));
        let file = descriptor::create(&archive).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => usage(&archive, "is there already"),
            _ => usage(&archive, &error.to_string()),
        })?;
        let store = Store::create(directory, Clock::of_host()).map_err(|why| {
            remove(&archive);
            usage(directory, &why)
        })?;
        Ok(Self { directory: directory.to_owned(), store, archive: (archive, file) })
    }

    /// Nothing was obtained.
    pub(super) fn remove(self) {
        remove(&self.archive.0);
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::debug!("removing what was made: {error}");
        }
    }
}

/// Removes a file of ours.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!("removing what was made: {error}");
    }
}
