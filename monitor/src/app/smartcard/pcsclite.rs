//! The protocol between PC/SC-lite's library and its daemon (`winscard_msg.h`), bridged over TCP.

use crate::app::classify::{Match, Talk};
use crate::app::read::Reader;
use crate::app::{Confidence, Protocol};

/// A client asks for the version of the protocol, a daemon answers with the same one.
pub(in crate::app) fn pcsc_lite(talk: &Talk<'_>) -> Option<Match> {
    const VERSION: u32 = 0x11;
    let mut client = Reader::new(talk.client.bytes);
    let (12, VERSION) = (little_endian(&mut client)?, little_endian(&mut client)?) else {
        return None;
    };
    let major = little_endian(&mut client).filter(|major| *major == 4)?;
    let minor = little_endian(&mut client).filter(|minor| *minor < 32)?;
    let 0 = little_endian(&mut client)? else { return None };
    let mut server = Reader::new(talk.server.bytes);
    let answer = little_endian(&mut server).zip(little_endian(&mut server));
    let is_answered = answer.is_some_and(|(found, other)| found == major && other < 32);
    if !is_answered && !talk.server.is_silent() {
        return None;
    }
    let mut found = Match::by_both(Protocol::PcscLite, is_answered);
    if found.confidence == Confidence::Certain {
        found.details.extend(commands(client));
    }
    Some(found.version(format!("{major}.{minor}")))
}

/// The names of the first requests that follow.
fn commands(mut client: Reader<'_>) -> Vec<String> {
    let mut named: Vec<String> = Vec::new();
    while let Some((length, command)) = little_endian(&mut client).zip(little_endian(&mut client)) {
        let Some(name) = command_name(command) else { break };
        if named.len() < 6 && named.iter().all(|known| known != name) {
            named.push(name.to_owned());
        }
        let content = usize::try_from(length).ok().and_then(|it| client.take(it));
        // What a card is sent follows behind these two, and its length is in them.
        if content.is_none() || matches!(command, 0x09 | 0x0a) {
            break;
        }
    }
    named
}

fn little_endian(reader: &mut Reader<'_>) -> Option<u32> {
    reader.array().map(u32::from_le_bytes)
}

const fn command_name(command: u32) -> Option<&'static str> {
    Some(match command {
        0x01 => "ESTABLISH CONTEXT",
        0x02 => "RELEASE CONTEXT",
        0x03 => "LIST READERS",
        0x04 => "CONNECT",
        0x05 => "RECONNECT",
        0x06 => "DISCONNECT",
        0x07 => "BEGIN TRANSACTION",
        0x08 => "END TRANSACTION",
        0x09 => "TRANSMIT",
        0x0a => "CONTROL",
        0x0b => "STATUS",
        0x0c => "GET STATUS CHANGE",
        0x0d => "CANCEL",
        0x0e => "CANCEL TRANSACTION",
        0x0f => "GET ATTRIBUTE",
        0x10 => "SET ATTRIBUTE",
        0x12 => "GET READERS STATE",
        0x13 => "WAIT FOR READERS",
        0x14 => "STOP WAITING FOR READERS",
        0x15 => "GET READER EVENTS",
        _ => return None,
    })
}
