//! Makes foreign text safe to show: no input can forge a line, a column or a terminal sequence.
//!
//! Nothing is removed, since what an attacker put there is evidence: it becomes visible. Different
//! inputs give different outputs, so an escaped text still names exactly one process or file.
//! Escape once, where text is shown; what is stored and compared is never escaped.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use unicode_width::UnicodeWidthChar as _;

/// Marks where [`truncate`] cut.
const ELLIPSIS: char = '…';

/// The text with everything that could deceive a reader or a terminal made visible.
///
/// `\n`, `\r`, `\t` and `\\` as usual, other ASCII controls as `\xNN`, the rest as `\u{…}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(deceives) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len().saturating_add(16));
    for c in text.chars() {
        push(&mut shown, c);
    }
    Cow::Owned(shown)
}

/// Bytes as lower-case hexadecimal digits, two for each.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        // Writing to a string does not fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

/// As [`escape`], for bytes that may not be UTF-8: a byte that is not becomes `\xNN`.
pub fn escape_bytes(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return escape(text);
    }
    let mut shown = String::with_capacity(bytes.len().saturating_mul(2));
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push(&mut shown, c);
        }
        for &byte in chunk.invalid() {
            push_byte(&mut shown, byte);
        }
    }
    Cow::Owned(shown)
}

/// As [`escape`], but always one word: text that is empty or has a space or a `"` is quoted.
///
/// For columns and `key=value` lines, where a space would start the next field.
pub fn quote(text: &str) -> Cow<'_, str> {
    if !text.is_empty() && !text.contains([' ', '"']) {
        return escape(text);
    }
    let mut shown = String::with_capacity(text.len().saturating_add(2));
    shown.push('"');
    for c in text.chars() {
        if c == '"' {
            shown.push('\\');
        }
        push(&mut shown, c);
    }
    shown.push('"');
    Cow::Owned(shown)
}

/// As [`escape`], cut to at most `columns` terminal columns; a cut ends in `…`.
///
/// An escape is shown whole or not at all, so that a cut cannot turn one into another.
pub fn truncate(text: &str, columns: usize) -> Cow<'_, str> {
    let shown = escape(text);
    // Combining marks take no column: without a bound in bytes one column could hold a megabyte.
    let max_len = columns.saturating_mul(8);
    if shown.len() <= max_len && width(&shown) <= columns {
        return shown;
    }
    let room = columns.saturating_sub(1);
    let mut cut = String::new();
    let mut taken = 0usize;
    for c in text.chars() {
        let before = cut.len();
        push(&mut cut, c);
        taken = taken.saturating_add(width(cut.get(before..).unwrap_or_default()));
        if taken > room || cut.len() > max_len {
            cut.truncate(before);
            break;
        }
    }
    if columns > 0 {
        cut.push(ELLIPSIS);
    }
    Cow::Owned(cut)
}

/// Terminal columns that escaped text takes, never too few.
pub fn width(escaped: &str) -> usize {
    // By character, not by string: terminals differ in which sequences they join to one glyph.
    escaped.chars().map(|c| c.width().unwrap_or(0)).fold(0, usize::saturating_add)
}

/// JSON as it is, but with the characters in its strings that could deceive written as `\uXXXX`: readers of
/// JSON get the same either way.
pub fn in_json(json: &str) -> Cow<'_, str> {
    let is_plain = |c: char| matches!(c, '\\' | '\n') || !deceives(c);
    if json.chars().all(is_plain) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len().saturating_add(16));
    for c in json.chars() {
        if is_plain(c) {
            shown.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
    Cow::Owned(shown)
}

/// Text of bytes as it is stored and compared: only what is not UTF-8 becomes `\xNN`.
///
/// Not safe to show: that is [`escape`]'s part.
pub fn text_from_bytes(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for &byte in chunk.invalid() {
            push_byte(&mut text, byte);
        }
    }
    Cow::Owned(text)
}

fn push(shown: &mut String, c: char) {
    match c {
        '\n' => shown.push_str("\\n"),
        '\r' => shown.push_str("\\r"),
        '\t' => shown.push_str("\\t"),
        '\\' => shown.push_str("\\\\"),
        c if !deceives(c) => shown.push(c),
        c => match u8::try_from(c) {
            Ok(byte) if byte.is_ascii() => push_byte(shown, byte),
            // From 80 on, `\xNN` is a byte that is not UTF-8; U+009B is another thing: `\u{9b}`.
            _ => shown.extend(c.escape_unicode()),
        },
    }
}

fn push_byte(shown: &mut String, byte: u8) {
    shown.extend(std::ascii::escape_default(byte).map(char::from));
}

/// Not shown as itself: it moves the cursor, reorders text, takes no room or looks like a space.
///
/// Beside controls these are the `Bidi_Control`, `Default_Ignorable_Code_Point`, `White_Space` and
/// `Cf` characters of Unicode, and what fonts draw as a blank.
fn deceives(c: char) -> bool {
    match c {
        ' '..='~' => c == '\\',
        '\0'..='\u{2ff}' => c <= '\u{a0}' || c == '\u{ad}',
        _ => DECEIVERS.iter().any(|range| range.contains(&c)),
    }
}

/// From U+0300 on, in ascending order.
const DECEIVERS: [RangeInclusive<char>; 34] = [
    '\u{34f}'..='\u{34f}',      // combining grapheme joiner
    '\u{600}'..='\u{605}',      // Arabic number signs
    '\u{61c}'..='\u{61c}',      // Arabic letter mark (bidi)
    '\u{6dd}'..='\u{6dd}',      // Arabic end of ayah
    '\u{70f}'..='\u{70f}',      // Syriac abbreviation mark
    '\u{890}'..='\u{891}',      // Arabic currency marks
    '\u{8e2}'..='\u{8e2}',      // Arabic disputed end of ayah
    '\u{115f}'..='\u{1160}',    // Hangul fillers
    '\u{1680}'..='\u{1680}',    // Ogham space
    '\u{17b4}'..='\u{17b5}',    // Khmer inherent vowels
    '\u{180b}'..='\u{180f}',    // Mongolian selectors
    '\u{2000}'..='\u{200f}',    // spaces, zero width, bidi marks
    '\u{2028}'..='\u{202f}',    // line and paragraph separators, bidi, narrow space
    '\u{205f}'..='\u{206f}',    // space, invisible operators, bidi isolates
    '\u{2800}'..='\u{2800}',    // braille blank
    '\u{3000}'..='\u{3000}',    // ideographic space
    '\u{3164}'..='\u{3164}',    // Hangul filler
    '\u{e000}'..='\u{f8ff}',    // private use: what it looks like is up to the font
    '\u{fdd0}'..='\u{fdef}',    // non-characters
    '\u{fe00}'..='\u{fe0f}',    // variation selectors
    '\u{feff}'..='\u{feff}',    // byte order mark
    '\u{ffa0}'..='\u{ffa0}',    // half-width Hangul filler
    '\u{fff0}'..='\u{fffb}',    // interlinear annotation
    '\u{fffe}'..='\u{ffff}',    // non-characters
    '\u{110bd}'..='\u{110bd}',  // Kaithi number sign
    '\u{110cd}'..='\u{110cd}',  // Kaithi number sign above
    '\u{13430}'..='\u{1343f}',  // hieroglyph format controls
    '\u{1bca0}'..='\u{1bca3}',  // shorthand format controls
    '\u{1d173}'..='\u{1d17a}',  // musical beams
    '\u{1fffe}'..='\u{1ffff}',  // non-characters
    '\u{2fffe}'..='\u{2ffff}',  // non-characters
    '\u{3fffe}'..='\u{3ffff}',  // non-characters
    '\u{e0000}'..='\u{e0fff}',  // tags, more variation selectors
    '\u{f0000}'..='\u{10ffff}', // private use
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr as _;

    use super::*;

    #[test]
    fn plain_text_is_shown_as_it_is_without_a_copy() {
        for text in ["", "sshd", "/usr/bin/python3.11", "Büro 東京 naïve", "a b"] {
            assert!(matches!(escape(text), Cow::Borrowed(shown) if shown == text), "{text}");
        }
    }

    #[test]
    fn a_hostile_text_cannot_forge_a_line_or_a_terminal_sequence() {
        let table = [
            ("sh\x1b[2J\nok", r"sh\x1b[2J\nok"),
            ("\x1b]0;root\x07", r"\x1b]0;root\x07"),
            ("a\rb\tc\0\x7f", r"a\rb\tc\x00\x7f"),
            ("\u{9b}31m\u{85}", r"\u{9b}31m\u{85}"),
            ("evil\u{202e}gpj.exe", r"evil\u{202e}gpj.exe"),
            ("\u{2066}x\u{2069}\u{061c}", r"\u{2066}x\u{2069}\u{61c}"),
            ("ss\u{200b}hd\u{feff}\u{2060}", r"ss\u{200b}hd\u{feff}\u{2060}"),
            ("a\u{2028}b\u{2029}c", r"a\u{2028}b\u{2029}c"),
            ("\u{e0041}\u{e007f}", r"\u{e0041}\u{e007f}"),
            ("a\u{a0}b\u{3000}c\u{2800}", r"a\u{a0}b\u{3000}c\u{2800}"),
            (r"C:\n", r"C:\\n"),
        ];
        for (text, shown) in table {
            assert_eq!(escape(text), shown);
            assert_eq!(escape_bytes(text.as_bytes()), shown);
        }
    }

    #[test]
    fn a_byte_that_is_not_utf8_is_told_from_the_character_of_that_number() {
        assert_eq!(escape_bytes(b"a\x9bb\xff"), r"a\x9bb\xff");
        assert_eq!(escape_bytes("a\u{9b}".as_bytes()), r"a\u{9b}");
        assert_eq!(escape_bytes(br"a\x9b"), r"a\\x9b");
        assert_eq!(text_from_bytes(b"a\x1b\xff"), "a\x1b\\xff");
    }

    #[test]
    fn a_quoted_text_is_one_word() {
        assert_eq!(quote("sshd"), "sshd");
        assert_eq!(quote(""), r#""""#);
        assert_eq!(quote("sshd pid=1"), r#""sshd pid=1""#);
        assert_eq!(quote(r#"a" b"#), r#""a\" b""#);
        assert_eq!(quote(r#"""#), r#""\"""#);
    }

    #[test]
    fn a_cut_counts_columns_and_never_splits_an_escape() {
        assert_eq!(truncate("python3", 7), "python3");
        assert_eq!(truncate("python3.11", 7), "python…");
        assert_eq!(truncate("東京都", 5), "東京…");
        assert_eq!(truncate("東京都", 6), "東京都");
        assert_eq!(truncate("abc\x1b[2J", 7), "abc…");
        assert_eq!(truncate("abc", 1), "…");
        assert_eq!(truncate("abc", 0), "");
    }

    #[test]
    fn a_thousand_combining_marks_do_not_fit_in_ten_columns() {
        let zalgo = format!("a{}", "\u{301}".repeat(1_000));

        assert!(truncate(&zalgo, 10).len() < 100);
    }

    proptest! {
        #[test]
        fn no_output_holds_a_control_or_bidi_character(text in "\\PC*|.*|(?s:.)*") {
            for shown in [escape(&text), quote(&text), truncate(&text, 20)] {
                prop_assert!(shown.chars().all(harmless), "{shown:?}");
            }
        }

        #[test]
        fn any_bytes_can_be_shown(bytes: Vec<u8>) {
            prop_assert!(escape_bytes(&bytes).chars().all(harmless));
        }

        #[test]
        fn what_was_escaped_can_be_told_from_what_is_shown(bytes: Vec<u8>) {
            prop_assert_eq!(unescape(&escape_bytes(&bytes)), bytes);
        }

        #[test]
        fn different_texts_are_quoted_differently(
            a in "[a\"\\\\ \n]{0,5}",
            b in "[a\"\\\\ \n]{0,5}",
        ) {
            prop_assert_eq!(a == b, quote(&a) == quote(&b));
        }

        #[test]
        fn a_cut_text_fits(text in "(?s:.)*", columns in 0usize..40) {
            let cut = truncate(&text, columns);
            prop_assert!(width(&cut) <= columns);
            prop_assert!(cut.width() <= columns);
        }
    }

    fn harmless(c: char) -> bool {
        !c.is_control()
            && (c == ' ' || !c.is_whitespace())
            && !matches!(c,
                '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
                | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    }

    /// The inverse, which exists only because escaping is injective.
    fn unescape(shown: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = shown;
        while let Some((plain, escaped)) = rest.split_once('\\') {
            bytes.extend_from_slice(plain.as_bytes());
            let (kind, tail) = escaped.split_at(1);
            rest = tail;
            match kind {
                "n" => bytes.push(b'\n'),
                "r" => bytes.push(b'\r'),
                "t" => bytes.push(b'\t'),
                "\\" => bytes.push(b'\\'),
                "x" => {
                    let (digits, tail) = rest.split_at(2);
                    bytes.push(u8::from_str_radix(digits, 16).unwrap());
                    rest = tail;
                }
                _ => {
                    let (digits, tail) = rest.strip_prefix('{').unwrap().split_once('}').unwrap();
                    let c = char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap();
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    rest = tail;
                }
            }
        }
        bytes.extend_from_slice(rest.as_bytes());
        bytes
    }
}
