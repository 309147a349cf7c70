//! Conversations whose packets are seen by more than one CPU.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::{accept, limited};

/// Stays on one CPU from now on.
pub(super) fn pin(cpu: usize) -> Result<String> {
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only)?;
    Ok(format!("pinned {cpu}"))
}

/// Closes so many connections as soon as they are there: their ports can be used again at once.
pub(super) fn dismiss(listener: &TcpListener, count: u64) -> Result<String> {
    for _ in 0..count {
        drop(accept(listener)?);
    }
    Ok(format!("dismissed {count}"))
}

/// Opens so many connections from the same port, one after the other, on two CPUs in turn, and closes each
/// after the other side. Not at once: in a flood portwatch has times of a jiffy.
pub(super) fn revisit(remote: SocketAddr, local: SocketAddr, count: usize) -> Result<String> {
    for number in 0..count {
        pin(number % 2)?;
        let mut stream = loop {
            match connect_from(local, remote) {
                // The kernel awaits the last acknowledgement of the one before.
                Err(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE) => thread::yield_now(),
                stream => break limited(stream.context("connect")?)?,
            }
        };
        stream.read_to_end(&mut Vec::new()).context("receive")?;
        thread::sleep(Duration::from_millis(2));
    }
    Ok(format!("revisited {count}"))
}

fn connect_from(local: SocketAddr, remote: SocketAddr) -> Result<TcpStream, Errno> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let client = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&client, true)?;
    bind(&client, &local)?;
    connect(&client, &remote)?;
    Ok(client.into())
}

/// Asks so many questions, each from a port of its own, and awaits each answer.
pub(super) fn ask(remote: SocketAddr, local: SocketAddr, count: u16) -> Result<String> {
    for number in 0..count {
        let port = local.port().saturating_add(number);
        let socket = limited(UdpSocket::bind((local.ip(), port))?)?;
        socket.send_to(b"?", remote)?;
        socket.recv(&mut [0; 16]).context("receive")?;
    }
    Ok(format!("asked {count}"))
}
