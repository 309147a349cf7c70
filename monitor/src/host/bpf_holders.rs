//! Which processes have descriptors of BPF programs, or of links of them: who has loaded a program, if he is
//! still there.
//!
//! `/proc/PID/fdinfo` tells the number of the program, which takes no right to use BPF.

use std::collections::BTreeMap;

use super::proc::{self, Directory};

/// A process that has a descriptor.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its `comm`. Foreign text: escape before showing.
    pub name: String,
}

/// Finds the holders of programs, by the numbers of these.
pub fn find() -> BTreeMap<u32, Vec<Holder>> {
    let mut found: BTreeMap<u32, Vec<Holder>> = BTreeMap::new();
    let mut descriptors = proc::Descriptors::new(DESCRIPTORS);
    for pid in proc::pids().unwrap_or_default() {
        let mut of_bpf = Vec::new();
        let read = descriptors.read(&format!("/proc/{pid}/fd"), |fd, target| {
            if PROGRAMS.contains(&target) && of_bpf.len() < OF_A_PROCESS {
                of_bpf.push(fd);
            }
        });
        if of_bpf.is_empty() || read.is_err() {
            continue;
        }
        let Ok(directory) = Directory::open(pid) else { continue };
        let Ok(stat) = directory.stat() else { continue };
        let holder = Holder { pid, name: stat.comm };
        for fd in of_bpf {
            let info = directory.read(&format!("fdinfo/{fd}"), INFO_BYTES).unwrap_or_default();
            let Some(program) = program(&String::from_utf8_lossy(&info)) else { continue };
            let holders = found.entry(program).or_default();
            if !holders.contains(&holder) {
                holders.push(holder.clone());
            }
        }
    }
    found
}

/// Of one of several lines: `prog_id:` and the number.
pub(super) fn program(info: &str) -> Option<u32> {
    let line = info.lines().find_map(|line| line.strip_prefix("prog_id:"))?;
    line.trim().parse().ok()
}

/// Where the links of such descriptors lead.
const PROGRAMS: [&[u8]; 3] =
    [b"anon_inode:bpf-prog", b"anon_inode:bpf_link", b"anon_inode:[bpf_link]"];
/// Descriptors looked at in all.
const DESCRIPTORS: usize = 1_000_000;
/// Descriptors of BPF of one process.
const OF_A_PROCESS: usize = 4096;
/// A few short lines.
const INFO_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_program_is_read_from_its_descriptor_or_that_of_a_link() {
        let of_program =
            "pos:\t0\nflags:\t02000002\nprog_type:\t3\nprog_tag:\t1f2e\nprog_id:\t57\n";
        let of_link = "pos:\t0\nlink_type:\tnetns\nlink_id:\t4\nprog_id:\t58\nnetns_ino:\t1\n";

        assert_eq!(program(of_program), Some(57));
        assert_eq!(program(of_link), Some(58));
        assert_eq!(program("map_id:\t3\n"), None);
    }
}
