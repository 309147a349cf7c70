//! Sockets that no table of descriptors has, and that somebody holds all the same: registered with
//! `io_uring`, or on their way over a Unix socket.
//!
//! `/proc/PID/fdinfo` tells of both. Looked for only where a socket has no holder, since every descriptor of
//! the host is asked.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;

use super::proc::{self, Directory};

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Adrift {
    /// Sockets by inode, and the process that has each registered with `io_uring`.
    pub registered: Vec<(u64, u32)>,
    /// Processes with a Unix socket in which descriptors are on their way.
    pub carriers: BTreeSet<u32>,
}

/// Looks for who holds these sockets, given by inode.
pub fn find(inodes: &BTreeSet<u64>) -> Adrift {
    let mut found = Adrift::default();
    let mut budget = DESCRIPTORS;
    for pid in proc::pids().unwrap_or_default() {
        let Ok(directory) = Directory::open(pid) else { continue };
        let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in entries.map_while(Result::ok) {
            let Some(left) = budget.checked_sub(1) else { return found };
            budget = left;
            let Some(fd) = entry.file_name().to_str().and_then(|it| it.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(link) = directory.link(&format!("fd/{fd}")) else { continue };
            let link = link.as_os_str().as_bytes();
            if link != b"anon_inode:[io_uring]" && !link.starts_with(b"socket:[") {
                continue;
            }
            let Ok(facts) = directory.read(&format!("fdinfo/{fd}"), FACTS) else { continue };
            if carries(&facts) {
                found.carriers.insert(pid);
            }
            let registered = registered(&facts).filter(|inode| inodes.contains(inode));
            found.registered.extend(registered.map(|inode| (inode, pid)));
        }
    }
    found
}

/// `scm_fds: 2` in the facts of a Unix socket.
fn carries(facts: &[u8]) -> bool {
    let text = String::from_utf8_lossy(facts);
    let counts = text.lines().filter_map(|line| line.strip_prefix("scm_fds:"));
    counts.filter_map(|count| count.trim().parse::<u64>().ok()).any(|count| count > 0)
}

/// `    0: socket:[12345]` in the facts of an `io_uring`.
fn registered(facts: &[u8]) -> impl Iterator<Item = u64> {
    let text = String::from_utf8_lossy(facts).into_owned();
    let inode = |line: &str| {
        let (_, file) = line.split_once(": ")?;
        super::holders::socket_inode(file.trim().as_bytes())
    };
    text.lines().filter_map(inode).collect::<Vec<_>>().into_iter()
}

/// Descriptors looked at in all.
const DESCRIPTORS: usize = 1_000_000;
/// Bytes read of the facts about one: some thousand registered files.
const FACTS: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_and_what_is_on_its_way_is_read_from_the_facts() {
        let ring =
            b"pos:\t0\nflags:\t02\nUserFiles:\t3\n    0: socket:[4711]\n    1: /dev/null\n    \
                     2: <none>\n";

        assert_eq!(registered(ring).collect::<Vec<_>>(), [4711]);
        assert!(carries(b"pos:\t0\nino:\t5\nscm_fds: 1\n"));
        assert!(!carries(b"pos:\t0\nino:\t5\nscm_fds: 0\n"));
    }
}
