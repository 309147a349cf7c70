//! The key of a flow: what it is made of, and how it is hashed into the flow table.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One orientation of a flow at one place: the key of a flow table slot.
///
/// Addresses and ports are as they lie in the packet, which need not rearrange them then.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// Where [`Place::IPV6`] is set, the source address and the destination address; otherwise 4 bytes
    /// of each at the beginning, and zeros behind them.
    pub addresses: [[u8; 16]; 2],
    /// Source port and destination port, in network byte order.
    pub ports: [u8; 4],
    /// Where it was seen and what it is: a packed [`Place`].
    pub place: u32,
}

impl FlowKey {
    /// The key of packets between two addresses, 16 bytes each; without [`Place::IPV6`] in `place`
    /// they are IPv4-mapped IPv6 addresses (RFC 4291, 2.5.5.2).
    #[must_use]
    pub const fn new(source: ([u8; 16], u16), destination: ([u8; 16], u16), place: u32) -> Self {
        let addresses = if Place(place).is_ipv6() {
            [source.0, destination.0]
        } else {
            let [.., s0, s1, s2, s3] = source.0;
            let [.., d0, d1, d2, d3] = destination.0;
            [[s0, s1, s2, s3, d0, d1, d2, d3, 0, 0, 0, 0, 0, 0, 0, 0], [0; 16]]
        };
        let ([a, b], [c, d]) = (source.1.to_be_bytes(), destination.1.to_be_bytes());
        Self { addresses, ports: [a, b, c, d], place }
    }

    /// The source address; an IPv4 address as an IPv4-mapped IPv6 address.
    #[must_use]
    pub const fn source(&self) -> [u8; 16] {
        let [source, _] = self.addresses;
        let [a, b, c, d, ..] = source;
        if Place(self.place).is_ipv6() { source } else { mapped([a, b, c, d]) }
    }

    /// The destination address, likewise.
    #[must_use]
    pub const fn destination(&self) -> [u8; 16] {
        let [[_, _, _, _, a, b, c, d, ..], destination] = self.addresses;
        if Place(self.place).is_ipv6() { destination } else { mapped([a, b, c, d]) }
    }

    /// The source port.
    #[must_use]
    pub const fn source_port(&self) -> u16 {
        let [a, b, ..] = self.ports;
        u16::from_be_bytes([a, b])
    }

    /// The destination port.
    #[must_use]
    pub const fn destination_port(&self) -> u16 {
        let [.., a, b] = self.ports;
        u16::from_be_bytes([a, b])
    }
}

const fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// What [`FlowKey::place`] packs: interface, direction, family and transport.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place(pub u32);

impl Place {
    /// Set: seen at TC egress. Clear: at TC ingress.
    pub const EGRESS: u32 = 1;
    /// Set: UDP. Clear: TCP.
    pub const UDP: u32 = 1 << 1;
    /// Set: the packet was IPv6. Clear: IPv4.
    pub const IPV6: u32 = 1 << 2;
    /// The [`InterfaceId`] stands above the flags.
    pub const INTERFACE_SHIFT: u32 = 3;

    /// The interface.
    #[must_use]
    pub const fn interface(self) -> InterfaceId {
        InterfaceId(self.0 >> Self::INTERFACE_SHIFT)
    }

    /// Seen at TC egress.
    #[must_use]
    pub const fn is_egress(self) -> bool {
        self.0 & Self::EGRESS != 0
    }

    /// UDP rather than TCP.
    #[must_use]
    pub const fn is_udp(self) -> bool {
        self.0 & Self::UDP != 0
    }

    /// IPv6 rather than IPv4.
    #[must_use]
    pub const fn is_ipv6(self) -> bool {
        self.0 & Self::IPV6 != 0
    }
}

/// An interface of the host: its index, and which network namespace it is in, since each counts its
/// interfaces from 1 on.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InterfaceId(u32);

impl InterfaceId {
    /// Set where the interface is not in the namespace that portwatch runs in.
    const ELSEWHERE: u32 = 1 << 28;
    const NETNS_SHIFT: u32 = 16;
    const IFINDEX_ELSEWHERE: u32 = (1 << Self::NETNS_SHIFT) - 1;
    /// The highest number that a namespace can have.
    pub const NETNS_MAX: u32 = (Self::ELSEWHERE >> Self::NETNS_SHIFT) - 1;

    /// The interface `ifindex` in namespace `netns`: 0 is the one portwatch runs in, user space numbers
    /// the others.
    ///
    /// `None` for an index that does not fit (`ip link add index` can choose any): its packets are not
    /// followed as flows, and count in the totals and in the overflow row.
    #[inline(always)]
    #[must_use]
    pub const fn new(netns: u32, ifindex: u32) -> Option<Self> {
        if netns == 0 {
            if ifindex < Self::ELSEWHERE { Some(Self(ifindex)) } else { None }
        } else if netns <= Self::NETNS_MAX && ifindex <= Self::IFINDEX_ELSEWHERE {
            Some(Self(Self::ELSEWHERE | netns << Self::NETNS_SHIFT | ifindex))
        } else {
            None
        }
    }

    /// The interface index.
    #[must_use]
    pub const fn ifindex(self) -> u32 {
        if self.is_elsewhere() { self.0 & Self::IFINDEX_ELSEWHERE } else { self.0 }
    }

    /// The number of the namespace; 0 for the one portwatch runs in.
    #[must_use]
    pub const fn netns(self) -> u32 {
        if self.is_elsewhere() { self.0 >> Self::NETNS_SHIFT & Self::NETNS_MAX } else { 0 }
    }

    /// Its part of a [`Place`].
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0 << Place::INTERFACE_SHIFT
    }

    const fn is_elsewhere(self) -> bool {
        self.0 & Self::ELSEWHERE != 0
    }
}

/// A [`FlowKey`] as the five words that are hashed and compared: the addresses,
/// then ports and place.
pub type Key = [u64; 5];

/// The words of a key that are not known to be zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Words {
    /// The first and the last: an IPv4 key has no others.
    Ipv4,
    /// Any.
    All,
}

/// How many multipliers [`hash`] takes.
pub const MULTIPLIERS: usize = 9;

/// Both ports as they lie in a packet.
#[inline(always)]
#[must_use]
pub const fn ports(source: u16, destination: u16) -> u32 {
    u32::from_be((source as u32) << 16 | destination as u32)
}

/// The last word of a key: ports and place as they lie in a [`FlowKey`].
#[inline(always)]
#[must_use]
pub const fn tail(ports: u32, place: u32) -> u64 {
    if cfg!(target_endian = "little") {
        ports as u64 | (place as u64) << 32
    } else {
        (ports as u64) << 32 | place as u64
    }
}

/// Multilinear multiply-shift hashing with secret random odd multipliers; the upper bits count.
///
/// A product only carries upwards: what differs in the upper half of two words could cancel out,
/// whatever the multipliers. So the upper halves of the three words in the middle have multipliers of
/// their own, which makes this the strongly universal hash of their 32-bit halves (Lemire and Kaser,
/// "Strongly universal string hashing is fast"). The first word then has nothing to cancel with, and
/// the upper half of the last is the place, which no sender chooses. A word of zero adds nothing, so
/// that [`Words::Ipv4`] gives the same for an IPv4 key as [`Words::All`].
///
/// Keys that count upwards, as ports and addresses do, make sums that step evenly, and with four in ten
/// multipliers come to lie close together. So the sum is folded and multiplied once more: then as many
/// share a set as chance would have it, whatever the keys.
#[inline(always)]
#[must_use]
pub fn hash(key: Key, words: Words, multiplier: impl Fn(usize) -> u64) -> u64 {
    let [first, a, b, c, last] = key;
    let last = if cfg!(target_endian = "little") { last } else { last.rotate_left(32) };
    let product = |word: u64, index: usize| word.wrapping_mul(multiplier(index));
    let sum = product(first, 0).wrapping_add(product(last, 1));
    let sum = match words {
        Words::Ipv4 => sum,
        Words::All => sum
            .wrapping_add(product(a, 2))
            .wrapping_add(product(a >> 32, 3))
            .wrapping_add(product(b, 4))
            .wrapping_add(product(b >> 32, 5))
            .wrapping_add(product(c, 6))
            .wrapping_add(product(c >> 32, 7)),
    };
    product(sum ^ sum >> 32, 8)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashMap;
    use std::vec::Vec;

    use super::*;

    const SET_BITS: u32 = 14;
    /// Random, from two starts.
    const ONE: [u64; MULTIPLIERS] = [
        0x9d1c_4bf3_0a77_e5c1,
        0x3f84_d5b5_b547_0917,
        0x9216_d5d9_8979_fb1b,
        0xd131_0ba6_98df_b5ad,
        0x2ffd_72db_d01a_dfb7,
        0xb8e1_afed_6a26_7e97,
        0xba7c_9045_f12c_7f99,
        0x24a1_9947_b391_6cf7,
        0xe04f_8a1b_6d3c_52e9,
    ];
    const OTHER: [u64; MULTIPLIERS] = [
        0x0801_f2e2_858e_fc17,
        0x6369_20d8_7157_4e69,
        0xa458_fea3_f493_3d7f,
        0x0d95_748f_728e_b659,
        0x718b_cd58_8215_4aef,
        0x7b54_a41d_c25a_59b5,
        0x9c30_d539_2af2_6013,
        0xc5d1_b023_2860_85f1,
        0x5bd6_2c97_e1f0_4a3d,
    ];

    fn set(key: Key, multipliers: [u64; MULTIPLIERS]) -> u64 {
        hash(key, Words::All, |index| multipliers[index]) >> (64 - SET_BITS)
    }

    /// How many keys the fullest set would have to hold.
    fn fullest(keys: &[Key], multipliers: [u64; MULTIPLIERS]) -> usize {
        let mut sets: HashMap<u64, usize> = HashMap::new();
        for key in keys {
            *sets.entry(set(*key, multipliers)).or_default() += 1;
        }
        sets.into_values().max().unwrap_or_default()
    }

    #[test]
    fn keys_chosen_to_collide_do_not_under_other_multipliers() {
        // Whoever knew the multipliers would choose a source address and port for each like this.
        let keys: Vec<Key> = (0..1 << 12)
            .flat_map(|n| {
                (0..1 << 8).map(move |port| [n | 7 << 32, 0, 0, 0, tail(ports(port, 3516), 16)])
            })
            .filter(|key| set(*key, ONE) == 0)
            .collect();

        assert!(keys.len() >= 32, "{} keys", keys.len());
        assert_eq!(fullest(&keys, ONE), keys.len());
        assert!(fullest(&keys, OTHER) <= 4, "{}", fullest(&keys, OTHER));
    }

    #[test]
    fn keys_that_count_upwards_share_sets_as_if_by_chance() {
        // Of twice as many keys as there are sets, 1 in 28 is one too many for its set.
        const KEYS: u16 = 2 << SET_BITS;
        // From the bytes of a number the last bytes of the source address, and the source port.
        let patterns: [fn(u8, u8) -> [u8; 4]; 4] = [
            |upper, lower| [upper, lower, 1, 1],
            |upper, lower| [lower, upper, 1, 1],
            |upper, lower| [1, 1, upper, lower],
            |upper, lower| [1, upper, 1, lower],
        ];
        for pattern in patterns {
            let key = |number: u16| -> Key {
                let [upper, lower] = number.to_be_bytes();
                let [c, d, port @ ..] = pattern(upper, lower);
                let address = u64::from_le_bytes([10, 0, c, d, 0, 0, 0, 0]);
                [address, 0, 0, 0, tail(ports(u16::from_be_bytes(port), 3516), 16)]
            };
            let keys: Vec<Key> = (0..KEYS).map(key).collect();
            // A multiplier that is bad for a pattern is met soon among so many.
            for turn in 0..64 {
                let multipliers = ONE.map(|multiplier| multiplier.rotate_left(turn) | 1);
                let mut sets: HashMap<u64, u16> = HashMap::new();
                for key in &keys {
                    *sets.entry(set(*key, multipliers)).or_default() += 1;
                }
                let too_many: u16 = sets.into_values().map(|keys| keys.saturating_sub(4)).sum();
                assert!(too_many < KEYS / 16, "{too_many} of {KEYS} too many, turn {turn}");
            }
        }
    }

    #[test]
    fn what_differs_in_upper_bits_only_does_not_cancel_out() {
        for (one, two) in [(0, 1), (1, 2), (1, 3), (0, 3), (2, 3)] {
            let key = |n: u64| {
                let mut key = [0; 5];
                key[one] = n << 58;
                key[two] = n >> 6 << 58;
                key
            };
            let keys: Vec<Key> = (0..1 << 12).map(key).collect();

            for multipliers in [ONE, OTHER] {
                let fullest = fullest(&keys, multipliers);
                assert!(fullest <= 16, "words {one} and {two}: {fullest} of 4096 in one set");
            }
        }
    }

    #[test]
    fn the_zeros_of_an_ipv4_key_need_not_be_hashed() {
        let key = [0x0200_000a_0100_000a, 0, 0, 0, tail(ports(40_000, 3516), 16)];
        let hash = |words| hash(key, words, |index| ONE[index]);

        assert_eq!(hash(Words::Ipv4), hash(Words::All));
    }

    const IPV4: [[u8; 16]; 2] = [mapped([10, 0, 0, 1]), mapped([10, 0, 0, 2])];
    const IPV6: [[u8; 16]; 2] =
        [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], [0xfd; 16]];

    #[test]
    fn a_key_gives_back_what_it_was_made_of() {
        let cases = [(IPV4, Place::EGRESS), (IPV6, Place::IPV6), (IPV4, Place::IPV6)];
        for ([source, destination], place) in cases {
            let key = FlowKey::new((source, 40_000), (destination, 3516), place);

            assert_eq!((key.source(), key.source_port()), (source, 40_000));
            assert_eq!((key.destination(), key.destination_port()), (destination, 3516));
        }
    }

    #[test]
    fn an_interface_keeps_its_index_and_namespace() {
        let largest = InterfaceId::ELSEWHERE - 1;
        for (netns, ifindex) in [(0, 2), (0, largest), (1, 1), (InterfaceId::NETNS_MAX, 0xffff)] {
            let place = Place(InterfaceId::new(netns, ifindex).unwrap().bits() | Place::IPV6);

            assert_eq!((place.interface().netns(), place.interface().ifindex()), (netns, ifindex));
            assert!(place.is_ipv6() && !place.is_egress() && !place.is_udp());
        }
    }

    #[test]
    fn an_interface_that_does_not_fit_is_none() {
        for (netns, ifindex) in [(0, 1 << 28), (1, 1 << 16), (InterfaceId::NETNS_MAX + 1, 1)] {
            assert_eq!(InterfaceId::new(netns, ifindex), None, "{netns} {ifindex}");
        }
    }

    #[test]
    fn an_ipv4_key_is_what_lies_in_the_packet() {
        let [source, destination] = IPV4;
        let key = FlowKey::new((source, 1), (destination, 2), Place::UDP);

        let first = [10, 0, 0, 1, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(key.addresses, [first, [0; 16]]);
        assert_eq!(key.ports, [0, 1, 0, 2]);
    }
}
