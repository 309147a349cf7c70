//! How bytes are distributed that look like nothing: text, encrypted, or in between.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Entropy and share of printable characters of the first bytes of both sides.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Measure {
    /// Bytes that were looked at.
    pub bytes: usize,
    /// Shannon entropy in bits a byte: 8 for what is encrypted or compressed, if there is enough of it.
    pub entropy: f64,
    /// Share of printable ASCII and white space: 1 for text.
    pub printable: f64,
}

impl Measure {
    pub(super) fn of(parts: &[&[u8]]) -> Self {
        let mut counts = [0_u32; 256];
        let bytes = || parts.iter().copied().flatten().copied();
        for byte in bytes() {
            if let Some(count) = counts.get_mut(usize::from(byte)) {
                *count += 1;
            }
        }
        let total: u32 = counts.iter().sum();
        let share = |count: u32| f64::from(count) / f64::from(total.max(1));
        let shares = counts.iter().filter(|count| **count > 0).map(|count| share(*count));
        // Of bytes that are all the same the sum is -0, which would be shown.
        let entropy = shares.map(|share| -share * share.log2()).sum::<f64>() + 0.0;
        let is_printable =
            |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let printable = u32::try_from(bytes().filter(is_printable).count()).unwrap_or(u32::MAX);
        Self {
            bytes: bytes().count(),
            entropy: two_digits(entropy),
            printable: two_digits(share(printable)),
        }
    }
}

/// More digits would claim more than some hundred bytes can tell.
fn two_digits(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, entropy, printable } = self;
        let percent = printable * 100.0;
        write!(f, "{bytes} B, entropy {entropy:.2} bits a byte, {percent:.0} % printable")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_printable_and_every_byte_once_is_eight_bits() {
        let all: Vec<u8> = (0..=u8::MAX).collect();

        assert_eq!(
            Measure::of(&[b"he", b"llo\n"]),
            Measure { bytes: 6, entropy: 2.25, printable: 1.0 }
        );
        assert_eq!(Measure::of(&[&[7; 100]]), Measure { bytes: 100, entropy: 0.0, printable: 0.0 });
        let text = Measure::of(&[b"x"]).to_string();
        assert_eq!(text, "1 B, entropy 0.00 bits a byte, 100 % printable");
        assert_eq!(
            Measure::of(&[&all]).to_string(),
            "256 B, entropy 8.00 bits a byte, 38 % printable"
        );
    }
}
