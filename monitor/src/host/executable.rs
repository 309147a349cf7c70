//! What a process really runs: its name as the kernel knows it, whether that still exists, whether
//! it is what this host has there, its hash.
//!
//! All of it comes through `/proc/PID/exe`, which leads to the file that runs even if it was
//! deleted, replaced, lies in a container or never had a name (memfd).

mod place;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use md5::Md5;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use sha2::Sha256;
use sha2::digest::Digest;

use self::place::Root;
use super::proc::{self, Directory};
use crate::escape;

/// The file a process runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Executable {
    /// Its path in the mount namespace of the process, without the kernel's ` (deleted)` mark.
    pub(super) path: PathBuf,
    /// It was unlinked, or never had a name.
    pub(super) deleted: bool,
    /// Which contents.
    pub(super) key: Option<FileKey>,
    /// Anybody can write to it.
    is_world_writable: bool,
}

/// Identifies the contents of a file. The change time is part of it since, unlike the others, it
/// cannot be set: who writes to a file and sets its modification time back still changes this.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct FileKey {
    device: (u32, u32),
    inode: u64,
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

impl Executable {
    /// Of a process.
    pub(super) fn of(process: &Directory) -> io::Result<Self> {
        let link = rustix::fs::readlinkat(process, "exe", Vec::new())?.into_bytes();
        let file = stat(process, "exe", AtFlags::empty()).ok();
        let (path, deleted) = match link.strip_suffix(DELETED) {
            Some(path) if !file.is_some_and(|file| is_named(process, &link, &file)) => {
                (path.to_vec(), true)
            }
            _ => (link, false),
        };
        Ok(Self {
            path: PathBuf::from(OsString::from_vec(path)),
            deleted,
            key: file.as_ref().map(FileKey::of),
            is_world_writable: file.as_ref().is_some_and(place::is_world_writable),
        })
    }

    /// It is the file that has its path in portwatch's own root; an error is in words.
    pub(super) fn is_on_host(&self) -> Result<bool, String> {
        if self.deleted {
            return Ok(false);
        }
        place::is_at(Root::Own, &self.path, &self.key.ok_or("permission denied")?)
    }

    /// The file itself, or the first directory on its path, if anybody can write to it; `on_host` is
    /// what [`Self::is_on_host`] says. An error is in words.
    pub(super) fn world_writable(
        &self,
        process: &Directory,
        on_host: Option<bool>,
    ) -> Result<Option<PathBuf>, String> {
        if self.is_memfd() {
            return Ok(None);
        }
        if self.is_world_writable {
            return Ok(Some(self.path.clone()));
        }
        let root = if on_host == Some(true) { Root::Own } else { Root::Of(process) };
        // What else has this path by now says nothing of it.
        let is_there =
            || self.key.is_some_and(|key| place::is_at(root, &self.path, &key) == Ok(true));
        if on_host == Some(true) || self.deleted || is_there() {
            place::world_writable_directory(root, &self.path)
        } else {
            Ok(None)
        }
    }

    /// The file that has the path of a deleted one by now, if it came after this moment: the same for
    /// the process and for this host. An error is in words.
    pub(super) fn successor(
        &self,
        process: &Directory,
        since_unix_ns: i64,
    ) -> Result<Option<File>, String> {
        if !self.deleted || self.is_memfd() {
            return Ok(None);
        }
        let Some(file) = place::read(&self.path)? else { return Ok(None) };
        let found =
            stat(&file, "", AtFlags::EMPTY_PATH).map_err(|error| proc::words(&error.into()))?;
        let key = FileKey::of(&found);
        let (seconds, nanoseconds) = key.changed;
        let changed_unix_ns =
            seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.into());
        let is_regular = FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile;
        let is_newer = changed_unix_ns >= since_unix_ns;
        let is_same = place::is_at(Root::Of(process), &self.path, &key)?;
        Ok((is_regular && is_newer && is_same).then_some(file))
    }

    /// It never had a name.
    fn is_memfd(&self) -> bool {
        self.deleted && self.path.as_os_str().as_encoded_bytes().starts_with(b"/memfd:")
    }

    /// Both are one file, also if one of them was looked at after it was deleted.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        let file = |it: &Self| it.key.map(|key| (key.device, key.inode));
        file(self) == file(other)
    }
}

impl FileKey {
    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::of(&stat(file, "", AtFlags::EMPTY_PATH)?))
    }

    /// Both are one file, whatever its contents.
    fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    fn of(file: &Statx) -> Self {
        Self {
            device: (file.stx_dev_major, file.stx_dev_minor),
            inode: file.stx_ino,
            size: file.stx_size,
            modified: (file.stx_mtime.tv_sec, file.stx_mtime.tv_nsec),
            changed: (file.stx_ctime.tv_sec, file.stx_ctime.tv_nsec),
        }
    }
}

/// A hash function.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Algorithm {
    /// Names what runs.
    Sha256,
    /// What dpkg keeps of the files it installs.
    Md5,
}

/// Hashes of executables, remembered as long as the file stays as it is.
#[derive(Debug)]
pub(super) struct Hashes {
    known: Mutex<LruCache<(Algorithm, FileKey), String>>,
}

impl Hashes {
    pub(super) fn new() -> Self {
        Self { known: Mutex::new(LruCache::new(HASHES)) }
    }

    /// The SHA-256 of these contents, if it was computed before.
    pub(super) fn known(&self, key: &FileKey) -> Option<String> {
        self.lock().get(&(Algorithm::Sha256, *key)).cloned()
    }

    /// Computes the hash of what a process runs, in lower-case hex; an error is in words.
    ///
    /// Takes as long as reading the file does: a second and more for the largest.
    pub(super) fn compute(
        &self,
        algorithm: Algorithm,
        process: &Directory,
        key: &FileKey,
    ) -> Result<String, String> {
        let words = |error: io::Error| proc::words(&error);
        let file = process.file("exe").map_err(words)?;
        if FileKey::of_file(&file).map_err(words)? != *key {
            return Err(ANOTHER_PROGRAM.to_owned());
        }
        self.of_file(algorithm, &file, key)
    }

    /// The same of a file, which has this key.
    pub(super) fn of_file(
        &self,
        algorithm: Algorithm,
        file: &File,
        key: &FileKey,
    ) -> Result<String, String> {
        let words = |error: io::Error| proc::words(&error);
        if let Some(hash) = self.lock().get(&(algorithm, *key)) {
            return Ok(hash.clone());
        }
        if key.size > SIZE_LIMIT {
            return Err(format!("larger than {} MiB", SIZE_LIMIT >> 20));
        }
        let hash = match algorithm {
            Algorithm::Sha256 => hash::<Sha256>(file, key.size),
            Algorithm::Md5 => hash::<Md5>(file, key.size),
        };
        let hash = hash.map_err(words)?;
        if FileKey::of_file(file).map_err(words)? != *key {
            return Err("changed while it was read".to_owned());
        }
        self.lock().put((algorithm, *key), hash.clone());
        Ok(hash)
    }

    /// A cache has no state that a panic elsewhere could leave half done.
    fn lock(&self) -> MutexGuard<'_, LruCache<(Algorithm, FileKey), String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SHA-256 of a file that is there, in lower-case hex. Never waits for a pipe or a terminal.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > SIZE_LIMIT {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sha256_of_open(&file, metadata.len())
}

/// The same of the first so many bytes of an open file, from where it stands.
pub fn sha256_of_open(file: &File, size: u64) -> io::Result<String> {
    hash::<Sha256>(file, size)
}

/// Hashes a file of this size.
fn hash<D: Digest>(file: &File, size: u64) -> io::Result<String> {
    let mut hasher = D::new();
    let mut buffer = vec![0; 256 << 10];
    // A file system may have more to give than it says the file is long.
    let mut file = file.take(size);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => hasher.update(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(escape::hexadecimal(&hasher.finalize()))
}

/// There is a file of this very name, ` (deleted)` included, and it is the one.
fn is_named(process: &Directory, link: &[u8], file: &Statx) -> bool {
    if file.stx_nlink == 0 {
        return false;
    }
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let there = rustix::fs::openat(process, "root", directory, Mode::empty()).and_then(|root| {
        // Symbolic links lead where they lead for the process, and no further than its root.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(root, link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
    });
    let key = |file: &Statx| (file.stx_dev_major, file.stx_dev_minor, file.stx_ino);
    there
        .and_then(|there| stat(there, "", AtFlags::EMPTY_PATH))
        .is_ok_and(|there| key(&there) == key(file))
}

/// Never asks a file server: one that does not answer must not hold us up.
fn stat(directory: impl AsFd, name: &str, flags: AtFlags) -> rustix::io::Result<Statx> {
    let flags = flags | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)
}

/// The process has called `execve` since it was looked at.
pub(super) const ANOTHER_PROGRAM: &str = "it runs another program by now";

/// What the kernel appends to the name of a file that has none any more. A name may end like that
/// too.
const DELETED: &[u8] = b" (deleted)";
/// Larger executables are not hashed.
const SIZE_LIMIT: u64 = 512 << 20;
/// Hashes remembered.
const HASHES: NonZeroUsize = NonZeroUsize::new(2048).unwrap();

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn the_hash_of_this_process_is_that_of_its_file() {
        let process = Directory::open(std::process::id()).unwrap();
        let executable = Executable::of(&process).unwrap();

        let hash =
            Hashes::new().compute(Algorithm::Sha256, &process, &executable.key.unwrap()).unwrap();

        let own = File::open(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(hash, super::hash::<Sha256>(&own, u64::MAX).unwrap());
        assert!(!executable.deleted);
    }

    #[test]
    fn a_hash_is_that_of_fips_180_and_ends_where_the_file_was_long() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("abc");
        fs::write(&path, "abcdef").unwrap();

        let hash = hash::<Sha256>(&File::open(path).unwrap(), 3).unwrap();

        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_deleted_executable_is_hashed_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cat");
        let mut child = Running::copy_of_cat(&path);
        let process = child.directory();
        let before = Executable::of(&process).unwrap();

        fs::remove_file(&path).unwrap();
        let after = Executable::of(&process).unwrap();
        let hash = Hashes::new().compute(Algorithm::Sha256, &process, &after.key.unwrap());

        assert_eq!((before.path, before.deleted), (path.clone(), false));
        assert_eq!((after.path, after.deleted), (path, true));
        assert_eq!(hash.unwrap().len(), 64);
        child.end();
    }

    #[test]
    fn an_executable_whose_last_name_is_elsewhere_is_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cat");
        let mut child = Running::copy_of_cat(&path);
        fs::hard_link(&path, directory.path().join("other")).unwrap();

        fs::remove_file(&path).unwrap();
        let executable = Executable::of(&child.directory()).unwrap();

        assert_eq!((executable.path, executable.deleted), (path, true));
        child.end();
    }

    #[test]
    fn a_file_that_anybody_can_write_to_is_told_before_its_directories() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("cat");
        let mut child = Running::copy_of_cat(&path);
        let process = child.directory();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o757)).unwrap();

        let executable = Executable::of(&process).unwrap();

        assert_eq!(executable.world_writable(&process, Some(true)), Ok(Some(path)));
        child.end();
    }

    #[test]
    fn what_has_the_path_of_a_deleted_executable_since_is_its_successor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("cat");
        let mut child = Running::copy_of_cat(&path);
        let process = child.directory();
        let successor = |since_unix_ns| {
            let executable = Executable::of(&process).unwrap();
            executable.successor(&process, since_unix_ns).map(|file| file.is_some())
        };

        let before = successor(0);
        fs::remove_file(&path).unwrap();
        let nothing = successor(0);
        fs::write(&path, "upgraded").unwrap();
        let (upgraded, older) = (successor(0), successor(i64::MAX));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let no_file = successor(0);

        child.end();
        assert_eq!([before, nothing, older, no_file], [const { Ok(false) }; 4]);
        assert_eq!(upgraded, Ok(true));
    }

    #[test]
    fn an_executable_named_deleted_is_not_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cat (deleted)");
        let mut child = Running::copy_of_cat(&path);

        let executable = Executable::of(&child.directory()).unwrap();

        assert_eq!((executable.path, executable.deleted), (path, false));
        child.end();
    }

    #[test]
    fn other_contents_than_those_looked_at_are_not_hashed() {
        let process = Directory::open(std::process::id()).unwrap();
        let mut key = Executable::of(&process).unwrap().key.unwrap();
        key.inode ^= 1;

        assert_eq!(
            Hashes::new().compute(Algorithm::Sha256, &process, &key).unwrap_err(),
            ANOTHER_PROGRAM
        );
    }

    /// A process that waits until its input ends.
    pub(in super::super) struct Running(Child);

    impl Running {
        pub(in super::super) fn copy_of_cat(path: &Path) -> Self {
            fs::copy("/bin/cat", path).unwrap();
            let mut command = Command::new(path);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = loop {
                match command.spawn() {
                    // A child of another test still has the descriptor that wrote the copy.
                    Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                    child => break child.unwrap(),
                }
            };
            // `spawn` returns in the midst of `execve`: what comes back shows that it is over.
            io::Write::write_all(child.stdin.as_mut().unwrap(), b"\n").unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            Self(child)
        }

        pub(in super::super) fn pid(&self) -> u32 {
            self.0.id()
        }

        fn directory(&self) -> Directory {
            Directory::open(self.pid()).unwrap()
        }

        pub(in super::super) fn end(&mut self) {
            drop(self.0.stdin.take());
            assert!(self.0.wait().unwrap().success());
        }
    }
}
