//! Facts of this host as the kernel shows them, for who looks when they are gone: files of `/proc` byte for
//! byte, answers of netlink with their bytes, each with where it comes from.
//!
//! Nothing is judged here. Each fact has a bound, and what a bound cuts off is said.

mod namespace;
mod process;
mod rules;
mod system;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use serde_json::Value;

use super::proc;
use crate::escape;

pub use self::namespace::of_namespace;
pub use self::process::{Held, IT_IS_GONE, lineage};
pub use self::system::{clock, of_system};

/// One fact.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Artifact {
    /// A name for the file it is kept in. Never foreign text.
    pub name: &'static str,
    /// Where it comes from: a path, or what was asked.
    pub source: String,
    /// The bytes, or why there are none, in words.
    pub content: Result<Content, String>,
}

/// What was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Content {
    /// Foreign bytes, unless they are JSON: there nothing can deceive a reader.
    pub bytes: Vec<u8>,
    /// What is missing of it, in words.
    pub cut: Option<String>,
}

/// Takes facts in. False: no more are wanted.
pub type Sink<'a> = dyn FnMut(Artifact) -> bool + Send + 'a;

/// The first bytes of a file that the kernel makes, or of one of the host.
fn read(file: io::Result<File>, limit: usize) -> io::Result<Content> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file?.take(most).read_to_end(&mut bytes)?;
    let cut = (bytes.len() > limit).then(|| format!("what follows the first {limit} bytes"));
    bytes.truncate(limit);
    Ok(Content { bytes, cut })
}

/// The first bytes of a file of the host. Never waits for a pipe or a terminal.
pub fn read_path(path: &Path, limit: usize) -> io::Result<Content> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    read(Ok(File::from(file)), limit)
}

/// Lines of JSON, a value each, in which nothing deceives.
#[derive(Debug, Default)]
pub struct Lines {
    content: Content,
    is_full: bool,
}

impl Lines {
    /// Adds a line, as long as there is room.
    pub fn push(&mut self, value: &Value) {
        if self.is_full {
            return;
        }
        if self.content.bytes.len() > TABLE_BYTES {
            self.is_full = true;
            self.lack([format!("what follows the first {TABLE_BYTES} bytes")]);
            return;
        }
        self.content.bytes.extend(escape::in_json(&value.to_string()).as_bytes());
        self.content.bytes.push(b'\n');
    }

    /// Says what else is missing.
    pub fn lack(&mut self, what: impl IntoIterator<Item = String>) {
        let lacking: Vec<String> = self.content.cut.take().into_iter().chain(what).collect();
        self.content.cut = (!lacking.is_empty()).then(|| lacking.join("; "));
    }

    /// What there is by now.
    pub fn into_content(self) -> Content {
        self.content
    }
}

fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "there is no such file".to_owned(),
        _ => proc::words(error),
    }
}

/// What is kept of one table: more than a host with a hundred thousand connections has.
const TABLE_BYTES: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_is_read_whole_or_said_to_be_cut() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"12345").unwrap();

        let whole = read_path(file.path(), 5).unwrap();
        let cut = read_path(file.path(), 4).unwrap();

        assert_eq!((&*whole.bytes, whole.cut), (&b"12345"[..], None));
        assert_eq!(cut.bytes, b"1234");
        assert_eq!(cut.cut.as_deref(), Some("what follows the first 4 bytes"));
    }

    #[test]
    fn a_line_of_json_cannot_deceive_and_reads_back_as_it_was() {
        let value = json!({ "name": "a\u{202e}b\n\u{1b}[2J" });
        let mut lines = Lines::default();

        lines.push(&value);

        let bytes = lines.into_content().bytes;
        assert_eq!(bytes, b"{\"name\":\"a\\u202eb\\n\\u001b[2J\"}\n");
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), value);
    }
}
