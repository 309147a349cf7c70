//! The kernel side as user space sees it: load, attach, read.
//!
//! Everything attached is held by descriptors: when the process ends, however it ends, the kernel
//! detaches it. The exceptions are the legacy clsact hook, where the next start cleans up what was
//! ours, and what the user asked to stay (`pin`).

/// An error in one line. The verifier answers in many, of which the first is what a user can act on.
pub fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

pub mod preflight;
pub mod btf;
mod layout;
pub mod pin;
pub mod flow_table;
pub mod tally;
mod source;
pub mod object;
pub mod cgroup;
pub mod tracepoint;
pub mod interface;
pub mod chain;
pub mod holders;
pub mod log;
