//! Network namespaces without a process and without a path: somebody has a descriptor of one.
//!
//! To find such a descriptor takes a look at all of the host. So whoever asks again and again looks only at
//! those found before, and at all of them every tenth time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;

use super::open_nsfs;
use crate::host::proc;

/// The descriptors that were found before.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// By inode of the namespace: the process, and the number of the descriptor.
    found: BTreeMap<u64, (u32, u32)>,
    looks: u32,
}

impl Descriptors {
    /// Opens those that `files` does not have yet.
    pub(super) fn open(&mut self, files: &mut BTreeMap<u64, OwnedFd>, unseen: &mut Vec<String>) {
        if self.looks.is_multiple_of(LOOKS_PER_WALK) {
            self.found = walk(files, unseen);
        }
        self.looks = self.looks.wrapping_add(1);
        self.found.retain(|&inode, &mut (pid, fd)| {
            let opened = open_nsfs(format!("/proc/{pid}/fd/{fd}"));
            // By now the number may be that of another file.
            let Some((_, file)) = opened.ok().filter(|(of, _)| *of == inode) else { return false };
            files.entry(inode).or_insert(file);
            true
        });
    }
}

/// A descriptor of each network namespace that is not among those known.
fn walk(known: &BTreeMap<u64, OwnedFd>, unseen: &mut Vec<String>) -> BTreeMap<u64, (u32, u32)> {
    let mut found = BTreeMap::new();
    let mut descriptors = proc::Descriptors::new(DESCRIPTORS);
    let mut denied = Vec::new();
    let pids = match proc::pids() {
        Ok(pids) => pids,
        Err(error) => {
            unseen.push(format!("cannot look for open namespaces: {}", proc::words(&error)));
            return found;
        }
    };
    for pid in pids {
        let mut here = Vec::new();
        let read = descriptors.read(&format!("/proc/{pid}/fd"), |fd, target| {
            // Of a namespace that was mounted once and is not any more the link leads to `/`.
            if target.starts_with(b"net:[") || target == b"/" {
                here.push((fd, proc::inode(target, b"net")));
            }
        });
        // What only portwatch keeps open, this one or another, must not stay because of that.
        if !here.is_empty() && !is_portwatch(pid) {
            for (fd, inode) in here {
                let opened = || open_nsfs(format!("/proc/{pid}/fd/{fd}")).ok();
                let Some(inode) = inode.or_else(|| Some(opened()?.0)) else { continue };
                if !known.contains_key(&inode) {
                    found.entry(inode).or_insert((pid, fd));
                }
            }
        }
        match read {
            Err(error) if !proc::is_gone(&error) => denied.push((pid, proc::words(&error))),
            _ => {}
        }
    }
    unseen.extend(proc::denial("open namespaces", &denied));
    if descriptors.is_exhausted() {
        unseen.push(format!("cannot look at more than {DESCRIPTORS} descriptors for namespaces"));
    }
    found
}

/// Does the process run the same executable as we do?
fn is_portwatch(pid: u32) -> bool {
    let file = |path: &str| -> io::Result<(u64, u64)> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.dev(), metadata.ino()))
    };
    let own = file("/proc/self/exe");
    let other = file(&format!("/proc/{pid}/exe"));
    own.is_ok_and(|own| other.is_ok_and(|other| own == other))
}

/// Calls between two looks at all descriptors of the host.
const LOOKS_PER_WALK: u32 = 10;
/// Descriptors looked at in one of them: about a second of work.
const DESCRIPTORS: usize = 1_000_000;
