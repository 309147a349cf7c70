//! What only root can find out of a running portwatch: how it hashes flows.

use std::fs;
use std::process::Command;

use monitor_ebpf::key::{self, Key, Words};
use monitor_ebpf::wire::Settings;
use serde_json::Value;
use zerocopy::FromBytes as _;

use crate::portwatch::Portwatch;
use crate::process::{is_installed, succeed};

/// The settings of its kernel programs.
#[derive(Clone, Copy, Debug)]
pub struct Secret(Settings);

impl Secret {
    /// Reads them from the kernel; `None`, noted as skipped, without bpftool.
    pub fn of(portwatch: &Portwatch) -> Option<Self> {
        if !is_installed("bpftool") {
            return None;
        }
        let settings = constants(portwatch.pid()).into_iter().find_map(|id| {
            let id = id.to_string();
            let dump = succeed(Command::new("bpftool").args(["--json", "map", "dump", "id", &id]));
            settings_in(&bytes(&dump))
        });
        Some(Self(settings.expect("find the settings of portwatch in its maps")))
    }

    /// Which set of the flow table such a packet belongs into.
    pub fn set(&self, key: Key) -> u64 {
        let hash = key::hash(key, Words::All, |index| {
            self.0.hash_multipliers.get(index).copied().unwrap_or_default()
        });
        hash >> self.0.set_shift
    }
}

/// Numbers of the maps that a process has open and nobody can write any more.
fn constants(pid: u32) -> Vec<u32> {
    let directory = format!("/proc/{pid}/fdinfo");
    let entries = fs::read_dir(directory).expect("list the descriptors of portwatch");
    // A descriptor may be closed meanwhile.
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let field = |text: &str, name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")?.parse::<u32>().ok())
    };
    texts
        .filter(|text| field(text, "frozen") == Some(1))
        .filter_map(|text| field(&text, "map_id"))
        .collect()
}

/// The bytes of the only value of a map.
fn bytes(dump: &str) -> Vec<u8> {
    let dump: Value = serde_json::from_str(dump).expect("read bpftool's answer");
    let digits = dump.pointer("/0/value").and_then(Value::as_array).expect("a value").iter();
    let byte = |text: &Value| u8::from_str_radix(text.as_str()?.get(2..)?, 16).ok();
    digits.map(|text| byte(text).expect("a byte in hexadecimal digits")).collect()
}

/// The settings among other constants: nothing else has odd numbers and a shift that fits.
fn settings_in(constants: &[u8]) -> Option<Settings> {
    (0..constants.len()).step_by(align_of::<Settings>()).find_map(|offset| {
        let (settings, _rest) = Settings::read_from_prefix(constants.get(offset..)?).ok()?;
        let is_odd = settings.hash_multipliers.iter().all(|multiplier| multiplier % 2 == 1);
        let is_power = settings.sets.is_power_of_two();
        let shifts = is_power && settings.set_shift == u64::BITS - settings.sets.ilog2();
        (is_odd && shifts).then_some(settings)
    })
}
