//! HTTP/1, HTTP/2 and WebSocket.

use super::classify::{Match, Talk};
use super::read::{Reader, line};
use super::{Http, Protocol};

/// What a client of HTTP/2 says first, and nobody else (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame of settings, the first thing a server of HTTP/2 sends.
const SETTINGS: u8 = 4;

/// Headers that are looked at.
const MAX_HEADERS: usize = 64;

pub(super) fn matches(talk: &Talk<'_>) -> Option<Match> {
    let (client, server) = (talk.client.bytes, talk.server.bytes);
    let is_preface =
        !client.is_empty() && PREFACE.starts_with(client) || client.starts_with(PREFACE);
    if is_preface && client.len() >= 16 {
        let mut found = Match::by_both(Protocol::Http, client.starts_with(PREFACE)).version("2");
        found.http = Some(Http { version: Some("2".into()), ..Http::default() });
        return Some(found);
    }
    let (request, status) = (request(client), status(server));
    let Some(request) = request else {
        let (version, status) = status?;
        // A server that speaks HTTP/2 at once, or one whose client was not heard.
        let mut found = Match::by_both(Protocol::Http, false).version(version);
        found.http =
            Some(Http { method: None, version: Some(version.into()), status: Some(status) });
        return Some(found);
    };
    let is_upgraded = request.asks_for_websocket && status.is_some_and(|(_, code)| code == 101);
    let (protocol, is_answered) = match (request.asks_for_websocket, is_upgraded) {
        (true, _) if status.is_none() || is_upgraded => (Protocol::Websocket, is_upgraded),
        _ => (Protocol::Http, status.is_some() || is_settings(server)),
    };
    let mut found = Match::by_both(protocol, is_answered);
    if protocol == Protocol::Http {
        found = found.version(request.version).detail(request.method.clone());
        found.details.extend(status.map(|(_, code)| format!("status {code}")));
    }
    if request.method == "CONNECT" {
        found = found.detail("asks for a tunnel");
    }
    found.http = Some(Http {
        method: Some(request.method),
        version: Some(request.version.into()),
        status: status.map(|(_, code)| code),
    });
    Some(found)
}

struct Request {
    method: String,
    version: &'static str,
    asks_for_websocket: bool,
}

/// The request that begins here, if its first line has come to an end.
fn request(bytes: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    // One that is cut off is as good: what there is of it has been read. Of one with a bad header
    // the first line is.
    let parsed = request.parse(bytes);
    let (method, minor) = (request.method?, request.version?);
    request.path?;
    let is_method = method.len() <= 20
        && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_');
    let is_websocket = |header: &httparse::Header<'_>| {
        header.name.eq_ignore_ascii_case("upgrade")
            && header.value.eq_ignore_ascii_case(b"websocket")
    };
    let asks_for_websocket = parsed.is_ok() && request.headers.iter().any(is_websocket);
    is_method.then(|| Request {
        method: method.to_owned(),
        version: minor_version(minor),
        asks_for_websocket,
    })
}

/// Version and status of the response that begins here.
fn status(bytes: &[u8]) -> Option<(&'static str, u16)> {
    let first = line(bytes)?;
    let minor = match first.strip_prefix(b"HTTP/1.")? {
        [b'0', b' ', ..] => 0,
        [b'1', b' ', ..] => 1,
        _ => return None,
    };
    let code = std::str::from_utf8(first.get(9..12)?).ok()?.parse().ok()?;
    let ends = matches!(first.get(12), None | Some(b' '));
    (ends && (100..600).contains(&code)).then(|| (minor_version(minor), code))
}

const fn minor_version(minor: u8) -> &'static str {
    if minor == 0 { "1.0" } else { "1.1" }
}

fn is_settings(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    let length = reader.u24();
    let kind = reader.u8();
    length.is_some_and(|length| length % 6 == 0 && length < 256) && kind == Some(SETTINGS)
}
