//! Every network namespace of the host, and how to do something in one.
//!
//! Found are those of a process, those bound to a path of a mount namespace that a process is in, and those
//! of which a process has a descriptor. One that only a socket, a descriptor under way between two
//! processes, or a single thread keeps alive is not; its sockets still are, by the hooks. The caller's
//! thread never moves: what runs in a namespace runs on a thread made for it.

mod descriptors;
mod mounts;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::thread;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};

use super::proc;
use crate::endpoint::Netns;
use crate::sys;

pub use descriptors::Descriptors;

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
    let mut namespaces = list(&mut Descriptors::default())?;
    if let Err(error) = read_marks(&mut namespaces.found, watched) {
        let reason = proc::words(&error);
        namespaces.unseen.push(format!("cannot read cookies of network namespaces: {reason}"));
    }
    Ok(namespaces)
}

/// As [`enumerate`], but asks only for the mark of our own: enters no namespace.
///
/// Whoever asks again and again keeps the `descriptors` that were found.
pub fn list(descriptors: &mut Descriptors) -> io::Result<Namespaces> {
    let own = own()?;
    let mut unseen = Vec::new();
    let mut files = BTreeMap::new();
    let views = of_processes(&mut files, &mut unseen)?;
    let names = of_mounts(&mut files, &mut unseen);
    of_other_mounts(&views, &mut files, &mut unseen);
    descriptors.open(&mut files, &mut unseen);
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

/// Opens the namespace of each process that is in another one than those before. Gives a process of each
/// mount namespace but ours, by inode.
fn of_processes(
    files: &mut BTreeMap<u64, OwnedFd>,
    unseen: &mut Vec<String>,
) -> io::Result<BTreeMap<u64, u32>> {
    let inode = |link: &str| rustix::fs::statat(CWD, link, AtFlags::empty()).map(|it| it.st_ino);
    let own_view = inode("/proc/self/ns/mnt")?;
    let mut views = BTreeMap::new();
    let mut denied = Vec::new();
    for pid in proc::pids()? {
        let link = format!("/proc/{pid}/ns/net");
        let opened = inode(&link).map_err(io::Error::from).and_then(|inode| {
            // The pid may name another process by now; the inode says what was opened.
            (!files.contains_key(&inode)).then(|| open_nsfs(&link)).transpose()
        });
        match opened {
            Ok(Some((inode, file))) => drop(files.insert(inode, file)),
            Ok(None) => {}
            Err(error) if proc::is_gone(&error) => {}
            Err(error) => denied.push((pid, proc::words(&error))),
        }
        if let Ok(view) = inode(&format!("/proc/{pid}/ns/mnt")) {
            views.entry(view).or_insert(pid);
        }
    }
    views.remove(&own_view);
    unseen.extend(proc::denial("network namespace", &denied));
    Ok(views)
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
                "cannot look at network namespace {} at {}: another one is mounted over it",
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

/// Opens those that are mounted somewhere in the mount namespaces of these processes, by inode.
fn of_other_mounts(
    views: &BTreeMap<u64, u32>,
    files: &mut BTreeMap<u64, OwnedFd>,
    unseen: &mut Vec<String>,
) {
    for pid in views.values() {
        // Of a process that is gone, or that nobody may look at, which was said before.
        let Ok(mounts) = mounts::seen_by(*pid) else { continue };
        for mount in mounts {
            if files.contains_key(&mount.inode) {
                continue;
            }
            match mount.open_as_seen_by(*pid) {
                Ok(Some(file)) => drop(files.insert(mount.inode, file)),
                // Something else is mounted over it.
                Ok(None) => {}
                Err(error) if proc::is_gone(&error) => {}
                Err(error) => unseen.push(format!(
                    "cannot look at network namespace {} as pid {pid} sees it at {}: {}",
                    mount.inode,
                    mount.path.display(),
                    proc::words(&error)
                )),
            }
        }
    }
}

/// Opens a namespace file; its inode is that of the namespace.
fn open_nsfs(path: impl rustix::path::Arg) -> io::Result<(u64, OwnedFd)> {
    // By now there may be anything, of which merely opening it may do something: a fifo, a device.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    reopen_nsfs(rustix::fs::openat(CWD, path, flags, Mode::empty())?.as_fd())
}

/// Opens for use what was only looked up, if it is a network namespace. Asks no file server what it is.
fn reopen_nsfs(found: BorrowedFd<'_>) -> io::Result<(u64, OwnedFd)> {
    let is_none = || io::Error::new(io::ErrorKind::InvalidInput, "it is no network namespace");
    let device = |file: BorrowedFd<'_>, path: &str, flags| {
        let flags = flags | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(file, path, flags, StatxFlags::INO)?;
        io::Result::Ok(((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
    };
    let (found_on, inode) = device(found, "", AtFlags::EMPTY_PATH)?;
    if found_on != device(CWD, OWN, AtFlags::empty())?.0 {
        return Err(is_none());
    }
    let link = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::openat(CWD, link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if sys::is_network_namespace(file.as_fd()) { Ok((inode, file)) } else { Err(is_none()) }
}

/// The network namespace of the calling thread, which need not be that of the process.
const OWN: &str = "/proc/thread-self/ns/net";

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read as _;
    use std::process::{Child, Command, Stdio};

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

    #[test]
    fn a_namespace_of_which_only_a_descriptor_is_left_is_found_and_let_go_with_it() {
        let Some(named) = Named::create("held") else { return };
        let inode = named.among(&enumerate(None).unwrap()).netns.inode;
        let file = File::open(format!("/run/netns/{}", named.0)).unwrap();
        drop(named);
        let mut holder = Command::new("cat");
        let holder = holder.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(file);
        let mut holder = Reaped(holder.spawn().unwrap());

        let found = enumerate(None).unwrap();
        let there = found.found.iter().find(|it| it.netns.inode == inode).unwrap();
        let entered = within(there, || own().unwrap().netns.inode).unwrap();
        drop(found);
        holder.end();
        let after = enumerate(None).unwrap();

        assert_eq!(entered, inode);
        assert!(after.found.iter().all(|it| it.netns.inode != inode));
    }

    #[test]
    fn descriptors_that_were_found_are_looked_at_again_without_a_walk() {
        let Some(named) = Named::create("again") else { return };
        let inode = named.among(&enumerate(None).unwrap()).netns.inode;
        let file = File::open(format!("/run/netns/{}", named.0)).unwrap();
        drop(named);
        let mut holder = Command::new("cat");
        let holder = holder.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(file);
        let mut holder = Reaped(holder.spawn().unwrap());
        let mut descriptors = Descriptors::default();

        let mut is_there = || {
            let found = list(&mut descriptors).unwrap().found;
            found.iter().any(|it| it.netns.inode == inode)
        };
        let before = [is_there(), is_there()];
        holder.end();

        assert_eq!((before, is_there()), ([true, true], false));
    }

    #[test]
    fn a_namespace_that_only_another_mount_namespace_has_a_path_of_is_found() {
        let Some(named) = Named::create("elsewhere") else { return };
        let inode = named.among(&enumerate(None).unwrap()).netns.inode;
        let place = tempfile::NamedTempFile::new().unwrap();
        let mount = format!(
            "mount --bind /run/netns/{} {} && echo mounted && exec cat",
            named.0,
            place.path().display()
        );
        let mut holder = Command::new("unshare");
        let holder = holder.args(["--mount", "sh", "-c", &mount]);
        let mut holder =
            Reaped(holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut mounted = [0; 7];
        holder.0.stdout.as_mut().unwrap().read_exact(&mut mounted).unwrap();
        drop(named);

        let found = enumerate(None).unwrap();
        let there = found.found.iter().find(|it| it.netns.inode == inode);
        let entered = within(there.unwrap(), || own().unwrap().netns.inode).unwrap();
        holder.end();

        assert_eq!(entered, inode);
    }

    /// A process that ends with the test.
    struct Reaped(Child);

    impl Reaped {
        fn end(&mut self) {
            drop(self.0.stdin.take());
            self.0.wait().unwrap();
        }
    }

    impl Drop for Reaped {
        fn drop(&mut self) {
            self.end();
        }
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
        let status = Command::new("ip").args(arguments).status();
        status.is_ok_and(|status| status.success())
    }
}
