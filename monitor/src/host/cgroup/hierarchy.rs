//! The path of a cgroup whose id a hook noted: what is left of where a process was that is gone.
//!
//! The id is the inode of the cgroup's directory, and is not used again while the host runs
//! (`kernfs_id` in `include/linux/kernfs.h`, 64 bits).

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fmt, io};

use lru::LruCache;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

/// The cgroup v2 hierarchy of this host.
pub struct Hierarchy {
    root: OwnedFd,
    known: Mutex<Known>,
}

struct Known {
    /// By id; also those that are gone by now.
    paths: LruCache<u64, PathBuf>,
    /// The tree is not walked again before, by `CLOCK_MONOTONIC`: so that it takes a tenth of a thread
    /// at most.
    rest_until_ns: i64,
}

impl Hierarchy {
    /// The one with this root, an open directory.
    pub fn new(root: OwnedFd) -> Self {
        let known = Known { paths: LruCache::new(KNOWN), rest_until_ns: 0 };
        Self { root, known: Mutex::new(known) }
    }

    /// The path of the cgroup with this id, as `/proc/PID/cgroup` has it; an error is in words.
    ///
    /// Walks the tree when it does not know the id.
    pub fn path_of(&self, id: u64) -> Result<PathBuf, &'static str> {
        // A cache has no state that a panic elsewhere could leave half done.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = known.paths.get(&id) {
            return Ok(path.clone());
        }
        let began_ns = now_ns();
        if began_ns < known.rest_until_ns {
            return Err("not looked for: too many at once");
        }
        // A cgroup that cannot be read is gone.
        walk(&self.root, |id, path| drop(known.paths.put(id, path.to_owned())));
        let took_ns = now_ns().saturating_sub(began_ns);
        known.rest_until_ns = now_ns().saturating_add(took_ns.saturating_mul(REST));
        known.paths.get(&id).cloned().ok_or("gone")
    }
}

impl Hierarchy {
    /// Whether root alone can make cgroups in the one with this path, as `/proc/PID/cgroup` has it; `None` if
    /// the path is not of this hierarchy.
    pub fn is_roots_alone(&self, path: &str) -> io::Result<Option<bool>> {
        let inside = path.trim_matches('/');
        let outermost = inside.split('/').next().unwrap_or_default();
        if inside.split('/').any(|name| name == "..") {
            return Ok(None);
        }
        let about = |path: &str| {
            let path = if path.is_empty() { "." } else { path };
            rustix::fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW)
        };
        match about(inside) {
            Ok(about) => Ok(Some(about.st_uid == 0 && about.st_mode & 0o022 == 0)),
            Err(Errno::NOENT) if about(outermost).is_err() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Debug for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hierarchy").field("root", &self.root).finish_non_exhaustive()
    }
}

fn now_ns() -> i64 {
    let Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(ClockId::Monotonic);
    tv_sec.saturating_mul(1_000_000_000).saturating_add(tv_nsec)
}

/// Visits the directories below `root`, outer ones first, as far as [`KNOWN`] of them.
fn walk(root: &OwnedFd, mut visit: impl FnMut(u64, &Path)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directories = VecDeque::from([PathBuf::from("/")]);
    let mut visited = 0_usize;
    while let Some(path) = directories.pop_front() {
        let inside = path.strip_prefix("/").ok().filter(|path| !path.as_os_str().is_empty());
        let inside = inside.unwrap_or(Path::new("."));
        let opened = rustix::fs::openat(root, inside, flags, Mode::empty());
        let Ok(entries) = opened.and_then(Dir::new) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_bytes();
            if entry.file_type() != FileType::Directory || [&b"."[..], b".."].contains(&name) {
                continue;
            }
            if visited == KNOWN.get() {
                return;
            }
            visited = visited.saturating_add(1);
            let path = path.join(OsStr::from_bytes(name));
            visit(entry.ino(), &path);
            directories.push_back(path);
        }
    }
}

/// Cgroups remembered, and looked at in one walk.
const KNOWN: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Rest after a walk, in times of what it took.
const REST: i64 = 9;

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn a_cgroup_is_found_by_its_id_and_remembered_when_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let service = directory.path().join("system.slice/ssh.service");
        fs::create_dir_all(&service).unwrap();
        let id = fs::metadata(&service).unwrap().ino();
        let hierarchy = Hierarchy::new(File::open(directory.path()).unwrap().into());

        let found = hierarchy.path_of(id);
        fs::remove_dir(&service).unwrap();

        assert_eq!(found, Ok("/system.slice/ssh.service".into()));
        assert_eq!(hierarchy.path_of(id), found);
    }

    #[test]
    fn who_can_make_cgroups_is_told_by_owner_and_mode() {
        let directory = tempfile::tempdir().unwrap();
        let made = |name: &str, mode: u32| {
            let path = directory.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        made("system.slice/own.service", 0o755);
        made("system.slice/open.service", 0o777);
        let hierarchy = Hierarchy::new(File::open(directory.path()).unwrap().into());
        let told = |path| hierarchy.is_roots_alone(path).map_err(|error| error.kind());

        let is_root = fs::metadata(directory.path()).unwrap().uid() == 0;
        assert_eq!(told("/system.slice/own.service/"), Ok(Some(is_root)));
        assert_eq!(told("/system.slice/open.service/"), Ok(Some(false)));
        assert_eq!(told("/system.slice/gone.service/"), Err(io::ErrorKind::NotFound));
        assert_eq!([told("/of/another/"), told("/../system.slice/")], [Ok(None), Ok(None)]);
    }

    #[test]
    fn a_flood_of_unknown_ids_does_not_keep_us_walking() {
        let directory = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy::new(File::open(directory.path()).unwrap().into());

        let first = hierarchy.path_of(u64::MAX);
        hierarchy.known.lock().unwrap().rest_until_ns = i64::MAX;
        let second = hierarchy.path_of(u64::MAX);

        assert_eq!(first, Err("gone"));
        assert_eq!(second, Err("not looked for: too many at once"));
    }
}
