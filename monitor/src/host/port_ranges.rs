//! How this host hands out port numbers: which ones clients get by chance, and which take rights.

use std::fs;
use std::ops::RangeInclusive;

/// The rules of the network namespace portwatch runs in. What cannot be read is the kernel's default.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortRanges {
    /// A client that does not ask for a port gets one of these.
    pub ephemeral: RangeInclusive<u16>,
    /// To listen below this takes `CAP_NET_BIND_SERVICE`.
    pub unprivileged_from: u16,
}

impl Default for PortRanges {
    fn default() -> Self {
        Self { ephemeral: 32768..=60999, unprivileged_from: 1024 }
    }
}

impl PortRanges {
    /// Asks the host.
    pub fn read() -> Self {
        let sysctl = |name: &str| {
            fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default()
        };
        Self::parse(&sysctl("ip_local_port_range"), &sysctl("ip_unprivileged_port_start"))
    }

    fn parse(range: &str, start: &str) -> Self {
        let default = Self::default();
        let mut ends = range.split_ascii_whitespace().map_while(|end| end.parse().ok());
        let ephemeral = ends.next().zip(ends.next()).map(|(first, last)| first..=last);
        Self {
            ephemeral: ephemeral.unwrap_or(default.ephemeral),
            unprivileged_from: start.trim().parse().unwrap_or(default.unprivileged_from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_kernel_writes_them() {
        let ranges = PortRanges::parse("1025\t5000\n", "80\n");

        assert_eq!(ranges, PortRanges { ephemeral: 1025..=5000, unprivileged_from: 80 });
    }

    #[test]
    fn what_cannot_be_read_is_the_default() {
        assert_eq!(PortRanges::parse("", "many"), PortRanges::default());
        assert_eq!(PortRanges::parse("1025", "1024"), PortRanges::default());
    }
}
