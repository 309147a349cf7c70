//! The socket hooks on the cgroup root: who opens, uses and lets go of a socket on a watched port.
//!
//! `post_bind`, `connect`, `sendmsg`, `TCP_LISTEN_CB`, `TCP_CONNECT_CB` and `sock_release` run in the
//! task that made the system call, in every container and network namespace. Records are joined by
//! socket cookie. Off the watched ports each hook costs one comparison, `sock_release` one look-up.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_F_NO_PREALLOC, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
    BPF_SOCK_OPS_TCP_LISTEN_CB, bpf_sock, bpf_sock_addr, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
    bpf_get_current_uid_gid, bpf_get_netns_cookie, bpf_get_socket_cookie,
};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, map, sock_ops};
use aya_ebpf::maps::{HashMap, LruHashMap};
use aya_ebpf::programs::{SockAddrContext, SockContext, SockOpsContext};
use aya_log_ebpf::warn;

use monitor_ebpf::wire::{
    COMM_LEN, Connecting, SocketOwner, SocketRecord, action, helper, kind, program,
};

use crate::diagnostics::{Diagnostic, is_due};
use crate::emit::{self, SOCKET_RING};
use crate::{clock, config};

/// Sockets on watched ports by cookie. User space adds those that are older than us and removes
/// those that were never accepted, hence never released.
#[map(name = "pw_sockets")]
pub(crate) static SOCKETS: HashMap<u64, SocketOwner> =
    HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);

/// Who is in `connect(2)`, by the cookie of the socket: where `sock_ops` may not ask for the task, this
/// tells it whose connection begins once its own port is known. Used only there.
#[map(name = "pw_connecting")]
static CONNECTING: LruHashMap<u64, Connecting> = LruHashMap::with_max_entries(1 << 12, 0);

pub(crate) const AF_INET: u32 = 2;
pub(crate) const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// `TCP_CLOSE` of `include/net/tcp_states.h`.
const TCP_CLOSE: u32 = 7;
/// A cgroup program that returns 1 lets the system call go on.
pub(crate) const PROCEED: i32 = 1;

/// Loads an IPv6 address out of a context word by word at constant offsets: the verifier refuses
/// anything else there.
macro_rules! words {
    ($field:expr) => {
        [
            (&raw const $field[0]).read_volatile(),
            (&raw const $field[1]).read_volatile(),
            (&raw const $field[2]).read_volatile(),
            (&raw const $field[3]).read_volatile(),
        ]
    };
}
pub(crate) use words;

/// `bind(2)` of an IPv4 socket succeeded.
#[cgroup_sock(post_bind4)]
fn pw_post_bind4(ctx: SockContext) -> i32 {
    // SAFETY: the context the kernel called us with.
    let address = unsafe { mapped((*ctx.sock).src_ip4) };
    bound(&ctx, program::POST_BIND4, address)
}

/// `bind(2)` of an IPv6 socket succeeded.
#[cgroup_sock(post_bind6)]
fn pw_post_bind6(ctx: SockContext) -> i32 {
    // SAFETY: the context the kernel called us with; it allows word loads only.
    let address = unsafe { words!((*ctx.sock).src_ip6) };
    bound(&ctx, program::POST_BIND6, address)
}

#[inline(always)]
fn bound(ctx: &SockContext, program: u32, local: [u32; 4]) -> i32 {
    let sock: *const bpf_sock = ctx.sock;
    // SAFETY: the context the kernel called us with.
    let (port, protocol) = unsafe { ((*sock).src_port as u16, (*sock).protocol) };
    if !config::is_watched(port) || !is_ours(protocol) {
        return PROCEED;
    }
    let socket = Socket {
        cookie: cookie(ctx),
        program,
        action: action::BIND,
        family: if program == program::POST_BIND4 { 4 } else { 6 },
        protocol,
        local,
        local_port: port,
        ..Socket::NONE
    };
    report(ctx, Hook::Cgroup, &socket);
    PROCEED
}

/// `connect(2)` to an IPv4 address.
#[cgroup_sock_addr(connect4)]
fn pw_connect4(ctx: SockAddrContext) -> i32 {
    addressed(&ctx, program::CONNECT4, action::CONNECT)
}

/// `connect(2)` to an IPv6 address.
#[cgroup_sock_addr(connect6)]
fn pw_connect6(ctx: SockAddrContext) -> i32 {
    addressed(&ctx, program::CONNECT6, action::CONNECT)
}

/// A datagram is sent to an IPv4 address without `connect(2)`.
#[cgroup_sock_addr(sendmsg4)]
fn pw_sendmsg4(ctx: SockAddrContext) -> i32 {
    addressed(&ctx, program::SENDMSG4, action::SEND)
}

/// A datagram is sent to an IPv6 address without `connect(2)`.
#[cgroup_sock_addr(sendmsg6)]
fn pw_sendmsg6(ctx: SockAddrContext) -> i32 {
    addressed(&ctx, program::SENDMSG6, action::SEND)
}

#[inline(always)]
fn addressed(ctx: &SockAddrContext, program: u32, action: u8) -> i32 {
    let addr: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context the kernel called us with. `user_port` is a __be16 in a word.
    let (port, protocol) = unsafe { (u16::from_be((*addr).user_port as u16), (*addr).protocol) };
    if !config::is_watched(port) || !is_ours(protocol) {
        if action == action::CONNECT && protocol == IPPROTO_TCP && !offers(helper::SOCK_OPS_TASK) {
            connects(ctx);
        }
        return PROCEED;
    }
    let cookie = cookie(ctx);
    if action == action::SEND && is_last_reported(cookie) {
        return PROCEED;
    }
    let ipv4 = program == program::CONNECT4 || program == program::SENDMSG4;
    // SAFETY: as above; only the fields of the program's own family may be read.
    let (remote, family) =
        unsafe { if ipv4 { (mapped((*addr).user_ip4), 4) } else { (words!((*addr).user_ip6), 6) } };
    let socket = Socket {
        cookie,
        program,
        action,
        family,
        protocol,
        remote,
        remote_port: port,
        ..Socket::NONE
    };
    report(ctx, Hook::Cgroup, &socket);
    PROCEED
}

/// Keeps who connects for [`pw_sock_ops`], which is called next, in the same system call: the port that
/// the socket gets as its own may be a watched one.
#[inline(always)]
fn connects(ctx: &SockAddrContext) {
    let mut connecting = Connecting {
        // SAFETY: helpers that read the context and the current task.
        pid_tgid: unsafe { bpf_get_current_pid_tgid() },
        // SAFETY: likewise.
        uid_gid: unsafe { bpf_get_current_uid_gid() },
        netns_cookie: 0,
        comm: [0; COMM_LEN],
    };
    // SAFETY: likewise, each only where the kernel offers it; the name is written to our own memory.
    unsafe {
        if offers(helper::CGROUP_NETNS) {
            connecting.netns_cookie = bpf_get_netns_cookie(ctx.as_ptr());
        }
        if offers(helper::CGROUP_COMM) {
            bpf_get_current_comm((&raw mut connecting.comm).cast(), COMM_LEN as u32);
        }
    }
    if CONNECTING.insert(cookie(ctx), connecting, 0).is_err() {
        // An LRU map has room unless all of it is being written at this moment: then the record has
        // no process, which is said where it is shown.
    }
}

/// Was this process the last that was reported for the socket? A million datagrams are one event.
#[inline(always)]
pub(crate) fn is_last_reported(cookie: u64) -> bool {
    let tgid = current_tgid();
    // SAFETY: a copy of four plain words; user space alone deletes entries, long after.
    unsafe { SOCKETS.get(cookie).is_some_and(|owner| owner.tgid == tgid) }
}

/// The thread group in whose system call we run.
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    // SAFETY: a helper that reads the current task.
    unsafe { (bpf_get_current_pid_tgid() >> 32) as u32 }
}

/// The cookie of the socket a cgroup hook is called for.
#[inline(always)]
pub(crate) fn cookie<C: EbpfContext>(ctx: &C) -> u64 {
    // SAFETY: a helper that reads the context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// TCP: listen, connect, established, closed.
#[sock_ops]
fn pw_sock_ops(ctx: SockOpsContext) -> u32 {
    let ops: *const bpf_sock_ops = ctx.ops;
    let op = ctx.op();
    if !matches!(
        op,
        BPF_SOCK_OPS_TCP_LISTEN_CB
            | BPF_SOCK_OPS_TCP_CONNECT_CB
            | BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
            | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
            | BPF_SOCK_OPS_STATE_CB
    ) {
        return PROCEED as u32;
    }
    let local_port = ctx.local_port() as u16;
    // `remote_port` is a __be16 in the upper half of a word on little-endian machines.
    let remote_port = u32::from_be(ctx.remote_port()) as u16;
    if !config::is_watched(local_port) && !config::is_watched(remote_port) {
        return PROCEED as u32;
    }
    let action = match op {
        BPF_SOCK_OPS_TCP_LISTEN_CB => action::LISTEN,
        BPF_SOCK_OPS_TCP_CONNECT_CB => action::CONNECT,
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => action::ESTABLISHED_ACTIVE,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => action::ESTABLISHED_PASSIVE,
        _ => action::STATE,
    };
    // SAFETY: the context the kernel called us with.
    let (old_state, new_state) =
        unsafe { ((*ops).__bindgen_anon_1.args[0], (*ops).__bindgen_anon_1.args[1]) };
    if action == action::STATE && new_state != TCP_CLOSE {
        return PROCEED as u32;
    }
    if action != action::STATE {
        // Ask to be called again when this socket's state changes.
        let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
        if ctx.set_cb_flags(flags.cast_signed()).is_err() && is_due(Diagnostic::StateUnseen) {
            warn!(&ctx, "the end of a connection will not be seen: the kernel refused STATE_CB");
        }
    }
    let family = ctx.family();
    // SAFETY: as above.
    let (local, remote) = unsafe {
        if family == AF_INET {
            (mapped((*ops).local_ip4), mapped((*ops).remote_ip4))
        } else if family == AF_INET6 {
            (words!((*ops).local_ip6), words!((*ops).remote_ip6))
        } else {
            return PROCEED as u32;
        }
    };
    let is_state = action == action::STATE;
    let socket = Socket {
        cookie: cookie(&ctx),
        program: program::SOCK_OPS,
        action,
        family: if family == AF_INET { 4 } else { 6 },
        protocol: IPPROTO_TCP,
        local,
        remote,
        local_port,
        remote_port: if action == action::LISTEN { 0 } else { remote_port },
        old_state: if is_state { old_state as u8 } else { 0 },
        new_state: if is_state { new_state as u8 } else { 0 },
    };
    let in_process = action == action::LISTEN || action == action::CONNECT;
    report(&ctx, if in_process { Hook::SockOps } else { Hook::SockOpsAnywhere }, &socket);
    PROCEED as u32
}

/// The last descriptor of a socket was closed, by this task.
#[cgroup_sock(sock_release)]
fn pw_release(ctx: SockContext) -> i32 {
    let cookie = cookie(&ctx);
    // SAFETY: a copy of four plain words.
    let Some(owner) = (unsafe { SOCKETS.get(cookie).copied() }) else {
        return PROCEED;
    };
    let socket = Socket {
        cookie,
        program: program::RELEASE,
        action: action::RELEASE,
        family: owner.family,
        protocol: u32::from(owner.protocol),
        local_port: owner.local_port,
        ..Socket::NONE
    };
    report(&ctx, Hook::Cgroup, &socket);
    if SOCKETS.remove(cookie).is_err() {
        // User space was quicker: either way it is gone.
    }
    PROCEED
}

#[inline(always)]
pub(crate) const fn is_ours(protocol: u32) -> bool {
    protocol == IPPROTO_TCP || protocol == IPPROTO_UDP
}

/// Which helpers the calling hook may use.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Hook {
    /// A cgroup hook, in process context.
    Cgroup,
    /// A tracepoint, in process context.
    Tracepoint,
    /// `sock_ops`, in process context.
    SockOps,
    /// `sock_ops`, in whatever task the softirq interrupted.
    SockOpsAnywhere,
}

/// What a hook knows of a socket.
pub(crate) struct Socket {
    pub(crate) cookie: u64,
    pub(crate) program: u32,
    pub(crate) action: u8,
    pub(crate) family: u8,
    pub(crate) protocol: u32,
    pub(crate) local: [u32; 4],
    pub(crate) remote: [u32; 4],
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) old_state: u8,
    pub(crate) new_state: u8,
}

impl Socket {
    pub(crate) const NONE: Self = Self {
        cookie: 0,
        program: 0,
        action: 0,
        family: 0,
        protocol: 0,
        local: [0; 4],
        remote: [0; 4],
        local_port: 0,
        remote_port: 0,
        old_state: 0,
        new_state: 0,
    };
}

/// Submits a [`SocketRecord`] and remembers the socket, so that its release is reported as well.
#[inline(always)]
pub(crate) fn report<C: EbpfContext>(ctx: &C, hook: Hook, socket: &Socket) {
    let connecting = if hook == Hook::SockOps && !offers(helper::SOCK_OPS_TASK) {
        // SAFETY: written once, in this system call, before it was entered.
        unsafe { CONNECTING.get(socket.cookie) }
    } else {
        None
    };
    // SAFETY: helpers that read the context and the current task, each only where the loader found
    // that the kernel offers it: branches on `helpers` are constants to the verifier.
    let (netns_cookie, cgroup_id, pid_tgid, uid_gid) = unsafe {
        (
            if offers_netns(hook) { bpf_get_netns_cookie(ctx.as_ptr()) } else { 0 },
            if offers_task(hook) && offers(helper::CGROUP_ID) {
                bpf_get_current_cgroup_id()
            } else {
                0
            },
            if offers_task(hook) { bpf_get_current_pid_tgid() } else { 0 },
            if offers_task(hook) { bpf_get_current_uid_gid() } else { 0 },
        )
    };
    let (netns_cookie, pid_tgid, uid_gid) = match connecting {
        Some(it) => (it.netns_cookie, it.pid_tgid, it.uid_gid),
        None => (netns_cookie, pid_tgid, uid_gid),
    };
    remember(ctx, (pid_tgid >> 32) as u32, socket);
    let size = size_of::<SocketRecord>();
    let Some(reserved) = emit::reserve::<SocketRecord>(&SOCKET_RING, socket.program, size) else {
        return;
    };
    let record = reserved.as_mut_ptr();
    // SAFETY: the reserved record; every field is written.
    unsafe {
        (*record).header = emit::header(kind::SOCKET, socket.program, clock::exact());
        (*record).cookie = socket.cookie;
        (*record).netns_cookie = netns_cookie;
        (*record).cgroup_id = cgroup_id;
        (*record).local = zerocopy::transmute!(socket.local);
        (*record).remote = zerocopy::transmute!(socket.remote);
        (*record).comm = connecting.map_or([0; COMM_LEN], |it| it.comm);
        if offers_task(hook) && offers(helper::CGROUP_COMM) {
            bpf_get_current_comm((&raw mut (*record).comm).cast(), COMM_LEN as u32);
        }
        (*record).tgid = (pid_tgid >> 32) as u32;
        (*record).tid = pid_tgid as u32;
        (*record).uid = uid_gid as u32;
        (*record).gid = (uid_gid >> 32) as u32;
        (*record).local_port = socket.local_port;
        (*record).remote_port = socket.remote_port;
        (*record).action = socket.action;
        (*record).family = socket.family;
        (*record).protocol = socket.protocol as u8;
        (*record).in_process = u8::from(pid_tgid != 0);
        (*record).old_state = socket.old_state;
        (*record).new_state = socket.new_state;
        (*record).reserved = [0; 6];
    }
    reserved.submit();
}

#[inline(always)]
fn remember<C: EbpfContext>(ctx: &C, tgid: u32, socket: &Socket) {
    // The last two only for sockets that are remembered, and they change nothing in that.
    if matches!(socket.action, action::STATE | action::RELEASE | action::RECEIVE | action::USE) {
        return;
    }
    let owner = SocketOwner {
        tgid,
        local_port: socket.local_port,
        family: socket.family,
        protocol: socket.protocol as u8,
    };
    if SOCKETS.insert(socket.cookie, owner, 0).is_err() && is_due(Diagnostic::SocketsFull) {
        warn!(ctx, "pw_sockets is full: who releases this socket will not be known");
    }
}

#[inline(always)]
fn offers(bit: u32) -> bool {
    config::helpers() & bit != 0
}

#[inline(always)]
fn offers_task(hook: Hook) -> bool {
    match hook {
        Hook::Cgroup | Hook::Tracepoint => true,
        Hook::SockOps => offers(helper::SOCK_OPS_TASK),
        Hook::SockOpsAnywhere => false,
    }
}

#[inline(always)]
fn offers_netns(hook: Hook) -> bool {
    match hook {
        Hook::Cgroup => offers(helper::CGROUP_NETNS),
        Hook::SockOps | Hook::SockOpsAnywhere => offers(helper::SOCK_OPS_NETNS),
        Hook::Tracepoint => false,
    }
}

/// The words of an IPv4-mapped address; `address` is in network byte order as contexts hold it.
#[inline(always)]
pub(crate) const fn mapped(address: u32) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), address]
}
