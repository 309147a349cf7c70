//! The directory that evidence is kept in: every file is made by us, for its owner only, hashed while it is
//! written, and never reached by a path that somebody could bend.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::manifest::{self, Header, Item, Manifest, Missing};
use crate::clock::{self, Clock};
use crate::escape::hexadecimal;
use crate::host::artifacts::{Artifact, Content};
use crate::host::executable;

/// A directory that is filled.
#[derive(Debug)]
pub(super) struct Store {
    root: OwnedFd,
    clock: Clock,
    directories: BTreeSet<String>,
    items: Vec<Item>,
    missing: Vec<Missing>,
    bytes: u64,
    has_failed: bool,
}

/// A file that is being written, under a name that it does not keep.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: File,
    path: String,
}

impl Store {
    /// Makes the directory, or takes one of ours that is empty; an error is in words.
    pub(super) fn create(path: &Path, clock: Clock) -> Result<Self, String> {
        match rustix::fs::mkdirat(CWD, path, OWNER_ONLY) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(io::Error::from(error).to_string()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root =
            rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| match error {
                Errno::NOTDIR | Errno::LOOP => "is there already, and no directory".to_owned(),
                error => io::Error::from(error).to_string(),
            })?;
        let words = |error: Errno| io::Error::from(error).to_string();
        let owner = rustix::fs::fstat(&root).map_err(words)?.st_uid;
        if owner != rustix::process::geteuid().as_raw() {
            return Err("belongs to another user".to_owned());
        }
        let mut entries = Dir::read_from(&root).map_err(words)?;
        let is_entry = |name: &[u8]| name != b"." && name != b"..";
        if entries.any(|entry| entry.is_ok_and(|it| is_entry(it.file_name().to_bytes()))) {
            return Err("is not empty; write to a new directory".to_owned());
        }
        rustix::fs::fchmod(&root, OWNER_ONLY).map_err(words)?;
        Ok(Self {
            root,
            clock,
            directories: BTreeSet::new(),
            items: Vec::new(),
            missing: Vec::new(),
            bytes: 0,
            has_failed: false,
        })
    }

    /// Keeps a fact as `directory/NAME`.
    pub(super) fn take(&mut self, directory: &str, artifact: Artifact) {
        let path = format!("{directory}/{}", artifact.name);
        match artifact.content {
            Ok(content) => self.put(&path, artifact.source, &content),
            Err(reason) => self.miss(&path, reason),
        }
    }

    /// Keeps these bytes.
    pub(super) fn put(&mut self, path: &str, source: impl Into<String>, content: &Content) {
        if self.items.len() >= MAX_ITEMS {
            return self.miss(path, format!("more than {MAX_ITEMS} files"));
        }
        let written = self.create_file(path).and_then(|mut file| {
            let written = file.write_all(&content.bytes);
            written.inspect_err(|_error| self.remove(path))
        });
        match written {
            Ok(()) => {
                let sha256 = hexadecimal(&Sha256::digest(&content.bytes));
                let size = u64::try_from(content.bytes.len()).unwrap_or(u64::MAX);
                self.note(path, sha256, size, source.into(), content.cut.clone());
            }
            Err(error) => self.fail(path, &error),
        }
    }

    /// Begins a file whose name is not known before it is written.
    pub(super) fn begin(&mut self, path: String) -> io::Result<Part> {
        self.create_file(&path).map(|file| Part { file, path })
    }

    /// Keeps what was begun, or says that it is there already. What cannot be kept is missing.
    pub(super) fn keep(&mut self, part: Part, item: Item) {
        let Part { file, path } = part;
        drop(file);
        if self.has(&item.path) {
            return self.remove(&path);
        }
        match rustix::fs::renameat(&self.root, &path, &self.root, &item.path) {
            Ok(()) => self.note(&item.path, item.sha256, item.size, item.source, item.cut),
            Err(error) => {
                self.remove(&path);
                self.fail(&item.path, &error.into());
            }
        }
    }

    /// Keeps what somebody else has written to what was begun, if that is anything. `cut`: why it is not whole.
    pub(super) fn seal(&mut self, part: Part, path: &str, source: &str, cut: Option<&str>) {
        match self.hash(&part.path) {
            Ok((_, 0)) => self.remove(&part.path),
            Ok((sha256, size)) => {
                let (path, source, cut) =
                    (path.to_owned(), source.to_owned(), cut.map(str::to_owned));
                self.keep(part, Item { path, sha256, size, source, obtained: String::new(), cut });
            }
            Err(error) => {
                self.remove(&part.path);
                self.fail(path, &error);
            }
        }
    }

    fn hash(&self, path: &str) -> io::Result<(String, u64)> {
        let file = open(self.root.as_fd(), path)?;
        let size = file.metadata()?.len();
        Ok((executable::sha256_of_open(&file, size)?, size))
    }

    /// Forgets what was begun.
    pub(super) fn abandon(&self, path: &str) {
        self.remove(path);
    }

    /// Says that something could not be obtained.
    pub(super) fn miss(&mut self, what: impl Into<String>, reason: impl Into<String>) {
        if self.missing.len() < MAX_ITEMS {
            self.missing.push(Missing { what: what.into(), reason: reason.into() });
        }
    }

    /// Says that something could not be written.
    pub(super) fn fail(&mut self, path: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::error!("writing {path}: {error}; evidence is being lost");
        }
        self.miss(path, format!("could not be written: {error}"));
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, path: &str) -> bool {
        self.items.iter().any(|item| item.path == path)
    }

    /// Now, by the clock of the host.
    pub(super) fn now(&self) -> String {
        let now = self.clock.unix_ns(clock::boot_ns());
        let now = jiff::Timestamp::from_nanosecond(i128::from(now)).unwrap_or_default();
        format!("{now:.9}")
    }

    /// Writes the manifest. Gives what there is now, and the hash of the manifest; the error is that of
    /// writing it.
    pub(super) fn finish(mut self, mut header: Header) -> io::Result<Finished> {
        header.ended = self.now();
        let (items, missing) = (std::mem::take(&mut self.items), std::mem::take(&mut self.missing));
        let manifest = Manifest::new(header, items, missing);
        let json = manifest.to_json()?;
        self.create_file(manifest::NAME)?.write_all(json.as_bytes())?;
        Ok(Finished {
            size: u64::try_from(json.len()).unwrap_or(u64::MAX),
            sha256: hexadecimal(&Sha256::digest(json.as_bytes())),
            manifest,
            root: self.root,
            directories: self.directories,
            bytes: self.bytes,
            has_failed: self.has_failed,
        })
    }

    fn note(&mut self, path: &str, sha256: String, size: u64, source: String, cut: Option<String>) {
        self.bytes = self.bytes.saturating_add(size);
        let (path, obtained) = (path.to_owned(), self.now());
        self.items.push(Item { path, sha256, size, source, obtained, cut });
    }

    fn create_file(&mut self, path: &str) -> io::Result<File> {
        if !manifest::is_safe(path) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (end, _) in path.match_indices('/') {
            let directory = path.get(..end).unwrap_or_default();
            if !self.directories.contains(directory) {
                rustix::fs::mkdirat(&self.root, directory, OWNER_ONLY)?;
                self.directories.insert(directory.to_owned());
            }
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::openat2(&self.root, path, flags, mode, INSIDE)?.into())
    }

    fn remove(&self, path: &str) {
        if let Err(error) = rustix::fs::unlinkat(&self.root, path, AtFlags::empty()) {
            tracing::debug!("{path}: {error}");
        }
    }
}

/// A directory with its manifest.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) manifest: Manifest,
    /// Size and SHA-256 of the manifest.
    pub(super) size: u64,
    pub(super) sha256: String,
    pub(super) directories: BTreeSet<String>,
    /// Bytes in all files but the manifest.
    pub(super) bytes: u64,
    pub(super) has_failed: bool,
    root: OwnedFd,
}

impl Finished {
    /// Opens a file of it.
    pub(super) fn open(&self, path: &str) -> io::Result<File> {
        open(self.root.as_fd(), path)
    }
}

fn open(root: BorrowedFd<'_>, path: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), INSIDE)?.into())
}

const OWNER_ONLY: Mode = Mode::RWXU;
/// Whoever can move things around on the way does not lead us out.
pub(super) const INSIDE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// Files, and things that are missing.
const MAX_ITEMS: usize = 65_536;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_and_directories_are_for_their_owner_only_and_hashed() {
        let lab = tempfile::tempdir().unwrap();
        let path = lab.path().join("case");
        let mut store = Store::create(&path, Clock::of_host()).unwrap();

        store.put("a/b", "somewhere", &content(b"abc"));
        let finished = store.finish(Header::default()).unwrap();

        let mode = |path: &str| {
            let path = lab.path().join(path);
            path.metadata().unwrap().permissions().mode() & 0o7777
        };
        assert_eq!((mode("case"), mode("case/a")), (0o700, 0o700));
        assert_eq!((mode("case/a/b"), mode("case/manifest.json")), (0o600, 0o600));
        let [item] = &*finished.manifest.items else { panic!("{:?}", finished.manifest) };
        assert!(item.sha256.starts_with("ba7816bf8f01cfea"), "{item:?}");
        assert_eq!((item.size, &*item.source), (3, "somewhere"));
    }

    #[test]
    fn a_directory_with_something_in_it_a_link_or_a_file_is_left_alone() {
        let lab = tempfile::tempdir().unwrap();
        let create = |name: &str| Store::create(&lab.path().join(name), Clock::of_host());
        std::fs::create_dir(lab.path().join("empty")).unwrap();
        std::fs::create_dir(lab.path().join("full")).unwrap();
        std::fs::write(lab.path().join("full/a"), "").unwrap();
        std::os::unix::fs::symlink("empty", lab.path().join("link")).unwrap();

        assert!(create("empty").is_ok());
        assert!(create("full").unwrap_err().contains("not empty"));
        assert!(create("full/a").unwrap_err().contains("no directory"));
        assert!(create("link").unwrap_err().contains("no directory"));
        assert!(create("none/a").is_err());
    }

    #[test]
    fn a_path_that_leads_out_is_not_written_and_said_to_be_missing() {
        let lab = tempfile::tempdir().unwrap();
        let path = lab.path().join("case");
        let mut store = Store::create(&path, Clock::of_host()).unwrap();
        std::os::unix::fs::symlink(lab.path(), path.join("link")).unwrap();

        store.put("../a", "x", &content(b""));
        store.directories.insert("link".to_owned());
        store.put("link/a", "x", &content(b""));

        let finished = store.finish(Header::default()).unwrap();
        assert_eq!((finished.manifest.items.len(), finished.manifest.missing.len()), (0, 2));
        assert!(finished.has_failed && !lab.path().join("a").exists());
    }

    #[test]
    fn what_was_begun_is_kept_once_under_its_final_name() {
        let lab = tempfile::tempdir().unwrap();
        let mut store = Store::create(&lab.path().join("case"), Clock::of_host()).unwrap();
        let item = |path: &str| Item {
            path: path.to_owned(),
            sha256: "00".to_owned(),
            size: 0,
            source: String::new(),
            obtained: String::new(),
            cut: None,
        };

        for part in ["x/1", "x/2"] {
            let part = store.begin(part.to_owned()).unwrap();
            store.keep(part, item("x/a"));
        }

        let names = std::fs::read_dir(lab.path().join("case/x")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a"]);
        assert_eq!(store.items.len(), 1);
    }

    fn content(bytes: &[u8]) -> Content {
        Content { bytes: bytes.to_vec(), cut: None }
    }
}
