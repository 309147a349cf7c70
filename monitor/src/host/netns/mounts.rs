//! Where network namespaces are mounted: `/run/netns/NAME` of iproute2, `/run/docker/netns/ID`, …
//!
//! Parsed as bytes: one mount point that is not UTF-8, or not a line at all, must not hide the
//! others.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::escape;

/// A bind mount of a network namespace.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Mount {
    /// Inode of the namespace.
    pub(super) inode: u64,
    /// Where it is mounted.
    pub(super) path: PathBuf,
}

impl Mount {
    /// The name iproute2 gave it. What container runtimes write elsewhere are ids, not names.
    pub(super) fn name(&self) -> Option<String> {
        let directories = [Path::new("/run/netns"), Path::new("/var/run/netns")];
        if !directories.contains(&self.path.parent()?) {
            return None;
        }
        Some(escape::text_from_bytes(self.path.file_name()?.as_bytes()).into_owned())
    }

    /// Opens the namespace, at the path where a process in another mount namespace has it; `None`: there is
    /// something else by now.
    ///
    /// Never leaves that process's root, and never waits for a file server: somebody else has chosen the path.
    pub(super) fn open_as_seen_by(&self, pid: u32) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty())?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::CACHED;
        let found = rustix::fs::openat2(&root, &self.path, flags, Mode::empty(), resolve)?;
        let (inode, file) = super::reopen_nsfs(found.as_fd())?;
        Ok((inode == self.inode).then_some(file))
    }
}

/// Those in the mount namespace portwatch runs in, each once, by inode and path.
pub(super) fn of_network_namespaces() -> io::Result<BTreeSet<Mount>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// Those in the mount namespace that a process is in.
pub(super) fn seen_by(pid: u32) -> io::Result<BTreeSet<Mount>> {
    Ok(parse(&fs::read(format!("/proc/{pid}/mountinfo"))?))
}

/// `36 35 0:4 net:[4026532577] /run/netns/blue rw shared:5 - nsfs nsfs rw`, see proc(5).
fn parse(mountinfo: &[u8]) -> BTreeSet<Mount> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let root = fields.nth(3)?;
    let path = fields.next()?;
    // The optional fields before the separator are none or several.
    fields.find(|field| *field == b"-")?;
    if fields.next()? != b"nsfs" {
        return None;
    }
    let inode = root.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    let inode = std::str::from_utf8(inode).ok()?.parse().ok()?;
    Some(Mount { inode, path: PathBuf::from(OsString::from_vec(unescape(path))) })
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'\\').then(|| after.split_at_checked(3)).flatten();
        let decoded = escaped.and_then(|(digits, after)| Some((octal(digits)?, after)));
        let (byte, after) = decoded.unwrap_or((byte, after));
        bytes.push(byte);
        rest = after;
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_network_namespaces_are_mounts_of_network_namespaces() {
        let mountinfo = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
36 35 0:4 net:[4026532577] /run/netns/blue rw shared:5 master:1 - nsfs nsfs rw\n\
37 35 0:4 mnt:[4026532578] /run/snapd/ns/x.mnt rw - nsfs nsfs rw\n\
38 35 0:4 net:[4026532579] /run/docker/netns/1f2e rw - nsfs nsfs rw\n\
39 35 0:4 net:[4026532580] /tmp/fake rw - tmpfs nsfs rw\n\
garbage\n";

        let mounts: Vec<_> = parse(mountinfo).into_iter().collect();

        let expected =
            [(4_026_532_577, "/run/netns/blue"), (4_026_532_579, "/run/docker/netns/1f2e")];
        assert_eq!(mounts, expected.map(|(inode, path)| Mount { inode, path: path.into() }));
        assert_eq!(mounts.iter().map(Mount::name).collect::<Vec<_>>(), [Some("blue".into()), None]);
    }

    #[test]
    fn a_mount_point_of_foreign_bytes_keeps_its_bytes() {
        let mounts = parse(b"1 2 0:4 net:[7] /run/netns/a\\040b\\134\xff\\ rw - nsfs nsfs rw");

        let mount = mounts.first().unwrap();
        assert_eq!(mount.path.as_os_str().as_bytes(), b"/run/netns/a b\\\xff\\");
        assert_eq!(mount.name().unwrap(), "a b\\\\xff\\");
    }
}
