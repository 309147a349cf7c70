//! Which helper functions this kernel offers in which programs, asked of the kernel itself: versions lie,
//! distributions backport.

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use monitor_ebpf::wire::helper;

/// What it means not to have a helper, by its bit of [`helper`].
const WITHOUT_HELPER: [(u32, &str); 4] = [
    (
        helper::CGROUP_COMM,
        "the name of a process that is gone before /proc is read is not known: this kernel has no \
         get_current_comm in cgroup programs",
    ),
    (
        helper::CGROUP_NETNS,
        "the network namespace of a socket that is opened from now on is not known: this kernel has no \
         get_netns_cookie in cgroup programs",
    ),
    (
        helper::SOCK_OPS_NETNS,
        "the listener of a connection is only inferred until that is closed: this kernel has no \
         get_netns_cookie in sock_ops programs",
    ),
    (
        helper::SOCK_OPS_TASK,
        "who listens without bind is known only by who holds the socket: this kernel has no \
         get_current_pid_tgid in sock_ops programs",
    ),
];

/// The bits of [`helper`] that this kernel has.
pub(super) fn supported_helpers() -> u32 {
    let supported = |program: ProgramType, function| {
        // A probe that cannot be made counts as no: the program then does without.
        is_helper_supported(program, function).unwrap_or(false)
    };
    let in_cgroup_hooks = |function| {
        supported(ProgramType::CgroupSock, function)
            && supported(ProgramType::CgroupSockAddr, function)
    };
    let mut bits = 0;
    if in_cgroup_hooks(BpfHelper::BPF_FUNC_get_current_comm) {
        bits |= helper::CGROUP_COMM;
    }
    if in_cgroup_hooks(BpfHelper::BPF_FUNC_get_current_cgroup_id) {
        bits |= helper::CGROUP_ID;
    }
    if in_cgroup_hooks(BpfHelper::BPF_FUNC_get_netns_cookie) {
        bits |= helper::CGROUP_NETNS;
    }
    let in_sock_ops = [
        BpfHelper::BPF_FUNC_get_current_pid_tgid,
        BpfHelper::BPF_FUNC_get_current_uid_gid,
        BpfHelper::BPF_FUNC_get_current_comm,
        BpfHelper::BPF_FUNC_get_current_cgroup_id,
    ];
    if in_sock_ops.into_iter().all(|function| supported(ProgramType::SockOps, function)) {
        bits |= helper::SOCK_OPS_TASK;
    }
    if supported(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie) {
        bits |= helper::SOCK_OPS_NETNS;
    }
    bits
}

/// What it means that this kernel offers no other helpers than these, a sentence each.
pub(super) fn without(helpers: u32) -> impl Iterator<Item = String> {
    let missing = WITHOUT_HELPER.into_iter().filter(move |(bit, _)| helpers & bit == 0);
    missing.map(|(_, meaning)| meaning.to_owned())
}
