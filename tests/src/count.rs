//! Packets and bytes, and how nftables counts them on the same device.

use std::fmt::Display;
use std::iter::Sum;
use std::ops::{Add, Sub};

use serde_json::Value;

use crate::lab::Host;
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
}

impl<'a> Nft<'a> {
    /// Starts to count a port, or a range as `3000-3999`; `None`, noted as skipped, where nftables
    /// cannot.
    pub fn on(host: &'a Host, device: &str, port: impl Display) -> Option<Self> {
        if !is_installed("nft") {
            return None;
        }
        let chain = |hook: &str| {
            format!(
                "counter {hook} {{ }}; chain on_{hook} {{ type filter hook {hook} device {device} \
                 priority 0; meta l4proto {{ tcp, udp }} th dport {port} counter name {hook}; \
                 meta l4proto {{ tcp, udp }} th sport {port} counter name {hook}; }};"
            )
        };
        let rules =
            format!("table netdev portwatch_tests {{ {} {} }}", chain("ingress"), chain("egress"));
        let made = finish(host.command("nft").arg(rules));
        if made.code != Some(0) {
            skip(&format!("nftables cannot count: {}", made.stderr.replace('\n', " ")));
            return None;
        }
        Some(Self { host })
    }

    /// What came in.
    pub fn ingress(&self) -> Count {
        self.counter("ingress")
    }

    /// What went out.
    ///
    /// At its egress hook nftables also counts the link-layer header, which is there already.
    pub fn egress(&self) -> Count {
        let counted = self.counter("egress");
        counted - Count { packets: 0, bytes: Count::of(counted.packets, ETHERNET_HEADER).bytes }
    }

    fn counter(&self, name: &str) -> Count {
        let list = ["-j", "list", "counter", "netdev", "portwatch_tests", name];
        let listed = succeed(self.host.command("nft").args(list));
        let listed: Value = serde_json::from_str(&listed).expect("read the answer of nft");
        let objects = listed.get("nftables").and_then(Value::as_array);
        let counter = objects.into_iter().flatten().find_map(|object| object.get("counter"));
        Count::read(counter.expect("find a counter of nft"))
    }
}

/// Bytes of destination, source and type; `lo` has them as well.
const ETHERNET_HEADER: u64 = 14;
