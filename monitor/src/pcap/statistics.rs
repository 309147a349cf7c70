//! What is said of each interface at the end of a file: packets counted, sampled, written and lost.

use std::collections::{BTreeMap, HashMap};

use super::block::{Place, Statistics};
use crate::endpoint::{Interface, Netns};
use crate::report::Counters;

/// Interfaces that are told apart.
const MAX_PLACES: usize = 1024;

/// What is known of every interface so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    start_unix_ns: i64,
    time_unix_ns: i64,
    places: BTreeMap<Place, Row>,
    /// The counters are known up to `time_unix_ns`.
    is_counted: bool,
    /// Records of all interfaces together that found the ring full.
    ring_full: u64,
    /// Packets of all interfaces together that are counted, but not by interface.
    overflow: u64,
}

/// An interface.
#[derive(Clone, Debug)]
struct Row {
    netns: Netns,
    interface: Interface,
    written: u64,
    /// Packets that were sampled and could not be written.
    lost: u64,
    /// What was so when the counters were read.
    then: Then,
}

#[derive(Clone, Copy, Debug, Default)]
struct Then {
    counted: u64,
    written: u64,
    lost: u64,
}

impl Tally {
    /// The run began.
    pub(super) const fn start(&mut self, unix_ns: i64) {
        self.start_unix_ns = unix_ns;
        self.time_unix_ns = unix_ns;
    }

    /// A packet was written.
    pub(super) fn wrote(&mut self, netns: &Netns, interface: &Interface, unix_ns: i64) {
        if !self.is_counted {
            self.time_unix_ns = self.time_unix_ns.max(unix_ns);
        }
        if let Some(row) = self.row(netns, interface) {
            row.written += 1;
        }
    }

    /// One that was taken for written was not.
    pub(super) fn unwrote(&mut self, place: Place) {
        if let Some(row) = self.places.get_mut(&place) {
            row.written = row.written.saturating_sub(1);
            row.lost = row.lost.saturating_add(1);
        }
    }

    /// Packets were sampled and could not be written.
    pub(super) fn lost(&mut self, place: Place, packets: u64) {
        if let Some(row) = self.places.get_mut(&place) {
            row.lost = row.lost.saturating_add(packets);
        }
    }

    /// The counters of this moment.
    pub(super) fn count(&mut self, counters: &Counters, unix_ns: i64) {
        let mut counted: HashMap<Place, u64> = HashMap::new();
        for row in &counters.interfaces {
            let (netns, interface) = (&row.place.netns, &row.place.interface);
            self.row(netns, interface);
            let sum = counted.entry((netns.inode, interface.ifindex)).or_default();
            *sum = sum.saturating_add(row.place.packets);
        }
        for (place, row) in &mut self.places {
            let counted = counted.get(place).copied().unwrap_or(0);
            row.then = Then { counted, written: row.written, lost: row.lost };
        }
        self.is_counted = true;
        self.time_unix_ns = unix_ns;
        self.ring_full = counters.records.ring_full;
        self.overflow =
            counters.overflow.iter().map(|row| row.packets).fold(0, u64::saturating_add);
    }

    fn row(&mut self, netns: &Netns, interface: &Interface) -> Option<&mut Row> {
        let place = (netns.inode, interface.ifindex);
        if !self.places.contains_key(&place) && self.places.len() >= MAX_PLACES {
            return None;
        }
        Some(self.places.entry(place).or_insert_with(|| Row {
            netns: netns.clone(),
            interface: interface.clone(),
            written: 0,
            lost: 0,
            then: Then::default(),
        }))
    }

    /// What there is to say of each interface. Of what is not known by interface nothing is said but in
    /// words.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Netns, &Interface, Statistics)> {
        let is_alone = self.places.len() == 1;
        let ring_full = if is_alone { self.ring_full } else { 0 };
        let is_lost_known = is_alone || self.ring_full == 0;
        let comment = self.comment();
        self.places.values().map(move |row| {
            let (start_unix_ns, time_unix_ns) = (self.start_unix_ns, self.time_unix_ns);
            let of_now = Statistics {
                start_unix_ns,
                time_unix_ns,
                counted: None,
                lost: None,
                unsampled: None,
                written: row.written,
                comment: None,
            };
            let statistics = if self.is_counted {
                let Then { counted, written, lost } = row.then;
                let lost = lost.saturating_add(ring_full);
                Statistics {
                    counted: Some(counted),
                    lost: is_lost_known.then_some(lost),
                    unsampled: Some(counted.saturating_sub(written).saturating_sub(lost)),
                    written,
                    comment: comment.clone(),
                    ..of_now
                }
            } else {
                of_now
            };
            (&row.netns, &row.interface, statistics)
        })
    }

    fn comment(&self) -> Option<String> {
        let mut lines = Vec::new();
        if self.ring_full > 0 {
            lines.push(format!(
                "{} records of all interfaces, samples or not, found the ring buffer full: the sampled \
                 packets among them are missing",
                self.ring_full
            ));
        }
        if self.overflow > 0 {
            lines.push(format!(
                "{} packets more were counted at interfaces that are not known, since they found no \
                 room in the flow table",
                self.overflow
            ));
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}
