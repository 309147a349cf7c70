//! Whether a file is the one that has its path on this host.
//!
//! A process in a mount namespace of its own can give its executable any path: `unshare -m`, a bind
//! mount, and `/proc/PID/exe` says `/usr/sbin/nginx`. Device and inode cannot be had that way.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{FileKey, stat};
use crate::host::proc;

/// The file with this key is the one at this path in portwatch's own root; an error is in words.
///
/// Never waits for a file server: who chooses the path could choose one that does not answer.
pub(super) fn is_at(path: &Path, key: &FileKey) -> Result<bool, String> {
    if !path.is_absolute() {
        return Ok(false);
    }
    let words = |error: Errno| proc::words(&error.into());
    match open(path) {
        Ok(there) => {
            let there = FileKey::of(&stat(there, "", AtFlags::EMPTY_PATH).map_err(words)?);
            Ok((there.device, there.inode) == (key.device, key.inode))
        }
        // The kernel names files without symbolic links: a path with one is of another namespace.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
        Err(Errno::AGAIN) => Err("its path leads to a file system that may not answer".to_owned()),
        Err(error) => Err(words(error)),
    }
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let open = |resolve| {
        let resolve = ResolveFlags::NO_SYMLINKS | resolve;
        rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
    };
    // What runs keeps its directories in the kernel's cache, so that this is the usual way. A kernel
    // before Linux 5.12 does not know it.
    match open(ResolveFlags::CACHED) {
        Err(Errno::AGAIN | Errno::INVAL) => {}
        opened => return opened,
    }
    let mounts = fs::read("/proc/self/mountinfo")
        .map_err(|error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
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

/// File systems that ask somebody else.
const REMOTE: [&[u8]; 9] =
    [b"autofs", b"nfs", b"nfs4", b"cifs", b"smb3", b"ceph", b"afs", b"lustre", b"coda"];

#[cfg(test)]
mod tests {
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

        assert_eq!(is_at(&file, &key), Ok(true));
        assert_eq!(is_at(&other, &key), Ok(false));
        assert_eq!(is_at(&link, &key), Ok(false));
        assert_eq!(is_at(&directory.join("none"), &key), Ok(false));
        assert_eq!(is_at(Path::new("a"), &key), Ok(false));
    }
}
