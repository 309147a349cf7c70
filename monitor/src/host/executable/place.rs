//! Whether a file is the one that has its path on this host, and who else could have put it there.
//!
//! A process in a mount namespace of its own can give its executable any path: `unshare -m`, a bind
//! mount, and `/proc/PID/exe` says `/usr/sbin/nginx`. Device and inode cannot be had that way.
//!
//! No look-up waits for a file server: who chooses the path could choose one that does not answer.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx};
use rustix::io::Errno;

use super::{FileKey, stat};
use crate::host::proc::{self, Directory};

/// Where a path starts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Root<'a> {
    /// In portwatch's own root.
    Own,
    /// In the root of this process.
    Of(&'a Directory),
}

/// The file with this key is the one at this path; an error is in words.
pub(super) fn is_at(root: Root<'_>, path: &Path, key: &FileKey) -> Result<bool, String> {
    let there = look_at(root, path)?;
    Ok(there.is_some_and(|there| FileKey::of(&there).is_same_file(key)))
}

/// What is at this path; `None` if nothing is.
pub(super) fn look_at(root: Root<'_>, path: &Path) -> Result<Option<Statx>, String> {
    let Some(there) = find(root, path)? else { return Ok(None) };
    stat(there, "", AtFlags::EMPTY_PATH).map(Some).map_err(words)
}

/// The file at this path, to be read. Of a file system that one may have to wait for, as any other.
pub(super) fn read(path: &Path) -> Result<Option<File>, String> {
    let Some(there) = find(Root::Own, path)? else { return Ok(None) };
    let file = format!("/proc/self/fd/{}", there.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(file, flags, Mode::empty()).map_err(words)?;
    Ok(Some(File::from(file)))
}

/// The first directory on the way to this path in which anybody can put files.
pub(super) fn world_writable_directory(
    root: Root<'_>,
    path: &Path,
) -> Result<Option<PathBuf>, String> {
    let mut directories: Vec<&Path> = path.ancestors().skip(1).collect();
    if directories.len() > DEPTH {
        return Err(format!("more than {DEPTH} directories on its path"));
    }
    directories.reverse();
    for directory in directories {
        // Where one is missing the rest is as well: of a file that was deleted that may be.
        let Some(there) = look_at(root, directory)? else { return Ok(None) };
        if is_world_writable(&there) {
            return Ok(Some(directory.to_owned()));
        }
    }
    Ok(None)
}

/// Others than owner and group can write to it.
pub(super) fn is_world_writable(file: &Statx) -> bool {
    Mode::from_raw_mode(file.stx_mode.into()).contains(Mode::WOTH)
}

fn find(root: Root<'_>, path: &Path) -> Result<Option<OwnedFd>, String> {
    if !path.is_absolute() {
        return Ok(None);
    }
    match open(root, path) {
        Ok(there) => Ok(Some(there)),
        // The kernel names files without symbolic links: a path with one is of another namespace.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(Errno::AGAIN) => Err("its path leads to a file system that may not answer".to_owned()),
        Err(error) => Err(words(error)),
    }
}

fn words(error: Errno) -> String {
    proc::words(&error.into())
}

fn open(root: Root<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let start = match root {
        Root::Own => None,
        Root::Of(process) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Some(rustix::fs::openat(process, "root", flags, Mode::empty())?)
        }
    };
    let open = |resolve| {
        let resolve = ResolveFlags::NO_SYMLINKS | resolve;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match &start {
            None => rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve),
            // An absolute path begins there.
            Some(start) => {
                let resolve = ResolveFlags::IN_ROOT | resolve;
                rustix::fs::openat2(start, path, flags, Mode::empty(), resolve)
            }
        }
    };
    // What runs keeps its directories in the kernel's cache, so that this is the usual way. A kernel
    // before Linux 5.12 does not know it.
    match open(ResolveFlags::CACHED) {
        Err(Errno::AGAIN | Errno::INVAL) => {}
        opened => return opened,
    }
    let mounts = match root {
        Root::Own => fs::read("/proc/self/mountinfo"),
        Root::Of(process) => process.read("mountinfo", MOUNTS_BYTES),
    };
    let mounts =
        mounts.map_err(|error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    match file_system(&mounts, path.as_os_str().as_bytes()) {
        Some(kind) if !REMOTE.contains(&kind) && !kind.starts_with(b"fuse") => {
            open(ResolveFlags::empty())
        }
        _ => Err(Errno::AGAIN),
    }
}

/// The type of the file system that a path leads to, from `/proc/PID/mountinfo`; see proc(5).
///
/// Mount points with a space, tab, newline or backslash are escaped there and do not compare equal:
/// then it is that of the mount below.
fn file_system<'a>(mountinfo: &'a [u8], path: &[u8]) -> Option<&'a [u8]> {
    let mut found: Option<(&[u8], &[u8])> = None;
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let Some(point) = fields.nth(4) else { continue };
        let Some(kind) = fields.skip_while(|field| *field != b"-").nth(1) else { continue };
        let rest = path.strip_prefix(point.strip_suffix(b"/").unwrap_or(point));
        let is_below = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        // Of two on the same point the later one is on top.
        if is_below && found.is_none_or(|(longest, _)| point.len() >= longest.len()) {
            found = Some((point, kind));
        }
    }
    found.map(|(_, kind)| kind)
}

/// Directories on a path that are looked at.
const DEPTH: usize = 64;
/// What is read of the mounts of another process: a path below a mount that is cut off counts as below the
/// mount that is there.
const MOUNTS_BYTES: usize = 1 << 20;
/// File systems that ask somebody else.
const REMOTE: [&[u8]; 9] =
    [b"autofs", b"nfs", b"nfs4", b"cifs", b"smb3", b"ceph", b"afs", b"lustre", b"coda"];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_longest_mount_point_says_which_file_system_it_is() {
        let mountinfo = b"\
22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
23 22 0:5 / /srv rw - nfs4 server:/srv rw\n\
24 23 0:6 / /srv/local rw shared:2 master:1 - xfs /dev/vdb rw\n\
25 22 0:7 / /mnt rw - autofs systemd-1 rw\n\
26 25 0:8 / /mnt rw - fuse.sshfs host: rw\n\
garbage\n";
        let table: [(&str, &[u8]); 6] = [
            ("/usr/bin/x", b"ext4"),
            ("/srv/x", b"nfs4"),
            ("/srvx", b"ext4"),
            ("/srv/local/bin/x", b"xfs"),
            ("/srv/localx", b"nfs4"),
            ("/mnt/x", b"fuse.sshfs"),
        ];
        for (path, expected) in table {
            assert_eq!(file_system(mountinfo, path.as_bytes()), Some(expected), "{path}");
        }
        assert_eq!(file_system(b"", b"/x"), None);
    }

    #[test]
    fn a_file_is_at_its_path_and_at_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let (file, other, link) = (directory.join("a"), directory.join("b"), directory.join("c"));
        fs::write(&file, "").unwrap();
        fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let key = FileKey::of(&stat(CWD, file.to_str().unwrap(), AtFlags::empty()).unwrap());

        assert_eq!(is_at(Root::Own, &file, &key), Ok(true));
        assert_eq!(is_at(Root::Own, &other, &key), Ok(false));
        assert_eq!(is_at(Root::Own, &link, &key), Ok(false));
        assert_eq!(is_at(Root::Own, &directory.join("none"), &key), Ok(false));
        assert_eq!(is_at(Root::Own, Path::new("a"), &key), Ok(false));
    }

    #[test]
    fn a_directory_that_anybody_can_write_to_is_found_on_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let (open, below) = (directory.join("open"), directory.join("open/below"));
        fs::create_dir_all(&below).unwrap();
        let permit = |mode| fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
        let own = Directory::open(std::process::id()).unwrap();
        // Itself in a directory of that kind, most likely.
        let outside = world_writable_directory(Root::Own, &directory).unwrap();

        for (mode, expected) in [(0o755, None), (0o1777, Some(open.clone()))] {
            permit(mode);
            let expected = outside.clone().or(expected);
            for root in [Root::Own, Root::Of(&own)] {
                for file in [below.join("file"), open.join("gone/file")] {
                    assert_eq!(world_writable_directory(root, &file), Ok(expected.clone()));
                }
            }
        }
    }

    #[test]
    fn a_path_that_is_too_deep_is_not_looked_at() {
        let deep = PathBuf::from("/a".repeat(DEPTH + 1));

        let why = world_writable_directory(Root::Own, &deep).unwrap_err();

        assert_eq!(why, "more than 64 directories on its path");
    }
}
