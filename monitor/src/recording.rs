//! Recordings: everything the core was told in one run, in a file, so that the run can be replayed.
//!
//! A recording is as hostile as the network: whoever reads one has it from somebody. docs/recordings.md
//! describes the format.

mod frame;
mod header;
mod reader;
mod recorder;
#[cfg(test)]
pub(crate) mod tests;

pub use frame::{Fault, MAGIC, MAX_FRAME};
pub use header::{Header, Origin};
pub use reader::{Next, Reader};
pub use recorder::{Recorder, Recording};
