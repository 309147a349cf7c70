//! portwatch: who and what is really on this port of this Linux host.
//!
//! The modules stand in the order in which a packet travels: kernel → events → flows → attribution →
//! policy → outputs. A module uses only modules above it; `cargo xtask check` holds us to that.

#![deny(unsafe_code)]

// Vocabulary.
pub mod escape;
pub mod endpoint;
pub mod ports;
pub mod owner;
pub mod report;

// The system calls without a safe crate.
mod sys;

// What the host says: namespaces, interfaces, sockets, processes.
pub mod host;

// What the kernel programs say.
pub mod kernel;

// What the user expects.
pub mod policy;

// Outputs.
pub mod output;
