//! The serial port of the protocol: lines, each written as one.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use anyhow::{Context as _, Result};
use rustix::termios::{OptionalActions, Termios, tcdrain, tcgetattr, tcsetattr};

/// The second serial port, which the kernel does not write to.
#[derive(Debug)]
pub(crate) struct Serial(File);

impl Serial {
    /// Opens the port at this path, and makes it pass bytes as they are.
    pub(crate) fn open(path: &str) -> Result<Self> {
        let port = OpenOptions::new().read(true).write(true).open(path);
        let port = port.with_context(|| format!("open {path}"))?;
        let mut modes: Termios = tcgetattr(&port).context("ask the modes of the serial port")?;
        modes.make_raw();
        tcsetattr(&port, OptionalActions::Now, &modes).context("set the modes of the port")?;
        Ok(Self(port))
    }

    /// The same port once more.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        Ok(Self(self.0.try_clone().context("share the serial port")?))
    }

    /// Says something of our own.
    pub(crate) fn say(&mut self, word: &str, rest: &str) {
        // A line is a line, whatever an error says.
        let rest = rest.replace('\n', " ");
        self.write(format!("@{word} {rest}\n").as_bytes());
    }

    /// Hands on a line of a program.
    pub(crate) fn pass(&mut self, line: &[u8]) {
        self.write(&[b"|", line, b"\n"].concat());
    }

    /// Waits until everything is on its way.
    pub(crate) fn drain(&self) -> Result<()> {
        tcdrain(&self.0).context("drain the serial port")
    }

    fn write(&mut self, line: &[u8]) {
        // Without the port there is nobody to tell: the host notices the silence.
        drop(self.0.write_all(line));
    }
}
