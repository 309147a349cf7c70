//! The loopback device of a new network namespace, which is down at first.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::Connection;
use crate::endpoint::LOOPBACK_IFINDEX;

/// Sets the loopback device of the calling thread's network namespace up, which takes `CAP_NET_ADMIN`.
pub fn set_up() -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = LOOPBACK_IFINDEX;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Connection::open(NETLINK_ROUTE)?.order(RouteNetlinkMessage::SetLink(message))
}
