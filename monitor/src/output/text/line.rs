//! One line: columns that are padded, ink that is only used on a terminal, foreign text escaped.

use anstyle::{AnsiColor, Style};

use crate::escape::{escape, width};

use super::Look;

/// What a piece of a line means. How that looks is decided here alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ink {
    /// Nothing in particular.
    Plain,
    /// There when needed, not in the way.
    Faint,
    /// Headings and what starts something.
    Strong,
    /// Who.
    Name,
    /// As it should be.
    Good,
    /// Worth a look.
    Notable,
    /// Worth a look now.
    Alarming,
}

impl Ink {
    const fn style(self) -> Style {
        let style = Style::new();
        match self {
            Self::Plain => style,
            Self::Faint => style.dimmed(),
            Self::Strong => style.bold(),
            Self::Name => AnsiColor::Cyan.on_default(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Notable => AnsiColor::Yellow.on_default(),
            Self::Alarming => AnsiColor::Red.on_default().bold(),
        }
    }
}

/// A line in the making.
#[derive(Debug)]
pub(super) struct Line<'a> {
    look: &'a Look,
    text: String,
    /// Columns that what is before the next column has yet to fill.
    padding: usize,
}

impl<'a> Line<'a> {
    /// An empty line.
    pub(super) const fn new(look: &'a Look) -> Self {
        Self { look, text: String::new(), padding: 0 }
    }

    /// A line that continues the event of the line before.
    pub(super) fn continued(&self) -> Self {
        let mut line = Line::new(self.look);
        line.put(Ink::Plain, "    ");
        line
    }

    /// Starts the column that follows at once.
    pub(super) const fn first_column(&mut self, at_least: usize) {
        self.padding = at_least;
    }

    /// Starts the next column, which will take at least so much room.
    pub(super) fn column(&mut self, at_least: usize) {
        if !self.text.is_empty() {
            let gap = self.padding.saturating_add(2);
            self.text.extend(std::iter::repeat_n(' ', gap));
        }
        self.padding = at_least;
    }

    /// Adds words of our own.
    pub(super) fn put(&mut self, ink: Ink, words: &str) {
        self.padding = self.padding.saturating_sub(width(words));
        let style = ink.style();
        if self.look.colour && ink != Ink::Plain {
            self.text.extend([
                &*style.render().to_string(),
                words,
                &style.render_reset().to_string(),
            ]);
        } else {
            self.text.push_str(words);
        }
    }

    /// Adds text that others chose.
    pub(super) fn foreign(&mut self, ink: Ink, text: &str) {
        self.put(ink, &escape(text));
    }

    /// Writes the line.
    pub(super) fn end(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text.trim_end_matches(' ').as_bytes());
        out.push(b'\n');
    }
}
