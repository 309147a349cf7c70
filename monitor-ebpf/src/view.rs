//! What the iterators say that look past `/proc` and `sock_diag`: sockets and processes as the kernel
//! itself has them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Offsets of kernel struct members that have no UAPI view, in bytes, from the running kernel's BTF.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct ViewOffsets {
    /// `skc_state` in `struct sock_common`, with which a `struct sock` begins.
    pub state: u32,
    /// `skc_rcv_saddr`.
    pub local_ipv4: u32,
    /// `skc_daddr`.
    pub remote_ipv4: u32,
    /// `skc_v6_rcv_saddr`; 0 in a kernel without IPv6.
    pub local_ipv6: u32,
    /// `skc_v6_daddr`, likewise.
    pub remote_ipv6: u32,
    /// `skc_net`.
    pub netns: u32,
    /// `ns.inum` in `struct net`.
    pub netns_inode: u32,
    /// `sk_type` in `struct sock`.
    pub kind: u32,
    /// The byte that has `sk_kern_sock`.
    pub kernel_made: u32,
    /// The bit of it.
    pub kernel_made_bit: u32,
    /// `sk_filter`.
    pub filter: u32,
    /// `prog` in `struct sk_filter`.
    pub filter_program: u32,
    /// `orig_prog` in `struct bpf_prog`: the classic program it was made of.
    pub program_classic: u32,
    /// `len` in `struct sock_fprog_kern`.
    pub classic_length: u32,
    /// `aux` in `struct bpf_prog`.
    pub program_aux: u32,
    /// `id` in `struct bpf_prog_aux`.
    pub aux_id: u32,
    /// `i_ino` in `struct inode`.
    pub inode_number: u32,
    /// `pid` in `struct task_struct`: the thread.
    pub task_pid: u32,
    /// `group_leader`: the first thread of the process.
    pub task_leader: u32,
    /// `start_boottime`.
    pub task_start: u32,
    /// `comm`.
    pub task_comm: u32,
}

impl ViewOffsets {
    /// What the loader replaces.
    pub const ZERO: Self = zerocopy::transmute!([0_u32; size_of::<Self>() / size_of::<u32>()]);
}

/// A socket, and the descriptor by which the iterator came to it, if it did.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct SocketView {
    /// Its cookie.
    pub cookie: u64,
    /// Inode of its file on sockfs; 0 if the iterator did not come by a file.
    pub inode: u64,
    /// Start of the process, nanoseconds since boot; 0 likewise.
    pub start_ns: u64,
    /// Local address, IPv4 mapped into IPv6.
    pub local: [u8; 16],
    /// Remote address, likewise.
    pub remote: [u8; 16],
    /// Inode of its network namespace.
    pub netns: u32,
    /// Thread group that holds it.
    pub tgid: u32,
    /// The thread whose descriptor table it is.
    pub tid: u32,
    /// Descriptor number.
    pub fd: u32,
    /// The eBPF program that filters what it receives; 0: none.
    pub filter_program: u32,
    /// Instructions of the classic program that does; 0: none.
    pub filter_length: u16,
    /// `AF_…`.
    pub family: u16,
    /// `SOCK_…`.
    pub kind: u16,
    /// Protocol.
    pub protocol: u16,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// State, from `include/net/tcp_states.h`.
    pub state: u8,
    /// 1: the kernel made it for itself.
    pub kernel_made: u8,
    /// Always 0.
    pub reserved: [u8; 6],
}

/// A process.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct TaskView {
    /// When it started, nanoseconds since boot.
    pub start_ns: u64,
    /// `comm` of its first thread. Any bytes at all.
    pub comm: [u8; 16],
    /// Thread group id.
    pub tgid: u32,
    /// Always 0.
    pub reserved: u32,
}
