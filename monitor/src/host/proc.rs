//! `/proc/PID`, held open: whatever is read through one [`Directory`] is of one process.
//!
//! A pid is reused, but the kernel ties an open `/proc/PID` to the process it was opened for: once
//! that one is reaped every read gives `ESRCH`, never an answer about its successor.

mod descriptors;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use procfs::FromRead as _;
use procfs::process::Stat;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

pub(super) use descriptors::{Descriptors, inode};

/// A process' directory in `/proc`.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
}

impl Directory {
    /// Opens `/proc/PID`.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?;
        Ok(Self { fd })
    }

    /// Opens a file in it for reading.
    pub(super) fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        Ok(File::from(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?))
    }

    /// The first `limit` bytes of a file in it.
    pub(super) fn read(&self, name: &str, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(limit.min(4096));
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        self.file(name)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The parsed `stat`.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        let line = self.read("stat", STAT_LIMIT)?;
        Stat::from_read(line.as_slice()).map_err(io::Error::other)
    }

    /// Where a link in it leads.
    pub(super) fn link(&self, name: &str) -> io::Result<PathBuf> {
        let link = rustix::fs::readlinkat(&self.fd, name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(link.into_bytes())))
    }

    /// Inode number of what a link in it leads to.
    pub(super) fn inode(&self, name: &str) -> io::Result<u64> {
        Ok(rustix::fs::statat(&self.fd, name, AtFlags::empty())?.st_ino)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The pids there are now.
pub(super) fn pids() -> io::Result<Vec<u32>> {
    numbers_in("/proc")
}

/// The threads of a process.
pub(super) fn threads(pid: u32) -> io::Result<Vec<u32>> {
    numbers_in(&format!("/proc/{pid}/task"))
}

fn numbers_in(directory: &str) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(numbers)
}

/// The process ended before it was looked at: nothing that anybody did wrong.
pub(super) fn is_gone(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::SRCH].contains(&errno(error))
}

/// Why something could not be read, as it stands in `Process::missing`.
pub(super) fn words(error: &io::Error) -> String {
    match errno(error) {
        Errno::ACCESS | Errno::PERM => "permission denied".to_owned(),
        Errno::NOENT | Errno::SRCH => IS_GONE.to_owned(),
        _ => error.to_string(),
    }
}

/// Those words of a process that ended while it was read.
pub(super) const IS_GONE: &str = "gone";

/// The sentence about processes of which something could not be looked at, if there are any.
pub(super) fn denial(what: &str, denied: &[(u32, String)]) -> Option<String> {
    let (pid, why) = denied.first()?;
    Some(match denied.len() {
        1 => format!("cannot look at the {what} of pid {pid}: {why}"),
        count => format!("cannot look at the {what} of {count} processes, as pid {pid}: {why}"),
    })
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// `stat` is one line of some 52 numbers and a name of at most 64 bytes.
const STAT_LIMIT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_the_pids_and_can_be_read() {
        let pid = std::process::id();

        let directory = Directory::open(pid).unwrap();

        assert!(pids().unwrap().contains(&pid));
        assert_eq!(directory.stat().unwrap().pid, i32::try_from(pid).unwrap());
        assert_eq!(directory.read("stat", 3).unwrap().len(), 3);
    }

    #[test]
    fn an_open_directory_never_answers_about_a_later_process() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let directory = Directory::open(child.id()).unwrap();

        child.wait().unwrap();

        assert!(is_gone(&directory.stat().unwrap_err()));
        assert!(is_gone(&Directory::open(child.id()).unwrap_err()));
    }

    #[test]
    fn a_denial_and_a_disappearance_have_words() {
        assert_eq!(words(&Errno::PERM.into()), "permission denied");
        assert_eq!(words(&Errno::SRCH.into()), "gone");
        assert_eq!(denial("exe", &[]), None);
        let denied = [(7, "no".to_owned()), (8, "never".to_owned())];
        let sentence = denial("exe", &denied).unwrap();
        assert_eq!(sentence, "cannot look at the exe of 2 processes, as pid 7: no");
    }
}
