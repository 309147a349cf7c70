//! Which processes have a descriptor of a socket now, found by walking `/proc/*/fd`.
//!
//! For hosts where the `task_file` iterator cannot run. A descriptor table that only a thread has
//! (the leader has exited, or the thread unshared its table to hide) is looked at when a socket
//! would otherwise have no holder.

use std::collections::BTreeSet;
use std::io;

use super::proc;

/// One descriptor of a socket.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Holding {
    /// Inode of the socket on sockfs.
    pub inode: u64,
    /// Thread group id of the process.
    pub pid: u32,
    /// The descriptor in its table.
    pub fd: u32,
}

/// What [`find`] found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holders {
    /// The descriptors, by inode, pid and number.
    pub found: Vec<Holding>,
    /// Processes whose descriptors could not be looked at.
    pub unreadable: usize,
    /// What was not looked at, a sentence each; of [`Self::unreadable`] too.
    pub unseen: Vec<String>,
}

/// Finds the holders of sockets, given by inode; 0, which is no file, has none.
pub fn find(inodes: &BTreeSet<u64>) -> io::Result<Holders> {
    let mut walk = Walk::new(inodes);
    let pids = proc::pids()?;
    for &pid in &pids {
        let result = walk.table(pid, &format!("/proc/{pid}/fd"));
        walk.note(pid, result);
    }
    if walk.lacks_holders() {
        for &pid in &pids {
            walk.threads(pid);
        }
    }
    Ok(walk.finish())
}

/// Has this process a descriptor of one of these sockets?
pub(super) fn has_one_of(pid: u32, inodes: &BTreeSet<u64>) -> bool {
    let mut walk = Walk::new(inodes);
    walk.table(pid, &format!("/proc/{pid}/fd")).is_ok() && !walk.held.is_empty()
}

struct Walk<'a> {
    inodes: &'a BTreeSet<u64>,
    held: BTreeSet<Holding>,
    denied: Vec<(u32, String)>,
    descriptors: proc::Descriptors,
}

impl<'a> Walk<'a> {
    fn new(inodes: &'a BTreeSet<u64>) -> Self {
        Self {
            inodes,
            held: BTreeSet::new(),
            denied: Vec::new(),
            descriptors: proc::Descriptors::new(DESCRIPTORS),
        }
    }

    /// Looks at one descriptor table.
    fn table(&mut self, pid: u32, path: &str) -> io::Result<()> {
        let Self { inodes, held, descriptors, denied: _ } = self;
        descriptors.read(path, |fd, target| {
            let Some(inode) = socket_inode(target) else { return };
            if inode != 0 && inodes.contains(&inode) && held.len() < HOLDINGS {
                held.insert(Holding { inode, pid, fd });
            }
        })
    }

    /// Looks at the descriptor tables of the other threads of a process. What is denied here was
    /// denied for the process before, and is counted there.
    fn threads(&mut self, pid: u32) {
        for tid in proc::threads(pid).unwrap_or_default() {
            if tid != pid {
                self.table(pid, &format!("/proc/{pid}/task/{tid}/fd")).unwrap_or_default();
            }
        }
    }

    fn note(&mut self, pid: u32, result: io::Result<()>) {
        match result {
            Err(error) if !proc::is_gone(&error) => self.denied.push((pid, proc::words(&error))),
            _ => {}
        }
    }

    fn lacks_holders(&self) -> bool {
        let held: BTreeSet<_> = self.held.iter().map(|holding| holding.inode).collect();
        self.inodes.iter().any(|inode| *inode != 0 && !held.contains(inode))
    }

    fn finish(self) -> Holders {
        let mut unseen = Vec::new();
        unseen.extend(proc::denial("descriptors", &self.denied));
        if self.descriptors.is_exhausted() {
            unseen.push(format!("cannot look at more than {DESCRIPTORS} descriptors"));
        }
        if self.held.len() >= HOLDINGS {
            unseen.push(format!("cannot tell more than {HOLDINGS} holders"));
        }
        let found = self.held.into_iter().collect();
        Holders { found, unreadable: self.denied.len(), unseen }
    }
}

/// The inode of a socket, from where the link of its descriptor leads: `socket:[INODE]`.
pub(super) fn socket_inode(target: &[u8]) -> Option<u64> {
    proc::inode(target, b"socket")
}

/// Descriptors looked at in all: some seconds of work, and more than a sane host has.
const DESCRIPTORS: usize = 4_000_000;
/// Holdings remembered: 1 MB.
const HOLDINGS: usize = 65_536;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::{AsRawFd as _, OwnedFd};
    use std::os::unix::fs::MetadataExt as _;
    use std::process::{Command, Stdio};
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn every_descriptor_of_a_socket_is_found() {
        let (socket, inode) = socket();
        let copy = socket.try_clone().unwrap();
        let pid = std::process::id();

        let holders = find(&BTreeSet::from([inode, 0])).unwrap();

        let mut fds = [&socket, &copy].map(|it| u32::try_from(it.as_raw_fd()).unwrap());
        fds.sort_unstable();
        // A child that another test has just forked holds copies until it calls `execve`.
        let own: Vec<_> = holders.found.into_iter().filter(|it| it.pid == pid).collect();
        assert_eq!(own, fds.map(|fd| Holding { inode, pid, fd }));
    }

    #[test]
    fn a_child_that_inherited_a_socket_holds_it_too() {
        let (socket, inode) = socket();
        let inherited = OwnedFd::from(socket.try_clone().unwrap());
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stderr(Stdio::from(inherited))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();

        let holders = find(&BTreeSet::from([inode])).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();

        assert!(holders.found.contains(&Holding { inode, pid: child.id(), fd: 2 }));
    }

    #[test]
    fn a_socket_that_only_a_thread_holds_is_found() {
        let (tell, told) = sync_channel(0);
        let (release, released) = sync_channel::<()>(0);
        let thread = std::thread::spawn(move || {
            #[expect(
                deprecated,
                reason = "deprecated for being safe; this thread owns no descriptor"
            )]
            rustix::thread::unshare(rustix::thread::UnshareFlags::FILES).unwrap();
            let (_socket, inode) = socket();
            tell.send(inode).unwrap();
            released.recv().unwrap_err();
        });
        let inode = told.recv().unwrap();

        let holders = find(&BTreeSet::from([inode])).unwrap();
        drop(release);
        thread.join().unwrap();

        let pids: Vec<_> = holders.found.iter().map(|it| (it.inode, it.pid)).collect();
        assert_eq!(pids, [(inode, std::process::id())]);
    }

    #[test]
    fn only_sockets_are_sockets() {
        assert_eq!(socket_inode(b"socket:[12345]"), Some(12345));
        assert_eq!(socket_inode(b"pipe:[12345]"), None);
        assert_eq!(socket_inode(b"/tmp/socket:[1]"), None);
        assert_eq!(socket_inode(b"socket:[]"), None);
    }

    fn socket() -> (UdpSocket, u64) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::from(OwnedFd::from(socket.try_clone().unwrap()));
        let inode = file.metadata().unwrap().ino();
        (socket, inode)
    }
}
