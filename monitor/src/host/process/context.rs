//! Where a process stands, out of `/proc/PID`.

use std::io;

use procfs::process::Stat;
use rustix::io::Errno;

use super::super::proc::Directory;
use super::facts;
use crate::escape;
use crate::owner::{Context, Login, Namespaces, Terminal};

/// Reads it; what could not be read becomes a line of `missing`. `name_of` gives the name of a user.
pub(super) fn read(
    process: &Directory,
    stat: &Stat,
    name_of: impl Fn(u32) -> Option<String>,
    missing: &mut Vec<String>,
) -> Context {
    let mut known = |what: &str, error: &io::Error| {
        missing.push(format!("{what}: {}", facts::words(stat, error)));
    };
    let cwd = process.link("cwd").inspect_err(|error| known("cwd", error));
    let label = label(process).inspect_err(|error| known("label", error));
    let mut namespace =
        |name: &str| process.inode(name).inspect_err(|error| known(name, error)).ok();
    let namespaces = Namespaces {
        mnt: namespace("ns/mnt"),
        pid: namespace("ns/pid"),
        user: namespace("ns/user"),
    };
    let inner_pid = inner_pid(process).inspect_err(|error| known("inner pid", error));
    let login = login(process, name_of).inspect_err(|error| known("login", error));
    Context {
        working_directory: cwd.ok(),
        label: label.ok().flatten(),
        namespaces,
        inner_pid: inner_pid.ok().flatten(),
        // Kernel threads have session 0.
        session: u32::try_from(stat.session).ok().filter(|&session| session != 0),
        terminal: Terminal::from_number(stat.tty_nr),
        login: login.ok().flatten(),
    }
}

/// `None` where no security module of this kernel labels processes.
fn label(process: &Directory) -> io::Result<Option<String>> {
    let label = match process.read("attr/current", LABEL_BYTES) {
        // No module answers: security_getprocattr() in security/security.c.
        Err(error) if is(&error, Errno::INVAL) || is(&error, Errno::OPNOTSUPP) => return Ok(None),
        // A kernel without modules.
        Err(error) if is_unknown(process, &error) => return Ok(None),
        label => label?,
    };
    // AppArmor ends it with a newline, SELinux with NUL.
    let end = label.iter().rposition(|byte| ![b'\n', 0].contains(byte));
    let label = end.and_then(|end| label.get(..=end)).unwrap_or_default();
    Ok((!label.is_empty()).then(|| escape::text_from_bytes(label).into_owned()))
}

/// `None` where it has no other pid than the one we know it by.
fn inner_pid(process: &Directory) -> io::Result<Option<u32>> {
    Ok(innermost(&process.read("status", STATUS_BYTES)?))
}

/// The line `NStgid:` has the pid in each namespace, from that of `/proc` inwards.
fn innermost(status: &[u8]) -> Option<u32> {
    let line = facts::line(status, b"NStgid:")?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().skip(1).last()?.parse().ok()
}

/// `None` where nobody logged in: a daemon, or a kernel without audit.
fn login(
    process: &Directory,
    name_of: impl Fn(u32) -> Option<String>,
) -> io::Result<Option<Login>> {
    let number = |name: &str| match process.read(name, 16) {
        Ok(text) => Ok(std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok())),
        // A kernel without audit.
        Err(error) if is_unknown(process, &error) => Ok(None),
        Err(error) => Err(error),
    };
    let set = |number: &u32| *number != UNSET;
    let Some(uid) = number("loginuid")?.filter(set) else { return Ok(None) };
    Ok(Some(Login { uid, user: name_of(uid), session: number("sessionid")?.filter(set) }))
}

/// This kernel has no such file: that the process is there shows `status`.
fn is_unknown(process: &Directory, error: &io::Error) -> bool {
    is(error, Errno::NOENT) && process.file("status").is_ok()
}

fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}

/// `AUDIT_UID_UNSET` and `AUDIT_SID_UNSET`, include/uapi/linux/audit.h and include/linux/audit.h.
const UNSET: u32 = u32::MAX;
/// A label is at most a page.
const LABEL_BYTES: usize = 4096;
/// `NStgid:` comes after `Groups:`, of which there may be 65 536 of up to 11 bytes.
const STATUS_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_pid_is_the_last_one_and_only_in_a_namespace() {
        let table = [
            ("NStgid:\t812\nNSpid:\t813\n", None),
            ("Groups:\t4 5 \nNStgid:\t812\t7\t1\nNSpid:\t813\t8\t2\n", Some(1)),
            ("Name:\tNStgid:\\n\n", None),
            ("NStgid:\t812\tx\n", None),
            ("", None),
        ];
        for (status, expected) in table {
            assert_eq!(innermost(status.as_bytes()), expected, "{status}");
        }
    }
}
