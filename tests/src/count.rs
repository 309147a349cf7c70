//! Packets and bytes, and how nftables counts them on the same device.

use std::fmt::Display;
use std::iter::Sum;
use std::ops::{Add, Sub};
use std::process::Command;

use serde_json::Value;

use crate::lab::{Host, in_namespace};
use crate::process::{finish, is_installed, succeed};
use crate::skip;

/// Packets and IP bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Packets, as the kernel carries them: before they are cut for the wire.
    pub packets: u64,
    /// Bytes from the IP header on.
    pub bytes: u64,
}

impl Count {
    /// So many packets of so many bytes each.
    pub const fn of(packets: u64, bytes_each: u64) -> Self {
        Self { packets, bytes: packets.saturating_mul(bytes_each) }
    }

    /// The `packets` and `bytes` of a JSON object.
    pub fn read(object: &Value) -> Self {
        let number = |key: &str| object.get(key).and_then(Value::as_u64);
        let (packets, bytes) = number("packets").zip(number("bytes")).expect("read a count");
        Self { packets, bytes }
    }
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let packets = self.packets.saturating_add(other.packets);
        Self { packets, bytes: self.bytes.saturating_add(other.bytes) }
    }
}

impl Sub for Count {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let packets = self.packets.saturating_sub(other.packets);
        Self { packets, bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

impl Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

/// nftables counting the packets of one port on one device.
#[derive(Debug)]
pub struct Nft<'a> {
    host: &'a Host,
    egress: Egress,
}

/// Where nftables counts what goes out.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Egress {
    /// At the egress hook of the device (Linux 5.16), where the link-layer header is there already.
    Hook,
    /// Where it comes in: at the other end of the cable, in this namespace.
    Arrival { namespace: String },
}

impl<'a> Nft<'a> {
    /// Starts to count a port, or a range as `3000-3999`; `None`, noted as skipped, where nftables
    /// cannot.
    pub fn on(host: &'a Host, device: &str, port: impl Display) -> Option<Self> {
        if !is_installed("nft") {
            return None;
        }
        let chain = |name: &str, hook: &str| {
            format!(
                "counter {name} {{ }}; chain on_{name} {{ type filter hook {hook} device {device} \
                 priority 0; meta l4proto {{ tcp, udp }} th dport {port} counter name {name}; \
                 meta l4proto {{ tcp, udp }} th sport {port} counter name {name}; }};"
            )
        };
        let here = host.name();
        let ingress = chain("ingress", "ingress");
        if count(here, &(ingress.clone() + &chain("egress", "egress"))).is_ok() {
            return Some(Self { host, egress: Egress::Hook });
        }
        let there = if device == LOOPBACK { Some(here) } else { host.opposite() };
        let made = match there {
            None => Err("it has no egress hook, and nobody else sees what goes out".to_owned()),
            Some(there) if there == here => {
                count(here, &(ingress + &chain("egress", "ingress"))).map(|()| there)
            }
            Some(there) => count(here, &ingress)
                .and_then(|()| count(there, &chain("egress", "ingress")))
                .map(|()| there),
        };
        match made {
            Ok(there) => {
                Some(Self { host, egress: Egress::Arrival { namespace: there.to_owned() } })
            }
            Err(why) => {
                skip(&format!("nftables cannot count: {why}"));
                None
            }
        }
    }

    /// What came in.
    pub fn ingress(&self) -> Count {
        counter(self.host.name(), "ingress")
    }

    /// What went out.
    pub fn egress(&self) -> Count {
        match &self.egress {
            Egress::Hook => {
                let counted = counter(self.host.name(), "egress");
                let headers = Count::of(counted.packets, ETHERNET_HEADER);
                counted - Count { packets: 0, bytes: headers.bytes }
            }
            Egress::Arrival { namespace } => counter(namespace, "egress"),
        }
    }
}

/// Makes a table of these chains; an error says why the kernel refuses, and nothing is left.
fn count(namespace: &str, chains: &str) -> Result<(), String> {
    let rules = format!("table netdev portwatch_tests {{ {chains} }}");
    let made = finish(nft(namespace).arg(rules));
    if made.code == Some(0) { Ok(()) } else { Err(made.stderr.replace('\n', " ")) }
}

fn counter(namespace: &str, name: &str) -> Count {
    let list = ["-j", "list", "counter", "netdev", "portwatch_tests", name];
    let listed = succeed(nft(namespace).args(list));
    let listed: Value = serde_json::from_str(&listed).expect("read the answer of nft");
    let objects = listed.get("nftables").and_then(Value::as_array);
    let counter = objects.into_iter().flatten().find_map(|object| object.get("counter"));
    Count::read(counter.expect("find a counter of nft"))
}

fn nft(namespace: &str) -> Command {
    in_namespace(namespace, "nft")
}

const LOOPBACK: &str = "lo";

/// Bytes of destination, source and type; `lo` has them as well.
const ETHERNET_HEADER: u64 = 14;
