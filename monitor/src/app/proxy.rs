//! Proxies that ask where to go: SOCKS 4 and 5.

use super::classify::{Match, Talk};
use super::read::Reader;
use super::{Confidence, Protocol};

pub(super) fn socks(talk: &Talk<'_>) -> Option<Match> {
    socks5(talk).or_else(|| socks4(talk))
}

/// Methods, the one that the proxy chose, and where to go (RFC 1928).
fn socks5(talk: &Talk<'_>) -> Option<Match> {
    const NONE_FITS: u8 = 0xff;
    let mut client = Reader::new(talk.client.bytes);
    let 5 = client.u8()? else { return None };
    let methods = client.counted_by_u8().filter(|methods| !methods.is_empty())?;
    let mut server = Reader::new(talk.server.bytes);
    let Some([version, chosen]) = server.array() else {
        let fits = talk.server.is_silent() && client.is_empty();
        return fits.then(|| Match::new(Protocol::Socks, Confidence::Possible).version("5"));
    };
    if version != 5 || chosen != NONE_FITS && !methods.contains(&chosen) {
        return None;
    }
    // The request follows at once where nobody has to log in.
    let asks = matches!(client.rest(), [5, 1..=3, 0, 1 | 3 | 4, ..]);
    let logs_in = chosen == 2 && matches!(client.rest(), [1, ..]);
    let found = Match::by_both(Protocol::Socks, asks || logs_in).version("5");
    Some(if logs_in { found.detail("logs in") } else { found })
}

/// Where to go, and whether the proxy has.
fn socks4(talk: &Talk<'_>) -> Option<Match> {
    let mut client = Reader::new(talk.client.bytes);
    let [4, 1 | 2] = client.array()? else { return None };
    client.take(6)?;
    client.until(0).filter(|user| user.len() < 256)?;
    let is_answered = matches!(talk.server.bytes, [0, 0x5a..=0x5d, _, _, _, _, _, _, ..]);
    if !is_answered {
        let fits = talk.server.is_silent();
        return fits.then(|| Match::new(Protocol::Socks, Confidence::Possible).version("4"));
    }
    Some(Match::by_both(Protocol::Socks, true).version("4"))
}
