//! Tests that cannot run on this host say so, where `cargo xtask test` counts them.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;

/// Notes that the calling test cannot run here, for this reason; the test then returns.
///
/// Where nobody collects such notes the test fails: no test passes without having run.
pub fn skip(reason: &str) {
    let Some(path) = env::var_os("PORTWATCH_SKIPPED") else {
        panic!("cannot run here: {reason}");
    };
    let program = env::current_exe().expect("find the test program");
    let program = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let file = program.rsplit_once('-').map_or(&*program, |(file, _hash)| file);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("unnamed");
    let mut notes = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .expect("open the file of skipped tests");
    // One line for each, whatever a program said.
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    writeln!(notes, "{file}::{test}: {reason}").expect("note a skipped test");
}
