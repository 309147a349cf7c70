//! Ends of flows that were once joined to the wrong socket.

use monitor_ebpf::wire::SocketRecord;

use super::host::*;
use crate::endpoint::Transport;

#[test]
fn a_socket_that_connects_elsewhere_leaves_its_former_ends() {
    let mut host = Host::new();
    host.socket(&connect(CLIENT_SOCKET));
    host.socket(&SocketRecord { remote_port: PORT + 1, ..connect(CLIENT_SOCKET) });

    let former = host.known.sockets.with_ends(Transport::Tcp, CLIENT, SERVER);

    assert_eq!(former.count(), 0);
}
