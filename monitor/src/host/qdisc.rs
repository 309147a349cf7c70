//! The clsact qdisc that carries filters where the kernel has no TCX: taken away again when it was
//! ours and nobody else came to use it.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcHandle, TcMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::Connection;

/// `TC_H_MAJ(TC_H_CLSACT)`, the major number of the clsact qdisc: `include/uapi/linux/pkt_sched.h`.
const CLSACT_MAJOR: u16 = 0xffff;

/// A clsact qdisc that this process added. Dropping it removes the qdisc, unless somebody else has
/// filters on it.
#[derive(Debug)]
pub struct OwnClsact {
    ifindex: u32,
}

impl OwnClsact {
    /// The clsact qdisc that was just added to this interface.
    #[must_use]
    pub const fn added_to(ifindex: u32) -> Self {
        Self { ifindex }
    }

    fn remove_unless_used(&self) -> io::Result<()> {
        let mut connection = Connection::open(NETLINK_ROUTE)?;
        for hook in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
            let message = self.message(TcHandle { major: CLSACT_MAJOR, minor: hook });
            let request = RouteNetlinkMessage::GetTrafficFilter(message);
            let filters = connection.dump(request, 1, |_filter| Ok(Some(())))?;
            if !filters.items.is_empty() {
                return Ok(());
            }
        }
        let mut message = self.message(TcHandle::CLSACT);
        message.header.handle = TcHandle { major: CLSACT_MAJOR, minor: 0 };
        connection.order(RouteNetlinkMessage::DelQueueDiscipline(message))
    }

    fn message(&self, parent: TcHandle) -> TcMessage {
        let mut message = TcMessage::default();
        message.header.index = i32::try_from(self.ifindex).unwrap_or_default();
        message.header.parent = parent;
        message
    }
}

impl Drop for OwnClsact {
    fn drop(&mut self) {
        if let Err(error) = self.remove_unless_used() {
            // The interface may be gone, and its qdiscs with it.
            tracing::debug!("the clsact qdisc of interface {} stays: {error}", self.ifindex);
        }
    }
}
