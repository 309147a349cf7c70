//! How commands are told apart: a length goes before each, or each is a segment of its own.

use crate::app::read::Reader;

/// What goes before each command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// Its length in two bytes.
    TwoBytes,
    /// Its length in four bytes.
    FourBytes,
    /// Nothing: whoever sends one waits for the answer.
    Segments,
}

/// A command or an answer, and where it begins behind its length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Frame<'a> {
    pub(crate) at: usize,
    pub(crate) content: &'a [u8],
}

impl Framing {
    /// In words; nothing for what has no length.
    pub(super) const fn words(self) -> Option<&'static str> {
        match self {
            Self::TwoBytes => Some("each behind two bytes of length"),
            Self::FourBytes => Some("each behind four bytes of length"),
            Self::Segments => None,
        }
    }

    const fn header(self) -> usize {
        match self {
            Self::TwoBytes => 2,
            Self::FourBytes => 4,
            Self::Segments => 0,
        }
    }
}

/// All frames that are whole, and how many bytes the one that is not will have; `None` if a frame is
/// empty or there is no whole one.
pub(crate) fn frames(bytes: &[u8], framing: Framing) -> Option<(Vec<Frame<'_>>, usize)> {
    let mut reader = Reader::new(bytes);
    let (mut frames, mut at, mut cut_off) = (Vec::new(), 0, 0);
    loop {
        let length = match framing {
            Framing::TwoBytes => reader.u16().map(u32::from),
            Framing::FourBytes => reader.u32(),
            Framing::Segments => None,
        };
        let Some(length) = length else { break };
        let length = usize::try_from(length).ok().filter(|length| *length > 0)?;
        at += framing.header();
        let Some(content) = reader.take(length) else {
            cut_off = length;
            break;
        };
        frames.push(Frame { at, content });
        at += length;
    }
    (!frames.is_empty()).then_some((frames, cut_off))
}
