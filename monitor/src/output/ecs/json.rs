//! JSON that a terminal may show: characters that deceive are written as `\uXXXX`.
//!
//! `serde_json` escapes what JSON demands, and that leaves DEL, the C1 controls (U+009B starts a
//! terminal sequence) and the bidirectional marks raw. Readers of JSON get the same text either way.

use std::borrow::Cow;
use std::io::{self, Write};

use serde_json::ser::Formatter;

use crate::escape::escape;

/// Compact, and nothing invisible.
#[derive(Clone, Copy, Debug)]
pub(in crate::output) struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W>(&mut self, out: &mut W, fragment: &str) -> io::Result<()>
    where
        W: Write + ?Sized,
    {
        if is_visible(fragment) {
            return out.write_all(fragment.as_bytes());
        }
        let mut utf8 = [0; 4];
        for c in fragment.chars() {
            let text = c.encode_utf8(&mut utf8);
            if is_visible(text) {
                out.write_all(text.as_bytes())?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// A fragment has no backslash, the one plain character that `escape` changes.
fn is_visible(fragment: &str) -> bool {
    fragment.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        || matches!(escape(fragment), Cow::Borrowed(_))
}

#[cfg(test)]
mod tests {
    use serde::Serialize as _;
    use serde_json::Serializer;

    use super::*;

    #[test]
    fn a_character_that_deceives_is_escaped_and_reads_back_as_itself() {
        let hostile = "a\u{1b}[2J\u{9b}1m\u{7f}\u{202e}\u{200b}\u{e0041}\n\"\\ büro 東京";

        let json = render(hostile);

        assert_eq!(json, r#""a\u001b[2J\u009b1m\u007f\u202e\u200b\udb40\udc41\n\"\\ büro 東京""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
    }

    fn render(text: &str) -> String {
        let mut out = Vec::new();
        text.serialize(&mut Serializer::with_formatter(&mut out, Visible)).unwrap();
        String::from_utf8(out).unwrap()
    }
}
