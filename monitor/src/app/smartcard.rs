//! Smart cards: virtual ones, the daemon that shares real ones, and commands by themselves.

mod apdu;
mod framing;
mod pcsclite;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::classify::{Match, Said, Talk};
use super::{Confidence, Protocol, Speaker};

pub(super) use apdu::{Command, show_command, show_response, status_word};
pub(super) use framing::{Frame, Framing, frames};
pub(super) use pcsclite::pcsc_lite;

/// A reader that is powered off, on, reset, or asked for the answer to reset.
const CONTROLS: [u8; 4] = [0, 1, 2, 4];

/// Commands and answers that are named.
const NAMED: usize = 6;

/// The side of the readers sends `00 01` and what to do with the card; the card answers with how it
/// answers to reset. Usually the reader listens, and speaks first.
pub(super) fn vpcd(talk: &Talk<'_>) -> Option<Match> {
    let of_reader = |reader, card| vpcd_between(reader, card);
    if talk.first == Some(Speaker::Source) {
        of_reader(&talk.client, &talk.server)
    } else {
        of_reader(&talk.server, &talk.client)
    }
}

fn vpcd_between(reader: &Said<'_>, card: &Said<'_>) -> Option<Match> {
    let (sent, cut_off) = frames(reader.bytes, Framing::TwoBytes)?;
    let is_control =
        |frame: &Frame<'_>| matches!(frame.content, [control] if CONTROLS.contains(control));
    let fits = |frame: &Frame<'_>| is_control(frame) || Command::parse(frame.content).is_some();
    if !sent.first().is_some_and(is_control) || !sent.iter().all(fits) || cut_off > LONGEST {
        return None;
    }
    let answers = frames(card.bytes, Framing::TwoBytes).map(|(answers, _)| answers);
    let atr = answers.iter().flatten().map(|frame| frame.content).find(|content| is_atr(content));
    let first_answer_fits =
        answers.as_ref().and_then(|answers| answers.first()).is_some_and(|it| is_atr(it.content));
    let confidence = match (first_answer_fits, sent.len()) {
        (true, _) => Confidence::Certain,
        (false, 2..) if card.is_silent() => Confidence::Likely,
        _ if card.is_silent() => Confidence::Possible,
        _ => return None,
    };
    let mut found = Match::new(Protocol::Vpcd, confidence);
    found.details.extend(atr.map(|atr| format!("ATR {}", in_hex(atr))));
    let commands = sent.iter().filter(|frame| !is_control(frame)).map(|frame| frame.content);
    let responses = answers.iter().flatten().map(|frame| frame.content).filter(|it| !is_atr(it));
    name(&mut found, commands, responses);
    Some(found)
}

/// The longest thing that may follow and not be there yet: an extended command.
const LONGEST: usize = 65_544;

/// Answers to reset begin with how bits are sent, and have 2 to 33 bytes (ISO 7816-3, 8.2).
pub(super) fn is_atr(content: &[u8]) -> bool {
    matches!(content.first(), Some(0x3b | 0x3f)) && (2..=33).contains(&content.len())
}

/// Commands as they are, or behind a length of two or four bytes; answers likewise.
pub(super) fn iso7816(talk: &Talk<'_>) -> Option<Match> {
    if talk.first == Some(Speaker::Destination) {
        return None;
    }
    [Framing::TwoBytes, Framing::FourBytes, Framing::Segments]
        .into_iter()
        .find_map(|framing| iso7816_with(talk, framing))
}

fn iso7816_with(talk: &Talk<'_>, framing: Framing) -> Option<Match> {
    let commands = contents(&talk.client, framing)?;
    let is_command =
        |content: &&[u8]| Command::parse(content).is_some_and(|it| it.name().is_some());
    if commands.is_empty() || !commands.iter().all(is_command) {
        return None;
    }
    let responses = contents(&talk.server, framing).unwrap_or_default();
    let is_response = |content: &&[u8]| status_word(content).is_some();
    let is_answered = !responses.is_empty() && responses.iter().all(is_response);
    if !talk.server.is_silent() && !is_answered {
        return None;
    }
    let pairs = commands.len().min(responses.len());
    let is_framed = framing != Framing::Segments;
    let confidence = match pairs {
        2.. if is_framed => Confidence::Certain,
        2.. => Confidence::Likely,
        1 if is_framed => Confidence::Likely,
        _ => Confidence::Possible,
    };
    let mut found = Match::new(Protocol::Iso7816, confidence);
    found.details.extend(framing.words().map(str::to_owned));
    name(&mut found, commands.into_iter(), responses.into_iter());
    Some(found)
}

/// What one side has said, command by command.
fn contents<'a>(said: &Said<'a>, framing: Framing) -> Option<Vec<&'a [u8]>> {
    if framing == Framing::Segments {
        return Some(said.messages.clone());
    }
    let (frames, _) = frames(said.bytes, framing)?;
    Some(frames.into_iter().map(|frame| frame.content).collect())
}

/// Names the commands and how they were answered; never what they carry.
fn name<'a>(
    found: &mut Match,
    commands: impl Iterator<Item = &'a [u8]>,
    responses: impl Iterator<Item = &'a [u8]>,
) {
    let mut named = BTreeSet::new();
    let commands = commands.filter_map(Command::parse).map(|command| command.describe());
    let statuses = responses.filter_map(status_word).map(apdu::describe_status);
    for words in commands.take(64).chain(statuses.take(64)) {
        if named.len() < NAMED && named.insert(words.clone()) {
            found.details.push(words);
        }
    }
}

fn in_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _written = write!(text, "{byte:02X}");
        text
    })
}
