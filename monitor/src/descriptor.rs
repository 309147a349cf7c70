//! Descriptors of files: one that whoever started us left open for us, and new ones of our own.

use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::sys;

/// Takes over the descriptor with this number. Call it before anything else opens one.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    sys::take_descriptor(number)
}

/// Makes a file that only its owner can read and write. What is there already is left alone, a link too.
pub fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}
