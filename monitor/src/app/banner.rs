//! Protocols that begin with a line of text: SSH, VNC, SMTP, FTP.

use super::classify::{Match, Talk};
use super::read::{begins, has, is_plain, line, lines, text};
use super::{Protocol, tls};

/// The longest banner that is repeated.
const LONGEST: usize = 80;

/// Both sides name themselves (RFC 4253, 4.2).
pub(super) fn ssh(talk: &Talk<'_>) -> Option<Match> {
    let (client, server) = (identification(talk.client.bytes), identification(talk.server.bytes));
    let one = server.or(client)?;
    let version = one.strip_prefix("SSH-")?.split('-').next()?;
    let mut found = Match::by_both(Protocol::Ssh, client.is_some() && server.is_some());
    found = found.version(version);
    for (side, banner) in [("server", server), ("client", client)] {
        found.details.extend(banner.map(|banner| format!("{side} {banner}")));
    }
    Some(found)
}

fn identification(bytes: &[u8]) -> Option<&str> {
    let first = line(bytes)?;
    let fits = (first.starts_with(b"SSH-2.0-") || first.starts_with(b"SSH-1."))
        && is_plain(first)
        && first.len() <= 255;
    let shown = first.get(..LONGEST).unwrap_or(first);
    fits.then(|| std::str::from_utf8(shown).ok()).flatten()
}

/// Both sides say which version they speak (RFC 6143, 7.1.1).
pub(super) fn vnc(talk: &Talk<'_>) -> Option<Match> {
    let server = vnc_version(talk.server.bytes)?;
    let client = vnc_version(talk.client.bytes);
    Some(Match::by_both(Protocol::Vnc, client.is_some()).version(server))
}

fn vnc_version(bytes: &[u8]) -> Option<String> {
    let version = bytes.first_chunk::<12>()?.strip_prefix(b"RFB ")?.strip_suffix(b"\n")?;
    let (major, minor) = std::str::from_utf8(version).ok()?.split_once('.')?;
    let number = |digits: &str| digits.parse::<u16>().ok().filter(|_| digits.len() == 3);
    Some(format!("{}.{}", number(major)?, number(minor)?))
}

/// `220`, and on either side the words of mail.
pub(super) fn smtp(talk: &Talk<'_>) -> Option<Match> {
    let greeting = greeting(talk.server.bytes)?;
    let commands = ["EHLO ", "HELO ", "LHLO "];
    let asks = commands.iter().any(|command| begins(talk.client.bytes, command));
    let names_itself = has(greeting, b"SMTP") && talk.client.is_silent();
    if !asks && !names_itself {
        return None;
    }
    let mut found = Match::by_both(Protocol::Smtp, asks).detail(text(greeting, LONGEST));
    found.tls = inner_tls(talk, b"STARTTLS\r\n");
    if found.tls.is_some() {
        found = found.detail("goes on in TLS");
    }
    Some(found)
}

/// `220`, and on either side the words of file transfer.
pub(super) fn ftp(talk: &Talk<'_>) -> Option<Match> {
    let greeting = greeting(talk.server.bytes)?;
    let commands = ["USER ", "AUTH TLS", "AUTH SSL", "FEAT", "SYST", "OPTS ", "CLNT "];
    let asks = commands.iter().any(|command| begins(talk.client.bytes, command));
    let names_itself = has(&greeting.to_ascii_uppercase(), b"FTP");
    let may_ask_yet = names_itself && talk.client.is_silent();
    if !asks && !may_ask_yet {
        return None;
    }
    // Asked for a user it wants a password, or has none of this.
    let codes: [&[u8]; 7] = [b"331", b"230", b"234", b"530", b"500", b"211", b"215"];
    let answers =
        lines(talk.server.bytes).any(|line| codes.iter().any(|code| line.starts_with(code)));
    let found = Match::by_both(Protocol::Ftp, asks && (answers || names_itself));
    Some(found.detail(text(greeting, LONGEST)))
}

/// The first line, if it greets with 220.
fn greeting(server: &[u8]) -> Option<&[u8]> {
    let first = line(server)?;
    let fits = first.starts_with(b"220 ") || first.starts_with(b"220-");
    (fits && first.iter().all(|byte| *byte >= b' ' && *byte != 0x7f)).then_some(first)
}

/// The handshake that follows this command.
fn inner_tls(talk: &Talk<'_>, command: &[u8]) -> Option<Box<super::Tls>> {
    let client = talk.client.bytes;
    let behind = memchr::memmem::find(client, command)?.checked_add(command.len())?;
    // What the server says by then are lines, each with a number.
    let server = talk.server.bytes;
    let end = lines(server).take_while(|line| line.first().is_some_and(u8::is_ascii_digit));
    let length: usize = end.map(|line| line.len() + 2).sum();
    tls::inside(client.get(behind..)?, server.get(length..).unwrap_or_default())
}
