//! Reads a recording, one input at a time, and believes nothing in it.

use std::io::Read;

use super::frame::{self, Fault, Found, Kind, MAGIC, PREFIX};
use super::header::Header;
use crate::pipeline::Input;

/// A recording that is being read. Holds one frame in memory.
#[derive(Debug)]
pub struct Reader<R> {
    file: R,
    header: Header,
    buffer: Vec<u8>,
    /// Where the next frame begins.
    offset: u64,
    /// The run has ended.
    has_ended: bool,
}

/// What comes next.
#[derive(Debug, PartialEq)]
pub enum Next<'a> {
    /// An input.
    Input(Input<'a>),
    /// Nothing more, and the run had ended by then.
    End,
    /// Nothing more although the run went on; why, if that is known.
    CutOff(String),
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn new(mut file: R) -> Result<Self, Fault> {
        let at = |offset| move |problem| Fault { offset, problem };
        let mut magic = [0; MAGIC.len()];
        let length = frame::fill(&mut file, &mut magic).map_err(at(0))?;
        if length < MAGIC.len() || magic != MAGIC {
            return Err(at(0)("not a recording of portwatch".to_owned()));
        }
        let start = length_of(MAGIC.len());
        let mut buffer = Vec::new();
        let header: Header = match frame::read(&mut file, &mut buffer).map_err(at(start))? {
            Found::Frame(Kind::Header) => frame::parse(&buffer).map_err(at(start))?,
            Found::Frame(Kind::Input | Kind::Lost) | Found::End | Found::Torn => {
                return Err(at(start)("there is no header".to_owned()));
            }
        };
        header.check().map_err(at(start))?;
        let offset =
            start.saturating_add(length_of(PREFIX)).saturating_add(length_of(buffer.len()));
        Ok(Self { file, header, buffer, offset, has_ended: false })
    }

    /// Whose recording it is.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next frame begins.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next input. After anything else there is nothing more to read.
    pub fn read(&mut self) -> Result<Next<'_>, Fault> {
        let offset = self.offset;
        let at = |problem| Fault { offset, problem };
        let found = frame::read(&mut self.file, &mut self.buffer).map_err(at)?;
        let kind = match found {
            Found::Frame(kind) => kind,
            Found::End if self.has_ended => return Ok(Next::End),
            Found::End | Found::Torn if !self.has_ended => {
                let line = format!("it is cut off after byte {offset}");
                return Ok(Next::CutOff(line));
            }
            Found::End | Found::Torn => return Err(at("it goes on after its end".to_owned())),
        };
        if self.has_ended {
            return Err(at("it goes on after its end".to_owned()));
        }
        let length = PREFIX.saturating_add(self.buffer.len());
        self.offset = offset.saturating_add(length_of(length));
        match kind {
            Kind::Header => Err(at("a second header".to_owned())),
            Kind::Lost => Ok(Next::CutOff(frame::parse(&self.buffer).map_err(at)?)),
            Kind::Input => {
                let input: Input<'_> = frame::parse(&self.buffer).map_err(at)?;
                self.has_ended = matches!(input, Input::Ended { .. });
                Ok(Next::Input(input))
            }
        }
    }
}

fn length_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
