//! The host itself: its kernel and how that was started, its clocks, its name.

use std::io;
use std::path::Path;

use rustix::time::{ClockId, Timespec, clock_gettime};
use serde_json::{Value, json};

use super::{Artifact, Lines, Sink, read_path, words};
use crate::escape;
use crate::sys;

/// Tells the files of the host.
pub fn of_system(tell: &mut Sink<'_>) {
    for (name, path, limit) in FILES {
        let content = read_path(Path::new(path), limit).map_err(|error| words(&error));
        if !tell(Artifact { name, source: path.to_owned(), content }) {
            return;
        }
    }
}

/// What the clocks of the host say, all at one moment, and whether somebody keeps them right.
pub fn clock() -> Artifact {
    let ns = |clock| {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
        tv_sec.saturating_mul(1_000_000_000).saturating_add(tv_nsec)
    };
    let zone = std::fs::read_link("/etc/localtime");
    let zone =
        zone.map(|path| escape::text_from_bytes(path.as_os_str().as_encoded_bytes()).into_owned());
    let mut lines = Lines::default();
    lines.push(&json!({
        "realtime_ns": ns(ClockId::Realtime),
        "monotonic_ns": ns(ClockId::Monotonic),
        "boottime_ns": ns(ClockId::Boottime),
        "localtime": zone.ok(),
        "discipline": discipline(sys::clock_discipline()),
    }));
    let source = "clock_gettime(2), adjtimex(2), /etc/localtime".to_owned();
    Artifact { name: "clock.json", source, content: Ok(lines.into_content()) }
}

fn discipline(read: io::Result<(libc::timex, libc::c_int)>) -> Value {
    match read {
        Ok((timex, state)) => json!({
            "synchronised": timex.status & libc::STA_UNSYNC == 0 && state != libc::TIME_ERROR,
            "state": state,
            "status": timex.status,
            "offset": timex.offset,
            "offset_is_in_ns": timex.status & libc::STA_NANO != 0,
            "frequency": timex.freq,
            "max_error_us": timex.maxerror,
            "estimated_error_us": timex.esterror,
            "tai_offset_s": timex.tai,
        }),
        Err(error) => json!({ "missing": error.to_string() }),
    }
}

const FILES: [(&str, &str, usize); 15] = [
    ("version", "/proc/version", 4 << 10),
    ("cmdline", "/proc/cmdline", 64 << 10),
    ("uptime", "/proc/uptime", 1 << 10),
    ("boot_id", "/proc/sys/kernel/random/boot_id", 64),
    ("hostname", "/proc/sys/kernel/hostname", 1 << 10),
    ("tainted", "/proc/sys/kernel/tainted", 64),
    ("modules", "/proc/modules", 1 << 20),
    ("lsm", "/sys/kernel/security/lsm", 4 << 10),
    ("lockdown", "/sys/kernel/security/lockdown", 4 << 10),
    ("ld.so.preload", "/etc/ld.so.preload", 64 << 10),
    ("machine-id", "/etc/machine-id", 1 << 10),
    ("os-release", "/etc/os-release", 64 << 10),
    ("timezone", "/etc/timezone", 1 << 10),
    ("mountinfo", "/proc/self/mountinfo", 4 << 20),
    ("loadavg", "/proc/loadavg", 1 << 10),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_told_with_who_keeps_them() {
        let content = clock().content.unwrap();

        let clock: Value = serde_json::from_slice(&content.bytes).unwrap();
        assert!(clock["boottime_ns"].as_i64() >= clock["monotonic_ns"].as_i64(), "{clock}");
        assert!(clock["discipline"]["synchronised"].is_boolean(), "{clock}");
    }

    #[test]
    fn the_host_is_told_with_its_kernel_and_this_boot_of_it() {
        let mut told = std::collections::BTreeMap::new();
        of_system(&mut |artifact| told.insert(artifact.name, artifact.content).is_none());

        assert_eq!(told.len(), FILES.len());
        assert!(told["version"].as_ref().unwrap().bytes.starts_with(b"Linux version "));
        assert_eq!(told["boot_id"].as_ref().unwrap().bytes.len(), 37);
    }
}
