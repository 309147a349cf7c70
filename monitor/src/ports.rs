//! A set of ports, as users write it: `3516,8000-8010`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::escape;

/// IANA's `smartcard-port`, what portwatch watches unless told otherwise.
pub const DEFAULT_PORT: u16 = 3516;

/// Ports, never port 0.
///
/// Kept as ranges that neither overlap nor touch, in ascending order, so that equal sets are equal
/// values.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PortSet {
    ranges: Vec<Range>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Range {
    first: u16,
    last: u16,
}

/// Why a text is not a list of ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortListError {
    /// The list as it was written.
    pub list: String,
    /// What is wrong with it.
    pub problem: PortListProblem,
}

/// What is wrong with a list of ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PortListProblem {
    /// There is nothing in it.
    Empty,
    /// Nothing stands before, after or between commas.
    EmptyItem,
    /// There is a space in it.
    Space,
    /// This is not a number from 1 to 65535.
    NotAPort(String),
    /// Nothing stands before the `-`.
    NoStart,
    /// Nothing stands after the `-`.
    NoEnd,
    /// The second number is smaller than the first.
    Backwards(u16, u16),
}

impl PortSet {
    /// Whether the port is in the set.
    pub fn contains(&self, port: u16) -> bool {
        let next = self.ranges.partition_point(|range| range.last < port);
        self.ranges.get(next).is_some_and(|range| range.first <= port)
    }

    /// The ports in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().copied().flat_map(Range::ports)
    }

    /// How many ports there are.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|range| range.ports().len()).sum()
    }

    /// Whether there is none: never so for a set that was parsed.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The set as the kernel programs read it: port `p` is bit `p % 64` of word `p / 64`.
    pub fn bitmap(&self) -> [u64; 1024] {
        let mut words = [0; 1024];
        for port in self.iter() {
            if let Some(word) = words.get_mut(usize::from(port / 64)) {
                *word |= 1 << (port % 64);
            }
        }
        words
    }

    /// The ports of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ranges(self.ranges.iter().chain(&other.ranges).copied().collect())
    }

    fn from_ranges(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|next, range| {
            let joins = next.first <= range.last.saturating_add(1);
            if joins {
                range.last = range.last.max(next.last);
            }
            joins
        });
        Self { ranges }
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self::from(DEFAULT_PORT)
    }
}

/// The set of one port; of none for port 0.
impl From<u16> for PortSet {
    fn from(port: u16) -> Self {
        Self::from_iter([port])
    }
}

/// The set of these ports; port 0 is left out.
impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let ports = ports.into_iter().filter(|&port| port != 0);
        Self::from_ranges(ports.map(|port| Range { first: port, last: port }).collect())
    }
}

impl FromStr for PortSet {
    type Err = PortListError;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        let parsed = if list.is_empty() {
            Err(PortListProblem::Empty)
        } else {
            list.split(',').map(Range::parse).collect::<Result<_, _>>().map(Self::from_ranges)
        };
        parsed.map_err(|problem| PortListError { list: list.to_owned(), problem })
    }
}

/// The shortest way to write the set: merged and in ascending order.
impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, Range { first, last }) in self.ranges.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            if first == last {
                write!(f, "{first}")?;
            } else {
                write!(f, "{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl Range {
    fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    fn parse(item: &str) -> Result<Self, PortListProblem> {
        if item.is_empty() {
            return Err(PortListProblem::EmptyItem);
        }
        if item.contains(char::is_whitespace) {
            return Err(PortListProblem::Space);
        }
        let (first, last) = match item.split_once('-') {
            None => {
                let port = parse_port(item)?;
                (port, port)
            }
            Some(("", _)) => return Err(PortListProblem::NoStart),
            Some((_, "")) => return Err(PortListProblem::NoEnd),
            Some((first, last)) => (parse_port(first)?, parse_port(last)?),
        };
        if last < first {
            return Err(PortListProblem::Backwards(first, last));
        }
        Ok(Self { first, last })
    }
}

impl std::error::Error for PortListError {}

impl fmt::Display for PortListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const COLUMNS: usize = 60;

        match &self.problem {
            PortListProblem::Empty => f.write_str("port list is empty")?,
            _ => write!(f, "port list `{}`", escape::truncate(&self.list, COLUMNS))?,
        }
        f.write_str(": ")?;
        match &self.problem {
            PortListProblem::Empty => f.write_str("write ports and ranges such as 3516,8000-8010"),
            PortListProblem::EmptyItem => f.write_str("there is a comma too many"),
            PortListProblem::Space => f.write_str("write it without spaces"),
            PortListProblem::NotAPort(item) => {
                let item = escape::truncate(item, COLUMNS);
                write!(f, "`{item}` is not a port, which is a number from 1 to 65535")
            }
            PortListProblem::NoStart => f.write_str("the range has no start"),
            PortListProblem::NoEnd => f.write_str("the range has no end"),
            PortListProblem::Backwards(first, last) => {
                write!(f, "the range {first}-{last} runs backwards, write {last}-{first}")
            }
        }
    }
}

fn parse_port(item: &str) -> Result<u16, PortListProblem> {
    let digits = item.bytes().all(|byte| byte.is_ascii_digit());
    match item.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        // `u16::from_str` also takes `+80`.
        _ => Err(PortListProblem::NotAPort(item.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_is_shown_sorted_and_merged() {
        let table = [
            ("3516", "3516"),
            ("3516,8000-8010", "3516,8000-8010"),
            ("90,80,85-95,96", "80,85-96"),
            ("1-65535", "1-65535"),
            ("65535,65534", "65534-65535"),
            ("5-5,5", "5"),
            ("0080", "80"),
        ];
        for (list, shown) in table {
            assert_eq!(parse(list).to_string(), shown, "{list}");
        }
    }

    #[test]
    fn a_bad_list_is_refused_in_one_clear_sentence() {
        let table = [
            ("", "port list is empty: write ports and ranges such as 3516,8000-8010"),
            ("80-", "port list `80-`: the range has no end"),
            ("-80", "port list `-80`: the range has no start"),
            ("-", "port list `-`: the range has no start"),
            ("80,,90", "port list `80,,90`: there is a comma too many"),
            ("80,", "port list `80,`: there is a comma too many"),
            ("80, 90", "port list `80, 90`: write it without spaces"),
            ("90-80", "port list `90-80`: the range 90-80 runs backwards, write 80-90"),
            ("0", "port list `0`: `0` is not a port, which is a number from 1 to 65535"),
            ("0-9", "port list `0-9`: `0` is not a port, which is a number from 1 to 65535"),
            (
                "65536",
                "port list `65536`: `65536` is not a port, which is a number from 1 to 65535",
            ),
            ("+80", "port list `+80`: `+80` is not a port, which is a number from 1 to 65535"),
            (
                "80,ssh",
                "port list `80,ssh`: `ssh` is not a port, which is a number from 1 to 65535",
            ),
            ("1-2-3", "port list `1-2-3`: `2-3` is not a port, which is a number from 1 to 65535"),
            (
                "8\x1b[2J",
                r"port list `8\x1b[2J`: `8\x1b[2J` is not a port, which is a number from 1 to 65535",
            ),
        ];
        for (list, message) in table {
            assert_eq!(list.parse::<PortSet>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn the_default_is_the_smart_card_port() {
        assert_eq!(PortSet::default(), parse("3516"));
    }

    #[test]
    fn a_port_is_bit_p_mod_64_of_word_p_div_64() {
        let words = parse("1,3516,65535").bitmap();

        let set: Vec<(usize, u64)> =
            words.into_iter().enumerate().filter(|&(_, word)| word != 0).collect();
        assert_eq!(set, [(0, 1 << 1), (54, 1 << 60), (1023, 1 << 63)]);
    }

    #[test]
    fn all_ports_are_counted_once() {
        let all = parse("1-40000,30000-65535");

        assert_eq!(all.len(), 65_535);
        assert!(!all.is_empty());
        assert!(!all.contains(0));
        assert_eq!(all.bitmap().iter().map(|word| word.count_ones()).sum::<u32>(), 65_535);
    }

    proptest! {
        #[test]
        fn a_set_behaves_like_a_set(
            a in proptest::collection::btree_set(1u16..200, 0..50),
            b in proptest::collection::btree_set(1u16.., 0..50),
        ) {
            let set = |ports: &BTreeSet<u16>| ports.iter().copied().collect::<PortSet>();
            let expected: BTreeSet<u16> = a.union(&b).copied().collect();

            let union = set(&a).union(&set(&b));

            prop_assert!(union.iter().eq(expected.iter().copied()));
            prop_assert_eq!(union.len(), expected.len());
            for port in (0..=200).chain(b) {
                prop_assert_eq!(union.contains(port), expected.contains(&port));
            }
            prop_assert_eq!(&union, &set(&expected));
            if !union.is_empty() {
                prop_assert_eq!(union.to_string().parse(), Ok(union));
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused_in_one_line(text in "[0-9,\\- ]*|(?s:.)*") {
            if let Err(error) = text.parse::<PortSet>() {
                prop_assert!(!error.to_string().contains(char::is_control));
            }
        }
    }

    fn parse(list: &str) -> PortSet {
        list.parse().unwrap()
    }
}
