//! Protocols of single datagrams: DNS, QUIC, WireGuard, TFTP, syslog, SNMP.

use super::classify::{Match, Talk};
use super::read::{Reader, is_plain, text};
use super::{Confidence, Protocol};

/// A question, and an answer with the same number.
pub(super) fn dns(talk: &Talk<'_>) -> Option<Match> {
    dns_between(talk.client.bytes, talk.server.bytes)
}

/// The same in TCP, where a length goes before each message.
pub(super) fn dns_in_stream(talk: &Talk<'_>) -> Option<Match> {
    let message = |bytes| Reader::new(bytes).counted_by_u16();
    let question = message(talk.client.bytes)?;
    dns_between(question, message(talk.server.bytes).unwrap_or_default())
}

fn dns_between(client: &[u8], server: &[u8]) -> Option<Match> {
    let question = Question::parse(client)?;
    if question.is_response {
        return None;
    }
    let is_answered =
        Question::parse(server).is_some_and(|it| it.is_response && it.id == question.id);
    if !is_answered && !server.is_empty() {
        return None;
    }
    Some(Match::by_both(Protocol::Dns, is_answered).detail(format!("asks for {}", question.name)))
}

struct Question {
    id: u16,
    is_response: bool,
    name: String,
}

impl Question {
    /// Reads a header with one question and what may belong to it (RFC 1035, 4.1).
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (id, flags) = (reader.u16()?, reader.u16()?);
        let [questions, answers, authorities, more] =
            [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let is_response = flags & 0x8000 != 0;
        let operation = flags >> 11 & 0xf;
        let fits = questions == 1
            && operation <= 5
            && flags & 0x40 == 0
            && (is_response || answers == 0 && authorities == 0)
            && answers.max(authorities).max(more) < 128;
        let name = fits.then(|| labels(&mut reader))??;
        let (kind, class) = (reader.u16()?, reader.u16()?);
        let fits = (1..=260).contains(&kind) && matches!(class & 0x7fff, 1 | 3 | 4 | 255);
        fits.then_some(Self { id, is_response, name })
    }
}

/// A name as labels with their lengths.
fn labels(reader: &mut Reader<'_>) -> Option<String> {
    let mut name = String::new();
    loop {
        let label = reader.counted_by_u8().filter(|label| label.len() < 64)?;
        if label.is_empty() {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&text(label, 63));
        if name.len() > 255 {
            return None;
        }
    }
    if name.is_empty() {
        name.push('.');
    }
    Some(name)
}

/// A long header of a version that is in use (RFC 9000, 17.2).
pub(super) fn quic(talk: &Talk<'_>) -> Option<Match> {
    let client = LongHeader::parse(talk.client.bytes)?;
    // The first datagram of a client is filled up to this.
    let is_full = talk.client.first_length >= 1200 && client.kind == 0;
    let server = LongHeader::parse(talk.server.bytes);
    let is_answered = server.is_some_and(|server| {
        server.destination == client.source
            && (server.version == client.version || server.version == 0)
    });
    let version = match client.version {
        1 => "1",
        0x6b33_43cf => "2",
        _ => "draft",
    };
    (is_full || is_answered).then(|| Match::by_both(Protocol::Quic, is_answered).version(version))
}

struct LongHeader<'a> {
    kind: u8,
    version: u32,
    destination: &'a [u8],
    source: &'a [u8],
}

impl<'a> LongHeader<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let first = reader.u8().filter(|first| first & 0x80 != 0)?;
        let version = reader.u32()?;
        let is_known = matches!(version, 0 | 1 | 0x6b33_43cf | 0xff00_0000..=0xff00_00ff);
        let destination = reader.counted_by_u8().filter(|id| id.len() <= 20)?;
        let source = reader.counted_by_u8().filter(|id| id.len() <= 20)?;
        let fixed = version == 0 || first & 0x40 != 0;
        // Version 2 has the numbers of its kinds turned by one.
        let turned = u8::from(version == 0x6b33_43cf);
        let kind = (first >> 4 & 3).wrapping_sub(turned) & 3;
        (is_known && fixed).then_some(Self { kind, version, destination, source })
    }
}

/// An initiation, and the response that names its sender; lengths are always the same.
pub(super) fn wireguard(talk: &Talk<'_>) -> Option<Match> {
    let (client, server) = (talk.client.bytes, talk.server.bytes);
    let sender = client.strip_prefix(&[1, 0, 0, 0])?.first_chunk::<4>()?;
    if talk.client.first_length != 148 {
        return None;
    }
    let response = server.strip_prefix(&[2, 0, 0, 0]).and_then(|rest| rest.get(4..8));
    let is_answered = talk.server.first_length == 92 && response == Some(sender.as_slice());
    Some(Match::by_both(Protocol::Wireguard, is_answered))
}

/// A request to read or write a file (RFC 1350). Whoever answers uses another port: another flow.
pub(super) fn tftp(talk: &Talk<'_>) -> Option<Match> {
    let mut reader = Reader::new(talk.client.bytes);
    let operation = match reader.u16()? {
        1 => "reads",
        2 => "writes",
        _ => return None,
    };
    let name = reader.until(0).filter(|name| is_plain(name))?;
    let mode = reader.until(0)?.to_ascii_lowercase();
    let mut options = reader.rest().split(|byte| *byte == 0);
    let fits = matches!(mode.as_slice(), b"netascii" | b"octet" | b"mail")
        && options.all(|option| option.is_empty() || is_plain(option))
        && talk.client.is_whole();
    let found = Match::by_both(Protocol::Tftp, false);
    fits.then(|| found.detail(format!("{operation} {}", text(name, 64))))
}

const MONTHS: [&[u8]; 12] = [
    b"Jan ", b"Feb ", b"Mar ", b"Apr ", b"May ", b"Jun ", b"Jul ", b"Aug ", b"Sep ", b"Oct ",
    b"Nov ", b"Dec ",
];

/// A priority in angle brackets, then a version or a month (RFC 5424, 6; RFC 3164, 4.1).
pub(super) fn syslog(talk: &Talk<'_>) -> Option<Match> {
    let bytes = talk.client.bytes;
    // In TCP its length may go before it.
    let counted = Reader::new(bytes)
        .until(b' ')
        .filter(|digits| (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit));
    let message = counted.map_or(bytes, |digits| bytes.get(digits.len() + 1..).unwrap_or_default());
    let mut reader = Reader::new(message.strip_prefix(b"<")?);
    let priority = std::str::from_utf8(reader.until(b'>')?).ok()?;
    let fits = (1..=3).contains(&priority.len())
        && priority.bytes().all(|digit| digit.is_ascii_digit())
        && priority.parse::<u16>().is_ok_and(|priority| priority <= 191);
    if !fits {
        return None;
    }
    let rest = reader.rest();
    let is_new = matches!(rest, [b'1', b' ', b'0'..=b'9' | b'-', ..]);
    let is_old = MONTHS.iter().any(|month| rest.starts_with(month));
    let version = if is_new { "RFC 5424" } else { "RFC 3164" };
    let confidence = if is_new || is_old { Confidence::Likely } else { Confidence::Possible };
    let found = Match::new(Protocol::Syslog, confidence);
    Some(if is_new || is_old { found.version(version) } else { found })
}

/// A message of version 1, 2c or 3 that says its own length.
pub(super) fn snmp(talk: &Talk<'_>) -> Option<Match> {
    let version = snmp_version(talk.client.bytes)?;
    let is_answered = snmp_version(talk.server.bytes) == Some(version);
    (is_answered || talk.server.is_silent())
        .then(|| Match::by_both(Protocol::Snmp, is_answered).version(version))
}

fn snmp_version(bytes: &[u8]) -> Option<&'static str> {
    let mut outer = Reader::new(bytes);
    let message = element(&mut outer, 0x30)?;
    let mut reader = Reader::new(message);
    match element(&mut reader, 2)? {
        [version @ (0 | 1)] => {
            element(&mut reader, 4)?;
            let request = reader.u8().filter(|kind| (0xa0..=0xa8).contains(kind));
            request.map(|_| if *version == 0 { "1" } else { "2c" })
        }
        // The number, length and flags of the message are next.
        [3] => element(&mut reader, 0x30).map(|_| "3"),
        _ => None,
    }
}

/// The content of an element with this tag, whose length is in one to three bytes.
fn element<'a>(reader: &mut Reader<'a>, tag: u8) -> Option<&'a [u8]> {
    if reader.u8()? != tag {
        return None;
    }
    let length = match reader.u8()? {
        short @ 0..=0x7f => usize::from(short),
        0x81 => usize::from(reader.u8()?),
        0x82 => usize::from(reader.u16()?),
        _ => return None,
    };
    reader.take(length)
}
