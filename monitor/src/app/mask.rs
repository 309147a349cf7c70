//! What may be shown of a stream that is understood: what names the protocol, never what it carries.

use super::smartcard::{self, Framing, frames};
use super::{Confidence, Likeness, Protocol, Speaker};

/// Which bytes of the beginning of a stream may be shown; those behind the last one may not.
pub(super) fn shown(
    likeness: &Likeness,
    speaker: Speaker,
    first: Option<Speaker>,
    bytes: &[u8],
) -> Vec<bool> {
    if likeness.confidence < Some(Confidence::Likely) {
        return Vec::new();
    }
    match likeness.protocol {
        Protocol::Http | Protocol::Websocket => http(bytes),
        Protocol::Vpcd => framed(bytes, Framing::TwoBytes, first.is_none_or(|it| it == speaker)),
        Protocol::Iso7816 => commands(bytes, speaker == Speaker::Source),
        Protocol::Tls => handshake(bytes),
        Protocol::Ssh | Protocol::Vnc => first_line(bytes),
        // The version of either side.
        Protocol::PcscLite => vec![true; if speaker == Speaker::Source { 20 } else { 12 }],
        _ => Vec::new(),
    }
}

fn first_line(bytes: &[u8]) -> Vec<bool> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    vec![true; end.map_or(0, |end| end + 1)]
}

/// The header of the first record, and what kind of handshake message is in it.
fn handshake(bytes: &[u8]) -> Vec<bool> {
    const RECORD: usize = 5;
    const MESSAGE: usize = 6;
    vec![true; if bytes.first() == Some(&22) { RECORD + MESSAGE } else { RECORD }]
}

/// Lengths, and of each command or answer what may be shown.
fn framed(bytes: &[u8], framing: Framing, is_command: bool) -> Vec<bool> {
    let Some((frames, _cut_off)) = frames(bytes, framing) else { return Vec::new() };
    let mut shown = Vec::with_capacity(bytes.len());
    for frame in frames {
        let is_first = shown.is_empty();
        shown.resize(frame.at, true);
        match (is_command, frame.content) {
            (true, command) => smartcard::show_command(command, &mut shown),
            // How a card answers to reset says what card it is.
            (false, atr) if is_first && smartcard::is_atr(atr) => {
                shown.resize(frame.at + atr.len(), true);
            }
            (false, response) => smartcard::show_response(response, &mut shown),
        }
    }
    shown
}

/// The same of commands that have a length before them. Of those that have not nothing is shown: where
/// one ends is only guessed.
fn commands(bytes: &[u8], is_command: bool) -> Vec<bool> {
    let fits = |content: &[u8]| {
        if is_command {
            smartcard::Command::parse(content).is_some()
        } else {
            smartcard::status_word(content).is_some()
        }
    };
    let is_framed = |framing: &Framing| {
        frames(bytes, *framing)
            .is_some_and(|(frames, _)| frames.iter().all(|frame| fits(frame.content)))
    };
    let framing = [Framing::TwoBytes, Framing::FourBytes].into_iter().find(is_framed);
    framing.map(|framing| framed(bytes, framing, is_command)).unwrap_or_default()
}

/// The first line without the values in it, and the names of headers.
fn http(bytes: &[u8]) -> Vec<bool> {
    let mut shown = Vec::with_capacity(bytes.len());
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match number {
            0 if !line.ends_with(b"\n") => {}
            0 if line.starts_with(b"HTTP/") => shown.resize(line.len(), true),
            0 => request(line, &mut shown),
            _ => header(line, &mut shown),
        }
        if matches!(line, b"\r\n" | b"\n") || shown.is_empty() {
            // What follows is the body.
            break;
        }
    }
    shown
}

/// All but what may be a secret in the target: a user before the host, what follows a `;` in the path,
/// the values of a query, and a fragment.
fn request(line: &[u8], shown: &mut Vec<bool>) {
    let spaces = memchr::memchr(b' ', line).zip(memchr::memrchr(b' ', line));
    let Some((start, end)) = spaces else { return };
    let target = line.get(start + 1..end).unwrap_or_default();
    let (target, fragment) = split_at_sign(target, b'#');
    let (path, query) = split_at_sign(target, b'?');
    shown.resize(start + 1, true);
    let user_end = memchr::memrchr(b'@', path).map_or(0, |at| at + 1);
    let mut is_parameter = false;
    for (position, byte) in path.iter().enumerate() {
        shown.push(position >= user_end && (!is_parameter || *byte == b'/'));
        is_parameter = *byte == b';' || is_parameter && *byte != b'/';
    }
    for part in query.split_inclusive(|byte| *byte == b'&') {
        let name_end = memchr::memchr(b'=', part).map_or(0, |at| at + 1);
        shown.extend(part.iter().enumerate().map(|(position, byte)| {
            position < name_end || position == 0 && *byte == b'?' || *byte == b'&'
        }));
    }
    shown.extend(fragment.iter().map(|byte| *byte == b'#'));
    shown.resize(line.len(), true);
}

/// What comes before a sign, and what begins with it.
fn split_at_sign(bytes: &[u8], sign: u8) -> (&[u8], &[u8]) {
    bytes.split_at(memchr::memchr(sign, bytes).unwrap_or(bytes.len()))
}

/// A name and its colon, and the end of the line. A line that is no header may go on from the one before.
fn header(line: &[u8], shown: &mut Vec<bool>) {
    let colon = memchr::memchr(b':', line).unwrap_or(0);
    let name = line.get(..colon).unwrap_or_default();
    let is_sign = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let name_end = if name.iter().all(is_sign) && colon > 0 { colon + 1 } else { 0 };
    let is_end = |byte: u8| matches!(byte, b'\r' | b'\n');
    shown.extend(line.iter().enumerate().map(|(at, byte)| at < name_end || is_end(*byte)));
}
