//! Remote desktops and shared files of Windows: RDP and SMB.

use super::classify::{Match, Talk};
use super::read::{Reader, has};
use super::{Confidence, Protocol};

/// A connection request of X.224, which RDP begins with (MS-RDPBCGR, 2.2.1.1).
pub(super) fn rdp(talk: &Talk<'_>) -> Option<Match> {
    const REQUEST: u8 = 0xe0;
    const CONFIRM: u8 = 0xd0;
    let request = x224(talk.client.bytes, REQUEST)?;
    let is_confirmed = x224(talk.server.bytes, CONFIRM).is_some();
    // Others connect like this as well; only RDP says this in it.
    let asks = has(request, b"Cookie: mstshash=") || request.ends_with_negotiation();
    if !asks {
        return Some(Match::new(Protocol::Rdp, Confidence::Possible));
    }
    Some(Match::by_both(Protocol::Rdp, is_confirmed))
}

trait Negotiates {
    fn ends_with_negotiation(&self) -> bool;
}

impl Negotiates for [u8] {
    /// `01`, flags, length 8, and which security is offered.
    fn ends_with_negotiation(&self) -> bool {
        matches!(self.last_chunk::<8>(), Some([1, _, 8, 0, _, 0, 0, 0]))
    }
}

/// What follows the fixed part of such a message, if its three lengths agree.
fn x224(bytes: &[u8], kind: u8) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    let [3, 0] = reader.array()? else { return None };
    let length = usize::from(reader.u16()?).checked_sub(4)?;
    let message = reader.take(length)?;
    let mut reader = Reader::new(message);
    let header = usize::from(reader.u8()?);
    let fits = header.checked_add(1)? == length && reader.u8()? == kind && length < 1024;
    reader.take(5)?;
    fits.then(|| reader.rest())
}

/// A frame of NetBIOS with a message of SMB 1, or 2 and 3.
pub(super) fn smb(talk: &Talk<'_>) -> Option<Match> {
    let client = smb_message(talk.client.bytes);
    let server = smb_message(talk.server.bytes);
    let version = server.or(client)?;
    Some(Match::by_both(Protocol::Smb, client.is_some() && server.is_some()).version(version))
}

fn smb_message(bytes: &[u8]) -> Option<&'static str> {
    let mut reader = Reader::new(bytes);
    let 0 = reader.u8()? else { return None };
    let length = reader.u24()?;
    let version = match reader.array()? {
        [0xff, b'S', b'M', b'B'] => "1",
        [0xfe, b'S', b'M', b'B'] => "2",
        [0xfd, b'S', b'M', b'B'] => "3",
        _ => return None,
    };
    (length >= 32).then_some(version)
}
