//! An explanation as text for a person, maybe a tired one: short paragraphs under plain headings.

use std::fmt::Write as _;

use anstyle::Style;

use super::{Check, Explanation, Registered};
use crate::escape;
use crate::output::text::Look;

/// The text, in lines of at most 96 columns.
pub(super) fn render(explanation: &Explanation, look: &Look) -> String {
    let mut page = Page {
        text: String::new(),
        width: look.width.unwrap_or(WIDTH).clamp(MIN_WIDTH, WIDTH),
        bold: if look.colour { Style::new().bold() } else { Style::new() },
    };
    page.line(&page.bold(&title(explanation)));
    let named = explanation.registrations.iter().filter(|it| it.name.is_some());
    for registration in named {
        page.paragraph("", &sentence(registration));
    }
    page.section("What that is worth", &explanation.worth);
    page.section("Who is really there", &explanation.practice);
    page.heading("What to check");
    for (number, Check { what, command }) in (1..).zip(&explanation.checks) {
        page.paragraph(&format!("  {number}. "), what);
        if let Some(command) = command {
            page.line(&format!("       {}", page.bold(command)));
        }
    }
    page.section("On this host", &explanation.host.summary);
    page.heading("Neighbours");
    for it in &explanation.neighbours {
        let name = it.name.unwrap_or_default();
        page.paragraph("  ", &format!("{:<6} {name}, {}", it.port, it.description));
    }
    page.line("");
    page.paragraph("", SOURCE);
    page.text
}

/// `Port 3516: smartcard-port`.
fn title(explanation: &Explanation) -> String {
    let mut names: Vec<&str> = explanation.registrations.iter().filter_map(|it| it.name).collect();
    names.dedup();
    match (&*names, &*explanation.registrations) {
        ([], []) => format!("Port {}: not registered", explanation.port),
        ([], _) => format!("Port {}: reserved", explanation.port),
        (names, _) => format!("Port {}: {}", explanation.port, names.join(", ")),
    }
}

/// `"Smartcard Port", for tcp and udp; registered in May 2002 by Scott Guthery. No RFC.`
fn sentence(registration: &Registered) -> String {
    let Registered { name, description, month: when, registrant, rfc, .. } = registration;
    let mut sentence = format!(
        "{}: \"{description}\", for {}",
        name.unwrap_or_default(),
        listed(&registration.transports)
    );
    let when = when.and_then(month);
    let parts = [
        when.map(|when| format!(" in {when}")),
        registrant.map(|registrant| format!(" by {registrant}")),
    ];
    if parts.iter().any(Option::is_some) {
        sentence.push_str("; registered");
        sentence.extend(parts.into_iter().flatten());
    }
    match rfc {
        Some(rfc) => sentence.extend([". ", rfc, "."]),
        None => sentence.push_str(". No RFC."),
    }
    sentence
}

/// `a, b and c`.
fn listed(words: &[&str]) -> String {
    match words {
        [words @ .., last] if !words.is_empty() => format!("{} and {last}", words.join(", ")),
        words => words.concat(),
    }
}

/// `2002-05` as `May 2002`.
fn month(date: &str) -> Option<String> {
    let (year, month) = date.split_once('-')?;
    let month = month.parse::<usize>().ok()?.checked_sub(1)?;
    Some(format!("{} {year}", MONTHS.get(month)?))
}

struct Page {
    text: String,
    width: usize,
    bold: Style,
}

impl Page {
    fn section<T: AsRef<str>>(&mut self, heading: &str, paragraphs: &[T]) {
        if paragraphs.is_empty() {
            return;
        }
        self.heading(heading);
        for paragraph in paragraphs {
            self.paragraph("  ", paragraph.as_ref());
        }
    }

    fn heading(&mut self, heading: &str) {
        self.line("");
        self.line(&self.bold(heading));
    }

    /// Words after `start`, which the lines that follow leave room for.
    fn paragraph(&mut self, start: &str, words: &str) {
        let mut line = start.to_owned();
        let indent = " ".repeat(escape::width(start));
        let mut is_first = true;
        for word in words.split(' ') {
            let longer = escape::width(&line) + escape::width(word) + usize::from(!is_first);
            if longer > self.width && !is_first {
                self.line(&line);
                line.clone_from(&indent);
                is_first = true;
            }
            if !is_first {
                line.push(' ');
            }
            line.push_str(word);
            is_first = false;
        }
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn bold(&self, text: &str) -> String {
        let Self { bold, .. } = self;
        let mut shown = String::new();
        // Writing to a `String` cannot fail.
        let _written = write!(shown, "{bold}{text}{bold:#}");
        shown
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const SOURCE: &str = "Registry: IANA, Service Name and Transport Protocol Port Number Registry; names as of \
     2026, dates and registrants as of 2015 where known. It is part of portwatch: nobody was asked.";
const WIDTH: usize = 96;
const MIN_WIDTH: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_has_a_name() {
        assert_eq!(month("2002-05").as_deref(), Some("May 2002"));
        assert_eq!(month("2002-13"), None);
        assert_eq!(month("2002-00"), None);
        assert_eq!(month("long ago"), None);
    }

    #[test]
    fn a_paragraph_is_broken_between_words_and_indented() {
        let mut page = Page { text: String::new(), width: 12, bold: Style::new() };

        page.paragraph("1. ", "one two three four-and-more");

        assert_eq!(page.text, "1. one two\n   three\n   four-and-more\n");
    }
}
