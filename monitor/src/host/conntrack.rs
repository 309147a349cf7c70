//! What a connection is called on the other side of a translation of addresses: the kernel's connection
//! tracking, asked for one connection at a time.
//!
//! An entry has two tuples: of packets as they first came, and of the answers to them as they will come. Where
//! nothing is translated one is the other turned around.

use std::fs;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::DecodeError;
use serde::{Deserialize, Serialize};

use super::netfilter::{self, Attributes, Request, attribute, attributes_of, nested};
use super::netlink::Connection;
use crate::endpoint::{Endpoint, Family, Transport};

/// The two ends of a connection, in the order in which they were asked for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Ends {
    /// Who opened it, as far as is known.
    pub source: Endpoint,
    /// The other end.
    pub destination: Endpoint,
}

/// A connection on the other side of a translation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Translated {
    /// Its ends there, in the order in which they were asked for.
    pub ends: Ends,
    /// The packets that were asked for are those before the translation.
    pub was_asked_before: bool,
    /// Who translates.
    #[serde(default)]
    pub by: Translator,
}

/// Who translates a connection, and says so.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Translator {
    /// Connection tracking: of rules, and of whoever has it do so.
    #[default]
    Conntrack,
    /// The load balancer, by itself.
    Ipvs,
}

impl Translator {
    /// The name in evidence.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conntrack => "conntrack",
            Self::Ipvs => "IPVS",
        }
    }
}

/// A connection to look up.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Tuple {
    /// TCP or UDP.
    pub transport: Transport,
    /// Its ends, as some packet of it had them.
    pub ends: Ends,
}

/// The tracker of the network namespace in which it was opened, whoever uses it later.
#[derive(Debug)]
pub struct Tracker(Connection);

impl Tracker {
    /// Opens that of the calling thread's namespace; `None` where no connection is tracked now.
    ///
    /// Asking may load the kernel's `nf_conntrack_netlink`, which only answers questions.
    pub fn open() -> io::Result<Option<Self>> {
        if !tracks_anything() {
            return Ok(None);
        }
        netfilter::connect().map(|connection| Some(Self(connection)))
    }

    /// The connection on the other side of the translation; `None`: it is not translated, or not tracked.
    ///
    /// Takes `CAP_NET_ADMIN` in the namespace.
    pub fn translate(&mut self, tuple: Tuple) -> io::Result<Option<Translated>> {
        let Ends { source, destination } = tuple.ends;
        // Packets of one direction are in an entry: as they came, or as the answers will come.
        for (from, to) in [(source, destination), (destination, source)] {
            let Some(entry) = self.find(tuple.transport, from, to)? else { continue };
            let there = entry.other_side_of(from, to).filter(|there| *there != (from, to));
            return Ok(there.map(|(from_there, to_there)| Translated {
                ends: if from == source {
                    Ends { source: from_there, destination: to_there }
                } else {
                    Ends { source: to_there, destination: from_there }
                },
                was_asked_before: entry.original == (from, to),
                by: Translator::Conntrack,
            }));
        }
        Ok(None)
    }

    fn find(
        &mut self,
        transport: Transport,
        from: Endpoint,
        to: Endpoint,
    ) -> io::Result<Option<Entry>> {
        let family = match (from.family(), to.family()) {
            (Family::Ipv4, Family::Ipv4) => AF_INET,
            (Family::Ipv6, Family::Ipv6) => AF_INET6,
            _ => return Ok(None),
        };
        let request = Request::new(NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET, family)
            .with(CTA_TUPLE_ORIG | netlink_packet_core::NLA_F_NESTED, &tuple(transport, from, to));
        match self.0.ask(request, |payload| Ok::<_, DecodeError>(entry(payload))) {
            Ok(entry) => Ok(entry),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An entry: from and to of each direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    original: (Endpoint, Endpoint),
    reply: (Endpoint, Endpoint),
}

impl Entry {
    /// From and to on the other side of the translation of packets that have these on this side.
    fn other_side_of(&self, from: Endpoint, to: Endpoint) -> Option<(Endpoint, Endpoint)> {
        let turned = |(from, to)| (to, from);
        if self.original == (from, to) {
            Some(turned(self.reply))
        } else if self.reply == (from, to) {
            Some(turned(self.original))
        } else {
            None
        }
    }
}

/// Something is tracked in the calling thread's namespace, or that cannot be told.
fn tracks_anything() -> bool {
    match fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count") {
        Ok(count) => count.trim() != "0",
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The value of a tuple's attribute.
fn tuple(transport: Transport, from: Endpoint, to: Endpoint) -> Vec<u8> {
    let (source, destination) = match from.ip {
        IpAddr::V4(_) => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
        IpAddr::V6(_) => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
    };
    let address = |kind, ip| match ip {
        IpAddr::V4(ip) => attribute(kind, &ip.octets()),
        IpAddr::V6(ip) => attribute(kind, &ip.octets()),
    };
    let ips = [address(source, from.ip), address(destination, to.ip)];
    let ports = [
        attribute(CTA_PROTO_NUM, &[transport.iana_number()]),
        attribute(CTA_PROTO_SRC_PORT, &from.port.to_be_bytes()),
        attribute(CTA_PROTO_DST_PORT, &to.port.to_be_bytes()),
    ];
    [nested(CTA_TUPLE_IP, &ips), nested(CTA_TUPLE_PROTO, &ports)].concat()
}

/// The entry in an answer.
fn entry(payload: &[u8]) -> Option<Entry> {
    let attributes = attributes_of(payload);
    let ends = |kind| ends(attributes.inside(kind));
    Some(Entry { original: ends(CTA_TUPLE_ORIG)?, reply: ends(CTA_TUPLE_REPLY)? })
}

fn ends(tuple: Attributes<'_>) -> Option<(Endpoint, Endpoint)> {
    let (ips, ports) = (tuple.inside(CTA_TUPLE_IP), tuple.inside(CTA_TUPLE_PROTO));
    let ip = |v4, v6| -> Option<IpAddr> {
        let v4 = ips.get(v4).and_then(<[u8]>::first_chunk::<4>).map(|bytes| IpAddr::from(*bytes));
        v4.or_else(|| ips.get(v6)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)))
    };
    let port = |kind| Some(u16::from_be_bytes(*ports.get(kind)?.first_chunk()?));
    Some((
        Endpoint::new(ip(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, port(CTA_PROTO_SRC_PORT)?),
        Endpoint::new(ip(CTA_IP_V4_DST, CTA_IP_V6_DST)?, port(CTA_PROTO_DST_PORT)?),
    ))
}

// include/uapi/linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// 10.0.0.9:50000 → 10.0.0.1:3516 was sent on to 10.0.3.2:22, which saw 10.0.3.1:1024 as the sender.
    fn both() -> Entry {
        Entry {
            original: (end("10.0.0.9:50000"), end("10.0.0.1:3516")),
            reply: (end("10.0.3.2:22"), end("10.0.3.1:1024")),
        }
    }

    #[test]
    fn each_side_and_direction_of_a_translation_leads_to_the_other_side() {
        let entry = both();
        let (client, service) = entry.original;
        let (server, gateway) = entry.reply;

        assert_eq!(entry.other_side_of(client, service), Some((gateway, server)));
        assert_eq!(entry.other_side_of(server, gateway), Some((service, client)));
        assert_eq!(entry.other_side_of(gateway, server), None);
    }

    #[test]
    fn an_entry_is_read_as_the_kernel_writes_it() {
        let Entry { original, reply } = both();
        let tuple = |(from, to)| tuple(Transport::Tcp, from, to);
        let bytes = [
            vec![2, 0, 0, 0],
            attribute(CTA_TUPLE_ORIG, &tuple(original)),
            attribute(CTA_TUPLE_REPLY, &tuple(reply)),
            attribute(8, &[0; 4]),
        ]
        .concat();

        assert_eq!(entry(&bytes), Some(both()));
        for length in 0..bytes.len() - 8 {
            assert_eq!(entry(&bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn ipv6_ends_are_read_as_well() {
        let ends_of = (end("[fd00::1]:1"), end("[fd00::2]:2"));
        let bytes = tuple(Transport::Udp, ends_of.0, ends_of.1);

        assert_eq!(ends(Attributes(&bytes)), Some(ends_of));
    }

    fn end(text: &str) -> Endpoint {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Endpoint::new(address.ip(), address.port())
    }
}
