//! The port of a WireGuard device, which only WireGuard itself tells, over generic netlink.

use std::io;

use netlink_sys::protocols::NETLINK_GENERIC;

use super::netfilter::{Request, attributes_of};
use super::netlink::Connection;

/// The port that a device of the calling thread's network namespace listens on, which takes `CAP_NET_ADMIN`
/// there; `None` of one that is down, or where the kernel has no WireGuard.
pub(super) fn port(device: &str) -> io::Result<Option<u16>> {
    let mut connection = Connection::open(NETLINK_GENERIC)?;
    let families = Request::generic(GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
    let families = connection.dump(families, FAMILIES, |it| Ok(family(it)))?;
    let Some(&number) = families.items.first() else { return Ok(None) };
    let name = [device.as_bytes(), b"\0"].concat();
    let request = Request::generic(number, WG_CMD_GET_DEVICE).with(WGDEVICE_A_IFNAME, &name);
    // A device with many peers comes in several messages.
    let ports = connection.dump(request, MESSAGES, |it| Ok(listen_port(it)))?;
    Ok(ports.items.first().copied().filter(|port| *port != 0))
}

/// The number of WireGuard's family, if this message is about it.
fn family(payload: &[u8]) -> Option<u16> {
    let attributes = attributes_of(payload);
    let is_wireguard = attributes.text(CTRL_ATTR_FAMILY_NAME).is_some_and(|it| it == "wireguard");
    let number = attributes.get(CTRL_ATTR_FAMILY_ID).filter(|_| is_wireguard)?;
    number.first_chunk().copied().map(u16::from_ne_bytes)
}

fn listen_port(payload: &[u8]) -> Option<u16> {
    let port = attributes_of(payload).get(WGDEVICE_A_LISTEN_PORT)?;
    port.first_chunk().copied().map(u16::from_ne_bytes)
}

// include/uapi/linux/genetlink.h, wireguard.h.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const WG_CMD_GET_DEVICE: u8 = 0;
const WGDEVICE_A_IFNAME: u16 = 2;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;

/// Families there can be, and messages read about one device.
const FAMILIES: usize = 1024;
const MESSAGES: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::super::netfilter::attribute;
    use super::*;

    #[test]
    fn the_family_is_known_by_its_name_and_the_port_by_its_attribute() {
        let message = |name: &[u8]| {
            let number = attribute(CTRL_ATTR_FAMILY_ID, &35_u16.to_ne_bytes());
            [vec![1, 2, 0, 0], number, attribute(CTRL_ATTR_FAMILY_NAME, name)].concat()
        };
        let port = attribute(WGDEVICE_A_LISTEN_PORT, &51_820_u16.to_ne_bytes());
        let device = [vec![0, 1, 0, 0], attribute(WGDEVICE_A_IFNAME, b"wg0\0"), port].concat();

        assert_eq!(family(&message(b"wireguard\0")), Some(35));
        assert_eq!(family(&message(b"nlctrl\0")), None);
        assert_eq!(listen_port(&device), Some(51_820));
        assert!(
            (0..device.len())
                .all(|length| listen_port(&device[..length]).is_none_or(|it| it == 51_820))
        );
    }

    #[test]
    fn a_device_that_is_not_there_has_no_port() {
        assert!(!matches!(port("pw-none"), Ok(Some(_))));
    }
}
