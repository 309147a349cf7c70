//! Amounts as people read them: packets, bytes, times, TCP flags.

/// `812 B`, `1.4 kB`, `14 MB`: SI units, two or three digits.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (1_000, "kB"),
        (1_000_000, "MB"),
        (1_000_000_000, "GB"),
        (1_000_000_000_000, "TB"),
        (1_000_000_000_000_000, "PB"),
        (1_000_000_000_000_000_000, "EB"),
    ];
    if count < 1_000 {
        return format!("{count} B");
    }
    for (one, unit) in UNITS {
        let tenths = rounded(count, one.div_euclid(10));
        let whole = rounded(count, one);
        // Rounding up may reach 1000, which is one of the next unit.
        match (tenths, whole) {
            (0..100, _) => {
                return format!("{}.{} {unit}", tenths.div_euclid(10), tenths.rem_euclid(10));
            }
            (_, 0..1_000) => return format!("{whole} {unit}"),
            _ => {}
        }
    }
    // Not reached: 64 bits count up to 18 EB.
    format!("{count} B")
}

/// How many of `unit` there are in `count`, to the nearest.
const fn rounded(count: u64, unit: u64) -> u64 {
    count.saturating_add(unit.div_euclid(2)).div_euclid(unit)
}

/// `1 packet`, `2 packets`.
pub(super) fn plural(count: u64, one: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {one}{s}", grouped(count))
}

/// `12 345`: digits in threes.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len().saturating_mul(2));
    for (digit, left) in digits.chars().zip((0..digits.len()).rev()) {
        grouped.push(digit);
        // 9999 reads well as it is.
        if left > 0 && left.is_multiple_of(3) && digits.len() > 4 {
            grouped.push(' ');
        }
    }
    grouped
}

/// `0.203s`, `12.4s`, `3m12s`, `2h05m`, `3d04h`.
pub(super) fn lasted(nanoseconds: i64) -> String {
    let ms = u64::try_from(nanoseconds).unwrap_or_default().div_euclid(1_000_000);
    let seconds = ms.div_euclid(1_000);
    let (minutes, hours, days) =
        (seconds.div_euclid(60), seconds.div_euclid(3_600), seconds.div_euclid(86_400));
    match seconds {
        0..10 => format!("{seconds}.{:03}s", ms.rem_euclid(1_000)),
        10..60 => format!("{seconds}.{}s", ms.rem_euclid(1_000).div_euclid(100)),
        60..3_600 => format!("{minutes}m{:02}s", seconds.rem_euclid(60)),
        3_600..86_400 => format!("{hours}h{:02}m", minutes.rem_euclid(60)),
        _ => format!("{days}d{:02}h", hours.rem_euclid(24)),
    }
}

/// `[SF.]`: the letters of tcpdump, of all flags seen.
pub(super) fn tcp_flags(flags: u8) -> String {
    const LETTERS: [(u8, char); 8] = [
        (0x02, 'S'),
        (0x01, 'F'),
        (0x08, 'P'),
        (0x04, 'R'),
        (0x20, 'U'),
        (0x40, 'E'),
        (0x80, 'W'),
        (0x10, '.'),
    ];
    let set = LETTERS.into_iter().filter(|(bit, _)| flags & bit != 0);
    format!("[{}]", set.map(|(_, letter)| letter).collect::<String>())
}

/// `> 12 pkts 1.4 kB < 9 pkts 812 B`: there and back.
pub(super) fn both_ways(there: (u64, u64), back: (u64, u64)) -> String {
    match back {
        (0, _) => format!("> {}", one_way(there)),
        _ => format!("> {} < {}", one_way(there), one_way(back)),
    }
}

/// `12 pkts 1.4 kB`.
pub(super) fn one_way((packets, count): (u64, u64)) -> String {
    let s = if packets == 1 { "" } else { "s" };
    format!("{packets} pkt{s} {}", bytes(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_two_or_three_digits() {
        let table = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_449, "1.4 kB"),
            (1_450, "1.5 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (14_321, "14 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (5_000_000_000, "5.0 GB"),
            (u64::MAX, "18 EB"),
        ];
        for (count, text) in table {
            assert_eq!(bytes(count), text, "{count}");
        }
    }

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(9_999), "9999");
        assert_eq!(grouped(12_345), "12 345");
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(plural(1, "record"), "1 record");
        assert_eq!(plural(0, "record"), "0 records");
    }

    #[test]
    fn times_get_coarser_as_they_grow() {
        let table = [
            (-1, "0.000s"),
            (203_999_999, "0.203s"),
            (12_449_000_000, "12.4s"),
            (192_000_000_000, "3m12s"),
            (7_500_000_000_000, "2h05m"),
            (273_600_000_000_000, "3d04h"),
        ];
        for (nanoseconds, text) in table {
            assert_eq!(lasted(nanoseconds), text);
        }
    }

    #[test]
    fn tcp_flags_have_the_letters_of_tcpdump() {
        assert_eq!(tcp_flags(0), "[]");
        assert_eq!(tcp_flags(0x02), "[S]");
        assert_eq!(tcp_flags(0x1b), "[SFP.]");
        assert_eq!(tcp_flags(0xff), "[SFPRUEW.]");
    }
}
