//! `/proc/net/tcp` and its kin: for kernels without `sock_diag` modules.

use std::fs::File;
use std::io::{self, BufReader};
use std::net::SocketAddr;

use procfs::net::{TcpNetEntries, UdpNetEntries};
use procfs::{FromBufReadSI as _, LocalSystemInfo, ProcError};

use super::{Select, Socket, State};
use crate::endpoint::{Endpoint, Family, Transport};

/// The sockets of a table of the calling thread's network namespace that are wanted.
pub(super) fn read(select: &Select<'_>) -> io::Result<Vec<Socket>> {
    let path = match (select.transport, select.family) {
        (Transport::Tcp, Family::Ipv4) => "/proc/thread-self/net/tcp",
        (Transport::Tcp, Family::Ipv6) => "/proc/thread-self/net/tcp6",
        (Transport::Udp, Family::Ipv4) => "/proc/thread-self/net/udp",
        (Transport::Udp, Family::Ipv6) => "/proc/thread-self/net/udp6",
    };
    let file = BufReader::with_capacity(64 << 10, File::open(path)?);
    let socket = |local: SocketAddr, remote: SocketAddr, state, uid, inode| {
        let local = Endpoint::new(local.ip(), local.port());
        let remote = Endpoint::new(remote.ip(), remote.port());
        let socket = select.socket(local, remote)?;
        Some(Socket { state: State::from_number(state), uid, inode, ..socket })
    };
    let sockets = match select.transport {
        Transport::Tcp => {
            let table = TcpNetEntries::from_buf_read(file, &LocalSystemInfo).map_err(error)?.0;
            let sockets = table.into_iter().filter_map(|it| {
                socket(it.local_address, it.remote_address, it.state.to_u8(), it.uid, it.inode)
            });
            sockets.collect()
        }
        Transport::Udp => {
            let table = UdpNetEntries::from_buf_read(file, &LocalSystemInfo).map_err(error)?.0;
            let sockets = table.into_iter().filter_map(|it| {
                socket(it.local_address, it.remote_address, it.state.to_u8(), it.uid, it.inode)
            });
            sockets.collect()
        }
    };
    Ok(sockets)
}

fn error(error: ProcError) -> io::Error {
    match error {
        ProcError::Io(error, _) => error,
        error => io::Error::other(error),
    }
}
