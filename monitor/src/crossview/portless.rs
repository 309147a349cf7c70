//! Sockets that get or send packets of a port without being on it: what the iterator over descriptors says,
//! and of packet sockets what `packet_diag` adds.

use std::collections::BTreeMap;

use monitor_ebpf::view::SocketView;

use crate::endpoint::Netns;
use crate::filter::{Filter, Framing, Reach};
use crate::host::packet_sockets::PacketSocket;
use crate::host::shown::Task;
use crate::ports::PortSet;
use crate::report::{PortlessFilter, PortlessKind, PortlessSocket};

/// What is known of the packet sockets and interfaces of a namespace.
#[derive(Debug)]
pub(super) struct Place {
    /// Which namespace.
    pub netns: Netns,
    /// As `packet_diag` lists them.
    pub packet_sockets: Vec<PacketSocket>,
    /// Names of interfaces.
    pub interfaces: BTreeMap<u32, String>,
}

/// Those that can see or answer packets of these ports and are news, each with all who hold it, and how
/// many more there are: of too many, those whose filter says most, so that nobody hides behind others.
pub(super) fn sockets(
    descriptors: &[SocketView],
    tasks: &dyn Fn(&SocketView) -> Task,
    places: &[Place],
    ports: &PortSet,
    is_news: &dyn Fn(&PortlessSocket) -> bool,
) -> (Vec<(PortlessSocket, Vec<Task>)>, usize) {
    let mut found: BTreeMap<u64, (PortlessSocket, Vec<Task>)> = BTreeMap::new();
    for view in descriptors {
        if let Some((_, holders)) = found.get_mut(&view.cookie) {
            let task = tasks(view);
            if !holders.contains(&task) {
                holders.push(task);
            }
        } else if let Some(socket) = socket(view, places, ports).filter(is_news) {
            found.insert(view.cookie, (socket, vec![tasks(view)]));
        }
    }
    let mut found: Vec<_> = found.into_values().collect();
    let more = found.len().saturating_sub(MAX_SOCKETS);
    if more > 0 {
        let reach = |socket: &PortlessSocket| socket.filter.as_ref().map(|filter| filter.reach);
        found.sort_by_key(|(socket, _)| rank(reach(socket).unwrap_or(Reach::Everything)));
        found.truncate(MAX_SOCKETS);
    }
    (found, more)
}

fn socket(view: &SocketView, places: &[Place], ports: &PortSet) -> Option<PortlessSocket> {
    let place = places.iter().find(|place| place.netns.inode == u64::from(view.netns));
    let listed =
        place.and_then(|place| place.packet_sockets.iter().find(|it| it.cookie == view.cookie));
    let family = i32::from(view.family);
    let is_raw = i32::from(view.kind) == libc::SOCK_RAW;
    let (kind, protocol) = match family {
        // Of a packet socket the kernel keeps the protocol elsewhere.
        libc::AF_PACKET => (PortlessKind::Packet, ethertype(listed.map(|it| it.protocol))?),
        libc::AF_XDP => (PortlessKind::Xdp, String::new()),
        _ if is_raw => (PortlessKind::Raw, ip_protocol(view.protocol)?),
        _ => return None,
    };
    let framing = if family == libc::AF_PACKET && is_raw { Framing::Ethernet } else { Framing::Ip };
    let filter = filter(view, listed.and_then(|it| it.filter.as_ref()), framing, ports);
    if filter.as_ref().is_some_and(|filter| filter.reach == Reach::Nothing) {
        return None;
    }
    let interface = listed.map(|it| it.ifindex).filter(|ifindex| *ifindex != 0);
    let interface = interface.map(|ifindex| {
        let name = place.and_then(|place| place.interfaces.get(&ifindex));
        name.cloned().unwrap_or_else(|| format!("interface {ifindex}"))
    });
    Some(PortlessSocket {
        kind,
        protocol,
        netns: place.map_or(Netns { inode: view.netns.into(), name: None }, |it| it.netns.clone()),
        interface,
        cookie: view.cookie,
        filter,
    })
}

/// What filters what it receives; `None`: nothing does.
fn filter(
    view: &SocketView,
    classic: Option<&Filter>,
    framing: Framing,
    ports: &PortSet,
) -> Option<PortlessFilter> {
    if view.filter_length == 0 && view.filter_program == 0 {
        return None;
    }
    let told = PortlessFilter {
        reach: Reach::Unknown,
        length: view.filter_length,
        program: (view.filter_program != 0).then_some(view.filter_program),
        payload: Vec::new(),
        instructions: Vec::new(),
    };
    let Some(classic) = classic else { return Some(told) };
    // What it has to do with many ports it has to do with one of the first.
    let reaches = ports.iter().take(MAX_PORTS).map(|port| classic.reach(port, framing));
    let payload = classic.payload_constants(framing);
    Some(PortlessFilter {
        reach: reaches.min_by_key(|reach| rank(*reach)).unwrap_or(Reach::Unknown),
        payload: payload.iter().take(MAX_NUMBERS).map(|it| format!("{it:#x}")).collect(),
        instructions: classic.lines(MAX_LINES),
        ..told
    })
}

/// The lower, the more telling.
const fn rank(reach: Reach) -> u8 {
    match reach {
        Reach::Payload => 0,
        Reach::Port => 1,
        Reach::Everything => 2,
        Reach::Unknown => 3,
        Reach::Nothing => 4,
    }
}

/// What a packet socket receives; `None` for what no packet of a port is in.
fn ethertype(protocol: Option<u16>) -> Option<String> {
    match protocol {
        // The kernel does not list it: what it receives is not known.
        None => Some("unknown".to_owned()),
        Some(0) => Some("none".to_owned()),
        Some(ETH_P_ALL) => Some("all".to_owned()),
        Some(ETH_P_IP) => Some("ipv4".to_owned()),
        Some(ETH_P_IPV6) => Some("ipv6".to_owned()),
        Some(_) => None,
    }
}

/// What a raw socket receives, likewise.
fn ip_protocol(protocol: u16) -> Option<String> {
    match protocol {
        6 => Some("tcp".to_owned()),
        17 => Some("udp".to_owned()),
        // IPPROTO_RAW: it only sends.
        255 => Some("none".to_owned()),
        _ => None,
    }
}

// include/uapi/linux/if_ether.h.
const ETH_P_ALL: u16 = 0x0003;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// Sockets told of, ports a filter is tried with, lines and numbers shown of a filter.
const MAX_SOCKETS: usize = 1024;
const MAX_PORTS: usize = 64;
const MAX_LINES: usize = 64;
const MAX_NUMBERS: usize = 8;

#[cfg(test)]
mod tests;
