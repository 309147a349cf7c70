//! `portwatch evidence verify`: holds a directory or an archive against its manifest.
//!
//! Whoever hands it to us may have made it: nothing is unpacked, no link is followed, and nothing is read
//! that is not as long as the manifest says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, DirEntry, FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};
use tar::Archive;

use super::manifest::{self, Item, MAX_DEPTH, Manifest, NAME, shown};
use super::store::INSIDE;
use crate::escape;

/// What verifying gave.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) manifest: Manifest,
    /// SHA-256 of the manifest.
    pub(super) sha256: String,
    /// What is not as the manifest says, a line each.
    pub(super) differences: Vec<String>,
}

/// Verifies what is there; an error says in words why it is no evidence.
pub(super) fn verify(path: &Path) -> Result<Verified, String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let words = |error: io::Error| error.to_string();
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty());
    let file = File::from(file.map_err(|error| words(error.into()))?);
    let kind = file.metadata().map_err(words)?.file_type();
    if kind.is_dir() {
        directory(file.as_fd())
    } else if kind.is_file() {
        archive(file)
    } else {
        Err("neither a directory nor an archive".to_owned())
    }
}

/// The manifest, and what of it was not seen yet.
struct Check {
    manifest: Manifest,
    sha256: String,
    unseen: BTreeMap<String, Item>,
    differences: Vec<String>,
    more: u64,
}

impl Check {
    fn against(bytes: &[u8]) -> Result<Self, String> {
        let manifest = Manifest::parse(bytes)?;
        let unseen = manifest.items.iter().map(|item| (item.path.clone(), item.clone()));
        Ok(Self {
            unseen: unseen.collect(),
            sha256: escape::hexadecimal(&Sha256::digest(bytes)),
            manifest,
            differences: Vec::new(),
            more: 0,
        })
    }

    fn differs(&mut self, difference: String) {
        if self.differences.len() < MAX_DIFFERENCES {
            self.differences.push(difference);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// A file that is there.
    fn file(&mut self, path: &str, size: u64, data: impl Read) {
        let Some(item) = self.unseen.remove(path) else {
            return self.differs(format!("added: {}", shown(path)));
        };
        if size != item.size {
            return self.differs(format!("changed: {path} has {size} bytes, not {}", item.size));
        }
        match hash(data, size) {
            Ok(sha256) if sha256 == item.sha256 => {}
            Ok(sha256) => self.differs(format!("changed: {path} has the SHA-256 {sha256}")),
            Err(error) => self.differs(format!("unreadable: {path}: {error}")),
        }
    }

    /// Something else that is there in place of a file.
    fn is_no_file(&mut self, path: &str, why: &str) {
        self.unseen.remove(path);
        self.differs(format!("changed: {} {why}", shown(path)));
    }

    fn finish(mut self) -> Verified {
        for path in std::mem::take(&mut self.unseen).into_keys() {
            self.differs(format!("missing: {path}"));
        }
        if self.more > 0 {
            self.differences.push(format!("and {} more differences", self.more));
        }
        let Self { manifest, sha256, differences, .. } = self;
        Verified { manifest, sha256, differences }
    }
}

/// A directory, in which nothing is reached by a link.
struct Root<'a>(BorrowedFd<'a>);

impl Root<'_> {
    fn open(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(self.0, path, flags, Mode::empty(), INSIDE)?.into())
    }

    fn list(&self, path: &str) -> io::Result<Dir> {
        Ok(Dir::read_from(self.open(if path.is_empty() { "." } else { path })?)?)
    }
}

fn directory(root: BorrowedFd<'_>) -> Result<Verified, String> {
    let root = Root(root);
    let manifest = root.open(NAME).and_then(|file| {
        let is_file = file.metadata()?.is_file();
        if is_file { manifest_of(file) } else { Err(io::Error::other("no file")) }
    });
    let manifest = manifest.map_err(|error| format!("{NAME}: {error}"))?;
    let mut check = Check::against(&manifest)?;
    let mut directories = vec![String::new()];
    let mut entries = 0_usize;
    while let Some(directory) = directories.pop() {
        let unreadable = |error| format!("unreadable: {}: {error}", shown(&directory));
        let mut listed = match root.list(&directory) {
            Ok(listed) => listed,
            Err(error) => {
                check.differs(unreadable(error));
                continue;
            }
        };
        while let Some(entry) = listed.read() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    check.differs(unreadable(error.into()));
                    break;
                }
            };
            if [&b"."[..], b".."].contains(&entry.file_name().to_bytes()) {
                continue;
            }
            entries = entries.saturating_add(1);
            if entries > MAX_ENTRIES {
                check.differs(too_many());
                return Ok(check.finish());
            }
            directories.extend(in_directory(&root, &directory, &entry, &mut check));
        }
    }
    Ok(check.finish())
}

/// Looks at an entry of a directory; gives its path if it is one that is to be looked at as well.
fn in_directory(
    root: &Root<'_>,
    directory: &str,
    entry: &DirEntry,
    check: &mut Check,
) -> Option<String> {
    let name = String::from_utf8_lossy(entry.file_name().to_bytes());
    let path = if directory.is_empty() { name.into_owned() } else { format!("{directory}/{name}") };
    if !manifest::is_safe(&path) {
        check.differs(format!("added: {}", shown(&path)));
        return None;
    }
    // Opened before it is asked what it is, so that it is that.
    match root.open(&path).and_then(|file| Ok((file.metadata()?, file))) {
        Ok((metadata, _)) if metadata.is_dir() => {
            if path.split('/').count() < MAX_DEPTH {
                return Some(path);
            }
            check.differs(format!("added: {path}"));
        }
        Ok((metadata, _)) if !metadata.is_file() => check.is_no_file(&path, "is no file"),
        Ok(_) if path == NAME => {}
        Ok((metadata, file)) => check.file(&path, metadata.len(), file),
        Err(_) if entry.file_type() == FileType::Symlink => check.is_no_file(&path, "is a link"),
        Err(error) => check.is_no_file(&path, &format!("cannot be opened: {error}")),
    }
    None
}

fn too_many() -> String {
    format!("there are more than {MAX_ENTRIES} files; the rest is not verified")
}

fn archive(file: File) -> Result<Verified, String> {
    let no_archive = |error: io::Error| format!("no archive of portwatch: {error}");
    let mut archive = Archive::new(file);
    let mut check: Option<Check> = None;
    let mut top: Option<String> = None;
    // Where the next entry would begin, as long as there is no damage.
    let mut end = Some(0_u64);
    // Raw: no entry means more than it says itself.
    let entries = archive.entries_with_seek().map_err(no_archive)?.raw(true);
    for (count, entry) in entries.enumerate() {
        let mut entry = match (entry, &mut check) {
            (Ok(entry), _) => entry,
            (Err(error), None) => return Err(no_archive(error)),
            (Err(error), Some(check)) => {
                check.differs(format!("the archive is damaged: {error}; the rest is not verified"));
                end = None;
                break;
            }
        };
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (kind, size) = (entry.header().entry_type(), entry.size());
        let content = entry.raw_file_position().saturating_add(size);
        end = content.checked_next_multiple_of(BLOCK);
        let (first, path) = split(&name);
        let is_below_top = first == top.get_or_insert_with(|| first.to_owned());
        let is_plain = is_below_top && manifest::is_safe(first);
        match &mut check {
            None if kind.is_dir() && is_plain && path.is_empty() => {}
            None if kind.is_file() && is_plain && path == NAME => {
                let bytes = manifest_of(&mut entry).map_err(no_archive)?;
                check = Some(Check::against(&bytes)?);
            }
            None => return Err(format!("no archive of portwatch: {NAME} does not come first")),
            Some(check) if count > MAX_ENTRIES => {
                check.differs(too_many());
                end = None;
                break;
            }
            Some(check) if !is_plain || !(path.is_empty() || manifest::is_safe(path)) => {
                check.differs(format!("added: {}", shown(&name)));
            }
            Some(_) if kind.is_dir() => {}
            Some(check) if !kind.is_file() => {
                check.is_no_file(path, "is no file");
            }
            Some(check) => {
                let mode = entry.header().mode().unwrap_or(u32::MAX);
                if mode & !0o666 != 0 {
                    check.differs(format!("changed: {} has the mode {mode:o}", shown(path)));
                }
                check.file(path, size, &mut entry);
            }
        }
    }
    let mut check = check.ok_or_else(|| format!("no archive of portwatch: it has no {NAME}"))?;
    let tail = end.map(|end| tail(archive.into_inner(), end));
    if let Some(difference) =
        tail.and_then(|tail| tail.unwrap_or_else(|error| Some(error.to_string())))
    {
        check.differs(difference);
    }
    Ok(check.finish())
}

/// The directory at the top, and what is below it.
fn split(name: &str) -> (&str, &str) {
    let (top, path) = name.split_once('/').unwrap_or((name, ""));
    (top, path.strip_suffix('/').unwrap_or(path))
}

/// What is wrong with what follows the last entry: there have to be two blocks of zeros, and nothing else.
fn tail(mut file: File, end: u64) -> io::Result<Option<String>> {
    if file.metadata()?.len() < end.saturating_add(2 * BLOCK) {
        return Ok(Some("the archive is cut off".to_owned()));
    }
    file.seek(SeekFrom::Start(end))?;
    let mut buffer = [0; 16 << 10];
    for _ in 0..MAX_TAIL / buffer.len() {
        match file.read(&mut buffer)? {
            0 => return Ok(None),
            length if buffer.iter().take(length).any(|byte| *byte != 0) => break,
            _ => {}
        }
    }
    Ok(Some("added: something behind the end of the archive".to_owned()))
}

fn manifest_of(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_MANIFEST.saturating_add(1)).read_to_end(&mut bytes)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= MAX_MANIFEST => Ok(bytes),
        _ => Err(io::Error::other(format!("longer than {MAX_MANIFEST} bytes"))),
    }
}

/// The hash of exactly this many bytes.
fn hash(from: impl Read, size: u64) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut from = from.take(size.saturating_add(1));
    let mut buffer = vec![0; 256 << 10];
    let mut left = size;
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) if left == 0 => return Ok(escape::hexadecimal(&hasher.finalize())),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(buffer.get(..length).unwrap_or_default());
        let read = u64::try_from(length).unwrap_or(u64::MAX);
        left = left.checked_sub(read).ok_or_else(|| io::Error::other("it grows"))?;
    }
}

const MAX_MANIFEST: u64 = 64 << 20;
const MAX_ENTRIES: usize = 200_000;
const MAX_DIFFERENCES: usize = 1000;
/// Entries of an archive begin at multiples of this.
const BLOCK: u64 = 512;
/// `tar` fills up to 10 KiB; who pads to whole megabytes still has not added anything.
const MAX_TAIL: usize = 16 << 20;

#[cfg(test)]
mod tests;
