//! portwatch: who and what is really on this port of this Linux host.
//!
//! The modules stand in the order in which a packet travels: kernel → events → flows → attribution →
//! policy → outputs. A module uses only modules above it; `cargo xtask check` holds us to that.

#![deny(unsafe_code)]

// Vocabulary.
pub mod verbatim;
pub mod escape;
pub mod endpoint;
pub mod ports;
pub mod registry;
pub mod owner;
pub mod filter;

// What the first bytes of a conversation look like.
pub mod app;

// What outputs receive.
pub mod report;

// The system calls without a safe crate.
mod sys;
pub mod descriptor;

// What we may still do once everything is attached.
pub mod privilege;

// What the host says: namespaces, interfaces, sockets, processes.
pub mod host;

// What the kernel programs say.
pub mod kernel;

// What else than a socket can answer for a port.
pub mod explanation;

// Records → events → flows and sockets → who.
pub mod clock;
pub mod decode;
pub mod ledger;
pub mod flow;
pub mod attribution;

// Several views of the host, held against each other.
pub mod views;

// What the user expects.
pub mod policy;

// The whole way, and what leaves it.
pub mod pipeline;
pub mod output;

// The run in a file, to be gone through again.
pub mod recording;

// The packets of a run in files of Wireshark's.
pub mod pcap;

// What the user asked for, and the commands that do it.
pub mod cli;
pub mod failure;
pub mod crossview;
pub mod lookup;
pub mod session;
pub mod interfaces;
pub mod scan;
pub mod watch;
pub mod replay;
pub mod rulebook;
pub mod evidence;
pub mod doctor;
pub mod explain;
pub mod extcap;
