//! Who really reads and writes: with a forked server the worker, where the opener is the parent; and
//! from whom a socket that is not connected receives.
//!
//! `sock_send_length` and `sock_recv_length` fire in the task of every read and write of every socket
//! (Linux 6.3). Off the watched ports each costs two loads and a comparison.

use aya_ebpf::bindings::{BPF_NOEXIST, bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::{btf_tracepoint, cgroup_sock_addr, map};
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use aya_ebpf::programs::{BtfTracePointContext, SockAddrContext};
use core::ffi::c_void;

use monitor_ebpf::wire::{Budget, Heard, SocketUser, action, program};

use crate::emit::{self, Fate};
use crate::socket::{
    AF_INET, AF_INET6, Hook, PROCEED, Socket, cookie, current_tgid, is_last_reported, is_ours,
    mapped, report, words,
};
use crate::{budget, config};

/// Who was reported. An entry that had to go costs a second report, no more.
#[map(name = "pw_users")]
static USERS: LruHashMap<SocketUser, u8> = LruHashMap::with_max_entries(1 << 14, 0);

/// Which senders were reported, likewise.
#[map(name = "pw_heard")]
static HEARD: LruHashMap<Heard, u8> = LruHashMap::with_max_entries(1 << 14, 0);

/// Senders that may still be reported: anybody can invent sources.
#[map(name = "pw_heard_budget")]
static HEARD_BUDGET: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

/// Senders a CPU may report in one `budget_window`.
const HEARD_AT_ONCE: u64 = 100;

/// Something was sent: `(struct sock *sk, int ret, int flags)`, include/trace/events/sock.h.
#[btf_tracepoint(function = "sock_send_length")]
fn pw_send_length(ctx: BtfTracePointContext) -> i32 {
    used(&ctx, program::SEND_LENGTH)
}

/// Something was received, likewise.
#[btf_tracepoint(function = "sock_recv_length")]
fn pw_recv_length(ctx: BtfTracePointContext) -> i32 {
    used(&ctx, program::RECV_LENGTH)
}

#[inline(always)]
fn used(ctx: &BtfTracePointContext, program: u32) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the offsets come from this kernel's BTF, and the verifier checks that members of these
    // sizes are there.
    let (local_port, remote_port) = unsafe {
        (
            *sk.byte_add(config::sock_num_offset() as usize).cast::<u16>(),
            u16::from_be(*sk.byte_add(config::sock_dport_offset() as usize).cast::<u16>()),
        )
    };
    if config::watched(local_port, remote_port).is_none() {
        return 0;
    }
    let transferred: i32 = ctx.arg(1);
    if transferred < 0 {
        return 0;
    }
    // SAFETY: as above.
    let (family, protocol) = unsafe {
        (
            u32::from(*sk.byte_add(config::sock_family_offset() as usize).cast::<u16>()),
            u32::from(*sk.byte_add(config::sock_protocol_offset() as usize).cast::<u16>()),
        )
    };
    if !(family == AF_INET || family == AF_INET6) || !is_ours(protocol) {
        return 0;
    }
    // SAFETY: a helper on a socket the kernel gave us.
    let cookie = unsafe { bpf_get_socket_cookie(sk.cast_mut()) };
    if is_last_reported(cookie) {
        return 0;
    }
    let user = SocketUser { cookie, tgid: current_tgid(), reserved: 0 };
    if !is_first(&USERS, &user) {
        return 0;
    }
    let socket = Socket {
        cookie,
        program,
        action: action::USE,
        family: if family == AF_INET { 4 } else { 6 },
        protocol,
        local_port,
        remote_port,
        ..Socket::NONE
    };
    report(ctx, Hook::Tracepoint, &socket);
    0
}

/// A datagram from an IPv4 address was received, and who sent it was asked for.
#[cgroup_sock_addr(recvmsg4)]
fn pw_recvmsg4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context the kernel called us with.
    let remote = unsafe { mapped((*ctx.sock_addr).user_ip4) };
    heard(&ctx, program::RECVMSG4, remote)
}

/// A datagram was received by an IPv6 socket, likewise.
#[cgroup_sock_addr(recvmsg6)]
fn pw_recvmsg6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context the kernel called us with; it allows word loads only.
    let remote = unsafe { words!((*ctx.sock_addr).user_ip6) };
    heard(&ctx, program::RECVMSG6, remote)
}

#[inline(always)]
fn heard(ctx: &SockAddrContext, program: u32, remote: [u32; 4]) -> i32 {
    let addr: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context the kernel called us with; the socket may be missing.
    let (sock, remote_port, protocol): (*const bpf_sock, u16, u32) = unsafe {
        ((*addr).__bindgen_anon_1.sk, u16::from_be((*addr).user_port as u16), (*addr).protocol)
    };
    if sock.is_null() {
        return PROCEED;
    }
    // SAFETY: a socket, as the verifier knows.
    let local_port = unsafe { (*sock).src_port as u16 };
    if !config::is_watched(local_port) || !is_ours(protocol) {
        return PROCEED;
    }
    let cookie = cookie(ctx);
    let tgid = current_tgid();
    let sender = Heard {
        cookie,
        remote: zerocopy::transmute!(remote),
        remote_port: u32::from(remote_port),
        tgid,
    };
    // SAFETY: only asks whether the entry is there.
    if unsafe { HEARD.get(sender) }.is_some() {
        return PROCEED;
    }
    if !budget::take(&HEARD_BUDGET, HEARD_AT_ONCE) {
        emit::count(program, Fate::Filtered);
        return PROCEED;
    }
    if !is_first(&HEARD, &sender) {
        return PROCEED;
    }
    let socket = Socket {
        cookie,
        program,
        action: action::RECEIVE,
        family: if program == program::RECVMSG4 { 4 } else { 6 },
        protocol,
        remote,
        local_port,
        remote_port,
        ..Socket::NONE
    };
    report(ctx, Hook::Cgroup, &socket);
    PROCEED
}

/// Enters it; false if it was there.
#[inline(always)]
fn is_first<K>(reported: &LruHashMap<K, u8>, key: &K) -> bool {
    reported.insert(key, 0, u64::from(BPF_NOEXIST)) != Err(EEXIST)
}

/// How the kernel says that it was there: `-EEXIST`.
const EEXIST: i32 = -17;
