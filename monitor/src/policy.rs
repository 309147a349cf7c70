//! What the user expects: the policy file, its rules, and what they say of listeners and clients.
//!
//! Default deny: a listener is expected only when every key of one rule holds. What cannot be read
//! never matches, so blindness shows as `unknown` and not as `expected`.

pub mod draft;
mod exposed;
mod file;
mod judge;
mod key;
mod parse;
mod pins;
mod place;
mod rule;
mod subject;
mod written;

use std::path::{Path, PathBuf};

use crate::escape;

pub use self::exposed::exposed;
pub use self::file::Exposure;
pub use self::judge::{Answer, Judgement};
use self::place::Places;
use self::rule::Rule;
pub use self::rule::{Comparison, RuleKind};
pub use self::subject::{ClientView, ListenerView};
pub use self::written::{Written, is_literal, runs_anything};

/// A policy; the default one has no rules and expects nothing.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    listeners: Vec<Rule>,
    clients: Vec<Rule>,
    places: Places,
    text: Option<String>,
}

/// Why there is no policy; shown in one line that begins with the file's name.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The text is not a policy.
    #[error("{}:{line}:{column}: {problem}", shown(.file))]
    Content {
        /// The policy.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong there, in words.
        problem: String,
    },
    /// It cannot be opened or read.
    #[error("{}: {cause}", shown(.file))]
    Unreadable {
        /// The policy.
        file: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// It is a directory, a device, a pipe.
    #[error("{}: not a regular file", shown(.file))]
    NotAFile {
        /// The policy.
        file: PathBuf,
    },
    /// No person wrote that.
    #[error("{}: larger than {} KiB", shown(.file), file::MAX_BYTES / 1024)]
    TooLarge {
        /// The policy.
        file: PathBuf,
    },
    /// Others than root could change what is expected.
    #[error("{}: {exposure}", shown(.file))]
    Exposed {
        /// The policy.
        file: PathBuf,
        /// Who could change what, and the remedy.
        exposure: Exposure,
    },
}

impl Policy {
    /// Reads a policy file that only root (or, not being root, we ourselves) can change.
    pub fn load(file: &Path) -> Result<Self, PolicyError> {
        let bytes = file::read(file)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(file, text),
            Err(error) => {
                let (valid, _) = bytes.split_at_checked(error.valid_up_to()).unwrap_or_default();
                let valid = String::from_utf8_lossy(valid);
                Err(content_error(file, &valid, valid.len(), "not UTF-8".to_owned()))
            }
        }
    }

    /// Reads a policy from its text; `file` is only what errors name.
    pub fn parse(file: &Path, text: &str) -> Result<Self, PolicyError> {
        // An editor's byte order mark takes no column.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match parse::parse(text) {
            Ok((listeners, clients)) => {
                let (places, text) = (Places::of(text), Some(text.to_owned()));
                Ok(Self { listeners, clients, places, text })
            }
            Err(problem) => Err(content_error(file, text, problem.offset, problem.message)),
        }
    }

    /// What it was read from; the default policy was written by nobody.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Says who may talk on the watched ports; else nobody asks.
    pub const fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// How many listener rules and client rules there are.
    pub const fn counts(&self) -> (usize, usize) {
        (self.listeners.len(), self.clients.len())
    }
}

fn content_error(file: &Path, text: &str, offset: usize, problem: String) -> PolicyError {
    let (line, column) = Places::of(text).at(offset);
    PolicyError::Content { file: file.to_owned(), line, column, problem }
}

fn shown(path: &Path) -> std::borrow::Cow<'_, str> {
    escape::escape_bytes(path.as_os_str().as_encoded_bytes())
}
