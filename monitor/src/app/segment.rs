//! A sampled packet: where its payload stands in the stream, and as much of it as was captured.

use crate::endpoint::Transport;

use super::read::Reader;

/// The payload of a sampled packet and its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment<'a> {
    /// Sequence and acknowledgement number; `None` of UDP.
    pub(super) numbers: Option<(u32, u32)>,
    /// As much of the payload as was captured.
    pub(super) payload: &'a [u8],
    /// How long the payload really is.
    pub(super) length: usize,
}

impl<'a> Segment<'a> {
    /// The payload of a packet of `length` IP bytes, whose first ones are `data` and whose payload
    /// begins at `offset`; `None` without payload, or where the headers contradict that.
    pub fn of(data: &'a [u8], offset: usize, length: usize, transport: Transport) -> Option<Self> {
        let payload = data.get(offset..)?;
        let length = length.checked_sub(offset).filter(|length| *length > 0)?;
        let header = match transport {
            Transport::Udp => return Some(Self { numbers: None, payload, length }),
            Transport::Tcp => tcp_header(data.get(..offset)?)?,
        };
        let mut header = Reader::new(header.get(4..)?);
        let numbers = header.u32().zip(header.u32())?;
        Some(Self { numbers: Some(numbers), payload, length })
    }
}

/// The TCP header behind the IP headers, if it ends where they do.
fn tcp_header(headers: &[u8]) -> Option<&[u8]> {
    let start = match headers.first()? >> 4 {
        4 => usize::from(headers.first()? & 0xf) * 4,
        6 => behind_extensions(headers)?,
        _ => return None,
    };
    let header = headers.get(start..)?;
    let length = usize::from(header.get(12)? >> 4) * 4;
    (length == header.len()).then_some(header)
}

/// Where the extension headers of IPv6 end.
fn behind_extensions(headers: &[u8]) -> Option<usize> {
    let (mut kind, mut at) = (*headers.get(6)?, 40);
    while kind != TCP {
        let length = usize::from(*headers.get(at + 1)?);
        let next = match kind {
            HOP_BY_HOP | ROUTING | DESTINATION => at + (length + 1) * 8,
            FRAGMENT => at + 8,
            AUTHENTICATION => at + (length + 2) * 4,
            _ => return None,
        };
        (kind, at) = (*headers.get(at)?, next);
    }
    Some(at)
}

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::tcp;

    #[test]
    fn it_has_the_numbers_of_the_tcp_header() {
        let packet = tcp(7, 9, b"payload");

        let segment = Segment::of(&packet, 40, packet.len(), Transport::Tcp).unwrap();

        let expected = Segment { numbers: Some((7, 9)), payload: b"payload", length: 7 };
        assert_eq!(segment, expected);
    }
}
