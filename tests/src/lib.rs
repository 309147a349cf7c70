//! Drives the real portwatch binary against real sockets, processes and namespaces.
//!
//! A test builds a [`Lab`], lets actors play in it and asserts what portwatch said. What cannot be
//! set up fails the test; what this host does not offer at all is noted by [`skip()`].

#![deny(unsafe_code)]
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
mod netkit;
mod lab;
mod capture;
mod tc;
mod neighbour;
mod secret;
mod trace;
mod pcapng;
mod cgroup;
mod service;
mod units;

pub use actor::{Actor, Performed};
pub use capture::{Capture, Dissected};
pub use cgroup::Cgroup;
pub use count::{Count, Nft};
pub use event::{Event, Owner};
pub use frame::{Frame, frames_file};
pub use lab::{Host, Lab, is_root};
pub use neighbour::{Neighbour, NetkitHook, Order, Verdict};
pub use netkit::NetkitMode;
pub use pcapng::{Captured, Pcapng};
pub use portwatch::{Portwatch, program};
pub use process::{Finished, finish, interrupt, is_installed, soon};
pub use run::Run;
pub use secret::Secret;
pub use service::{Service, are_installed};
pub use skip::skip;
pub use tc::{Guests, tcx_program_ids, tcx_programs};
pub use trace::{Conversation, Trace};
pub use units::{Units, property};
pub use usage::now;

use std::sync::LazyLock;
use std::time::Duration;

/// How long anything may take before the test that waits for it fails: far more than is needed.
///
/// `PORTWATCH_TEST_SLOWNESS` says how many times longer it is on a slow machine, such as a guest that
/// is run by software.
pub fn deadline() -> Duration {
    static DEADLINE: LazyLock<Duration> = LazyLock::new(|| {
        let slowness = std::env::var("PORTWATCH_TEST_SLOWNESS").ok();
        let slowness = slowness.and_then(|slowness| slowness.parse().ok()).unwrap_or(1);
        Duration::from_secs(30).saturating_mul(slowness)
    });
    *DEADLINE
}
