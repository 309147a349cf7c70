//! What others can ask for without end is given only so often: samples, and senders that are named.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::maps::PerCpuArray;

use monitor_ebpf::wire::Budget;

use crate::config;

/// Takes one out of this CPU's budget, which is `whole` again once every `budget_window`.
#[inline(always)]
pub(crate) fn take(budget: &PerCpuArray<Budget>, whole: u64) -> bool {
    let Some(budget) = budget.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's live budget. A TC program has it for itself; in a cgroup hook another task
    // may come between, which gives or takes one, no more.
    let budget = unsafe { &mut *budget };
    // SAFETY: a helper without arguments.
    let jiffies = unsafe { bpf_jiffies64() };
    if jiffies - budget.since_jiffies >= u64::from(config::budget_window()) {
        budget.since_jiffies = jiffies;
        budget.left = whole;
    }
    if budget.left == 0 {
        return false;
    }
    budget.left -= 1;
    true
}
