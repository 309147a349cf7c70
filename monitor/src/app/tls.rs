//! TLS: records, and the handshake that is in clear text.

mod fingerprint;
mod hello;

use std::borrow::Cow;

use super::classify::{Match, Talk};
use super::read::Reader;
use super::{Protocol, Tls};
use hello::{ClientHello, ServerHello};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// The longest record, with what encryption adds.
const LONGEST: u16 = (1 << 14) + 2048;

/// A `ClientHello`, or records that only look like those of TLS.
pub(super) fn matches(talk: &Talk<'_>) -> Option<Match> {
    let (client, server) = (talk.client.bytes, talk.server.bytes);
    if let Some(tls) = inside(client, server) {
        return Some(of_handshake(Protocol::Tls, tls, answers(server)));
    }
    if let Some(answer) = handshake(server, SERVER_HELLO).and_then(|it| ServerHello::parse(&it)) {
        let found = Match::by_both(Protocol::Tls, false).version(answer.version);
        return Some(found);
    }
    // From the middle of a conversation.
    let is_data = |bytes| first_record(bytes).is_some_and(|(kind, _)| kind == APPLICATION_DATA);
    (is_data(client) && is_data(server)).then(|| Match::by_both(Protocol::Tls, false))
}

/// The handshake that begins with these bytes, also inside another protocol.
pub(super) fn inside(client: &[u8], server: &[u8]) -> Option<Box<Tls>> {
    let hello = ClientHello::parse(&handshake(client, CLIENT_HELLO)?)?;
    let answer = handshake(server, SERVER_HELLO).and_then(|it| ServerHello::parse(&it));
    let (version, next_protocol) =
        answer.map_or((None, None), |answer| (Some(answer.version), answer.next_protocol));
    Some(Box::new(Tls {
        version: version.map(Cow::Borrowed),
        offered: hello.offered().map(Cow::Borrowed),
        ja3: hello.is_complete.then(|| fingerprint::ja3(&hello)),
        ja4: hello.is_complete.then(|| fingerprint::ja4(&hello)),
        server_name: hello.server_name,
        alpn: hello.alpn.iter().map(|name| super::read::text(name, 64)).collect(),
        next_protocol,
        ech: hello.ech,
    }))
}

/// A match whose handshake is this.
pub(super) fn of_handshake(protocol: Protocol, tls: Box<Tls>, is_answered: bool) -> Match {
    let mut found = Match::by_both(protocol, is_answered);
    found.version = tls.version.as_deref().map(str::to_owned);
    if tls.ech {
        found.details.push("Encrypted Client Hello: the name may be a cover".to_owned());
    }
    found.tls = Some(tls);
    found
}

/// Does a server of TLS say this?
pub(super) fn answers(server: &[u8]) -> bool {
    first_record(server).is_some_and(|(kind, fragment)| match kind {
        HANDSHAKE => fragment.first() == Some(&SERVER_HELLO),
        ALERT => matches!(fragment, [1 | 2, _]),
        _ => false,
    })
}

/// Kind and content, as far as it is there, of the first record.
fn first_record(bytes: &[u8]) -> Option<(u8, &[u8])> {
    record(&mut Reader::new(bytes))
}

fn record<'a>(reader: &mut Reader<'a>) -> Option<(u8, &'a [u8])> {
    let [kind, major, minor] = reader.array()?;
    let length = reader.u16()?;
    let fits =
        matches!(kind, 20..=24) && major == 3 && minor <= 4 && (1..=LONGEST).contains(&length);
    fits.then(|| (kind, reader.take_up_to(usize::from(length))))
}

/// The first handshake message of this kind, as far as it is there, put together from its records.
fn handshake(bytes: &[u8], kind: u8) -> Option<Vec<u8>> {
    let mut reader = Reader::new(bytes);
    let mut message = Vec::new();
    while let Some((HANDSHAKE, fragment)) = record(&mut reader) {
        message.extend_from_slice(fragment);
    }
    let mut header = Reader::new(&message);
    let length = (header.u8()? == kind).then(|| header.u24())??;
    message.truncate(length.checked_add(4)?);
    Some(message)
}
