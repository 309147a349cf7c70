//! Iterators that look past `/proc` and `sock_diag`: at the sockets behind all descriptors, at the kernel's
//! own tables of TCP and UDP sockets, and at its tasks. What others say is held against this.
//!
//! Everything is read at offsets from this kernel's BTF; the verifier checks that a member of that type is
//! there. Kernels before 5.12 refuse these programs: nothing of them has a cookie there.

use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_seq_write, bpf_skc_to_tcp_sock, bpf_sock_from_file,
};
use core::ffi::c_void;
use core::ptr;

use monitor_ebpf::view::{SocketView, TaskView, ViewOffsets};

use crate::config;
use crate::holders::{Context, Descriptor, Meta};
use crate::socket::{AF_INET, AF_INET6, is_ours, mapped};

/// Written by the loader before the programs are verified.
#[unsafe(no_mangle)]
static PW_VIEW_OFFSETS: ViewOffsets = ViewOffsets::ZERO;

const AF_PACKET: u16 = 17;
const AF_XDP: u16 = 44;
const SOCK_RAW: u16 = 3;
/// A process has a socket of this, and the kernel has those of TCP for it, which have the ports.
const IPPROTO_MPTCP: u16 = 262;

/// An offset of [`PW_VIEW_OFFSETS`].
macro_rules! offset {
    ($name:ident) => {
        // SAFETY: a static; volatile, since the loader replaces the value the compiler saw.
        unsafe { ptr::read_volatile(&raw const PW_VIEW_OFFSETS.$name) }
    };
}

/// Loads a member of a kernel struct.
macro_rules! load {
    ($pointer:expr, $offset:expr, $type:ty) => {{
        let (pointer, offset) = ($pointer, $offset as usize);
        // SAFETY: the offset comes from this kernel's BTF, and the verifier checks that such a member is
        // there.
        unsafe { *pointer.byte_add(offset).cast::<$type>() }
    }};
}

/// The context of the iterators over sockets and over tasks: `struct bpf_iter__tcp`, `__udp`, `__task`.
#[repr(C)]
struct Object {
    meta: *const Meta,
    object: *mut c_void,
}

impl Object {
    /// What the iterator has come to, null at its end, and where to write.
    ///
    /// # Safety
    ///
    /// The context is the one the kernel called us with.
    #[inline(always)]
    unsafe fn of(ctx: *const Self) -> (*mut c_void, *mut c_void) {
        // SAFETY: as the caller says.
        unsafe { ((*ctx).object, (*(*ctx).meta).seq) }
    }
}

/// Tells of each descriptor of a socket that is on a watched port, or that needs none: packet, raw and XDP
/// sockets.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
unsafe extern "C" fn pw_view_files(ctx: *const Context) -> i32 {
    // SAFETY: the context the kernel called us with.
    let Some(descriptor) = (unsafe { Descriptor::of(ctx) }) else { return 0 };
    // SAFETY: a helper on a file the kernel gave us.
    let socket: *mut c_void = unsafe { bpf_sock_from_file(descriptor.file.cast()) }.cast();
    if socket.is_null() {
        return 0;
    }
    let sk = load!(socket, config::socket_sk_offset(), *mut c_void);
    if sk.is_null() || !is_wanted(sk) {
        return 0;
    }
    let inode = load!(descriptor.file, config::file_inode_offset(), *const c_void);
    let leader = load!(descriptor.task, offset!(task_leader), *const c_void);
    if inode.is_null() || leader.is_null() {
        return 0;
    }
    let view = SocketView {
        inode: load!(inode, offset!(inode_number), u64),
        start_ns: load!(leader, offset!(task_start), u64),
        tgid: load!(descriptor.task, config::task_tgid_offset(), u32),
        tid: load!(descriptor.task, offset!(task_pid), u32),
        fd: descriptor.fd,
        ..look_at(sk)
    };
    tell(descriptor.seq, &view);
    0
}

/// Tells of each TCP socket on a watched port in the network namespace of whoever reads.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
unsafe extern "C" fn pw_view_tcp(ctx: *const Object) -> i32 {
    // SAFETY: the context the kernel called us with.
    let (common, seq) = unsafe { Object::of(ctx) };
    if common.is_null() {
        return 0;
    }
    // SAFETY: a helper on a socket the kernel gave us; null for those without an owner any more.
    let sk: *mut c_void = unsafe { bpf_skc_to_tcp_sock(common) }.cast();
    if !sk.is_null() && is_watched(sk) {
        tell(seq, &look_at(sk));
    }
    0
}

/// Tells of each UDP socket, likewise.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/udp")]
unsafe extern "C" fn pw_view_udp(ctx: *const Object) -> i32 {
    // SAFETY: the context the kernel called us with.
    let (sk, seq) = unsafe { Object::of(ctx) };
    if !sk.is_null() && is_watched(sk) {
        tell(seq, &look_at(sk));
    }
    0
}

/// Tells of each process.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
unsafe extern "C" fn pw_view_tasks(ctx: *const Object) -> i32 {
    // SAFETY: the context the kernel called us with.
    let (task, seq) = unsafe { Object::of(ctx) };
    if task.is_null() {
        return 0;
    }
    let tgid = load!(task, config::task_tgid_offset(), u32);
    if load!(task, offset!(task_pid), u32) != tgid {
        return 0;
    }
    let [low, high] = [0, 8].map(|at| load!(task, offset!(task_comm) + at, u64));
    let view = TaskView {
        start_ns: load!(task, offset!(task_start), u64),
        comm: zerocopy::transmute!([low, high]),
        tgid,
        reserved: 0,
    };
    tell(seq, &view);
    0
}

#[inline(always)]
fn is_wanted(sk: *mut c_void) -> bool {
    let family = load!(sk, config::sock_family_offset(), u16);
    if family == AF_PACKET || family == AF_XDP {
        return true;
    }
    if u32::from(family) != AF_INET && u32::from(family) != AF_INET6 {
        return false;
    }
    if load!(sk, offset!(kind), u16) == SOCK_RAW {
        return true;
    }
    let protocol = load!(sk, config::sock_protocol_offset(), u16);
    protocol == IPPROTO_MPTCP || is_ours(u32::from(protocol)) && is_watched(sk)
}

#[inline(always)]
fn is_watched(sk: *mut c_void) -> bool {
    let (local, remote) = ports(sk);
    config::watched(local, remote).is_some()
}

#[inline(always)]
fn ports(sk: *mut c_void) -> (u16, u16) {
    let local = load!(sk, config::sock_num_offset(), u16);
    (local, u16::from_be(load!(sk, config::sock_dport_offset(), u16)))
}

/// The socket itself, without the descriptor.
#[inline(always)]
fn look_at(sk: *mut c_void) -> SocketView {
    let family = load!(sk, config::sock_family_offset(), u16);
    let (local, remote) = match u32::from(family) {
        AF_INET => (
            mapped(load!(sk, offset!(local_ipv4), u32)),
            mapped(load!(sk, offset!(remote_ipv4), u32)),
        ),
        AF_INET6 => (
            [0, 4, 8, 12].map(|at| load!(sk, offset!(local_ipv6) + at, u32)),
            [0, 4, 8, 12].map(|at| load!(sk, offset!(remote_ipv6) + at, u32)),
        ),
        _ => ([0; 4], [0; 4]),
    };
    let (local_port, remote_port) = match u32::from(family) {
        AF_INET | AF_INET6 => ports(sk),
        _ => (0, 0),
    };
    let netns = load!(sk, offset!(netns), *const c_void);
    let (filter_length, filter_program) = filter(sk);
    let kernel_made = load!(sk, offset!(kernel_made), u8) >> offset!(kernel_made_bit);
    SocketView {
        // SAFETY: a helper on a socket the kernel gave us.
        cookie: unsafe { bpf_get_socket_cookie(sk) },
        inode: 0,
        start_ns: 0,
        local: zerocopy::transmute!(local),
        remote: zerocopy::transmute!(remote),
        netns: if netns.is_null() { 0 } else { load!(netns, offset!(netns_inode), u32) },
        tgid: 0,
        tid: 0,
        fd: 0,
        filter_program,
        filter_length,
        family,
        kind: load!(sk, offset!(kind), u16),
        protocol: load!(sk, config::sock_protocol_offset(), u16),
        local_port,
        remote_port,
        state: load!(sk, offset!(state), u8),
        kernel_made: kernel_made & 1,
        reserved: [0; 6],
    }
}

/// Instructions of the classic program that filters what the socket receives, and the number of an eBPF
/// program that does.
#[inline(always)]
fn filter(sk: *mut c_void) -> (u16, u32) {
    let filter = load!(sk, offset!(filter), *const c_void);
    if filter.is_null() {
        return (0, 0);
    }
    let program = load!(filter, offset!(filter_program), *const c_void);
    if program.is_null() {
        return (0, 0);
    }
    let classic = load!(program, offset!(program_classic), *const c_void);
    let length = if classic.is_null() { 0 } else { load!(classic, offset!(classic_length), u16) };
    let aux = load!(program, offset!(program_aux), *const c_void);
    (length, if aux.is_null() { 0 } else { load!(aux, offset!(aux_id), u32) })
}

#[inline(always)]
fn tell<T>(seq: *mut c_void, view: &T) {
    // SAFETY: copies the record out of our stack into the iterator's buffer. When that is full the kernel
    // calls us again for the same object.
    unsafe { bpf_seq_write(seq.cast(), ptr::from_ref(view).cast(), size_of::<T>() as u32) };
}
