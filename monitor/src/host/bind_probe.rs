//! Whether a port is taken: somebody tries to bind it. What no table lists and nobody can bind is hidden.
//!
//! Each port is bound for an instant only, without listening: a server that starts in that very instant
//! finds it taken. Other tools see it, a `portwatch watch` too.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::endpoint::{Family, Transport};

/// Is a port taken in the calling thread's network namespace, on all addresses of a family?
///
/// Whatever else is in the way of binding it, as a right that is missing, is no answer.
pub fn is_taken(transport: Transport, family: Family, port: u16) -> bool {
    try_to_bind(transport, family, port) == Err(Errno::ADDRINUSE)
}

fn try_to_bind(transport: Transport, family: Family, port: u16) -> Result<(), Errno> {
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let domain = match family {
        Family::Ipv4 => AddressFamily::INET,
        Family::Ipv6 => AddressFamily::INET6,
    };
    let socket = socket_with(domain, kind, SocketFlags::CLOEXEC, None)?;
    match family {
        Family::Ipv4 => bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)),
        Family::Ipv6 => {
            // IPv4 is asked for by itself.
            sockopt::set_ipv6_v6only(&socket, true)?;
            bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_port_is_taken_as_long_as_somebody_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        let ports = [listener.local_addr().unwrap().port(), socket.local_addr().unwrap().port()];
        let taken = || {
            [
                is_taken(Transport::Tcp, Family::Ipv4, ports[0]),
                is_taken(Transport::Udp, Family::Ipv6, ports[1]),
            ]
        };

        let before = taken();
        drop((listener, socket));

        assert_eq!(before, [true; 2]);
        assert_eq!(taken(), [false; 2]);
    }
}
