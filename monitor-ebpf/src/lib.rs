//! What the kernel programs and user space agree on, and the packet parser both sides can run.
//!
//! The library half of this crate has no dependency on a BPF target: `cargo test` runs its parser on
//! the host, and user space decodes records with the very types the kernel writes.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(clippy::inline_always, reason = "a call costs 9 ns on the packet path")]

pub mod key;
pub mod wire;
pub mod view;
pub mod bytes;
pub mod packet;
pub mod search;
pub mod eviction;
