//! Databases and brokers: MySQL, PostgreSQL, Redis, MQTT.

use super::classify::{Match, Talk};
use super::read::{Reader, is_plain, text};
use super::{Confidence, Protocol, tls};

/// The server greets with its version (protocol 10).
pub(super) fn mysql(talk: &Talk<'_>) -> Option<Match> {
    let mut reader = Reader::new(talk.server.bytes);
    let length = little_endian_24(&mut reader)?;
    let mut greeting = Reader::new(reader.take(length + 1)?);
    let [0, 10] = greeting.array()? else { return None };
    let version = greeting.until(0).filter(|version| is_plain(version) && version.len() < 64)?;
    // Thread, the first half of the challenge, and a zero.
    let rest = greeting.rest();
    if rest.len() < 20 || rest.get(12) != Some(&0) {
        return None;
    }
    let mut answer = Reader::new(talk.client.bytes);
    let length = little_endian_24(&mut answer);
    let is_answered = length.is_some_and(|length| length >= 32) && answer.u8() == Some(1);
    let found = Match::by_both(Protocol::Mysql, is_answered);
    Some(found.detail(format!("server {}", text(version, 64))))
}

fn little_endian_24(reader: &mut Reader<'_>) -> Option<usize> {
    let [low, middle, high] = reader.array()?;
    usize::try_from(u32::from_le_bytes([low, middle, high, 0])).ok()
}

/// A request for encryption, or the startup message.
pub(super) fn postgresql(talk: &Talk<'_>) -> Option<Match> {
    const TLS: u32 = 80_877_103;
    const GSS: u32 = 80_877_104;
    const CANCEL: u32 = 80_877_102;
    let mut reader = Reader::new(talk.client.bytes);
    let length = usize::try_from(reader.u32()?).ok()?;
    let code = reader.u32()?;
    let server = talk.server.bytes;
    match (length, code) {
        (8, TLS | GSS) => {
            let found = Match::by_both(
                Protocol::Postgresql,
                matches!(server.first(), Some(b'S' | b'N' | b'G')),
            );
            let encrypted = matches!(server.first(), Some(b'S'));
            let inner =
                encrypted.then(|| tls::inside(reader.rest(), server.get(1..).unwrap_or_default()));
            let Some(Some(tls)) = inner else { return Some(found) };
            let version = tls.version.as_deref().unwrap_or_default();
            let found = found.detail(format!("goes on in TLS {version}").trim_end().to_owned());
            Some(Match { tls: Some(tls), ..found })
        }
        (16, CANCEL) => {
            Some(Match::new(Protocol::Postgresql, Confidence::Likely).detail("cancels a request"))
        }
        (9..=8192, _) if code >> 16 == 3 => {
            let parameters = reader.take_up_to(length - 8);
            let begins = parameters.starts_with(b"user\0") || parameters.starts_with(b"database\0");
            let answered = matches!(server.first(), Some(b'R' | b'E' | b'v'))
                && Reader::new(server.get(1..)?)
                    .u32()
                    .is_some_and(|length| (4..8192).contains(&length));
            begins.then(|| Match::by_both(Protocol::Postgresql, answered).version("3"))
        }
        _ => None,
    }
}

/// Commands as arrays of strings; answers that begin with their kind.
pub(super) fn redis(talk: &Talk<'_>) -> Option<Match> {
    let command = redis_command(talk.client.bytes)?;
    let is_known =
        REDIS_COMMANDS.iter().any(|known| command.eq_ignore_ascii_case(known.as_bytes()));
    let server = talk.server.bytes;
    let answers = matches!(server, [b'+' | b'-' | b':' | b'$' | b'*' | b'%' | b'_', ..])
        && super::read::line(server).is_some();
    let found = if is_known {
        Match::by_both(Protocol::Redis, answers)
    } else {
        let confidence = if answers { Confidence::Likely } else { Confidence::Possible };
        Match::new(Protocol::Redis, confidence)
    };
    // Never an unknown word: it may be anything.
    Some(if is_known { found.detail(text(&command.to_ascii_uppercase(), 16)) } else { found })
}

/// The first word of `*2\r\n$4\r\nAUTH\r\n…`.
fn redis_command(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    let number = |line: &[u8], kind: u8| -> Option<usize> {
        let digits = line.strip_prefix(&[kind])?.strip_suffix(b"\r")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    let count = number(reader.until(b'\n')?, b'*')?;
    let length = number(reader.until(b'\n')?, b'$')?;
    let word = reader.take(length)?;
    ((1..=1024).contains(&count) && (1..=32).contains(&length) && is_plain(word)).then_some(word)
}

const REDIS_COMMANDS: [&str; 24] = [
    "AUTH",
    "CLIENT",
    "CLUSTER",
    "COMMAND",
    "CONFIG",
    "DBSIZE",
    "DEL",
    "ECHO",
    "EVAL",
    "EXISTS",
    "GET",
    "HELLO",
    "INFO",
    "KEYS",
    "MONITOR",
    "PING",
    "PSYNC",
    "PUBLISH",
    "QUIT",
    "REPLCONF",
    "SELECT",
    "SET",
    "SUBSCRIBE",
    "SYNC",
];

/// A client introduces itself (MQTT 3.1.1, 3.1).
pub(super) fn mqtt(talk: &Talk<'_>) -> Option<Match> {
    let mut reader = Reader::new(talk.client.bytes);
    let 0x10 = reader.u8()? else { return None };
    let length = variable_length(&mut reader)?;
    let name = reader.counted_by_u16()?;
    let level = reader.u8()?;
    let version = match (name, level) {
        (b"MQIsdp", 3) => "3.1",
        (b"MQTT", 4) => "3.1.1",
        (b"MQTT", 5) => "5",
        _ => return None,
    };
    let is_answered = matches!(talk.server.bytes, [0x20, 2..=127, ..]);
    (length >= 12).then(|| Match::by_both(Protocol::Mqtt, is_answered).version(version))
}

/// Seven bits a byte, the lowest first.
fn variable_length(reader: &mut Reader<'_>) -> Option<usize> {
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let byte = reader.u8()?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}
