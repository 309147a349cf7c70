//! Bytes of a packet as `tcpdump -X` shows them.

use super::line::{Ink, Line};

/// What a person reads before looking elsewhere: headers and the start of the payload.
const LINES: usize = 8;

/// Appends the first lines of a dump, and how much there is beyond.
pub(super) fn lines(margin: &Line<'_>, data: &[u8], out: &mut Vec<u8>) {
    for (row, bytes) in data.chunks(16).take(LINES).enumerate() {
        let hex: Vec<String> = bytes.chunks(2).map(hex).collect();
        let text: String = bytes.iter().map(|&byte| printable(byte)).collect();
        let mut line = margin.continued();
        let offset = row.saturating_mul(16);
        line.put(Ink::Faint, &format!("0x{offset:04x}:  {:<39}  {text}", hex.join(" ")));
        line.end(out);
    }
    let beyond = data.len().saturating_sub(LINES.saturating_mul(16));
    if beyond > 0 {
        let mut line = margin.continued();
        line.put(Ink::Faint, &format!("… {beyond} more bytes"));
        line.end(out);
    }
}

fn hex(pair: &[u8]) -> String {
    match pair {
        [first, second] => format!("{first:02x}{second:02x}"),
        [only] => format!("{only:02x}"),
        _ => String::new(),
    }
}

const fn printable(byte: u8) -> char {
    match byte {
        b' '..=b'~' => byte as char,
        _ => '.',
    }
}

#[cfg(test)]
mod tests {
    use crate::output::text::Look;

    use super::*;

    #[test]
    fn a_dump_ends_after_a_few_lines_and_says_so() {
        let data: Vec<u8> = (0..=255).collect();
        let mut out = Vec::new();

        lines(&Line::new(&Look::plain()), &data, &mut out);

        let dump = String::from_utf8(out).unwrap();
        assert_eq!(dump.lines().count(), LINES + 1);
        assert!(dump.is_ascii() || dump.contains("… 128 more bytes"), "{dump}");
        assert!(
            dump.contains(
                "    0x0040:  4041 4243 4445 4647 4849 4a4b 4c4d 4e4f  @ABCDEFGHIJKLMNO\n"
            )
        );
        assert!(dump.ends_with("    … 128 more bytes\n"));
    }

    #[test]
    fn a_short_last_row_keeps_its_text_in_the_column() {
        let mut out = Vec::new();

        lines(&Line::new(&Look::plain()), b"abc\x1b[", &mut out);

        let expected = "    0x0000:  6162 631b 5b                             abc.[\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
