//! Whether `/proc` shows a process that is there, and a descriptor that it has: what the kernel says by
//! other ways is held against this.
//!
//! That something is not there is only said of what certainly is: the process takes signals, or its
//! directory opens although it is not listed. What may just have ended, and what must not be looked at, is
//! not known.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatxFlags};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use super::holders::socket_inode;
use super::proc::{self, Directory};

/// The directory of all processes.
#[derive(Debug)]
pub struct Proc {
    /// The mount that it is; `None` on kernels that do not tell (before 5.8).
    mount: Option<u64>,
    /// The processes it lists.
    listed: BTreeSet<u32>,
}

/// What `/proc` says of something that the kernel has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Shown {
    /// It shows it.
    Yes,
    /// It may have ended, or must not be looked at.
    Unknown,
    /// It does not show it. What it says instead, in words.
    No(String),
}

/// One process, in the words of the kernel.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Task {
    /// Thread group id.
    pub pid: u32,
    /// When it started, nanoseconds since boot.
    pub start_ns: u64,
    /// `comm`, as text.
    pub name: String,
}

impl Proc {
    /// Lists the processes there are; an error where it is not the `/proc` of all processes of this host.
    pub fn read() -> io::Result<Self> {
        let of_namespace = rustix::fs::stat("/proc/self/ns/pid")?.st_ino;
        let own = rustix::fs::readlink("/proc/self", Vec::new())?;
        if of_namespace != INITIAL_PIDS
            || own.to_bytes() != std::process::id().to_string().as_bytes()
        {
            return Err(io::Error::other("it is that of a pid namespace, not of the whole host"));
        }
        let directory = open_directory(CWD, "/proc")?;
        Ok(Self { mount: mount(&directory), listed: proc::pids()?.into_iter().collect() })
    }

    /// Does it show a process?
    pub fn shows_process(&self, task: &Task) -> Shown {
        let pid = task.pid;
        let directory = match Directory::open(pid) {
            Ok(directory) => directory,
            Err(error) if proc::is_gone(&error) && takes_signals(pid) => {
                return Shown::No(format!(
                    "has no directory {pid}, although that process takes signals"
                ));
            }
            Err(_) => return Shown::Unknown,
        };
        if self.is_covered(&directory) {
            return Shown::No(format!("has something else mounted over its directory {pid}"));
        }
        if self.listed.contains(&pid) {
            return Shown::Yes;
        }
        match directory.stat() {
            Ok(stat) if stat.starttime == task.start_ns / NS_PER_TICK => {
                Shown::No(format!("does not list {pid}, although its directory opens"))
            }
            _ => Shown::Unknown,
        }
    }

    /// Does it show that thread `tid` of process `pid` has a descriptor of a socket?
    pub fn shows_descriptor(&self, pid: u32, tid: u32, fd: u32, inode: u64) -> Shown {
        let directory = match Directory::open(pid) {
            Ok(directory) => directory,
            Err(error) if proc::is_gone(&error) && takes_signals(pid) => {
                return Shown::No(format!(
                    "has no directory {pid}, although that process takes signals"
                ));
            }
            Err(_) => return Shown::Unknown,
        };
        if self.is_covered(&directory) {
            return Shown::No(format!("has something else mounted over its directory {pid}"));
        }
        let path = if tid == pid { "fd".to_owned() } else { format!("task/{tid}/fd") };
        let Ok(table) = open_directory(&directory, &path) else { return Shown::Unknown };
        if self.is_covered(&table) {
            return Shown::No(format!("has something else mounted over {pid}/{path}"));
        }
        let target = rustix::fs::readlinkat(&table, fd.to_string(), Vec::new());
        match target {
            Ok(target) if socket_inode(target.as_bytes()) == Some(inode) => match lists(&table, fd)
            {
                Ok(false) => {
                    Shown::No(format!("does not list {fd} in {pid}/{path}, although it opens"))
                }
                _ => Shown::Yes,
            },
            Ok(_) => Shown::No(format!("shows another file as {pid}/{path}/{fd}")),
            Err(Errno::NOENT) => Shown::No(format!("has no {fd} in {pid}/{path}")),
            Err(_) => Shown::Unknown,
        }
    }

    fn is_covered(&self, file: impl AsFd) -> bool {
        let own = self.mount;
        own.is_some() && mount(file).is_some_and(|mount| Some(mount) != own)
    }
}

/// Whether the table of descriptors lists one; one that is too long is not gone through.
fn lists(table: &OwnedFd, fd: u32) -> io::Result<bool> {
    let name = fd.to_string();
    let mut buffer = vec![MaybeUninit::uninit(); 16 << 10];
    let mut entries = RawDir::new(table, &mut buffer);
    for _ in 0..MAX_ENTRIES {
        let Some(entry) = entries.next() else { return Ok(false) };
        if entry?.file_name().to_bytes() == name.as_bytes() {
            return Ok(true);
        }
    }
    Ok(true)
}

/// A process that has ended is there no more; one that was not waited for takes signals and has no
/// descriptors.
pub fn takes_signals(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)))
}

/// The number of the mount that a file is on.
fn mount(file: impl AsFd) -> Option<u64> {
    let status = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    (status.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(status.stx_mnt_id)
}

fn open_directory(directory: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, path, flags, Mode::empty())?)
}

/// `PROC_PID_INIT_INO` of `include/linux/proc_ns.h`: the pid namespace that has every process.
const INITIAL_PIDS: u64 = 0xefff_fffc;
/// `USER_HZ` is 100 wherever portwatch runs.
const NS_PER_TICK: u64 = 10_000_000;
/// Entries of a table of descriptors that are gone through.
const MAX_ENTRIES: usize = 65_536;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_there_is_shown() {
        let proc = Proc::read().unwrap();
        let (socket, fd, inode) = socket();
        let pid = std::process::id();

        assert_eq!(proc.shows_process(&own()), Shown::Yes);
        assert_eq!(proc.shows_descriptor(pid, pid, fd, inode), Shown::Yes);
        drop(socket);
    }

    #[test]
    fn a_descriptor_that_is_another_or_none_is_said_not_to_be_shown() {
        let proc = Proc::read().unwrap();
        let (_socket, fd, inode) = socket();
        let pid = std::process::id();

        let other = proc.shows_descriptor(pid, pid, fd, inode + 1);
        let none = proc.shows_descriptor(pid, pid, 999_999, inode);

        assert_eq!(other, Shown::No(format!("shows another file as {pid}/fd/{fd}")));
        assert_eq!(none, Shown::No(format!("has no 999999 in {pid}/fd")));
    }

    #[test]
    fn a_process_that_is_not_listed_is_not_shown_and_one_that_ended_is_not_known() {
        let mut proc = Proc::read().unwrap();
        let mut child = Command::new("true").spawn().unwrap();
        let ended = child.id();
        child.wait().unwrap();

        proc.listed.remove(&own().pid);

        assert!(matches!(proc.shows_process(&own()), Shown::No(_)));
        let ended = Task { pid: ended, ..Task::default() };
        assert_eq!(proc.shows_process(&ended), Shown::Unknown);
        assert_eq!(proc.shows_descriptor(ended.pid, ended.pid, 0, 1), Shown::Unknown);
    }

    #[test]
    fn a_later_process_of_the_same_pid_is_another() {
        let mut proc = Proc::read().unwrap();
        proc.listed.remove(&own().pid);

        let earlier = Task { start_ns: own().start_ns - NS_PER_TICK, ..own() };

        assert_eq!(proc.shows_process(&earlier), Shown::Unknown);
    }

    fn own() -> Task {
        let pid = std::process::id();
        let start = Directory::open(pid).unwrap().stat().unwrap().starttime;
        Task { pid, start_ns: start * NS_PER_TICK, name: String::new() }
    }

    fn socket() -> (UdpSocket, u32, u64) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = std::fs::File::from(OwnedFd::from(socket.try_clone().unwrap()));
        let inode = inode.metadata().unwrap().ino();
        let fd = u32::try_from(socket.as_raw_fd()).unwrap();
        (socket, fd, inode)
    }
}
