//! The wire: every record, map key and map value that crosses between kernel and user space.
//!
//! Defined once. `zerocopy` refuses padding, `bool` and enums at compile time, so decoding needs no
//! `unsafe` and no kernel stack byte can leak out. All integers are in host byte order unless a field
//! says otherwise; all times are `CLOCK_BOOTTIME` nanoseconds (`bpf_ktime_get_boot_ns`), which compare
//! with the start times in `/proc`.

use crate::key::MULTIPLIERS;
pub use crate::key::{FlowKey, InterfaceId, Place};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of everything in this module. User space refuses records of another version.
pub const WIRE_VERSION: u16 = 6;

/// `TASK_COMM_LEN` of `include/linux/sched.h`.
pub const COMM_LEN: usize = 16;

/// What a record is about; [`Header::kind`].
pub mod kind {
    /// A [`FlowRecord`](super::FlowRecord): a slot of the flow table was taken.
    pub const FLOW: u16 = 1;
    /// A [`SampleRecord`](super::SampleRecord) followed by packet bytes.
    pub const SAMPLE: u16 = 2;
    /// A [`SocketRecord`](super::SocketRecord).
    pub const SOCKET: u16 = 3;
}

/// The first bytes of every ring buffer record.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Header {
    /// [`WIRE_VERSION`].
    pub version: u16,
    /// One of [`kind`].
    pub kind: u16,
    /// The program that wrote the record, an index into [`PROGRAMS`].
    pub program: u32,
    /// When the kernel wrote it.
    pub ktime_ns: u64,
}

/// One way of a set of the flow table: 64 bytes, one cache line.
///
/// Only the CPU that owns the set writes it. A reader loads `count` first and last and believes the
/// rest when the generation in both is the same and not 0.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C, align(64))]
pub struct Slot {
    /// Whose counters these are.
    pub key: FlowKey,
    /// Generation (upper [`Slot::GENERATION_BITS`] bits) and packets (the rest): one word, so that a
    /// reader always gets a packet count together with the flow it belongs to. 0: free or being
    /// rewritten.
    pub count: u64,
    /// IP bytes.
    pub bytes: u64,
    /// Low 32 bits of `bpf_jiffies64()` at the last packet.
    pub last_jiffies: u32,
    /// All TCP flags seen, or-ed.
    pub tcp_flags: u8,
    /// How many of the first payload packets are still to be sampled, and [`Slot::UNANNOUNCED`].
    pub head_samples: u8,
    /// Packets until the next 1-in-N sample.
    pub until_sample: u16,
}

impl Slot {
    /// Bits of [`Slot::count`] that hold the generation.
    pub const GENERATION_BITS: u32 = 16;
    /// Bits of [`Slot::count`] that hold the packets: 2^48 packets are two years at 4 Mpps.
    pub const PACKET_BITS: u32 = 64 - Self::GENERATION_BITS;
    /// Set in [`Slot::head_samples`] until the flow's [`FlowRecord`] was submitted.
    pub const UNANNOUNCED: u8 = 0x80;
    /// The most that [`Slot::head_samples`] can count.
    pub const MAX_HEAD_SAMPLES: u8 = 0x7f;
    /// The packets in [`Slot::count`].
    pub const PACKET_MASK: u64 = (1 << Self::PACKET_BITS) - 1;

    /// Which flow of this slot's life the counters belong to; 0 means none.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.count >> Self::PACKET_BITS
    }

    /// Packets counted.
    #[must_use]
    pub const fn packets(&self) -> u64 {
        self.count & Self::PACKET_MASK
    }
}

/// Slots in a set: the hash chooses the set, the four slots are searched.
pub const WAYS: usize = 4;

/// Sets that lie beside each other, a power of two: a flow that lasts finds room in any of them. A CPU has as
/// many at least.
pub const BESIDE: u32 = 4;

/// One set of the flow table, the value type of the `pw_flows` map.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C, align(64))]
pub struct Set {
    /// The slots.
    pub ways: [Slot; WAYS],
}

/// A slot was taken by a new flow. Announces the flow and hands over what the slot held before.
///
/// A slot is rewritten only after its old content is in a submitted record, so no count is ever
/// lost: when the ring is full the new flow's packets count in the overflow row instead.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct FlowRecord {
    /// Common prefix; [`kind::FLOW`]. Its time is up to a jiffy early where
    /// [`FlowRecord::EARLY`] is set.
    pub header: Header,
    /// `bpf_get_socket_cookie()` of the sending socket at egress; 0 when the packet has no socket.
    pub cookie: u64,
    /// Index of the slot: `set * WAYS + way`.
    pub slot: u32,
    /// Generation of the new flow in that slot.
    pub generation: u32,
    /// The new flow.
    pub key: FlowKey,
    /// TCP flags of its first packet; 0 for UDP.
    pub tcp_flags: u8,
    /// [`Slot::tcp_flags`] of the flow that had to make room.
    pub evicted_tcp_flags: u8,
    /// Bits that say how the record came about: [`FlowRecord::LATE`], [`FlowRecord::EARLY`].
    pub circumstances: u16,
    /// Sequence number of a SYN without ACK, in network byte order; 0 for any other packet. A SYN that is sent
    /// again has the same, whoever opens another connection on the same ports has not (RFC 6528).
    pub sequence: u32,
    /// Key of the flow that had to make room; zero when `evicted_count` is 0.
    pub evicted_key: FlowKey,
    /// Its [`Slot::count`]; 0 when the slot was free.
    pub evicted_count: u64,
    /// Its IP bytes.
    pub evicted_bytes: u64,
    /// Its [`Slot::last_jiffies`].
    pub evicted_last_jiffies: u32,
    /// Low 32 bits of `bpf_jiffies64()`; `header.ktime_ns` is part of that jiffy, which dates
    /// [`Slot::last_jiffies`].
    pub jiffies: u32,
}

impl FlowRecord {
    /// In [`FlowRecord::circumstances`]: it was sent for a packet after the first, since the ring was
    /// full then.
    pub const LATE: u16 = 1;
    /// In [`FlowRecord::circumstances`]: many flows started at once. The record has the time of one
    /// before it in the same jiffy.
    pub const EARLY: u16 = 1 << 1;
}

/// How far the ring of flow records of one CPU is written and read, the value type of `pw_flow_ends`.
///
/// Records are numbered, and both only grow. Each side writes a cache line of its own.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C, align(64))]
pub struct RingEnds {
    /// Records the kernel has written.
    pub written: u64,
    /// The number of the record in the first place: moved by the kernel while nothing is unread, so that
    /// a few records at a time always lie in the same few cache lines.
    pub first: u64,
    /// Zero.
    pub reserved: [u64; 6],
    /// Records user space has taken: their places can be written again.
    pub read: u64,
    /// Zero.
    pub reserved_too: [u64; 7],
}

/// A sampled packet; [`SampleRecord::captured`] bytes from its IP header on follow.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct SampleRecord {
    /// Common prefix; [`kind::SAMPLE`].
    pub header: Header,
    /// The flow.
    pub key: FlowKey,
    /// IP bytes of the packet.
    pub length: u32,
    /// Bytes of it that follow, from the IP header on.
    pub captured: u32,
    /// How many packets of the flow this sample stands for: 1 for the first payload packets.
    pub represents: u32,
    /// Bytes from the IP header to the payload.
    pub payload_offset: u32,
}

/// What happened to a socket; [`SocketRecord::action`].
pub mod action {
    /// `bind(2)` succeeded on a watched port. In process context.
    pub const BIND: u8 = 1;
    /// `listen(2)`. In process context.
    pub const LISTEN: u8 = 2;
    /// `connect(2)` was called. In process context.
    pub const CONNECT: u8 = 3;
    /// An unconnected datagram is being sent. In process context.
    pub const SEND: u8 = 4;
    /// The handshake of an active open completed.
    pub const ESTABLISHED_ACTIVE: u8 = 5;
    /// The handshake of a passive open completed: `cookie` is the child's.
    pub const ESTABLISHED_PASSIVE: u8 = 6;
    /// The TCP state changed from `old_state` to `new_state`.
    pub const STATE: u8 = 7;
    /// The last descriptor of the socket was closed. In process context.
    pub const RELEASE: u8 = 8;
    /// An unconnected socket received a datagram from `remote`. In process context.
    pub const RECEIVE: u8 = 9;
    /// Bytes were sent or received on the socket. In process context.
    pub const USE: u8 = 10;
}

/// A socket on a watched port was bound, connected, used, or let go.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct SocketRecord {
    /// Common prefix; [`kind::SOCKET`].
    pub header: Header,
    /// `bpf_get_socket_cookie()`: the identity of the socket, the same that `sock_diag` reports.
    pub cookie: u64,
    /// `bpf_get_netns_cookie()`; 0 where the hook cannot tell.
    pub netns_cookie: u64,
    /// cgroup v2 id of the task; 0 outside process context.
    pub cgroup_id: u64,
    /// Local address; all zero when unknown.
    pub local: [u8; 16],
    /// Remote address; all zero when unknown.
    pub remote: [u8; 16],
    /// `task_struct->comm` of the thread. Any bytes at all: a task names itself with `prctl(2)`.
    pub comm: [u8; COMM_LEN],
    /// Thread group id, "pid" to user space; 0 outside process context.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// Real user id as the initial user namespace sees it (`bpf_get_current_uid_gid`).
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// One of [`action`].
    pub action: u8,
    /// 4 or 6: the family of the socket, also when the addresses are IPv4-mapped.
    pub family: u8,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// 1 when tgid, tid, uid, gid, comm and cgroup id were read in process context.
    pub in_process: u8,
    /// TCP state before, for [`action::STATE`] (`enum` of `include/net/tcp_states.h`).
    pub old_state: u8,
    /// TCP state after.
    pub new_state: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// The owner record of a socket on a watched port, the value type of the `pw_sockets` map.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct SocketOwner {
    /// Thread group that was last reported for this socket, so that a sender of a million
    /// datagrams is reported once. 0: none yet (user space found the socket).
    pub tgid: u32,
    /// Local port, which `sock_release` cannot read.
    pub local_port: u16,
    /// 4 or 6.
    pub family: u8,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
}

/// Who is in `connect(2)`, the value type of the `pw_connecting` map.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Connecting {
    /// As `bpf_get_current_pid_tgid` tells: thread group in the upper half, thread in the lower.
    pub pid_tgid: u64,
    /// As `bpf_get_current_uid_gid` tells: group in the upper half, user in the lower.
    pub uid_gid: u64,
    /// The network namespace of the socket; 0: not known.
    pub netns_cookie: u64,
    /// Name of the task, ended by a zero byte; empty: not known.
    pub comm: [u8; COMM_LEN],
}

/// Who was reported as a user of a socket, the key of `pw_users`: a process that reads a million times
/// is reported once.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct SocketUser {
    /// The socket.
    pub cookie: u64,
    /// Thread group that sent or received.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// From whom an unconnected socket was reported to have received, the key of `pw_heard`.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Heard {
    /// The socket.
    pub cookie: u64,
    /// Address of the sender; network byte order, IPv4-mapped.
    pub remote: [u8; 16],
    /// Its port.
    pub remote_port: u32,
    /// Thread group that received.
    pub tgid: u32,
}

/// Totals of one watched port in one direction on one CPU, the value type of `pw_totals`.
///
/// Nothing can evict a row: it is the truth that flows are checked against.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C, align(64))]
pub struct Total {
    /// Packets as TC saw them (skbs: after GRO, before GSO).
    pub packets: u64,
    /// IP bytes of those.
    pub bytes: u64,
    /// Packets on the wire beyond `packets`: `gso_segs - 1` for each that is several.
    pub more_wire_packets: u64,
    /// IP bytes on the wire beyond `bytes`: the headers repeated in those.
    pub more_wire_bytes: u64,
    /// Packets, of those, that found no room in the flow table.
    pub overflow_packets: u64,
    /// IP bytes of those.
    pub overflow_bytes: u64,
    /// Zero; fills the cache line.
    pub reserved: [u64; 2],
}

/// Samples a CPU may still take, the value type of `pw_budget`.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct Budget {
    /// `bpf_jiffies64()` when the budget was last whole.
    pub since_jiffies: u64,
    /// Samples left until it is whole again.
    pub left: u64,
}

/// The clock of one CPU, the value type of `pw_clocks`.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C, align(64))]
pub struct Clock {
    /// `bpf_jiffies64()` when it was last read.
    pub jiffies: u64,
    /// What it was then.
    pub ktime_ns: u64,
    /// How often it was read in that jiffy.
    pub readings: u64,
    /// How often room for a flow was sought in vain beside its set in that jiffy.
    pub searches: u64,
    /// Zero; fills the cache line, which is then no other CPU's.
    pub reserved: [u64; 4],
}

/// What the loader writes into the read-only globals before the programs are verified.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Settings {
    /// Random odd multipliers of the flow hash.
    pub hash_multipliers: [u64; MULTIPLIERS],
    /// 64 minus the binary logarithm of [`Settings::sets`]: the hash uses the upper bits, the only
    /// ones that depend on every bit of a key.
    pub set_shift: u32,
    /// Sets per CPU in the flow table; a power of two, at least [`BESIDE`].
    pub sets: u32,
    /// Rows per CPU in the totals: two, egress behind ingress, for each watched port.
    pub total_rows: u32,
    /// Bytes of a packet that a sample carries, from the IP header on.
    pub snaplen: u32,
    /// The same for the first packets with payload of each flow, which tell what it speaks; at least
    /// [`Settings::snaplen`].
    pub head_snaplen: u32,
    /// Sample 1 in this many packets of a flow, at most `u16::MAX`; 0: none.
    pub sample_every: u32,
    /// Sample this many first packets with payload of each flow, at most [`Slot::MAX_HEAD_SAMPLES`].
    pub head_samples: u32,
    /// Samples a CPU may take in one `budget_window`.
    pub sample_budget: u32,
    /// Jiffies after which the budget is whole again.
    pub budget_window: u32,
    /// Which helpers this kernel offers where: bits of [`helper`].
    pub helpers: u32,
    /// Offset of `sk` in `struct socket`, from the running kernel's BTF.
    pub socket_sk_offset: u32,
    /// Offset of `tgid` in `struct task_struct`, likewise.
    pub task_tgid_offset: u32,
    /// Offset of `skc_num`, the local port, in `struct sock`, likewise.
    pub sock_num_offset: u32,
    /// Offset of `skc_dport`, the remote port in network byte order.
    pub sock_dport_offset: u32,
    /// Offset of `skc_family`.
    pub sock_family_offset: u32,
    /// Offset of `sk_protocol`.
    pub sock_protocol_offset: u32,
    /// Offset of `skc_cookie`.
    pub sock_cookie_offset: u32,
    /// Offset of `f_inode` in `struct file`, likewise.
    pub file_inode_offset: u32,
    /// Offset of `private_data` in `struct file`.
    pub file_private_data_offset: u32,
    /// Offset of `i_mode` in `struct inode`, likewise.
    pub inode_mode_offset: u32,
    /// The watched port if there is only one, else 0.
    pub only_port: u32,
    /// Flow records that the ring of a CPU holds; a power of two.
    pub flow_ring: u32,
}

impl Settings {
    /// All zero: what the kernel object holds until the loader overwrites it.
    pub const ZERO: Self = Self {
        hash_multipliers: [0; MULTIPLIERS],
        set_shift: 0,
        sets: 0,
        total_rows: 0,
        snaplen: 0,
        head_snaplen: 0,
        sample_every: 0,
        head_samples: 0,
        sample_budget: 0,
        budget_window: 0,
        helpers: 0,
        socket_sk_offset: 0,
        task_tgid_offset: 0,
        sock_num_offset: 0,
        sock_dport_offset: 0,
        sock_family_offset: 0,
        sock_protocol_offset: 0,
        sock_cookie_offset: 0,
        file_inode_offset: 0,
        file_private_data_offset: 0,
        inode_mode_offset: 0,
        only_port: 0,
        flow_ring: 0,
    };
}

/// Bits of [`Settings::helpers`]: what not every kernel offers in every hook.
pub mod helper {
    /// `bpf_get_current_comm` in cgroup hooks.
    pub const CGROUP_COMM: u32 = 1;
    /// `bpf_get_current_pid_tgid` and its kin in `sock_ops`.
    pub const SOCK_OPS_TASK: u32 = 1 << 1;
    /// `bpf_get_netns_cookie` in `sock_ops`.
    pub const SOCK_OPS_NETNS: u32 = 1 << 2;
    /// `bpf_get_current_cgroup_id` in cgroup hooks.
    pub const CGROUP_ID: u32 = 1 << 3;
    /// `bpf_get_netns_cookie` in cgroup hooks.
    pub const CGROUP_NETNS: u32 = 1 << 4;
}

/// What became of the records a program wanted to send, the value type of `pw_fates`.
///
/// `seen == filtered + submitted + ring_full`, always.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct Fates {
    /// Records the program wanted to send.
    pub seen: u64,
    /// Samples that the token bucket suppressed.
    pub filtered: u64,
    /// Records handed to the ring buffer.
    pub submitted: u64,
    /// Records lost since the ring buffer was full.
    pub ring_full: u64,
}

/// The classifiers that packets of other network namespaces go on to: entries of `pw_gates`.
pub const GATES: [&str; 4] =
    ["pw_ns_ingress", "pw_ns_egress", "pw_ns_ingress_l3", "pw_ns_egress_l3"];

/// Every kernel program, by its index in `pw_fates` and [`Header::program`].
pub const PROGRAMS: [&str; 15] = [
    "pw_ingress",
    "pw_egress",
    "pw_post_bind4",
    "pw_post_bind6",
    "pw_connect4",
    "pw_connect6",
    "pw_sendmsg4",
    "pw_sendmsg6",
    "pw_sock_ops",
    "pw_release",
    "pw_task_file",
    "pw_recvmsg4",
    "pw_recvmsg6",
    "pw_send_length",
    "pw_recv_length",
];

/// Indexes into [`PROGRAMS`].
pub mod program {
    /// TC ingress, for devices with and without an Ethernet header alike.
    pub const INGRESS: u32 = 0;
    /// TC egress.
    pub const EGRESS: u32 = 1;
    /// cgroup `post_bind4`.
    pub const POST_BIND4: u32 = 2;
    /// cgroup `post_bind6`.
    pub const POST_BIND6: u32 = 3;
    /// cgroup `connect4`.
    pub const CONNECT4: u32 = 4;
    /// cgroup `connect6`.
    pub const CONNECT6: u32 = 5;
    /// cgroup `sendmsg4`.
    pub const SENDMSG4: u32 = 6;
    /// cgroup `sendmsg6`.
    pub const SENDMSG6: u32 = 7;
    /// cgroup `sock_ops`.
    pub const SOCK_OPS: u32 = 8;
    /// cgroup `sock_release`.
    pub const RELEASE: u32 = 9;
    /// `iter/task_file`.
    pub const TASK_FILE: u32 = 10;
    /// cgroup `recvmsg4`.
    pub const RECVMSG4: u32 = 11;
    /// cgroup `recvmsg6`.
    pub const RECVMSG6: u32 = 12;
    /// Tracepoint `sock_send_length`.
    pub const SEND_LENGTH: u32 = 13;
    /// Tracepoint `sock_recv_length`.
    pub const RECV_LENGTH: u32 = 14;
}

/// Packets that are not flow traffic, by what they are: indexes of the `pw_aside` map.
pub mod aside {
    /// First fragments; they carry ports and count as ordinary packets too.
    pub const FRAGMENT_FIRST: u32 = 0;
    /// Later fragments of what may be TCP or UDP, when the first was not seen: nobody can say whether
    /// they belong to a watched port.
    pub const FRAGMENT_LATER: u32 = 1;
    /// ICMP or `ICMPv6` errors that quote a packet of a watched port.
    pub const ICMP_ERROR: u32 = 2;
    /// The Ethernet header or a VLAN tag is cut short.
    pub const SHORT_LINK_HEADER: u32 = 3;
    /// The IP header is cut short, or its lengths contradict each other or the packet.
    pub const BAD_IP_HEADER: u32 = 4;
    /// The TCP or UDP header is cut short.
    pub const SHORT_TRANSPORT: u32 = 5;
    /// More IPv6 extension headers than the parser follows.
    pub const EXTENSION_CHAIN: u32 = 6;
    /// More VLAN tags than the parser follows.
    pub const VLAN_STACK: u32 = 7;
    /// Later fragments that follow a first one of a watched port, and count as ordinary packets.
    pub const FRAGMENT_JOINED: u32 = 8;
    /// Packets of a watched port in a tunnel; they count as ordinary packets too.
    pub const TUNNELLED: u32 = 9;
    /// The header of a tunnel, or of the packet in it, is cut short or broken.
    pub const BAD_TUNNEL: u32 = 10;
    /// An ICMP error quotes a packet that is cut short or broken.
    pub const BAD_QUOTE: u32 = 11;
    /// How many there are.
    pub const COUNT: u32 = 12;
}

/// One descriptor of a watched socket, as the `task_file` iterator writes it.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct HolderRecord {
    /// The socket.
    pub cookie: u64,
    /// Thread group that holds it.
    pub tgid: u32,
    /// Descriptor number.
    pub fd: u32,
}
