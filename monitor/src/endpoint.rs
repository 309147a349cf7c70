//! The vocabulary of the network side: transports, directions, endpoints, namespaces, interfaces.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A transport protocol that has ports we watch.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The name as ECS `network.transport` and people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The IANA protocol number.
    pub const fn iana_number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The transport with this IANA protocol number.
    pub const fn from_iana_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The name as ECS `network.type` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// Direction at an interface, as TC means it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Direction {
    /// The packet came in through the interface.
    Ingress,
    /// The packet left through the interface.
    Egress,
}

impl Direction {
    /// The name as ECS `network.direction` of a host-based sensor writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// An address and a port. IPv4-mapped IPv6 addresses never appear here: see [`Endpoint::from_mapped`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Endpoint {
    /// The address.
    pub ip: IpAddr,
    /// The port, in host byte order.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint of an address and a port.
    pub const fn new(ip: IpAddr, port: u16) -> Self {
        Self { ip, port }
    }

    /// The endpoint of a 16-byte address; IPv4-mapped addresses become IPv4. The one place where
    /// that is decided.
    pub fn from_mapped(address: [u8; 16], port: u16) -> Self {
        Self { ip: Ipv6Addr::from(address).to_canonical(), port }
    }

    /// The address family.
    pub const fn family(&self) -> Family {
        match self.ip {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

/// What a socket is, and the port it is bound to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum SocketKind {
    /// TCP.
    Tcp(u16),
    /// UDP.
    Udp(u16),
    /// A raw IP socket: its process writes headers itself. Has no port.
    Raw,
    /// `AF_PACKET`: its process writes frames itself. Has no port.
    Packet,
}

/// `packet socket`, `socket on port 22`: what comes after an article.
impl fmt::Display for SocketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) | Self::Udp(port) => write!(f, "socket on port {port}"),
            Self::Raw => f.write_str("raw socket"),
            Self::Packet => f.write_str("packet socket"),
        }
    }
}

/// The index of the loopback device in every network namespace: `LOOPBACK_IFINDEX` of
/// `include/net/net_namespace.h`.
pub const LOOPBACK_IFINDEX: u32 = 1;

/// A network namespace: its inode on nsfs identifies it until reboot.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Netns {
    /// Inode number, as in `readlink /proc/PID/ns/net`.
    pub inode: u64,
    /// The name under `/run/netns`, where it has one. Foreign bytes: escape before showing.
    pub name: Option<String>,
}

/// The name, or the inode where it has none. Foreign bytes, as the name is.
impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.inode),
        }
    }
}

/// An interface of a network namespace.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Interface {
    /// Interface index, unique within its network namespace.
    pub ifindex: u32,
    /// Name when it was last seen. Foreign bytes: escape before showing.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        let mut mapped = [0; 16];
        mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);

        let endpoint = Endpoint::from_mapped(mapped, 3516);

        assert_eq!(endpoint.to_string(), "10.0.0.1:3516");
        assert_eq!(endpoint.family(), Family::Ipv4);
    }

    #[test]
    fn an_ipv6_endpoint_is_bracketed() {
        let endpoint = Endpoint::from_mapped(Ipv6Addr::LOCALHOST.octets(), 3516);

        assert_eq!(endpoint.to_string(), "[::1]:3516");
    }
}
