//! Takes looks at the host by several views: first the kernel's own tables, by iterators, then what `/proc`
//! and `sock_diag` say of the same.
//!
//! In this order, so that what appears between the two is missing in neither.

mod portless;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::linux::fs::MetadataExt as _;

use monitor_ebpf::view::{SocketView, TaskView};

use crate::endpoint::{Endpoint, Family, Netns, Transport};
use crate::escape::text_from_bytes;
use crate::host::adrift::{self, Adrift};
use crate::host::netns::{self, Namespace};
use crate::host::shown::{Proc, Shown, Task};
use crate::host::sockets::{self, Socket, Sockets, State};
use crate::host::{bind_probe, links, nfs, packet_sockets, tunnels};
use crate::kernel::object::Object;
use crate::kernel::views;
use crate::ports::PortSet;
use crate::report::PortlessSocket;
use crate::views::{Comparison, Descriptor, Look, Tables};

use self::portless::Place;

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The watched ports.
    pub ports: &'a PortSet,
    /// Whether to try to bind them.
    pub probes: bool,
    /// Whether the socket hooks are attached.
    pub has_hooks: bool,
}

impl<'a> Wanted<'a> {
    /// These ports, without hooks and without trying to bind them.
    pub const fn of(ports: &'a PortSet) -> Self {
        Self { ports, probes: false, has_hooks: false }
    }

    /// The same, with hooks.
    pub const fn hooked(ports: &'a PortSet) -> Self {
        Self { has_hooks: true, ..Self::of(ports) }
    }
}

/// What the kernel's iterators said. `None`: this kernel does not tell.
#[derive(Debug, Default)]
pub struct Told {
    descriptors: Option<Vec<SocketView>>,
    tasks: Option<Vec<TaskView>>,
}

impl Told {
    /// Asks for all descriptors and, if it is to be thorough, all processes.
    pub fn ask(object: Option<&mut Object>, is_thorough: bool) -> Self {
        let Some(object) = object else { return Self::default() };
        let descriptors = or_log(object.view_files()).flatten();
        let tasks = if is_thorough { or_log(object.view_tasks()).flatten() } else { None };
        Self { descriptors, tasks }
    }

    /// Who holds which sockets: `(cookie, pid)`.
    pub fn holders(&self) -> Option<Vec<(u64, u32)>> {
        let held = |it: &SocketView| (it.cookie, it.tgid);
        self.descriptors.as_ref().map(|descriptors| descriptors.iter().map(held).collect())
    }

    /// The sockets that can see or answer packets of these ports without being on them, as far as they are
    /// news, and how many more there are than are told at once.
    pub fn portless<'n>(
        &self,
        namespaces: impl IntoIterator<Item = &'n Namespace>,
        ports: &PortSet,
        is_news: &dyn Fn(&PortlessSocket) -> bool,
    ) -> (Vec<(PortlessSocket, Vec<Task>)>, usize) {
        let descriptors = self.descriptors.as_deref().unwrap_or_default();
        let is_packet = |it: &&SocketView| i32::from(it.family) == libc::AF_PACKET;
        let has_packet_socket = |namespace: &&'n Namespace| {
            let is_here = |it: &SocketView| u64::from(it.netns) == namespace.netns.inode;
            descriptors.iter().filter(is_packet).any(is_here)
        };
        let places: Vec<Place> =
            namespaces.into_iter().filter(has_packet_socket).filter_map(place).collect();
        let tasks = self.tasks.as_deref().unwrap_or_default();
        let holder = |view: &SocketView| {
            let known = tasks.iter().find(|it| it.tgid == view.tgid);
            known.map_or(Task { pid: view.tgid, ..Task::default() }, task)
        };
        portless::sockets(descriptors, &holder, &places, ports, is_news)
    }

    /// The cookies of all sockets that have no port; `None`: this kernel does not tell.
    pub fn without_port(&self) -> Option<BTreeSet<u64>> {
        let has_none = |it: &&SocketView| {
            [libc::AF_PACKET, libc::AF_XDP].contains(&i32::from(it.family))
                || i32::from(it.kind) == libc::SOCK_RAW
        };
        let descriptors = self.descriptors.as_ref()?;
        Some(descriptors.iter().filter(has_none).map(|it| it.cookie).collect())
    }

    /// Completes the look by what `/proc` says, which may block, and holds the views against each other.
    /// Adds to `unseen` what could not be.
    pub fn compare(self, tables: Vec<Tables>, unseen: &mut Vec<String>) -> Comparison {
        let mut look = match Proc::read() {
            Ok(proc) => self.look(tables, &proc),
            Err(error) => {
                unseen.push(format!("what /proc shows is not checked: {error}"));
                Look { tables, ..Look::default() }
            }
        };
        let adrift = look.adrift();
        if !adrift.is_empty() {
            look.adrift = adrift::find(&adrift);
        }
        look.compare()
    }

    fn look(self, tables: Vec<Tables>, proc: &Proc) -> Look {
        let tasks: Option<BTreeMap<u32, Task>> =
            self.tasks.map(|tasks| tasks.iter().map(|it| (it.tgid, task(it))).collect());
        let descriptors = self.descriptors.map(|descriptors| {
            descriptors.iter().map(|it| descriptor(it, tasks.as_ref(), proc)).collect()
        });
        let processes = tasks.map(|tasks| {
            let hidden = |task: Task| match proc.shows_process(&task) {
                Shown::No(says) => Some((task, says)),
                Shown::Yes | Shown::Unknown => None,
            };
            tasks.into_values().filter_map(hidden).collect()
        });
        Look { tables, descriptors, processes, adrift: Adrift::default() }
    }
}

/// Lists the sockets of a network namespace by every view, and as `sock_diag` or what stands in for it has
/// them.
pub fn tables(
    namespace: &Namespace,
    object: Option<&mut Object>,
    wanted: Wanted<'_>,
) -> io::Result<(Tables, Sockets)> {
    let iterators = object.and_then(|object| or_log(object.view_tables()).flatten());
    netns::within(namespace, || tables_here(namespace.netns.clone(), iterators, wanted))
}

/// As [`tables`], of the calling thread's network namespace.
pub fn own_tables(iterators: Option<views::Tables>, ports: &PortSet) -> io::Result<Tables> {
    let inode = std::fs::metadata("/proc/thread-self/ns/net")?.st_ino();
    Ok(tables_here(Netns { inode, name: None }, iterators, Wanted::of(ports)).0)
}

fn tables_here(
    netns: Netns,
    iterators: Option<views::Tables>,
    Wanted { ports, probes, .. }: Wanted<'_>,
) -> (Tables, Sockets) {
    let wanted = |port| ports.contains(port);
    let iterators = iterators.and_then(|iterators| or_log(iterators.read()));
    let listed = sockets::list_here(netns.inode, &wanted);
    let proc_net = sockets::list_proc_here(netns.inode, &wanted);
    let kernel_made = iterators.iter().flatten().filter(|it| it.kernel_made == 1);
    let has_udp = listed.found.iter().any(|it| it.transport == Transport::Udp);
    let has_listener = listed.found.iter().any(Socket::is_listener);
    let has_connection = listed.found.iter().any(|it| it.remote.is_some());
    let tables = Tables {
        kernel_made: kernel_made.map(|it| it.cookie).collect(),
        iterators: iterators.map(|them| them.iter().filter_map(socket).collect()),
        // What is incomplete cannot lack anything.
        sock_diag: listed.degraded.is_empty().then(|| listed.found.clone()),
        proc_net: proc_net.ok(),
        taken: if probes { taken(ports) } else { BTreeSet::new() },
        tunnels: if has_udp { tunnels::list_here().unwrap_or_default() } else { Vec::new() },
        nfs: if has_listener { nfs_here(&netns) } else { Vec::new() },
        nfs_servers: if has_connection { nfs_servers_here() } else { Vec::new() },
        netns,
    };
    (tables, listed)
}

/// What the NFS server of portwatch's own network namespace listens on: the one whose list is mounted.
fn nfs_here(netns: &Netns) -> Vec<(Transport, u16)> {
    let own = std::fs::metadata("/proc/self/ns/net").map(|about| about.st_ino());
    if own.ok() != Some(netns.inode) {
        return Vec::new();
    }
    or_log(nfs::listeners().map_err(Into::into)).unwrap_or_default()
}

/// The servers that the NFS client of this namespace talks to.
fn nfs_servers_here() -> Vec<nfs::Server> {
    or_log(nfs::servers_here().map_err(Into::into)).unwrap_or_default()
}

/// The ports that cannot be bound here.
fn taken(ports: &PortSet) -> BTreeSet<(Transport, u16)> {
    let is_taken = |transport, port| {
        [Family::Ipv4, Family::Ipv6]
            .into_iter()
            .any(|family| bind_probe::is_taken(transport, family, port))
    };
    let each = ports.iter().flat_map(|port| [Transport::Tcp, Transport::Udp].map(|it| (it, port)));
    each.filter(|(transport, port)| is_taken(*transport, *port)).collect()
}

/// What a namespace says of its packet sockets. That it does not say fails nothing.
fn place(namespace: &Namespace) -> Option<Place> {
    let look = || {
        let interfaces = links::list().unwrap_or_default();
        Place {
            netns: namespace.netns.clone(),
            packet_sockets: packet_sockets::list_here().unwrap_or_default(),
            interfaces: interfaces.into_iter().map(|link| (link.ifindex, link.name)).collect(),
        }
    };
    netns::within(namespace, look).ok()
}

fn descriptor(view: &SocketView, tasks: Option<&BTreeMap<u32, Task>>, proc: &Proc) -> Descriptor {
    let socket = socket(view);
    let name = tasks.and_then(|tasks| tasks.get(&view.tgid)).map(|task| task.name.clone());
    Descriptor {
        what: what(view, socket.as_ref()),
        inode: view.inode,
        is_multipath: view.protocol == IPPROTO_MPTCP,
        socket,
        cookie: view.cookie,
        task: Task { pid: view.tgid, start_ns: view.start_ns, name: name.unwrap_or_default() },
        fd: view.fd,
        shown: proc.shows_descriptor(view.tgid, view.tid, view.fd, view.inode),
    }
}

/// What comes after an article: `socket tcp 127.0.0.1:3516`, `packet socket`.
fn what(view: &SocketView, socket: Option<&Socket>) -> String {
    match socket {
        Some(Socket { transport, local, remote, .. }) => {
            let remote = remote.map(|remote| format!(" > {remote}")).unwrap_or_default();
            format!("socket {} {local}{remote}", transport.name())
        }
        None if i32::from(view.family) == libc::AF_PACKET => "packet socket".to_owned(),
        None if i32::from(view.family) == libc::AF_XDP => "XDP socket".to_owned(),
        None if view.protocol == IPPROTO_MPTCP => {
            format!("socket of Multipath TCP on port {}", view.local_port)
        }
        None => "raw socket".to_owned(),
    }
}

/// The socket, if it is one of TCP or UDP.
fn socket(view: &SocketView) -> Option<Socket> {
    let family = match i32::from(view.family) {
        libc::AF_INET => Family::Ipv4,
        libc::AF_INET6 => Family::Ipv6,
        _ => return None,
    };
    let is_raw = i32::from(view.kind) == libc::SOCK_RAW;
    let transport = u8::try_from(view.protocol).ok().filter(|_| !is_raw);
    let remote = Endpoint::from_mapped(view.remote, view.remote_port);
    Some(Socket {
        cookie: view.cookie,
        inode: view.inode,
        uid: 0,
        cgroup_id: None,
        unit: None,
        transport: transport.and_then(Transport::from_iana_number)?,
        state: State::from_number(view.state),
        family,
        local: Endpoint::from_mapped(view.local, view.local_port),
        remote: (remote.port != 0 || !remote.ip.is_unspecified()).then_some(remote),
        interface: 0,
        netns: view.netns.into(),
    })
}

fn task(view: &TaskView) -> Task {
    let end = view.comm.iter().position(|byte| *byte == 0).unwrap_or(view.comm.len());
    let name = text_from_bytes(view.comm.get(..end).unwrap_or_default());
    Task { pid: view.tgid, start_ns: view.start_ns, name: name.into_owned() }
}

/// `include/uapi/linux/in.h`.
const IPPROTO_MPTCP: u16 = 262;

/// That a view is not to be had fails nothing: the others are still held against each other.
fn or_log<T>(view: anyhow::Result<T>) -> Option<T> {
    view.inspect_err(|error| tracing::warn!("a view of this host is not to be had: {error:#}")).ok()
}
