//! Frames: what a recording is made of. Kind, length and checksum, then so many bytes.

use std::io::{self, ErrorKind, Read};

use serde::{Deserialize, Serialize};

/// The first bytes of a recording. The first is no text, and a newline that was changed on the way shows.
pub const MAGIC: [u8; 8] = *b"\x89PWREC\r\n";

/// Bytes that a frame has at most: no input is larger, and nobody can make us ask for more memory.
pub const MAX_FRAME: usize = 4 << 20;

/// Bytes before the content of a frame: kind, length, checksum; each a little-endian `u32`.
pub(super) const PREFIX: usize = 12;

/// Values within values, at most: more than any input has.
const MAX_DEPTH: usize = 32;

/// What a frame holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// [`Header`](super::Header): the first frame, and only that.
    Header,
    /// An [`Input`](crate::pipeline::Input).
    Input,
    /// Why nothing more was recorded, a text: the last frame, if there is one.
    Lost,
}

impl Kind {
    const fn number(self) -> u32 {
        match self {
            Self::Header => 1,
            Self::Input => 2,
            Self::Lost => 3,
        }
    }

    const fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Header),
            2 => Some(Self::Input),
            3 => Some(Self::Lost),
            _ => None,
        }
    }
}

/// Where a recording stops making sense, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("byte {offset}: {problem}")]
pub struct Fault {
    /// Where the frame begins that makes none.
    pub offset: u64,
    /// What is wrong with it, in words.
    pub problem: String,
}

/// Appends a frame; nothing if it would be too large, or cannot be written down.
pub(super) fn append<T: Serialize>(
    out: &mut Vec<u8>,
    kind: Kind,
    content: &T,
) -> Result<(), String> {
    let start = out.len();
    out.extend([0; PREFIX]);
    let written = write(out, start, kind, content);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn write<T: Serialize>(
    out: &mut Vec<u8>,
    start: usize,
    kind: Kind,
    content: &T,
) -> Result<(), String> {
    rmp_serde::encode::write_named(out, content).map_err(|error| error.to_string())?;
    let content = out.get(start.saturating_add(PREFIX)..).unwrap_or_default();
    let length = u32::try_from(content.len()).ok().filter(|_| content.len() <= MAX_FRAME);
    let length = length.ok_or_else(|| format!("{} bytes in one frame", content.len()))?;
    let checksum = checksum(kind.number(), content);
    let fields = [kind.number(), length, checksum].map(u32::to_le_bytes);
    if let Some(prefix) = out.get_mut(start..start.saturating_add(PREFIX)) {
        prefix.copy_from_slice(fields.as_flattened());
    }
    Ok(())
}

fn checksum(kind: u32, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&kind.to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

/// What comes next in a recording.
#[derive(Debug)]
pub(super) enum Found {
    /// A whole frame; its content is in the buffer.
    Frame(Kind),
    /// Nothing: it ends between two frames.
    End,
    /// It ends within a frame.
    Torn,
}

/// Reads the next frame into `buffer`.
pub(super) fn read(file: &mut impl Read, buffer: &mut Vec<u8>) -> Result<Found, String> {
    let mut prefix = [0; PREFIX];
    match fill(file, &mut prefix)? {
        0 => return Ok(Found::End),
        PREFIX => {}
        _ => return Ok(Found::Torn),
    }
    let [kind, length, expected] = [0, 4, 8].map(|at| {
        let bytes = prefix.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    });
    let found = Kind::of(kind).ok_or_else(|| format!("no frame begins with {kind:#010x}"))?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if !(1..=MAX_FRAME).contains(&length) {
        return Err(format!("a frame of {length} bytes; it has 1 to {MAX_FRAME}"));
    }
    buffer.resize(length, 0);
    if fill(file, buffer)? < length {
        return Ok(Found::Torn);
    }
    if checksum(kind, buffer) != expected {
        return Err("the checksum does not fit".to_owned());
    }
    Ok(Found::Frame(found))
}

/// Reads until the buffer is full or the file ends; how much there was.
pub(super) fn fill(file: &mut impl Read, buffer: &mut [u8]) -> Result<usize, String> {
    let mut filled = 0usize;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(length) => filled = filled.saturating_add(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(&error)),
        }
    }
    Ok(filled)
}

fn unreadable(error: &io::Error) -> String {
    format!("it cannot be read: {error}")
}

/// What the content of a frame stands for.
pub(super) fn parse<'b, T: Deserialize<'b>>(content: &'b [u8]) -> Result<T, String> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(content);
    deserializer.set_max_depth(MAX_DEPTH);
    T::deserialize(&mut deserializer).map_err(|error| error.to_string())
}
