//! Pairs of netkit devices, which this machine's `ip` may be too old to make.

use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send};
use rustix::io::Errno;

/// What the two ends carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NetkitMode {
    /// Ethernet, with addresses that have to be asked for.
    L2,
    /// IP: the Ethernet header is there, and says nothing.
    L3,
}

/// Makes a pair in the namespace of the calling thread; `EOPNOTSUPP` where the kernel has no netkit.
pub(crate) fn add(primary: &str, peer: &str, mode: NetkitMode) -> Result<(), Errno> {
    let mode = match mode {
        NetkitMode::L2 => 0_u32,
        NetkitMode::L3 => 1,
    };
    let peer = [vec![0; IFINFOMSG], attribute(IFLA_IFNAME, peer.as_bytes())].concat();
    let data =
        [attribute(IFLA_NETKIT_MODE, &mode.to_ne_bytes()), attribute(IFLA_NETKIT_PEER_INFO, &peer)];
    let kind = attribute(IFLA_INFO_KIND, b"netkit");
    let info = [kind, attribute(IFLA_INFO_DATA, &data.concat())].concat();
    let name = attribute(IFLA_IFNAME, primary.as_bytes());
    let body = [vec![0; IFINFOMSG], name, attribute(IFLA_LINKINFO, &info)].concat();
    let length = u32::try_from(NLMSGHDR + body.len()).expect("a short message");
    let (length, kind) = (length.to_ne_bytes(), RTM_NEWLINK.to_ne_bytes());
    let flags = NLM_F_REQUEST_ACK_EXCL_CREATE.to_ne_bytes();
    let message = [&length[..], &kind, &flags, &[0; 8], &body].concat();
    let socket = nix::sys::socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
    .expect("open a netlink socket");
    send(socket.as_raw_fd(), &message, MsgFlags::empty()).expect("ask for a pair of devices");
    let mut answer = vec![0; 4096];
    let length =
        recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("hear the kernel's answer");
    answer.truncate(length);
    // `struct nlmsgerr` behind the header.
    let code = answer.get(NLMSGHDR..).and_then(<[u8]>::first_chunk).expect("read the answer");
    match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(code.saturating_neg())),
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).expect("a short attribute");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

// include/uapi/linux/netlink.h, rtnetlink.h and if_link.h.
const NLMSGHDR: usize = 16;
const IFINFOMSG: usize = 16;
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK_EXCL_CREATE: u16 = 1 | 4 | 0x200 | 0x400;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_NETKIT_PEER_INFO: u16 = 1;
const IFLA_NETKIT_MODE: u16 = 5;
