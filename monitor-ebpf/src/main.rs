//! portwatch's kernel programs.
//!
//! Only stable interfaces: TC, cgroup hooks and an iterator. Every name that `bpftool prog` shows
//! starts with `pw_`. A packet's fate never changes here.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::inline_always,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    reason = "the verifier bounds every index, a call costs 9 ns on the packet path, and aya hands \
              contexts over by value"
)]

// What user space chose.
mod config;

// Records and their fates.
mod clock;
mod budget;
mod emit;
mod diagnostics;

// Packets: parsed, counted, followed, sampled.
mod totals;
mod flow_ring;
mod flows;
mod sample;
mod netns;
mod tc;
mod fragments;
mod look;

// Sockets: who opened, used and released them; who holds them; what there is, past /proc.
mod socket;
mod usage;
mod holders;
mod views;

/// The kernel offers most helpers only to programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: nothing here panics, and the verifier would reject a program that could loop.
    loop {}
}
