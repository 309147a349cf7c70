//! Devices for which the kernel has a UDP socket of its own: VXLAN, Geneve, WireGuard and their kin.

use std::io;

use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::Connection;
use super::wireguard;
use crate::escape;

/// A device that talks UDP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tunnel {
    /// Its name. Foreign bytes: escape before showing.
    pub name: String,
    /// Its kind: `vxlan`.
    pub kind: String,
    /// The local port of its socket; `None` where it is not told.
    pub port: Option<u16>,
}

/// Those of the calling thread's network namespace.
pub fn list_here() -> io::Result<Vec<Tunnel>> {
    let mut connection = Connection::open(NETLINK_ROUTE)?;
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let parse = |payload: &[u8]| Ok::<_, DecodeError>(tunnel(payload));
    let mut tunnels = connection.dump(request, LIMIT, parse)?.items;
    for tunnel in tunnels.iter_mut().filter(|tunnel| tunnel.kind == "wireguard") {
        tunnel.port = wireguard::port(&tunnel.name).unwrap_or_else(|error| {
            tracing::debug!("the port of a WireGuard device is not told: {error}");
            None
        });
    }
    Ok(tunnels)
}

/// The device of a message, if it is of a kind that talks UDP.
fn tunnel(payload: &[u8]) -> Option<Tunnel> {
    let attributes = payload.get(HEADER_BYTES..)?;
    let name = attribute(attributes, IFLA_IFNAME)?;
    let info = attribute(attributes, IFLA_LINKINFO)?;
    let kind = text(attribute(info, IFLA_INFO_KIND)?);
    let (_, port) = *KINDS.iter().find(|(known, _)| *known == kind)?;
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    let port = port.and_then(|port| attribute(data, port)?.first_chunk().copied());
    Some(Tunnel { name: text(name), kind, port: port.map(u16::from_be_bytes) })
}

/// The value of an attribute, whether or not it is flagged as nested.
fn attribute(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    NlasIterator::new(attributes).filter_map(Result::ok).find_map(|nla| {
        let (kind, length) = (nla.kind() & !NLA_F_NESTED, nla.value_length());
        let value = rest.get(NLA_HEADER_BYTES..NLA_HEADER_BYTES.checked_add(length)?);
        let whole = length.checked_add(NLA_HEADER_BYTES)?.checked_next_multiple_of(4)?;
        rest = rest.get(whole..).unwrap_or_default();
        value.filter(|_| kind == wanted)
    })
}

fn text(bytes: &[u8]) -> String {
    escape::text_from_bytes(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned()
}

/// The kinds, and the attribute in which each tells its port.
const KINDS: [(&str, Option<u16>); 6] = [
    ("vxlan", Some(15)),
    ("geneve", Some(5)),
    ("bareudp", Some(1)),
    ("wireguard", None),
    ("gtp", None),
    ("amt", None),
];

/// Interfaces looked at in one namespace.
const LIMIT: usize = 1 << 16;

// include/uapi/linux/rtnetlink.h, if_link.h, netlink.h.
const HEADER_BYTES: usize = 16;
const NLA_HEADER_BYTES: usize = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_known_with_the_port_of_its_socket() {
        let data = nla(15, &4789_u16.to_be_bytes());
        let info = [nla(1, b"vxlan\0"), nla(NLA_F_NESTED | IFLA_INFO_DATA, &data)].concat();
        let message =
            [vec![0; 16], nla(3, b"vx0\0"), nla(NLA_F_NESTED | IFLA_LINKINFO, &info)].concat();

        let expected = ("vx0".to_owned(), "vxlan".to_owned(), Some(4789));
        assert_eq!(tunnel(&message).map(|it| (it.name, it.kind, it.port)), Some(expected));
    }

    #[test]
    fn other_devices_and_every_truncation_are_no_tunnel() {
        let info = nla(1, b"veth\0");
        let message = [vec![0; 16], nla(3, b"eth0\0"), nla(18, &info)].concat();

        for length in 0..=message.len() {
            assert_eq!(tunnel(&message[..length]), None);
        }
    }

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(NLA_HEADER_BYTES + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}
