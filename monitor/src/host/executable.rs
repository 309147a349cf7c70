//! What a process really runs: its name as the kernel knows it, whether that still exists, whether
//! it is what this host has there, its hash.
//!
//! All of it comes through `/proc/PID/exe`, which leads to the file that runs even if it was
//! deleted, replaced, lies in a container or never had a name (memfd).

mod place;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use md5::Md5;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use sha2::Sha256;
use sha2::digest::Digest;

use super::proc::{self, Directory};

/// The file a process runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Executable {
    /// Its path in the mount namespace of the process, without the kernel's ` (deleted)` mark.
    pub(super) path: PathBuf,
    /// It was unlinked, or never had a name.
    pub(super) deleted: bool,
    /// Which contents.
    pub(super) key: Option<FileKey>,
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
        })
    }

    /// It is the file that has its path in portwatch's own root; an error is in words.
    pub(super) fn is_on_host(&self) -> Result<bool, String> {
        if self.deleted {
            return Ok(false);
        }
        place::is_at(&self.path, &self.key.ok_or("permission denied")?)
    }

    /// Both are one file, also if one of them was looked at after it was deleted.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        let file = |it: &Self| it.key.map(|key| (key.device, key.inode));
        file(self) == file(other)
    }
}

impl FileKey {
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
        if stat_key(&file).map_err(words)? != *key {
            return Err(ANOTHER_PROGRAM.to_owned());
        }
        if let Some(hash) = self.lock().get(&(algorithm, *key)) {
            return Ok(hash.clone());
        }
        if key.size > SIZE_LIMIT {
            return Err(format!("larger than {} MiB", SIZE_LIMIT >> 20));
        }
        let hash = match algorithm {
            Algorithm::Sha256 => hash::<Sha256>(&file, key.size),
            Algorithm::Md5 => hash::<Md5>(&file, key.size),
        };
        let hash = hash.map_err(words)?;
        if stat_key(&file).map_err(words)? != *key {
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
    let mut hex = String::with_capacity(64);
    for byte in hasher.finalize() {
        // Writing to a `String` cannot fail.
        write!(hex, "{byte:02x}").map_err(io::Error::other)?;
    }
    Ok(hex)
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

fn stat_key(file: &File) -> io::Result<FileKey> {
    Ok(FileKey::of(&stat(file, "", AtFlags::EMPTY_PATH)?))
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
