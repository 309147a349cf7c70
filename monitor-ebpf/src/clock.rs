//! What a flood of new flows can ask for is done only so often in a jiffy.
//!
//! Reading the clock costs 40 ns, a third of what a new flow costs. The first few of a jiffy get it;
//! for those after them it stands still until the next jiffy. To seek room beside a set costs twice as much.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

use monitor_ebpf::wire::Clock;

/// One for each CPU; sized by the loader.
#[map(name = "pw_clocks")]
static CLOCKS: Array<Clock> = Array::with_max_entries(1, 0);

/// Exact readings of a CPU in one jiffy: thousands a second, more than most hosts have new flows.
const EXACT_PER_JIFFY: u64 = 16;

/// As many where nothing but the time tells who began: more than a CPU has conversations, other than in a flood.
const EXACT_PER_JIFFY_OF_UDP: u64 = 1024;

/// Searches in vain of a CPU in one jiffy. Flows that go on for long fill the table only here and there, and then
/// some hundred a second find no room; in a flood that has filled it no packet does.
const SEARCHES_PER_JIFFY: u64 = 16;

/// Boot time now, in nanoseconds.
#[inline(always)]
pub(crate) fn exact() -> u64 {
    // SAFETY: reads a clock.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// What the clock said.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    /// Boot time in nanoseconds.
    pub(crate) ktime_ns: u64,
    /// It is not now, but when the clock was last read in this jiffy.
    pub(crate) is_early: bool,
}

/// The clock of this CPU, in this jiffy.
#[inline(always)]
fn clock_of(cpu: u32, jiffies: u64) -> Option<&'static mut Clock> {
    let clock = CLOCKS.get_ptr_mut(cpu)?;
    // SAFETY: this CPU's live clock, and only one TC program runs on a CPU at a time.
    let clock = unsafe { &mut *clock };
    if clock.jiffies != jiffies {
        clock.jiffies = jiffies;
        clock.readings = 0;
        clock.searches = 0;
    }
    Some(clock)
}

/// The time: now, or, after as many readings as there are in a jiffy, when it was last read in this jiffy. Never
/// in the future, never a jiffy old, and never going back on one CPU.
#[inline(always)]
pub(crate) fn within_a_jiffy(cpu: u32, jiffies: u64, is_udp: bool) -> Reading {
    let Some(clock) = clock_of(cpu, jiffies) else {
        return Reading { ktime_ns: exact(), is_early: false };
    };
    let readings = if is_udp { EXACT_PER_JIFFY_OF_UDP } else { EXACT_PER_JIFFY };
    let is_early = clock.readings >= readings;
    if !is_early {
        clock.readings += 1;
        clock.ktime_ns = exact();
    }
    Reading { ktime_ns: clock.ktime_ns, is_early }
}

/// May room be sought beside a set?
#[inline(always)]
pub(crate) fn may_search(cpu: u32, jiffies: u64) -> bool {
    clock_of(cpu, jiffies).is_none_or(|clock| clock.searches < SEARCHES_PER_JIFFY)
}

/// There was none.
#[inline(always)]
pub(crate) fn searched_in_vain(cpu: u32, jiffies: u64) {
    if let Some(clock) = clock_of(cpu, jiffies) {
        clock.searches += 1;
    }
}
