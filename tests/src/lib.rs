//! Drives the real portwatch binary against real sockets, processes and namespaces.
//!
//! A test builds a [`Lab`], lets actors play in it and asserts what portwatch said. What cannot be
//! set up fails the test; what this host does not offer at all is noted by [`skip()`].

#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a lab that cannot be built fails its test"
)]

mod skip;
mod lines;
mod process;
mod usage;
mod event;
mod count;
mod frame;
mod run;
mod portwatch;
mod actor;
mod lab;
mod capture;
mod tc;
mod neighbour;

pub use actor::{Actor, Performed};
pub use capture::{Capture, Dissected};
pub use count::{Count, Nft};
pub use event::{Event, Owner};
pub use frame::{Frame, frames_file};
pub use lab::{Host, Lab, is_root};
pub use neighbour::{Neighbour, Order, Verdict};
pub use portwatch::{Portwatch, program};
pub use process::{Finished, finish};
pub use run::Run;
pub use skip::skip;
pub use tc::{Guests, tcx_program_ids, tcx_programs};
pub use usage::now;

use std::time::Duration;

/// How long anything may take before the test that waits for it fails.
///
/// Far more than is needed: a virtual machine without hardware support takes ten times as long.
const DEADLINE: Duration = Duration::from_secs(30);
