//! Single facts out of `/proc/PID`, each from bytes that may be anything.

use std::io;

use procfs::process::Stat;

use super::super::executable::Executable;
use super::super::proc::{self, Directory};
use crate::escape;

/// What changes when a process stops being what it was: `execve` gives a new stack and arguments at
/// new addresses, `setuid` another user, a service manager another cgroup, a deletion another
/// executable.
///
/// What could not be read is there as the reason, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Signs {
    /// `comm`, text as in [`crate::owner::Process::name`].
    pub(super) name: String,
    /// The file it runs.
    pub(super) executable: Result<Executable, String>,
    /// Effective user id.
    pub(super) uid: Result<u32, String>,
    /// The file `cgroup`.
    pub(super) cgroup: Result<Vec<u8>, String>,
    parent: i32,
    stack: u64,
    arguments: Option<u64>,
}

impl Signs {
    /// Those of a process now.
    pub(super) fn of(process: &Directory, stat: &Stat) -> Self {
        let words = |error: io::Error| words(stat, &error);
        Self {
            name: name(process, stat),
            executable: Executable::of(process).map_err(words),
            uid: uid(process).map_err(words),
            cgroup: process.read("cgroup", CGROUP_BYTES).map_err(words),
            parent: stat.ppid,
            stack: stat.startstack,
            arguments: stat.arg_start,
        }
    }
}

/// The arguments of a process.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Args {
    /// As text.
    pub(super) list: Vec<String>,
    /// The line about what was left out.
    pub(super) cut: Option<String>,
}

/// How much of the arguments is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArgLimits {
    /// Bytes in all.
    pub(super) bytes: usize,
    /// Arguments.
    pub(super) count: usize,
}

/// The arguments of a process; none of a kernel thread or of one that has exited.
pub(super) fn args(process: &Directory, limits: ArgLimits) -> io::Result<Args> {
    let bytes = process.read("cmdline", limits.bytes.saturating_add(1))?;
    Ok(split_args(&bytes, limits))
}

/// It ended but is still listed, until its parent asks how.
pub(super) fn has_exited(stat: &Stat) -> bool {
    ['Z', 'X', 'x'].contains(&stat.state)
}

/// Why something of a process could not be read.
pub(super) fn words(stat: &Stat, error: &io::Error) -> String {
    if proc::is_gone(error) {
        if has_exited(stat) {
            return HAS_EXITED.to_owned();
        }
        if stat.flags & PF_KTHREAD != 0 {
            return "a kernel thread has none".to_owned();
        }
    }
    proc::words(error)
}

/// Why a process that waits for its parent has so little left.
pub(super) const HAS_EXITED: &str = "it has exited";

/// `comm`. Not from `stat`, where some bytes are escaped.
fn name(process: &Directory, stat: &Stat) -> String {
    match process.read("comm", NAME_BYTES) {
        Ok(name) => {
            let name = name.strip_suffix(b"\n").unwrap_or(&name);
            escape::text_from_bytes(name).into_owned()
        }
        Err(_) => stat.comm.clone(),
    }
}

/// The effective user id: the second number of the line `Uid:` of `status`.
fn uid(process: &Directory) -> io::Result<u32> {
    let status = process.read("status", STATUS_BYTES)?;
    effective_uid(&status).ok_or_else(|| io::Error::other("no line `Uid:` in status"))
}

fn split_args(bytes: &[u8], limits: ArgLimits) -> Args {
    let cut_bytes = bytes.len() > limits.bytes;
    let bytes = bytes.get(..limits.bytes).unwrap_or(bytes);
    // Each argument ends in NUL; programs that write a title there leave many at the end.
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last.saturating_add(1));
    let bytes = bytes.get(..end).unwrap_or_default();
    if bytes.is_empty() {
        return Args::default();
    }
    let mut parts = bytes.split(|&byte| byte == 0);
    let text = |part| escape::text_from_bytes(part).into_owned();
    let list: Vec<_> = parts.by_ref().take(limits.count).map(text).collect();
    let cut = if parts.next().is_some() {
        Some(format!("args: those after the first {}", limits.count))
    } else {
        cut_bytes.then(|| format!("args: what follows the first {} bytes", limits.bytes))
    };
    Args { list, cut }
}

/// What follows a key in `status`. Its lines cannot be forged: the kernel escapes a newline in the
/// name.
pub(super) fn line<'a>(status: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key))
}

fn effective_uid(status: &[u8]) -> Option<u32> {
    let line = line(status, b"Uid:")?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// `Uid:` is the ninth line; only `Groups:` after it can be long.
const STATUS_BYTES: usize = 2048;
/// Paths are at most 4 KiB, and a v1 host has a dozen lines.
const CGROUP_BYTES: usize = 64 << 10;
/// 15 bytes of a task; kernel workers tell up to 64.
const NAME_BYTES: usize = 256;
/// include/linux/sched.h
const PF_KTHREAD: u32 = 0x0020_0000;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ArgLimits = ArgLimits { bytes: 12, count: 3 };

    #[test]
    fn arguments_are_split_and_foreign_bytes_kept() {
        let cases: [(&[u8], &[&str]); 6] = [
            (b"", &[]),
            (b"\0\0\0", &[]),
            (b"a\0-b\0", &["a", "-b"]),
            (b"a\0\0c\0", &["a", "", "c"]),
            (b"title\0\0\0\0", &["title"]),
            (b"\xff\n\\\0", &["\\xff\n\\"]),
        ];
        for (bytes, expected) in cases {
            let args = split_args(bytes, LIMITS);
            assert_eq!(
                (args.list, args.cut),
                (expected.iter().map(|&it| it.into()).collect(), None)
            );
        }
    }

    #[test]
    fn too_many_or_too_long_arguments_are_cut_and_that_is_told() {
        let many = split_args(b"a\0b\0c\0d\0", LIMITS);
        let long = split_args(b"0123456789abcdef\0", LIMITS);

        assert_eq!(many.list, ["a", "b", "c"]);
        assert_eq!(many.cut.as_deref(), Some("args: those after the first 3"));
        assert_eq!(long.list, ["0123456789ab"]);
        assert_eq!(long.cut.as_deref(), Some("args: what follows the first 12 bytes"));
    }

    #[test]
    fn the_effective_user_is_the_second_number() {
        let status =
            b"Name:\tx\\nUid:\t9\t9\t9\t9\nUmask:\t0022\nUid:\t1000\t0\t3\t4\nGid:\t5\t6\n";

        assert_eq!(effective_uid(status), Some(0));
        assert_eq!(effective_uid(b"Name:\tx\n"), None);
    }
}
