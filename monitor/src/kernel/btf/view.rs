//! The members that the iterators of the cross-view read.

use anyhow::Result;
use monitor_ebpf::view::ViewOffsets;

use super::Types;

/// Finds them all.
pub(super) fn find(types: &Types<'_>) -> Result<ViewOffsets> {
    let common = |member| types.member("sock_common", member);
    // Without IPv6 in the kernel no socket has such addresses, and nothing is read there.
    let ipv6 = |member| common(member).unwrap_or_default();
    let kernel_made = types.bit("sock", "sk_kern_sock")?;
    Ok(ViewOffsets {
        state: common("skc_state")?,
        local_ipv4: common("skc_rcv_saddr")?,
        remote_ipv4: common("skc_daddr")?,
        local_ipv6: ipv6("skc_v6_rcv_saddr"),
        remote_ipv6: ipv6("skc_v6_daddr"),
        netns: common("skc_net")?,
        netns_inode: types.member("net", "ns")? + types.member("ns_common", "inum")?,
        kind: types.member("sock", "sk_type")?,
        kernel_made: kernel_made / 8,
        kernel_made_bit: kernel_made % 8,
        filter: types.member("sock", "sk_filter")?,
        filter_program: types.member("sk_filter", "prog")?,
        program_classic: types.member("bpf_prog", "orig_prog")?,
        classic_length: types.member("sock_fprog_kern", "len")?,
        program_aux: types.member("bpf_prog", "aux")?,
        aux_id: types.member("bpf_prog_aux", "id")?,
        inode_number: types.member("inode", "i_ino")?,
        task_pid: types.member("task_struct", "pid")?,
        task_leader: types.member("task_struct", "group_leader")?,
        task_start: types.member("task_struct", "start_boottime")?,
        task_comm: types.member("task_struct", "comm")?,
    })
}
