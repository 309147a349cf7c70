//! Every network namespace of the host, and how to do something in one.
//!
//! Found are those of a process and those bound to a path of our mount namespace. One that only an
//! open descriptor, a socket or a single thread keeps alive is not; its sockets still are, by the
//! hooks. The caller's thread never moves: what runs in a namespace runs on a thread made for it.

mod mounts;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::thread;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};

use super::proc;
use crate::endpoint::Netns;
use crate::sys;

/// A network namespace, held open: it lives at least as long as this.
#[derive(Debug)]
pub struct Namespace {
    /// Its inode, and its name where it has one.
    pub netns: Netns,
    /// How records of the kernel side name it.
    pub mark: Mark,
    /// The open nsfs file.
    pub file: OwnedFd,
}

/// How records of the kernel side name a network namespace.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Mark {
    /// By this cookie (`SO_NETNS_COOKIE`, Linux 5.14).
    Cookie(u64),
    /// By a cookie that this kernel tells nobody but the hooks. This is the cookie of a socket that was
    /// made there and closed again, and of which they tell the namespace's with its own.
    Witness(u64),
    /// Not at all, as far as is known.
    None,
}

/// What [`enumerate`] found.
#[derive(Debug)]
pub struct Namespaces {
    /// The namespaces; that of the calling thread is first, the others by inode.
    pub found: Vec<Namespace>,
    /// What could not be looked at, a sentence each.
    pub unseen: Vec<String>,
}

/// Finds every network namespace.
///
/// `watched`: a port that the hooks watch, if they are attached: then kernels that do not tell the cookie
/// of a namespace are asked by way of the hooks.
pub fn enumerate(watched: Option<u16>) -> io::Result<Namespaces> {
    let mut namespaces = list()?;
    if let Err(error) = read_marks(&mut namespaces.found, watched) {
        let reason = proc::words(&error);
        namespaces.unseen.push(format!("cannot read cookies of network namespaces: {reason}"));
    }
    Ok(namespaces)
}

/// As [`enumerate`], but asks only for the mark of our own: enters no namespace.
pub fn list() -> io::Result<Namespaces> {
    let own = own()?;
    let mut unseen = Vec::new();
    let mut files = BTreeMap::new();
    of_processes(&mut files, &mut unseen)?;
    let names = of_mounts(&mut files, &mut unseen);
    files.remove(&own.netns.inode);

    let others = files.into_iter().map(|(inode, file)| Namespace {
        netns: Netns { inode, name: None },
        mark: Mark::None,
        file,
    });
    let mut found: Vec<_> = std::iter::once(own).chain(others).collect();
    for namespace in &mut found {
        namespace.netns.name = names.get(&namespace.netns.inode).cloned();
    }
    Ok(Namespaces { found, unseen })
}

/// The network namespace of the calling thread, without its name.
pub fn own() -> io::Result<Namespace> {
    let file = OwnedFd::from(File::open(OWN)?);
    let inode = rustix::fs::fstat(&file)?.st_ino;
    let mark = own_cookie().map_or(Mark::None, Mark::Cookie);
    Ok(Namespace { netns: Netns { inode, name: None }, mark, file })
}

/// Runs something in a network namespace: here if it is the caller's, else on a thread of its own.
pub fn within<T: Send>(namespace: &Namespace, run: impl FnOnce() -> T + Send) -> io::Result<T> {
    if rustix::fs::stat(OWN)?.st_ino == namespace.netns.inode {
        return Ok(run());
    }
    on_a_thread(|| {
        enter(namespace.file.as_fd()).map_err(|error| {
            let inode = namespace.netns.inode;
            io::Error::new(error.kind(), format!("enter network namespace {inode}: {error}"))
        })?;
        Ok(run())
    })
}

/// Runs something on a short-lived thread and waits for it.
fn on_a_thread<T: Send>(run: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("pw-netns".to_owned());
        match thread.spawn_scoped(scope, run)?.join() {
            Ok(result) => result,
            // A panic was told on stderr by the panic hook; here it is one namespace less.
            Err(_) => Err(io::Error::other("the thread in another network namespace panicked")),
        }
    })
}

fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    let kind = Some(LinkNameSpaceType::Network);
    Ok(rustix::thread::move_into_link_name_space(namespace, kind)?)
}

/// Whether how a namespace is named can only be found out inside it, which takes `CAP_SYS_ADMIN`.
pub fn marks_need_entering() -> bool {
    own().is_ok_and(|own| !is_number_of(&own))
}

/// Whether the cookie of this namespace is the number that its file tells, as since Linux 6.18.
fn is_number_of(namespace: &Namespace) -> bool {
    let number = sys::namespace_id(namespace.file.as_fd());
    number.is_ok_and(|number| namespace.mark == Mark::Cookie(number))
}

/// Marks of all of them, of which the first has its cookie if there are any: by their files where these
/// tell, else by one thread that visits one after the other.
fn read_marks(namespaces: &mut [Namespace], watched: Option<u16>) -> io::Result<()> {
    let Some((own, others)) = namespaces.split_first_mut() else { return Ok(()) };
    if is_number_of(own) {
        return others.iter_mut().try_for_each(|namespace| {
            namespace.mark = Mark::Cookie(sys::namespace_id(namespace.file.as_fd())?);
            Ok(())
        });
    }
    let of_own = own.mark;
    let mark = || match (of_own, watched) {
        (Mark::Cookie(_), _) => own_cookie().map(Mark::Cookie),
        (_, Some(watched)) => witness(watched),
        // As long as no hook is attached nothing names a namespace by its cookie.
        (_, None) => Ok(Mark::None),
    };
    own.mark = mark()?;
    if others.is_empty() || own.mark == Mark::None {
        return Ok(());
    }
    on_a_thread(|| {
        others.iter_mut().try_for_each(|namespace| {
            enter(namespace.file.as_fd())?;
            namespace.mark = mark()?;
            Ok(())
        })
    })
}

/// The cookie of the calling thread's namespace; any socket made in it tells.
fn own_cookie() -> io::Result<u64> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    sys::netns_cookie(socket.as_fd())
}

/// A socket in the calling thread's namespace of which the hooks tell: one that is connected to a watched
/// port. Connecting a UDP socket sends nothing.
fn witness(watched: u16) -> io::Result<Mark> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    if rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, watched)).is_err() {
        // Loopback is down there; the hook was called before that was found out.
    }
    Ok(Mark::Witness(rustix::net::sockopt::socket_cookie(&socket)?))
}

/// Opens the namespace of each process that is in another one than those before.
fn of_processes(files: &mut BTreeMap<u64, OwnedFd>, unseen: &mut Vec<String>) -> io::Result<()> {
    let mut denied = Vec::new();
    for pid in proc::pids()? {
        let link = format!("/proc/{pid}/ns/net");
        let opened = rustix::fs::statat(CWD, &link, AtFlags::empty())
            .map_err(io::Error::from)
            .and_then(|stat| {
                // The pid may name another process by now; the inode says what was opened.
                let open = || open_nsfs(&link);
                (!files.contains_key(&stat.st_ino)).then(open).transpose()
            });
        match opened {
            Ok(Some((inode, file))) => drop(files.insert(inode, file)),
            Ok(None) => {}
            Err(error) if proc::is_gone(&error) => {}
            Err(error) => denied.push((pid, proc::words(&error))),
        }
    }
    unseen.extend(proc::denial("network namespace", &denied));
    Ok(())
}

/// Opens those that are mounted somewhere; gives the names of those that have one.
fn of_mounts(
    files: &mut BTreeMap<u64, OwnedFd>,
    unseen: &mut Vec<String>,
) -> BTreeMap<u64, String> {
    let mounts = match mounts::of_network_namespaces() {
        Ok(mounts) => mounts,
        Err(error) => {
            unseen
                .push(format!("cannot look for named network namespaces: {}", proc::words(&error)));
            return BTreeMap::new();
        }
    };
    let mut names = BTreeMap::new();
    for mount in mounts {
        if let Some(name) = mount.name() {
            names.entry(mount.inode).or_insert(name);
        }
        if files.contains_key(&mount.inode) {
            continue;
        }
        match open_nsfs(&mount.path) {
            Ok((inode, file)) if inode == mount.inode => drop(files.insert(inode, file)),
            Ok(_) => unseen.push(format!(
                "cannot look at network namespace {} at {}: something else is mounted over it",
                mount.inode,
                mount.path.display()
            )),
            Err(error) if proc::is_gone(&error) => {}
            Err(error) => unseen.push(format!(
                "cannot look at network namespace {} at {}: {}",
                mount.inode,
                mount.path.display(),
                proc::words(&error)
            )),
        }
    }
    names
}

/// Opens a namespace file; its inode is that of the namespace.
fn open_nsfs(path: impl rustix::path::Arg) -> io::Result<(u64, OwnedFd)> {
    // NONBLOCK and NOCTTY: at a mount point there may be anything by now, a fifo too.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let inode = rustix::fs::fstat(&file)?.st_ino;
    Ok((inode, file))
}

/// The network namespace of the calling thread, which need not be that of the process.
const OWN: &str = "/proc/thread-self/ns/net";

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_comes_first_and_has_a_cookie() {
        let namespaces = enumerate(None).unwrap();

        let first = namespaces.found.first().unwrap();
        assert_eq!(first.netns.inode, rustix::fs::stat("/proc/self/ns/net").unwrap().st_ino);
        assert!(matches!(first.mark, Mark::Cookie(_)));
    }

    #[test]
    fn within_the_own_namespace_nothing_moves() {
        let thread = thread::current().id();

        let ran_on = within(&own().unwrap(), || thread::current().id()).unwrap();

        assert_eq!(ran_on, thread);
    }

    #[test]
    fn a_named_namespace_is_found_entered_and_left() {
        let Some(named) = Named::create("found") else { return };
        let before = own().unwrap();

        let namespaces = enumerate(None).unwrap();
        let namespace = named.among(&namespaces);
        let there = within(namespace, || own().unwrap()).unwrap();
        let after = own().unwrap();

        assert_eq!(there.netns.inode, namespace.netns.inode);
        assert_eq!(there.mark, namespace.mark);
        assert_ne!(there.mark, before.mark);
        assert_eq!(after.netns, before.netns);
    }

    #[test]
    fn a_panic_in_a_namespace_is_an_error_of_that_namespace() {
        let Some(named) = Named::create("panic") else { return };
        let namespaces = enumerate(None).unwrap();

        let result = within(named.among(&namespaces), || panic!("told on stderr, on purpose"));

        assert!(result.unwrap_err().to_string().contains("panicked"));
    }

    /// A network namespace of the test, gone with it.
    pub(in super::super) struct Named(String);

    impl Named {
        /// `None`, said on stderr, where it cannot be made: without root or without iproute2.
        pub(in super::super) fn create(what: &str) -> Option<Self> {
            let name = format!("pw-{what}-{}", std::process::id());
            let made = ip(&["netns", "add", &name]);
            if !made {
                eprintln!("skipped: `ip netns add {name}` is not possible here");
            }
            made.then(|| Self(name))
        }

        pub(in super::super) fn among<'a>(&self, namespaces: &'a Namespaces) -> &'a Namespace {
            let is_it = |it: &&Namespace| it.netns.name.as_deref() == Some(self.0.as_str());
            namespaces.found.iter().find(is_it).unwrap()
        }
    }

    impl Drop for Named {
        fn drop(&mut self) {
            assert!(ip(&["netns", "delete", &self.0]), "{} stays behind", self.0);
        }
    }

    fn ip(arguments: &[&str]) -> bool {
        let status = std::process::Command::new("ip").args(arguments).status();
        status.is_ok_and(|status| status.success())
    }
}
