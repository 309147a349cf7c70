//! The interfaces of a network namespace: a list, and a subscription to what changes.
//!
//! Read from messages is what is used, so that an attribute of a later kernel
//! cannot make an interface disappear.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::netlink::{self, Connection, Messages};
use crate::escape;

/// A network interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// Index, unique within its network namespace, never 0.
    pub ifindex: u32,
    /// Name. Foreign bytes: escape before showing.
    pub name: String,
    /// What its packets begin with at TC.
    pub link_layer: LinkLayer,
    /// `IFF_UP`: somebody wants it to work; says nothing of cable or carrier.
    pub up: bool,
    /// The XDP program that gets its packets first.
    pub xdp: Option<Xdp>,
    /// What it is as one end of a netkit pair.
    pub netkit: Option<Netkit>,
}

/// One end of a netkit pair, Linux 6.7: programs run on what an end sends, before it comes in at the other.
///
/// The programs of both ends are asked for at the primary one, which the other may not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Netkit {
    /// It is the primary end.
    pub is_primary: bool,
    /// Index of the other end, if that is in the same network namespace.
    pub other: Option<u32>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Xdp {
    /// Number of the program; with several, one of them.
    pub program: u32,
    /// Where it runs.
    pub mode: XdpMode,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum XdpMode {
    /// On every packet the driver hands over.
    Generic,
    /// In the driver.
    Driver,
    /// In the network card.
    Offloaded,
    /// Programs in more than one mode.
    Several,
}

impl XdpMode {
    /// Of `IFLA_XDP_ATTACHED`, from `include/uapi/linux/if_link.h`; `None`: there is no program.
    const fn from_attached(attached: u8) -> Option<Self> {
        match attached {
            0 => None,
            1 => Some(Self::Driver),
            2 => Some(Self::Generic),
            3 => Some(Self::Offloaded),
            _ => Some(Self::Several),
        }
    }
}

/// What a packet begins with where TC sees it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LinkLayer {
    /// An Ethernet header; the loopback device too.
    Ethernet,
    /// The IP header: tunnels, WireGuard, tun.
    Ip,
    /// Something else; its `ARPHRD_` number.
    Unsupported(u16),
}

impl LinkLayer {
    /// Of an `ARPHRD_` number, from `include/uapi/linux/if_arp.h`.
    pub const fn from_arphrd(arphrd: u16) -> Self {
        match arphrd {
            // ETHER, LOOPBACK.
            1 | 772 => Self::Ethernet,
            // PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE.
            512 | 519 | 768 | 769 | 776 | 778 | 823 | 65534 => Self::Ip,
            other => Self::Unsupported(other),
        }
    }
}

/// Something happened to an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LinkEvent {
    /// It appeared, or something about it changed: its name, up or down.
    Changed(Link),
    /// It was deleted or moved to another network namespace.
    Gone {
        /// Index it had.
        ifindex: u32,
    },
    /// Events were lost: [`list`] anew.
    Overflow,
}

/// The interfaces of the calling thread's network namespace, by index.
///
/// If they change all the time one may be missing or outdated: a [`Watch`] opened before tells of
/// it.
pub fn list() -> io::Result<Vec<Link>> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut connection = Connection::open(NETLINK_ROUTE)?;
    let dump =
        connection.dump(RouteNetlinkMessage::GetLink(request), LIMIT, parse_unless_of_family)?;
    if let Some(why) = dump.incomplete {
        return Err(io::Error::other(format!("interfaces of this network namespace: {why}")));
    }
    let mut links = dump.items;
    links.sort_by_key(|link| link.ifindex);
    Ok(links)
}

/// A subscription to the interfaces of one network namespace; its descriptor never blocks.
///
/// Subscribe first, [`list`] then: so nothing falls in between.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Watch {
    /// Subscribes in the calling thread's network namespace; may be read from any thread.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // Beyond net.core.rmem_max only with CAP_NET_ADMIN; less room only means more overflows.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES).is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, QUEUE_BYTES)?;
        }
        socket.bind(&SocketAddr::new(0, RTMGRP_LINK))?;
        Ok(Self { socket, buffer: vec![0; BUFFER_BYTES] })
    }

    /// What happened since the last call; `WouldBlock` if nothing did.
    ///
    /// Bounded: call again until `WouldBlock` before waiting for the descriptor.
    pub fn read(&mut self) -> io::Result<Vec<LinkEvent>> {
        let mut events = Vec::new();
        for _ in 0..DATAGRAMS_PER_READ {
            match netlink::receive(&self.socket, &mut self.buffer) {
                Ok(datagram) => read_datagram(datagram, &mut events),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    events.push(LinkEvent::Overflow);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !events.is_empty() => {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(events)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn read_datagram(datagram: &[u8], events: &mut Vec<LinkEvent>) {
    for message in Messages::of(datagram) {
        let event = match message {
            Ok(message) => match message.message_type() {
                RTM_NEWLINK => {
                    parse_unless_of_family(message.payload()).map(|it| it.map(LinkEvent::Changed))
                }
                RTM_DELLINK => parse_unless_of_family(message.payload())
                    .map(|it| it.map(|Link { ifindex, .. }| LinkEvent::Gone { ifindex })),
                _ => Ok(None),
            },
            Err(error) => Err(error),
        };
        // What cannot be read may have been anything: look at all of them again.
        events.extend(event.unwrap_or(Some(LinkEvent::Overflow)));
    }
}

/// The interface in a message; `None` if the message is about its part in a bridge, which is sent
/// as a deletion too when it leaves the bridge.
fn parse_unless_of_family(payload: &[u8]) -> Result<Option<Link>, DecodeError> {
    let header = LinkHeader::parse(payload)?;
    if header.interface_family != AddressFamily::Unspec {
        return Ok(None);
    }
    let attributes = payload.get(HEADER_BYTES..).unwrap_or_default();
    let (mut name, mut xdp, mut netkit) = (None, None, None);
    let (mut other, mut is_elsewhere) = (None, false);
    for attribute in NlasIterator::new(attributes).filter_map(Result::ok) {
        let bytes = attribute.value();
        match attribute.kind() {
            IFLA_IFNAME => {
                let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
                name = Some(escape::text_from_bytes(bytes).into_owned());
            }
            // Without the flag that says that it is nested, as older kernels send it, or with it.
            kind if kind & !NLA_F_NESTED == IFLA_XDP => xdp = parse_xdp(bytes),
            kind if kind & !NLA_F_NESTED == IFLA_LINKINFO => netkit = parse_netkit(bytes),
            IFLA_LINK => other = bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)),
            IFLA_LINK_NETNSID => is_elsewhere = true,
            _ => {}
        }
    }
    Ok(Some(Link {
        ifindex: header.index,
        name: name.ok_or("an interface without a name")?,
        link_layer: LinkLayer::from_arphrd(header.link_layer_type.into()),
        up: header.flags.contains(LinkFlags::Up),
        xdp,
        netkit: netkit
            .map(|is_primary| Netkit { is_primary, other: other.filter(|_| !is_elsewhere) }),
    }))
}

/// Whether it is the primary end; `None`: it is no end of a netkit pair.
fn parse_netkit(attributes: &[u8]) -> Option<bool> {
    let (mut is_netkit, mut is_primary) = (false, false);
    for attribute in NlasIterator::new(attributes).filter_map(Result::ok) {
        match attribute.kind() & !NLA_F_NESTED {
            IFLA_INFO_KIND => is_netkit = matches!(attribute.value(), b"netkit\0" | b"netkit"),
            IFLA_INFO_DATA => {
                let mut inside = NlasIterator::new(attribute.value()).filter_map(Result::ok);
                let primary = inside.find(|inside| inside.kind() == IFLA_NETKIT_PRIMARY);
                is_primary = primary.is_some_and(|primary| primary.value().first() == Some(&1));
            }
            _ => {}
        }
    }
    is_netkit.then_some(is_primary)
}

fn parse_xdp(attributes: &[u8]) -> Option<Xdp> {
    let (mut mode, mut program) = (None, 0);
    for attribute in NlasIterator::new(attributes).filter_map(Result::ok) {
        let value = attribute.value();
        match attribute.kind() {
            IFLA_XDP_ATTACHED => mode = XdpMode::from_attached(value.first().copied()?),
            IFLA_XDP_PROG_ID..=IFLA_XDP_HW_PROG_ID if program == 0 => {
                program = u32::from_ne_bytes(*value.first_chunk()?);
            }
            _ => {}
        }
    }
    mode.map(|mode| Xdp { program, mode })
}

/// Interfaces listed at most; hosts with more than a few ten thousand are not known.
const LIMIT: usize = 1 << 18;
/// Room for some 2000 events while nobody reads.
const QUEUE_BYTES: usize = 2 << 20;
/// An event is about 2 KiB, with the VFs of a large network card several times that.
const BUFFER_BYTES: usize = 64 << 10;
const DATAGRAMS_PER_READ: usize = 256;

// include/uapi/linux/rtnetlink.h and if_link.h.
const RTMGRP_LINK: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_NETKIT_PRIMARY: u16 = 2;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
/// `IFLA_XDP_PROG_ID`, then those of the driver, of generic mode and of the hardware.
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const NLA_F_NESTED: u16 = 1 << 15;
/// `sizeof(struct ifinfomsg)`.
const HEADER_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::host::netfilter::attribute;
    use crate::host::netns::tests::Named;
    use crate::host::netns::{enumerate, within};

    #[test]
    fn the_loopback_device_is_listed_with_an_ethernet_header() {
        let links = list().unwrap();

        let loopback = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((loopback.ifindex, loopback.link_layer), (1, LinkLayer::Ethernet));
    }

    #[test]
    fn an_interface_that_comes_changes_and_goes_is_told() {
        let Some(named) = Named::create("links") else { return };
        let namespaces = enumerate(None).unwrap();
        let namespace = named.among(&namespaces);

        let events = within(namespace, || {
            let mut watch = Watch::open().unwrap();
            assert_eq!(watch.read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            ip(&["link", "add", "pw0", "type", "veth", "peer", "name", "pw1"]);
            ip(&["link", "set", "pw0", "up"]);
            ip(&["link", "set", "pw1", "name", "pw2"]);
            ip(&["link", "delete", "pw0"]);
            (watch.read().unwrap(), list().unwrap())
        });
        let (events, left) = events.unwrap();

        let changed = |name: &str, up| {
            events.iter().any(|event| match event {
                LinkEvent::Changed(link) => link.name == name && link.up == up,
                _ => false,
            })
        };
        let gone = events.iter().filter(|event| matches!(event, LinkEvent::Gone { .. })).count();
        assert!(changed("pw0", false) && changed("pw0", true) && changed("pw2", false));
        assert_eq!(gone, 2);
        assert!(left.iter().all(|link| !link.name.starts_with("pw")));
    }

    #[test]
    fn a_bridge_port_that_leaves_its_bridge_is_not_gone() {
        let mut about_bridge = vec![0; HEADER_BYTES];
        about_bridge[0] = 7;

        assert_eq!(parse_unless_of_family(&about_bridge).unwrap(), None);
    }

    #[test]
    fn an_end_of_a_netkit_pair_is_told_with_the_other_if_that_is_here() {
        let data = |primary| attribute(IFLA_INFO_DATA, &attribute(IFLA_NETKIT_PRIMARY, &[primary]));
        let info = |kind: &[u8], primary| {
            let info = [attribute(IFLA_INFO_KIND, kind), data(primary)].concat();
            attribute(IFLA_LINKINFO | NLA_F_NESTED, &info)
        };
        let link = |more: &[Vec<u8>]| {
            let name = attribute(IFLA_IFNAME, b"nk0\0");
            let link = [vec![0; HEADER_BYTES], name, more.concat()].concat();
            parse_unless_of_family(&link).unwrap().unwrap().netkit
        };
        let other = attribute(IFLA_LINK, &7_u32.to_ne_bytes());
        let elsewhere = attribute(IFLA_LINK_NETNSID, &[0; 4]);
        let netkit = |is_primary, other| Some(Netkit { is_primary, other });

        assert_eq!(link(&[info(b"netkit\0", 1), other.clone()]), netkit(true, Some(7)));
        assert_eq!(link(&[info(b"netkit\0", 0), other.clone()]), netkit(false, Some(7)));
        assert_eq!(link(&[other.clone(), elsewhere, info(b"netkit\0", 0)]), netkit(false, None));
        assert_eq!(link(&[info(b"veth\0", 1), other]), None);
        assert_eq!(link(&[attribute(IFLA_LINKINFO, b"\xff\xff")]), None);
    }

    #[test]
    fn a_message_that_cannot_be_read_asks_for_a_new_list() {
        let mut events = Vec::new();

        read_datagram(&[1, 2, 3], &mut events);

        assert_eq!(events, [LinkEvent::Overflow]);
    }

    #[test]
    fn arphrd_numbers_say_what_a_packet_begins_with() {
        assert_eq!(LinkLayer::from_arphrd(65534), LinkLayer::Ip);
        assert_eq!(LinkLayer::from_arphrd(32), LinkLayer::Unsupported(32));
    }

    fn ip(arguments: &[&str]) {
        assert!(Command::new("ip").args(arguments).status().unwrap().success(), "{arguments:?}");
    }
}
