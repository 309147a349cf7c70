//! Why a command ends early, and the exit code that says so.

use std::fmt;

use crate::kernel::in_one_line;
use crate::kernel::preflight::Obstacle;

/// Nothing unexpected.
pub const DONE: u8 = 0;
/// There were findings.
pub const FINDINGS: u8 = 1;
/// Bad usage, policy or output file.
pub const USAGE: u8 = 2;
/// This host cannot be observed.
pub const UNOBSERVABLE: u8 = 3;
/// Records were lost and `--fail-on-loss` was given.
pub const LOSS: u8 = 4;
/// An output failed while running.
pub const OUTPUT_FAILED: u8 = 5;

/// Why a command ends before it has done its work.
#[derive(Debug)]
pub enum Failure {
    /// The user asked for something that cannot be: one line.
    Usage(String),
    /// The host cannot be observed, for each of these reasons.
    Unobservable(Vec<Obstacle>),
    /// Something went wrong on the way.
    Broken(anyhow::Error),
}

impl Failure {
    /// The exit code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Unobservable(_) | Self::Broken(_) => UNOBSERVABLE,
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(line) => write!(f, "portwatch: {line}"),
            Self::Unobservable(obstacles) => {
                write!(f, "portwatch: this host cannot be observed")?;
                for obstacle in obstacles {
                    write!(f, "\n  {obstacle}")?;
                }
                Ok(())
            }
            Self::Broken(error) => write!(f, "portwatch: {}", in_one_line(error)),
        }
    }
}
