//! Requests to the netfilter subsystems of the kernel (`nfnetlink`), and their attributes.
//!
//! Numbers in attributes are in network order. What is asked is the calling thread's network namespace, and
//! asking takes `CAP_NET_ADMIN` in it.

use std::io;

use netlink_packet_core::{NetlinkSerializable, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::netlink::Connection;

/// A request to a subsystem: `struct nfgenmsg` and attributes.
#[derive(Clone, Debug)]
pub(super) struct Request {
    kind: u16,
    bytes: Vec<u8>,
}

impl Request {
    /// `family` is one of `AF_*` or `NFPROTO_*`.
    pub(super) fn new(subsystem: u16, message: u16, family: u8) -> Self {
        Self { kind: subsystem << 8 | message, bytes: vec![family, NFNETLINK_V0, 0, 0] }
    }

    /// A request to a family of generic netlink, whose header is of the same form; `kind` is its number.
    pub(super) fn generic(kind: u16, command: u8) -> Self {
        Self { kind, bytes: vec![command, NFNETLINK_V0, 0, 0] }
    }

    /// Adds an attribute.
    #[must_use]
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend(attribute(kind, value));
        self
    }
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        for (to, from) in buffer.iter_mut().zip(&self.bytes) {
            *to = *from;
        }
    }
}

/// Opens a connection to the netfilter subsystems of the calling thread's namespace.
pub(super) fn connect() -> io::Result<Connection> {
    Connection::open(NETLINK_NETFILTER)
}

/// An attribute, padded to a multiple of four bytes.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that contains others.
pub(super) fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | netlink_packet_core::NLA_F_NESTED, &attributes.concat())
}

/// The attributes of a message of a subsystem; none of one that is too short.
pub(super) fn attributes_of(payload: &[u8]) -> Attributes<'_> {
    Attributes(payload.get(HEADER_BYTES..).unwrap_or_default())
}

/// The family of a message of a subsystem.
pub(super) fn family_of(payload: &[u8]) -> u8 {
    payload.first().copied().unwrap_or_default()
}

/// Attributes that stand one after the other. What is cut short or malformed ends them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// All of them: kind and value.
    pub(super) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        NlasIterator::new(self.0).map_while(Result::ok).filter_map(move |attribute| {
            // The iterator lends of itself; its bytes are ours.
            let inner = attribute.into_inner();
            let length = usize::from(u16::from_ne_bytes(*inner.first_chunk()?));
            let kind = u16::from_ne_bytes(*inner.get(2..)?.first_chunk()?);
            Some((kind & netlink_packet_core::NLA_TYPE_MASK, inner.get(4..length)?))
        })
    }

    /// The value of the first of a kind.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(it, _)| *it == kind).map(|(_, value)| value)
    }

    /// The attributes in the first of a kind; none if there is none.
    pub(super) fn inside(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }

    /// A number.
    pub(super) fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(*self.get(kind)?.first_chunk()?))
    }

    /// A long number.
    pub(super) fn long(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(*self.get(kind)?.first_chunk()?))
    }

    /// A string, without its final zero. Foreign bytes made text: escape before showing.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Some(crate::escape::text_from_bytes(bytes.get(..end)?).into_owned())
    }
}

/// `NFNETLINK_V0` and the length of `struct nfgenmsg`: include/uapi/linux/netfilter/nfnetlink.h.
const NFNETLINK_V0: u8 = 0;
const HEADER_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let inner = [attribute(1, b"ab\0"), attribute(2, &7_u32.to_be_bytes())];
        let bytes = [nested(3, &inner), attribute(4, &9_u64.to_be_bytes())].concat();
        let attributes = Attributes(&bytes);

        assert_eq!(attributes.inside(3).text(1).as_deref(), Some("ab"));
        assert_eq!(attributes.inside(3).number(2), Some(7));
        assert_eq!(attributes.long(4), Some(9));
        assert_eq!(attributes.number(5), None);
    }

    #[test]
    fn every_truncation_gives_fewer_attributes_and_no_panic() {
        let bytes = [attribute(1, b"abc"), attribute(2, b"defg")].concat();

        for length in 0..bytes.len() {
            assert!(Attributes(&bytes[..length]).iter().count() < 2, "{length}");
        }
        assert_eq!(Attributes(&bytes).iter().count(), 2);
        assert_eq!(attributes_of(&bytes[..3]).iter().count(), 0);
    }
}
