//! Which flow of a set makes room for a new one.
//!
//! Decided without branches that nobody could foretell: a processor that takes the wrong way has waited
//! for the set in vain.

#![expect(clippy::cast_possible_truncation, reason = "BPF and the hosts it is for have 64 bits")]

use core::convert;

use crate::bytes::{in_order, pin};
use crate::packet::tcp;
use crate::wire::{Set, Slot, WAYS};

/// A flow of so many packets is one that lasts, as long as it is open.
const LASTING: u64 = 64;
/// Flows without a packet for less than two to the power of so many jiffies are alike: a second or less.
const ACTIVE_BITS: u32 = 8;
/// Time goes two to the power of so many times slower for a flow that lasts.
const SLOWER_BITS: u64 = 4;
const SLOWER: u64 = 1 << SLOWER_BITS;
const FIN_BIT: u32 = tcp::FIN.trailing_zeros();
const RST_BIT: u32 = tcp::RST.trailing_zeros();

/// The way of a set that makes room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    /// Which way.
    pub way: usize,
    /// The flow there had a packet within a second, or within 16 if it lasts.
    pub is_active: bool,
    /// The other three last and had packets within seconds.
    pub others_last: bool,
}

/// The way idle longest, where the low half of the time is `jiffies`; a free one counts as idle since
/// ever.
///
/// For a flow that lasts time goes 16 times slower, so that a flood of new flows takes their slots from
/// each other. Time is told so coarsely that flows with packets every second are alike: if the one whose
/// turn comes next made room each time, a set with one flow too many could keep none.
#[inline(always)]
#[must_use]
pub fn idle_longest(set: &Set, jiffies: u32) -> Room {
    choose(set, jiffies, convert::identity)
}

/// As [`idle_longest`], in small steps one after the other, which takes longer and less of the stack.
#[inline(always)]
#[must_use]
pub fn idle_longest_beside(set: &Set, jiffies: u32) -> Room {
    choose(set, jiffies, in_order)
}

/// Takes every `step` in between, which gives back the number it is given.
#[inline(always)]
fn choose(set: &Set, jiffies: u32, step: impl Fn(u64) -> u64 + Copy) -> Room {
    let [first, second, third, fourth] = &set.ways;
    let highest_bit = |number| step(step(number) >> 63);
    let rank = |slot: &Slot, way: usize| {
        let is_free = highest_bit(slot.count.wrapping_sub(1) & !slot.count);
        let has_many = highest_bit((LASTING - 1).wrapping_sub(slot.packets()));
        let has_ended = step(u64::from(slot.tcp_flags >> FIN_BIT | slot.tcp_flags >> RST_BIT)) & 1;
        let lasts = has_many & !has_ended;
        let idle = (u64::from(jiffies.wrapping_sub(slot.last_jiffies)) >> ACTIVE_BITS) + 1;
        // Of several that are alike, the first.
        (is_free << 40 | (idle * SLOWER) >> (lasts * SLOWER_BITS)) << 2 | (WAYS - 1 - way) as u64
    };
    // Of two numbers below 2^63.
    let greater = |a: u64, b: u64| {
        let difference = a.wrapping_sub(b);
        // All ones where `b` is greater. Pinned, or LLVM would make a branch of it.
        let mask = pin((step(difference).cast_signed() >> 63).cast_unsigned() as usize) as u64;
        a.wrapping_sub(difference & mask)
    };
    let ranks = [rank(first, 0), rank(second, 1), rank(third, 2), rank(fourth, 3)];
    let highest = greater(greater(ranks[0], ranks[1]), greater(ranks[2], ranks[3]));
    let others = ranks[0] + ranks[1] + ranks[2] + ranks[3] - highest;
    Room {
        way: WAYS - 1 - (highest as usize & (WAYS - 1)),
        is_active: highest >> 2 <= SLOWER,
        // One that does not last is alone as much.
        others_last: others >> 2 < SLOWER,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromZeros as _;

    use super::*;

    const NOW: u32 = 5;

    #[test]
    fn the_way_idle_longest_makes_room() {
        let [young, old] = [used(1, 10, 0), used(1, 1000, 0)];

        assert_eq!(chosen([young, old, young, young]), 1);
        assert_eq!(chosen([young; WAYS]), 0);
    }

    #[test]
    fn a_free_way_is_taken_first() {
        let free = Slot::new_zeroed();
        let ancient = used(1, u32::MAX, 0);

        assert_eq!(chosen([ancient, ancient, ancient, free]), 3);
        assert_eq!(chosen([ancient, free, free, ancient]), 1);
    }

    #[test]
    fn flows_that_had_a_packet_within_a_second_are_alike() {
        let [young, old] = [used(1, 1, 0), used(1, 250, 0)];

        assert_eq!(chosen([young, old, old, young]), 0);
    }

    #[test]
    fn for_a_flow_that_lasts_time_goes_slower_until_it_has_ended() {
        let young = used(LASTING - 1, 10, 0);
        let lasts = |idle, flags| chosen([young, young, used(LASTING, idle, flags), young]);

        assert_eq!(lasts(15 * 256, tcp::ACK), 0);
        assert_eq!(lasts(16 * 256, tcp::ACK), 2);
        assert_eq!(lasts(256, tcp::ACK | tcp::FIN), 2);
        assert_eq!(lasts(256, tcp::RST), 2);
    }

    #[test]
    fn a_flow_makes_room_though_it_is_active_only_where_all_are() {
        let is_active = |slot| idle_longest(&Set { ways: [slot; WAYS] }, NOW).is_active;

        assert!(is_active(used(1, 255, 0)));
        assert!(!is_active(used(1, 256, 0)));
        assert!(is_active(used(LASTING, 15 * 256, 0)));
        assert!(!is_active(used(LASTING, 16 * 256, 0)));
        assert!(!is_active(Slot::new_zeroed()));
    }

    #[test]
    fn it_is_told_whether_the_others_last() {
        let others_last = |ways| idle_longest(&Set { ways }, NOW).others_last;
        let (young, lasting) = (used(1, 0, 0), used(LASTING, 255, tcp::ACK));

        assert!(others_last([lasting; WAYS]));
        assert!(others_last([lasting, lasting, young, lasting]));
        assert!(others_last([Slot::new_zeroed(), lasting, lasting, lasting]));
        assert!(!others_last([young, lasting, young, lasting]));
        assert!(!others_last([used(LASTING, 14 * 256, 0), lasting, young, lasting]));
        assert!(!others_last([used(LASTING, 0, tcp::FIN), lasting, young, lasting]));
    }

    proptest! {
        #[test]
        fn it_is_the_one_with_the_highest_rank(
            ways in prop::array::uniform4((0_u64..200, any::<u32>(), any::<u8>())),
        ) {
            let ways = ways.map(|(packets, idle, flags)| used(packets, idle, flags));
            let rank = |slot: &Slot| {
                let idle = u64::from(NOW.wrapping_sub(slot.last_jiffies)) / 256 + 1;
                let is_open = slot.tcp_flags & (tcp::FIN | tcp::RST) == 0;
                match slot.packets() {
                    0 => u64::MAX,
                    LASTING.. if is_open => idle,
                    _ => idle * 16,
                }
            };
            let highest = ways.iter().map(rank).max().unwrap();

            prop_assert_eq!(Some(chosen(ways)), ways.iter().position(|way| rank(way) == highest));
        }
    }

    fn chosen(ways: [Slot; WAYS]) -> usize {
        idle_longest(&Set { ways }, NOW).way
    }

    /// A slot of a flow, or without packets one that was never used.
    fn used(packets: u64, idle: u32, tcp_flags: u8) -> Slot {
        if packets == 0 {
            return Slot::new_zeroed();
        }
        let (count, last_jiffies) = (1 << Slot::PACKET_BITS | packets, NOW.wrapping_sub(idle));
        Slot { count, last_jiffies, tcp_flags, ..Slot::new_zeroed() }
    }
}
