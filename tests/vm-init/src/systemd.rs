//! systemd as the first process: it takes our place, and starts us again as a service of its own.
//!
//! Only what a service takes by default is there, so that it starts in a second even where software runs
//! the processor.

use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

/// What test programs are told, so that they start units of their own here and nowhere else.
pub(crate) const VARIABLE: (&str, &str) = ("PORTWATCH_TEST_MANAGER", "systemd");

/// Becomes systemd, which has this pid from then on.
pub(crate) fn take_over(manager: &Path) -> Result<Infallible> {
    for (directory, name, text) in FILES {
        fs::create_dir_all(directory).with_context(|| format!("create {directory}"))?;
        fs::write(Path::new(directory).join(name), text)
            .with_context(|| format!("write {name}"))?;
    }
    for target in TARGETS {
        // An empty file would mean that nobody may start it.
        fs::write(Path::new(UNITS).join(target), "[Unit]\n")?;
    }
    Err(Command::new(manager).exec()).with_context(|| format!("become {}", manager.display()))
}

const UNITS: &str = "/run/systemd/system";

/// What units depend on unless they say otherwise.
const TARGETS: &[&str] = &["sysinit.target", "basic.target", "sockets.target", "shutdown.target"];

/// Directory, name and text.
const FILES: &[(&str, &str, &str)] = &[
    // There is no journal. A machine whose first process does not go on ends, as with a panic.
    (
        "/run/systemd/system.conf.d",
        "tests.conf",
        "[Manager]\nDefaultStandardOutput=kmsg\nCrashReboot=yes\nShowStatus=no\n",
    ),
    (UNITS, "default.target", "[Unit]\nRequires=tests.service\nAllowIsolate=yes\n"),
    (
        UNITS,
        "tests.service",
        "[Unit]\nFailureAction=reboot-immediate\n[Service]\nExecStart=/init\n",
    ),
];
