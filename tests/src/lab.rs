//! Network namespaces of a test's own, so that it neither sees nor disturbs anything else.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::actor::{Actor, Performed};
use crate::count::Count;
use crate::event::Event;
use crate::netkit::{self, NetkitMode};
use crate::portwatch::{Portwatch, program, rest_of};
use crate::process::{Finished, finish, is_installed, soon, succeed};
use crate::skip;

/// `TCP_TIME_WAIT` and `TCP_LISTEN` of `include/net/tcp_states.h`, as `/proc/net/tcp` has them.
const SILENT: [&str; 2] = ["06", "0A"];

/// Two hosts and the cable between them.
#[derive(Debug)]
pub struct Lab {
    /// Where clients usually are.
    pub left: Host,
    /// Where servers and portwatch usually are.
    pub right: Host,
}

/// A network namespace with addresses; removed when dropped.
#[derive(Debug)]
pub struct Host {
    namespace: String,
    /// The namespace at the other end of the cable.
    opposite: Option<String>,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
    /// The program that plays processes.
    actor: PathBuf,
}

impl Lab {
    /// The device that leads to the other host, on either of them.
    pub const DEVICE: &'static str = "veth0";

    /// The same where they are joined by a netkit pair.
    pub const NETKIT: &'static str = "netkit0";

    /// Two namespaces joined by a veth pair; `None`, noted as skipped, without the rights for it.
    ///
    /// `actor` is the program that plays processes: `env!("CARGO_BIN_EXE_actor")`.
    pub fn two_hosts(actor: &str) -> Option<Self> {
        let lab = Self::apart(actor)?;
        lab.plug_in(Self::DEVICE);
        lab.address(Self::DEVICE);
        Some(lab)
    }

    /// The same, but joined by a netkit pair, whose primary end the right one has; `None`, noted as skipped,
    /// also where the kernel has no netkit.
    pub fn two_hosts_by_netkit(actor: &str, mode: NetkitMode) -> Option<Self> {
        const PEER: &str = "netkit-peer";

        let lab = Self::apart(actor)?;
        if let Err(error) = within(&lab.right, || netkit::add(Self::NETKIT, PEER, mode)) {
            assert_eq!(error, Errno::OPNOTSUPP, "make a pair of netkit devices");
            skip("this kernel has no netkit");
            return None;
        }
        let (left, device) = (lab.left.name(), Self::NETKIT);
        lab.right.ip(&format!("link set {PEER} netns {left} name {device}"));
        for host in [&lab.left, &lab.right] {
            host.ip(&format!("link set {device} up"));
        }
        lab.address(device);
        Some(lab)
    }

    /// Two namespaces that nothing joins.
    fn apart(actor: &str) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let host = |last: u8, name: &str| {
            let ipv4 = Ipv4Addr::new(10, 35, 16, last);
            let ipv6 = Ipv6Addr::new(0xfd00, 0x35, 0x16, 0, 0, 0, 0, last.into());
            Host::new(name, ipv4, ipv6, actor)
        };
        let mut lab = Self { left: host(1, "left"), right: host(2, "right") };
        lab.left.opposite = Some(lab.right.namespace.clone());
        lab.right.opposite = Some(lab.left.namespace.clone());
        Some(lab)
    }

    /// Gives both hosts their addresses on a device that joins them.
    fn address(&self, device: &str) {
        for host in [&self.left, &self.right] {
            host.ip(&format!("addr add {}/24 dev {device}", host.ipv4));
            host.ip(&format!("addr add {}/64 dev {device} nodad", host.ipv6));
        }
    }

    /// Two hosts in networks of their own and the router between them, which is reached through
    /// `left0` and `right0`; `None`, noted as skipped, without the rights for it.
    pub fn routed(actor: &str) -> Option<(Self, Host)> {
        if !is_root() {
            return None;
        }
        let host = |network: u16, name: &str| {
            let [_, third] = network.to_be_bytes();
            let ipv4 = Ipv4Addr::new(10, 35, third, 2);
            Host::new(name, ipv4, Ipv6Addr::new(0xfd00, 0x35, network, 0, 0, 0, 0, 2), actor)
        };
        let lab = Self { left: host(16, "left"), right: host(17, "right") };
        let router = Host::new("router", Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, actor);
        for (host, device, network) in [(&lab.left, "left0", 16), (&lab.right, "right0", 17)] {
            plug_in((host, Self::DEVICE), (&router, device));
            host.ip(&format!("addr add {}/24 dev {}", host.ipv4, Self::DEVICE));
            router.ip(&format!("addr add 10.35.{network}.1/24 dev {device}"));
            host.ip(&format!("route add default via 10.35.{network}.1"));
        }
        succeed(router.command("sysctl").args(["-q", "-w", "net.ipv4.ip_forward=1"]));
        Some((lab, router))
    }

    /// One namespace that has nothing but loopback; `None`, noted as skipped, without the rights.
    pub fn loopback_only(actor: &str) -> Option<Host> {
        is_root().then(|| Host::new("alone", Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, actor))
    }

    /// Joins the hosts by another cable, whose ends have this name; both are up.
    pub fn plug_in(&self, device: &str) {
        plug_in((&self.left, device), (&self.right, device));
    }
}

/// Is the test run by root? Noted as skipped if not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

impl Host {
    fn new(name: &str, ipv4: Ipv4Addr, ipv6: Ipv6Addr, actor: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("pwt-{}-{number}-{name}", process::id());
        ip(&format!("netns add {namespace}"));
        let host = Self { namespace, opposite: None, ipv4, ipv6, actor: PathBuf::from(actor) };
        host.ip("link set lo up");
        host
    }

    /// The IPv4 address with a port.
    pub const fn v4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ipv4), port)
    }

    /// The IPv6 address with a port.
    pub const fn v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.ipv6), port)
    }

    /// The name of the namespace.
    pub fn name(&self) -> &str {
        &self.namespace
    }

    /// The name of the namespace at the other end of the cable, if this is one of two hosts.
    pub(crate) fn opposite(&self) -> Option<&str> {
        self.opposite.as_deref()
    }

    /// The inode of the namespace.
    pub fn netns(&self) -> u64 {
        self.namespace_file().metadata().expect("look at a network namespace").ino()
    }

    /// The namespace itself.
    pub(crate) fn namespace_file(&self) -> File {
        File::open(format!("/run/netns/{}", self.namespace)).expect("open a network namespace")
    }

    /// A command that will run here, with the pid that its child has.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        in_namespace(&self.namespace, program)
    }

    /// `ip` with this line of arguments.
    pub fn ip(&self, line: &str) {
        ip(&format!("-netns {} {line}", self.namespace));
    }

    /// Changes features of a device; false, noted as skipped, where that cannot be done.
    pub fn has_ethtool_set(&self, device: &str, features: &[&str]) -> bool {
        if !is_installed("ethtool") {
            return false;
        }
        let set = finish(self.command("ethtool").args(["-K", device]).args(features));
        let is_set = set.code == Some(0);
        if !is_set {
            skip(&format!("{device} keeps its features: {}", set.stderr.trim()));
        }
        is_set
    }

    /// The number of a device.
    pub fn ifindex(&self, device: &str) -> u32 {
        let shown = succeed(self.command("ip").args(["-j", "link", "show", "dev", device]));
        let shown: Value = serde_json::from_str(&shown).expect("read what ip says");
        let ifindex = shown.pointer("/0/ifindex").and_then(Value::as_u64);
        ifindex.and_then(|ifindex| ifindex.try_into().ok()).expect("find the number of a device")
    }

    /// What a device has sent, link headers included, by its own count.
    pub fn sent(&self, device: &str) -> Count {
        let shown = succeed(self.command("ip").args(["-j", "-s", "link", "show", "dev", device]));
        let shown: Value = serde_json::from_str(&shown).expect("read what ip says");
        let sent = shown.pointer("/0/stats64/tx").expect("find what a device has sent");
        Count::read(sent)
    }

    /// Waits until every TCP connection in here has said its last: nothing is sent again later.
    pub fn wait_for_silence(&self) {
        soon("an end of all connections", || {
            let sockets = succeed(self.command("cat").arg("/proc/net/tcp"));
            let states = sockets.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3));
            states.into_iter().all(|state| SILENT.contains(&state)).then_some(())
        });
    }

    /// Starts an actor that performs these steps.
    pub fn actor(&self, steps: &[&str]) -> Actor {
        Actor::start(self.command(&self.actor).args(steps))
    }

    /// Lets an actor perform these steps and exit.
    pub fn perform(&self, steps: &[&str]) -> Performed {
        self.actor(steps).finish(steps.len())
    }

    /// Starts portwatch with `--format json` and waits until it is ready.
    pub fn portwatch(&self, args: &[&str]) -> Portwatch {
        Portwatch::start(self.command(program()), args)
    }

    /// As [`portwatch`](Self::portwatch), but with text for people.
    pub fn portwatch_in_text(&self, args: &[&str]) -> Portwatch {
        Portwatch::start_in_text(self.command(program()), args)
    }

    /// As [`portwatch`](Self::portwatch), but forgets the events in whose text this occurs: of a flood
    /// there are more than a test wants to keep.
    pub fn portwatch_ignoring(&self, flood: &'static str, args: &[&str]) -> Portwatch {
        let read = move |line: &str| (!line.contains(flood)).then(|| Event::parse(line));
        Portwatch::start_reading(self.command(program()), "json", args, read)
    }

    /// Runs portwatch to its end.
    pub fn finish_portwatch(&self, args: &[&str]) -> Finished {
        let name = args.first().copied().unwrap_or_default();
        finish(self.command(program()).arg(name).args(rest_of(args)))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Not asserted: a test that fails already must not abort the others.
        let removal = Command::new("ip").args(["netns", "del", &self.namespace]).status();
        drop(removal);
    }
}

/// A command that will run in a namespace, with the pid that its child has.
pub(crate) fn in_namespace(namespace: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// Runs in the namespace of a host, on a thread of its own, since a thread stays where it has moved.
pub(crate) fn within<T: Send>(host: &Host, what: impl FnOnce() -> T + Send) -> T {
    let namespace = host.namespace_file();
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network)
                .expect("move into a network namespace");
            what()
        });
        running.join().expect("do something in a network namespace")
    })
}

/// Joins two devices by a cable.
fn plug_in((host, device): (&Host, &str), (other, peer): (&Host, &str)) {
    let (namespace, other_namespace) = (&host.namespace, &other.namespace);
    ip(&format!(
        "link add name {device} netns {namespace} type veth peer name {peer} netns {other_namespace}"
    ));
    host.ip(&format!("link set {device} up"));
    other.ip(&format!("link set {peer} up"));
}

fn ip(line: &str) {
    succeed(Command::new("ip").args(line.split_whitespace()));
}
