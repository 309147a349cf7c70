//! Two network namespaces and the veth pairs between them.
//!
//! The namespaces have no names: they and everything in them vanish with the last thread, process or
//! descriptor in them, however the bench ends.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::{self, Command};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// The devices of either end. What [`frames`](crate::frames) has goes to the first of them.
pub(crate) const DEVICES: [&str; 2] = ["veth0", "veth1"];

/// The cable; this thread is at its receiving end.
#[derive(Debug)]
pub(crate) struct Cable {
    sending: OwnedFd,
    receiving: OwnedFd,
    /// Index of the first device at the receiving end.
    pub(crate) ifindex: u32,
}

impl Cable {
    /// Lays a cable between two new namespaces and moves this thread, for good, to its receiving end.
    pub(crate) fn lay() -> Result<Self> {
        let sending = new_namespace()?;
        let receiving = new_namespace()?;
        let peer = format!("/proc/{}/fd/{}", process::id(), sending.as_raw_fd());
        ip("link set lo up")?;
        for (number, name) in DEVICES.iter().enumerate() {
            // The hardware address that the frames are to.
            let own = format!("{name} address 02:00:00:00:{number:02}:01");
            ip(&format!("link add {own} type veth peer name {name} netns {peer}"))?;
            ip(&format!("link set {name} up"))?;
            for address in [Self::receiver(number), Self::reader(number)] {
                ip(&format!("addr add {address}/24 dev {name}"))?;
            }
        }
        let [first, _] = DEVICES;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("opening a socket")?;
        let ifindex = rustix::net::netdevice::name_to_index(&socket, first);
        let ifindex = ifindex.with_context(|| format!("looking for {first}"))?;
        let cable = Self { sending, receiving, ifindex };
        cable.at_sending_end(|| {
            for (number, name) in DEVICES.iter().enumerate() {
                ip(&format!("link set {name} up"))?;
                ip(&format!("addr add {}/24 dev {name}", Self::sender(number)))?;
            }
            Ok(())
        })?;
        Ok(cable)
    }

    /// Where packets to a device come from.
    pub(crate) fn sender(device: usize) -> Ipv4Addr {
        address(device, 1)
    }

    /// Where packets to a device go to.
    pub(crate) fn receiver(device: usize) -> Ipv4Addr {
        address(device, 2)
    }

    /// Another address of a device, for sockets that are read.
    pub(crate) fn reader(device: usize) -> Ipv4Addr {
        address(device, 3)
    }

    /// Does something at the other end: a socket stays where it was opened.
    pub(crate) fn at_sending_end<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.sending.as_fd(), network).context("changing namespaces")?;
        let result = act();
        move_into_link_name_space(self.receiving.as_fd(), network)
            .context("changing namespaces")?;
        result
    }
}

fn address(device: usize, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, u8::from(device > 0), host)
}

/// Moves this thread into a new network namespace.
fn new_namespace() -> Result<OwnedFd> {
    // SAFETY: concerns this thread only, and no descriptors: later sockets are in the new namespace.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("making a network namespace")?;
    open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context("opening a network namespace")
}

/// `ip` with this line of arguments.
fn ip(line: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    let output = ip.args(line.split_whitespace()).output();
    let output = output.context("running ip, of the package iproute2")?;
    let reason = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {line}` fails: {}", reason.trim());
    Ok(())
}
