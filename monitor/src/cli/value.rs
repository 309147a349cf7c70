//! Values of options: durations, sizes, names, each with its bounds and a sentence when it is wrong.

use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::RawFd;
use std::time::Duration;

use jiff::fmt::friendly::SpanParser;

use crate::escape;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;

/// Longest time that makes sense; keeps sums of times far from overflow.
const MAX_DURATION: Duration = Duration::from_hours(8784);

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    duration_from(Duration::from_millis(1), "1ms", text)
}

/// Not shorter: each interval costs a pass over all flows.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    duration_from(Duration::from_millis(100), "100ms", text)
}

pub(super) fn idle_timeout(text: &str) -> Result<Duration, String> {
    duration_from(Duration::from_secs(1), "1s", text)
}

pub(super) fn sample(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_error| "write a number, or 0 to turn sampling off".to_owned())
}

/// A capture without samples would be empty.
pub(super) fn pcap_sample(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(every @ 1..) => Ok(every),
        _ => Err("write a number from 1".to_owned()),
    }
}

pub(super) fn snaplen(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(bytes @ 1..=4096) => Ok(bytes),
        _ => Err("write a number of bytes from 1 to 4096".to_owned()),
    }
}

pub(super) fn count(text: &str) -> Result<NonZeroU64, String> {
    text.parse().map_err(|_error| "write a number from 1".to_owned())
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err("write a port from 1 to 65535".to_owned()),
    }
}

pub(super) fn ring_size(text: &str) -> Result<u32, String> {
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4 * KIB);
    let bytes = size(text)?;
    match u32::try_from(bytes) {
        Ok(ring) if ring.is_power_of_two() && (page..=GIB).contains(&bytes) => Ok(ring),
        _ => Err(format!("write a power of two from {}KiB to 1GiB, such as 8MiB", page / KIB)),
    }
}

pub(super) fn pcap_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if (64 * KIB..=1024 * GIB).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("write a size from 64KiB to 1024GiB".to_owned())
    }
}

/// Not shorter: each file is put on the disk before the next one begins.
pub(super) fn pcap_interval(text: &str) -> Result<Duration, String> {
    duration_from(Duration::from_secs(1), "1s", text)
}

pub(super) fn pcap_files(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_error| "write a number from 1".to_owned())
}

pub(super) fn flow_table(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if (64 * KIB..=4 * GIB).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("write a size from 64KiB to 4GiB".to_owned())
    }
}

pub(super) fn pid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(pid @ 1..) => Ok(pid),
        _ => Err("write the number of a process, from 1".to_owned()),
    }
}

pub(super) fn file_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes @ 0..=TIB => Ok(bytes),
        _ => Err("write a size up to 1024GiB, such as 64MiB; 0 copies none".to_owned()),
    }
}

/// An open descriptor above stdin, stdout and stderr, which stay ours.
pub(super) fn descriptor(text: &str) -> Result<RawFd, String> {
    match text.parse() {
        Ok(fd @ 3..) => Ok(fd),
        _ => Err("write the number of an open descriptor from 3".to_owned()),
    }
}

/// A name that the kernel would accept (`dev_valid_name`).
pub(super) fn interface(text: &str) -> Result<String, String> {
    let valid = (1..16).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ':' | '\0'));
    if valid {
        Ok(text.to_owned())
    } else {
        Err("an interface name has 1 to 15 bytes, none of them a space, `/` or `:`".to_owned())
    }
}

fn duration_from(least: Duration, least_text: &str, text: &str) -> Result<Duration, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("write it with a unit, such as {}s or {0}ms", shown(text)));
    }
    match SpanParser::new().parse_duration(text).map(Duration::try_from) {
        Ok(Ok(duration)) if (least..=MAX_DURATION).contains(&duration) => Ok(duration),
        // Also what is negative: `-3s`, `3s ago`.
        Ok(_) => Err(format!("write a time from {least_text} to 8784h")),
        Err(_) => Err("write a time such as 500ms, 10s, 5m or 1h30m".to_owned()),
    }
}

/// Bytes of a size such as `8MiB`, `64KiB` or `4096`.
fn size(text: &str) -> Result<u64, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let factor = match unit {
        "" => Some(1),
        "KiB" => Some(KIB),
        "MiB" => Some(MIB),
        "GiB" => Some(GIB),
        _ => None,
    };
    let number = digits.parse::<u64>();
    match (number, factor) {
        (Ok(number), Some(factor)) => Ok(number.saturating_mul(factor)),
        (Ok(_), None) => Err(match meant_unit(unit) {
            Some(meant) => format!("did you mean {}{meant}?", shown(digits)),
            None => format!("`{}` is not a unit, write KiB, MiB or GiB", shown(unit)),
        }),
        // Too many digits for 64 bits: the bounds of the option say the rest.
        (Err(_), Some(_)) if !digits.is_empty() => Ok(u64::MAX),
        _ => Err("write a size such as 64KiB, 8MiB or 4096".to_owned()),
    }
}

/// `8M`, `8MB` and `8mib` may mean powers of ten or of two elsewhere: asked, not guessed.
fn meant_unit(unit: &str) -> Option<&'static str> {
    match unit.to_ascii_lowercase().trim_matches(' ') {
        "k" | "kb" | "kib" => Some("KiB"),
        "m" | "mb" | "mib" => Some("MiB"),
        "g" | "gb" | "gib" => Some("GiB"),
        _ => None,
    }
}

fn shown(text: &str) -> String {
    escape::truncate(text, 20).into_owned()
}
