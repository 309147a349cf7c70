//! What a process takes of the machine, from `/proc`.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Lets the peak of memory begin anew.
pub(crate) fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("reset the peak of memory");
}

/// Bytes of memory at the peak since the start, or since it was made to begin anew.
pub(crate) fn peak(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

/// Bytes of memory now.
pub(crate) fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read /proc/PID/status");
    let kilobytes = status.lines().find_map(|line| line.strip_prefix(which));
    let number = kilobytes.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    number.expect("find the peak of memory").saturating_mul(1024)
}

/// Processor time of all threads of a process so far, in steps of a hundredth of a second.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read /proc/PID/stat");
    // The name before may have anything in it. proc_pid_stat(5): utime and stime are fields 14 and 15.
    let (_name, fields) = stat.rsplit_once(')').expect("find the end of the name");
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = times.map(|time| time.parse::<u64>().expect("read a time")).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Time since some moment in the past that stays the same.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).expect("read the clock")
}
