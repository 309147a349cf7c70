//! Columns sized by what is in them, and made to fit a terminal.
//!
//! Elsewhere than on a terminal every column is there, and whole. On one that is too narrow,
//! columns that say the same in each row go first, then names and paths are cut, then the column of
//! packages goes; addresses, ports and pids never are cut.

use crate::escape::{escape, truncate, width};
use crate::output::text::Look;
use crate::output::text::line::{Ink, Line};
use crate::output::text::program::{DELETED, MODIFIED};

use self::Dispensable::{AtLast, Never, Repetitive};

/// A cell: text as it came, not escaped yet.
pub(super) type Cell = (Ink, String);

/// The cells of a row, one for each column.
pub(super) type Row = [Cell; COLUMNS.len()];

/// Writes the rows under the heads of their columns.
pub(super) fn table(rows: &[Row], look: &Look, out: &mut Vec<u8>) {
    let widths = widths(rows, look.width);
    let mut head = Line::new(look);
    for (column, width) in COLUMNS.iter().zip(widths).filter(|(_, width)| *width > 0) {
        head.column(width);
        head.put(Ink::Strong, column.head);
    }
    head.end(out);
    for row in rows {
        let mut line = Line::new(look);
        for ((column, (ink, text)), width) in COLUMNS.iter().zip(row).zip(widths) {
            if width > 0 {
                line.column(width);
                let text = if text.is_empty() { "-" } else { text };
                line.put(*ink, &fit(text, width, column.cut));
            }
        }
        line.end(out);
    }
}

struct Column {
    head: &'static str,
    cut: Cut,
    dispensable: Dispensable,
}

/// Whether a column is left out on a narrow terminal.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Dispensable {
    Never,
    /// When each row says the same.
    Repetitive,
    /// When cutting is not enough.
    AtLast,
}

/// To how little a column may be cut, and how.
#[derive(Clone, Copy)]
enum Cut {
    Never,
    /// The end goes.
    End(usize),
    /// The first directories go.
    Path(usize),
    /// The end of the name goes, the `[pid]` stays.
    Process(usize),
}

impl Cut {
    /// By how much a column of this width can be cut.
    const fn spare(self, width: usize) -> usize {
        match self {
            Self::Never => 0,
            Self::End(least) | Self::Path(least) | Self::Process(least) => {
                width.saturating_sub(least)
            }
        }
    }
}

const COLUMNS: [Column; 12] = [
    Column { head: "PROTO", cut: Cut::Never, dispensable: Never },
    Column { head: "STATE", cut: Cut::Never, dispensable: Never },
    Column { head: "LOCAL", cut: Cut::Never, dispensable: Never },
    Column { head: "REMOTE", cut: Cut::Never, dispensable: Repetitive },
    Column { head: "NETNS", cut: Cut::End(8), dispensable: Repetitive },
    Column { head: "PROCESS", cut: Cut::Process(12), dispensable: Never },
    Column { head: "ROLE", cut: Cut::End(4), dispensable: Repetitive },
    Column { head: "USER", cut: Cut::End(5), dispensable: Never },
    Column { head: "UNIT", cut: Cut::End(6), dispensable: Repetitive },
    Column { head: "EXE", cut: Cut::Path(13), dispensable: Never },
    Column { head: "PACKAGE", cut: Cut::End(8), dispensable: AtLast },
    Column { head: "VERDICT", cut: Cut::End(9), dispensable: Never },
];

const GAP: usize = 2;

/// The width of each column, 0 for one that is left out.
fn widths(rows: &[Row], terminal: Option<usize>) -> [usize; COLUMNS.len()] {
    let mut widths = COLUMNS.map(|column| width(column.head));
    for row in rows {
        for (widest, (_, text)) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(&escape(text)));
        }
    }
    let Some(room) = terminal else {
        return widths;
    };
    for (at, column) in COLUMNS.iter().enumerate() {
        if taken(&widths) > room
            && (column.dispensable == Repetitive && says_the_same(rows, at)
                || column.dispensable == AtLast && least(&widths) > room)
            && let Some(width) = widths.get_mut(at)
        {
            *width = 0;
        }
    }
    while taken(&widths) > room {
        let spare = |(column, width): &(&Column, &mut usize)| column.cut.spare(**width);
        match COLUMNS.iter().zip(&mut widths).max_by_key(spare) {
            Some(widest) if spare(&widest) > 0 => *widest.1 = widest.1.saturating_sub(1),
            _ => break,
        }
    }
    widths
}

fn taken(widths: &[usize]) -> usize {
    let shown = widths.iter().filter(|width| **width > 0);
    shown.map(|width| width.saturating_add(GAP)).sum::<usize>().saturating_sub(GAP)
}

/// What the columns take once all of them are cut.
fn least(widths: &[usize; COLUMNS.len()]) -> usize {
    let mut cut = *widths;
    for (column, width) in COLUMNS.iter().zip(&mut cut) {
        *width = width.saturating_sub(column.cut.spare(*width));
    }
    taken(&cut)
}

fn says_the_same(rows: &[Row], column: usize) -> bool {
    let mut texts = rows.iter().map(|row| row.get(column).map(|(_, text)| text));
    let first = texts.next();
    texts.all(|text| Some(text) == first)
}

/// The text, escaped, in at most so many columns.
fn fit(text: &str, columns: usize, cut: Cut) -> String {
    let whole = escape(text);
    if width(&whole) <= columns {
        return whole.into_owned();
    }
    let fitting = match cut {
        Cut::Path(_) => last_directories(text, columns),
        Cut::Process(_) => name_and_pid(text, columns),
        Cut::End(_) | Cut::Never => None,
    };
    fitting.unwrap_or_else(|| truncate(text, columns).into_owned())
}

/// The last directories and the file, with its mark.
fn last_directories(text: &str, columns: usize) -> Option<String> {
    let marked = |mark: &&str| text.ends_with(*mark);
    let mark = [DELETED, MODIFIED].into_iter().find(marked).unwrap_or_default();
    let path = text.strip_suffix(mark)?;
    let room = columns.checked_sub(width(mark)).filter(|room| *room > 3)?;
    let mut tails = path.match_indices('/').filter_map(|(at, _)| path.get(at..));
    let whole = tails.clone().map(escape).find(|tail| width(tail) < room);
    let tail = match whole {
        Some(tail) => tail,
        None => truncate(tails.next_back()?, room.saturating_sub(1)),
    };
    Some(format!("…{tail}{mark}"))
}

fn name_and_pid(text: &str, columns: usize) -> Option<String> {
    let (name, pid) = text.split_at_checked(text.rfind('[')?)?;
    let room = columns.checked_sub(width(pid)).filter(|room| *room > 1)?;
    Some(format!("{}{}", truncate(name, room), escape(pid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_keeps_what_tells_most() {
        let path = "/usr/lib/jvm/java-17/bin/java";
        let table = [
            (path, 40, Cut::Path(8), path),
            (path, 15, Cut::Path(8), "…/bin/java"),
            (path, 20, Cut::Path(8), "…/java-17/bin/java"),
            (path, 6, Cut::Path(8), "…/java"),
            (path, 5, Cut::Path(8), "…/ja…"),
            (path, 3, Cut::Path(8), "/u…"),
            ("/tmp/.hidden (deleted)", 18, Cut::Path(8), "…/.hidd… (deleted)"),
            ("/usr/sbin/nginx (modified)", 18, Cut::Path(8), "…/nginx (modified)"),
            ("/tmp/.hidden (deleted)", 12, Cut::Path(8), "/tmp/.hidde…"),
            ("cardbridged[812]~ +1", 16, Cut::Process(12), "cardbr…[812]~ +1"),
            ("cardbridged[812]~ +1", 8, Cut::Process(12), "cardbri…"),
            ("(owner unknown)", 8, Cut::Process(12), "(owner …"),
            ("session-3.scope", 8, Cut::End(6), "session…"),
        ];
        for (text, columns, cut, expected) in table {
            assert_eq!(fit(text, columns, cut), expected);
        }
    }
}
