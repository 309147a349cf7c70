//! Units of systemd where it is the first process: a test machine's, never those of the host that builds.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::succeed;
use crate::skip;

/// Units of a test's own; stopped and removed when dropped.
#[derive(Debug)]
pub struct Units(Vec<String>);

impl Units {
    /// Units with these names and texts, for systemd to know; `None`, noted as skipped, where it is not the
    /// first process of a test machine.
    pub fn make(units: &[(&str, String)]) -> Option<Self> {
        if env::var_os("PORTWATCH_TEST_MANAGER").is_none() {
            skip("systemd is not the first process of a test machine: `cargo xtask vm` starts one");
            return None;
        }
        let names = units.iter().map(|(name, text)| {
            fs::write(file_of(name), text).expect("write a unit");
            (*name).to_owned()
        });
        let units = Self(names.collect());
        systemctl(&["daemon-reload"]);
        Some(units)
    }

    /// Starts one of them, and waits until systemd takes it for started.
    pub fn start(&self, unit: &str) {
        systemctl(&["start", "--", unit]);
    }
}

fn file_of(unit: &str) -> PathBuf {
    Path::new("/run/systemd/system").join(unit)
}

/// What systemd has as a property of what it is given: a unit, or a pattern that one unit matches.
pub fn property(unit: &str, property: &str) -> String {
    let shown = systemctl(&["show", "--property", property, "--value", "--", unit]);
    shown.trim().to_owned()
}

fn systemctl(args: &[&str]) -> String {
    succeed(Command::new("systemctl").args(args))
}

impl Drop for Units {
    fn drop(&mut self) {
        // Not asserted: a test that fails already must not abort the others.
        for unit in &self.0 {
            let instances = unit.replace("@.", "@*.");
            drop(Command::new("systemctl").args(["stop", "--", &instances]).status());
            drop(fs::remove_file(file_of(unit)));
        }
    }
}
