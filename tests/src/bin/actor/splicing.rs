//! Connections served without a copy: `sendfile(2)` and `splice(2)`, which are no reads and writes.

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use anyhow::{Context as _, Result};
use rustix::fs::sendfile;
use rustix::pipe::{SpliceFlags, pipe, splice};

use super::accept;

/// Sends a file to whoever connects.
pub(super) fn send_file(listener: &TcpListener, path: &str) -> Result<String> {
    let file = File::open(path).with_context(|| format!("open {path}"))?;
    let stream = accept(listener)?;
    let mut total = 0_usize;
    loop {
        match sendfile(&stream, &file, None, AT_ONCE).context("sendfile")? {
            0 => return Ok(format!("sent {total}")),
            sent => total = total.saturating_add(sent),
        }
    }
}

/// Takes all that comes until the other side has nothing more to say.
pub(super) fn drain(mut stream: &TcpStream) -> Result<String> {
    Ok(format!("drained {}", io::copy(&mut stream, &mut io::sink()).context("receive")?))
}

/// Sends back what comes.
pub(super) fn splice_back(listener: &TcpListener) -> Result<String> {
    let stream = accept(listener)?;
    Ok(format!("served {}", through_a_pipe(&stream, &stream)?))
}

/// Takes what comes, and says nothing.
pub(super) fn swallow(listener: &TcpListener) -> Result<String> {
    let stream = accept(listener)?;
    let nowhere = File::options().write(true).open("/dev/null").context("open /dev/null")?;
    Ok(format!("swallowed {}", through_a_pipe(&stream, &nowhere)?))
}

/// Moves all that one has to say to the other.
fn through_a_pipe(from: impl AsFd, to: impl AsFd) -> Result<usize> {
    let (out, into) = pipe()?;
    let mut total = 0_usize;
    loop {
        let mut left = splice(&from, None, &into, None, AT_ONCE, SpliceFlags::empty())
            .context("splice from a connection")?;
        if left == 0 {
            return Ok(total);
        }
        total = total.saturating_add(left);
        while left > 0 {
            let moved = splice(&out, None, &to, None, left, SpliceFlags::empty())
                .context("splice from a pipe")?;
            left = left.saturating_sub(moved);
        }
    }
}

/// As much as a pipe holds.
const AT_ONCE: usize = 1 << 16;
