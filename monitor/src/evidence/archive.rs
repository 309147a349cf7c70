//! The archive: the directory as one file, a plain `ustar` without anything that needs care when it is
//! unpacked. The manifest comes first.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::manifest;
use super::store::Finished;
use crate::escape;

/// Writes it, below a directory named `top`; gives its SHA-256. Times of files are `mtime`, in seconds since
/// the Unix epoch.
pub(super) fn write(evidence: &Finished, top: &str, mtime: u64, to: File) -> io::Result<String> {
    let mut archive = Builder::new(Hashed { inner: to, hasher: Sha256::new() });
    let mut append = |path: &str, kind: EntryType, size: u64, data: &mut dyn Read| {
        let mut header = Header::new_ustar();
        header.set_path(if path.is_empty() { top.to_owned() } else { format!("{top}/{path}") })?;
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o700 } else { 0o600 });
        header.set_size(size);
        header.set_mtime(mtime);
        header.set_cksum();
        archive.append(&header, data)
    };
    let directories = [String::new()].into_iter().chain(evidence.directories.iter().cloned());
    let mut directories = directories.peekable();
    if let Some(root) = directories.next() {
        append(&root, EntryType::Directory, 0, &mut io::empty())?;
    }
    let first = (manifest::NAME, evidence.size);
    let others = evidence.manifest.items.iter().map(|item| (item.path.as_str(), item.size));
    append(first.0, EntryType::Regular, first.1, &mut file(evidence, first)?)?;
    for directory in directories {
        append(&directory, EntryType::Directory, 0, &mut io::empty())?;
    }
    for item in others {
        append(item.0, EntryType::Regular, item.1, &mut file(evidence, item)?)?;
    }
    let Hashed { mut inner, hasher } = archive.into_inner()?;
    inner.flush()?;
    inner.sync_all()?;
    Ok(escape::hexadecimal(&hasher.finalize()))
}

/// A file that is as long as the manifest says: else the archive would be torn.
fn file(evidence: &Finished, (path, size): (&str, u64)) -> io::Result<File> {
    let file = evidence.open(path)?;
    if file.metadata()?.len() == size {
        Ok(file)
    } else {
        Err(io::Error::other(format!("{path} was changed while it was packed")))
    }
}

/// The name of the directory in the archive: that of the directory where it is a plain one.
pub(super) fn top(directory: &Path) -> &str {
    let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_plain = name.len() <= MAX_TOP && !name.contains('/') && manifest::is_safe(name);
    if is_plain { name } else { "evidence" }
}

/// Hashes what is written.
struct Hashed {
    inner: File,
    hasher: Sha256,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// With the longest path below it, it fits into the two fields that `ustar` has for a name.
const MAX_TOP: usize = 64;
