//! Finding the slot of a flow among those of a set.

use crate::bytes::highest_bit;
use crate::key::{Key, Words};
use crate::wire::{Set, Slot, WAYS};

/// The way that holds `key`, or [`WAYS`]. Written out: the verifier then knows every offset.
#[inline(always)]
#[must_use]
pub fn find(set: &Set, key: Key, words: Words) -> usize {
    if holds(&set.ways[0], key, words) {
        0
    } else if holds(&set.ways[1], key, words) {
        1
    } else if holds(&set.ways[2], key, words) {
        2
    } else if holds(&set.ways[3], key, words) {
        3
    } else {
        WAYS
    }
}

/// As [`find`], without branches: the verifier then follows one way through it rather than five.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the number of a way")]
pub fn find_beside(set: &Set, key: Key, words: Words) -> usize {
    let [first, second, third, fourth] = &set.ways;
    // 1 if it holds the key.
    let held = |slot: &Slot| {
        let held = key_of(slot);
        let difference = held[0] ^ key[0]
            | held[4] ^ key[4]
            | match words {
                Words::Ipv4 => 0,
                Words::All => held[1] ^ key[1] | held[2] ^ key[2] | held[3] ^ key[3],
            };
        1 ^ highest_bit(difference | difference.wrapping_neg())
    };
    let held = [held(first), held(second), held(third), held(fourth)];
    let is_none = 1 ^ (held[0] | held[1] | held[2] | held[3]);
    (held[1] + held[2] * 2 + held[3] * 3 + is_none * WAYS as u64) as usize
}

/// Is this slot the packet's? Compares the most telling words first. The last word tells the family:
/// where it is that of an IPv4 packet, the three in between are zero on both sides.
#[inline(always)]
fn holds(slot: &Slot, key: Key, words: Words) -> bool {
    let held = key_of(slot);
    held[4] == key[4]
        && held[0] == key[0]
        && match words {
            Words::Ipv4 => true,
            Words::All => held[1] == key[1] && held[3] == key[3] && held[2] == key[2],
        }
}

/// The five words of a slot's key.
#[inline(always)]
#[must_use]
pub const fn key_of(slot: &Slot) -> Key {
    let words = (&raw const slot.key).cast::<u64>();
    // SAFETY: `FlowKey` is five words at offset 0 of a slot, which is aligned to 64.
    unsafe { [*words, *words.add(1), *words.add(2), *words.add(3), *words.add(4)] }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

    use super::*;
    use crate::key::FlowKey;

    proptest! {
        #[test]
        fn a_key_is_found_where_it_is(
            keys in prop::array::uniform4(any_key()),
            wanted in any_key(),
            is_ipv4: bool,
        ) {
            // An IPv4 key has zeros in between.
            let short = |[first, .., last]: Key| [first, 0, 0, 0, last];
            let (keys, wanted) =
                if is_ipv4 { (keys.map(short), short(wanted)) } else { (keys, wanted) };
            let words = if is_ipv4 { Words::Ipv4 } else { Words::All };
            let set = Set { ways: keys.map(slot) };
            // A key is in one way at most; of two the same the search ends at the first.
            let expected = keys.iter().position(|key| *key == wanted);

            prop_assert_eq!(find(&set, wanted, words), expected.unwrap_or(WAYS));
            let is_once = keys.iter().filter(|key| **key == wanted).count() <= 1;
            prop_assume!(is_once);
            prop_assert_eq!(find_beside(&set, wanted, words), expected.unwrap_or(WAYS));
        }
    }

    /// Few enough that two often are the same or differ in one word or bit.
    fn any_key() -> impl Strategy<Value = Key> {
        let word = prop_oneof![4 => Just(1_u64), 1 => Just(0), 1 => Just(1 << 63 | 1)];
        prop::array::uniform5(word)
    }

    fn slot(key: Key) -> Slot {
        let key = FlowKey::read_from_bytes(key.as_bytes()).unwrap();
        Slot { key, ..Slot::new_zeroed() }
    }
}
