//! Lines and columns, for people; the parser counts bytes.

use std::sync::Arc;

/// The text of a policy, and where its lines begin.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    text: Arc<str>,
    /// Byte offsets of the lines after the first.
    starts: Vec<usize>,
}

impl Places {
    /// Those of a text.
    pub(super) fn of(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = breaks.map(|(offset, _)| offset.saturating_add(1)).collect();
        Self { text: text.into(), starts }
    }

    /// Line and column of a byte offset, both from 1, the column in characters.
    pub(super) fn at(&self, offset: usize) -> (usize, usize) {
        let before = self.starts.partition_point(|start| *start <= offset);
        let start = before.checked_sub(1).and_then(|last| self.starts.get(last)).copied();
        let of_line = self.text.get(start.unwrap_or_default()..offset).unwrap_or_default();
        (before.saturating_add(1), of_line.chars().count().saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_line_and_a_column_in_characters() {
        let places = Places::of("ab\nü x\n\nz");
        let table = [
            (0, (1, 1)),
            (2, (1, 3)),
            (3, (2, 1)),
            (5, (2, 2)),
            (8, (3, 1)),
            (9, (4, 1)),
            (10, (4, 2)),
        ];
        for (offset, place) in table {
            assert_eq!(places.at(offset), place, "{offset}");
        }
    }

    #[test]
    fn a_place_that_is_none_is_no_panic() {
        assert_eq!(Places::default().at(7), (1, 1));
        assert_eq!(Places::of("ü").at(1), (1, 1));
    }
}
