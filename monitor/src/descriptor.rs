//! A descriptor that whoever started us left open for us.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use crate::sys;

/// Takes over the descriptor with this number. Call it before anything else opens one.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    sys::take_descriptor(number)
}
