//! Later fragments have no ports: they get those of their datagram's first fragment.
//!
//! Only fragments pay for it. The table is bounded and forgets what was used longest ago; a later
//! fragment that finds nothing there, since it came first or the table overflowed, is counted apart.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;

use monitor_ebpf::packet::Headers;

use crate::{clock, config};

/// Datagrams remembered at once.
const DATAGRAMS: u32 = 8192;

/// How long the fragments of a datagram may be under way: as long as Linux waits for those of IPv4
/// (`net.ipv4.ipfrag_time`). Identifications are used again after that.
const LIFETIME_NS: u64 = 30_000_000_000;

#[map(name = "pw_fragments")]
static FRAGMENTS: LruHashMap<Datagram, Ports> = LruHashMap::with_max_entries(DATAGRAMS, 0);

/// What all fragments of a datagram have in common (RFC 791, 3.2; RFC 8200, 4.5).
///
/// Not the interface: where several paths lead to this host, fragments need not take the same.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Datagram {
    addresses: [u64; 4],
    id: u32,
    /// Protocol, and in the next byte the version.
    kind: u32,
}

impl Datagram {
    #[inline(always)]
    pub(crate) fn new(addresses: [u64; 4], id: u32, protocol: u8, ipv6: bool) -> Self {
        Self { addresses, id, kind: u32::from(protocol) | u32::from(ipv6) << 8 }
    }
}

/// What a first fragment tells about its datagram.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ports {
    seen_ns: u64,
    source_port: u16,
    destination_port: u16,
    udp: u32,
}

impl Ports {
    #[inline(always)]
    pub(crate) fn of(headers: Headers) -> Self {
        Self {
            seen_ns: clock::exact(),
            source_port: headers.source_port,
            destination_port: headers.destination_port,
            udp: u32::from(headers.udp),
        }
    }

    /// Completes the headers of a later fragment; false if the ports are none of ours, which they are.
    #[inline(always)]
    pub(crate) fn give_to(self, headers: &mut Headers) -> bool {
        let Some(port) = config::watched(self.source_port, self.destination_port) else {
            return false;
        };
        headers.port = port;
        headers.source_port = self.source_port;
        headers.destination_port = self.destination_port;
        headers.udp = self.udp != 0;
        true
    }
}

/// Keeps the ports for the fragments that follow.
#[inline(always)]
pub(crate) fn remember(datagram: &Datagram, ports: Ports) {
    // Without memory for it, the fragments that follow are counted apart: nothing to be done here.
    let _full = FRAGMENTS.insert(datagram, ports, 0);
}

/// Forgets a datagram, if it is there.
#[inline(always)]
pub(crate) fn forget(datagram: &Datagram) {
    let _absent = FRAGMENTS.remove(datagram);
}

/// The ports of the datagram's first fragment, if that was seen lately.
#[inline(always)]
pub(crate) fn find(datagram: &Datagram) -> Option<Ports> {
    // SAFETY: copied at once. Should another CPU take the entry for another datagram meanwhile, the
    // fragment counts in that one's flow, of a watched port as well.
    let ports = unsafe { FRAGMENTS.get(datagram) }.copied()?;
    (clock::exact().wrapping_sub(ports.seen_ns) < LIFETIME_NS).then_some(ports)
}
