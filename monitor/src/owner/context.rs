//! Where a process stands on its host: directory, label, namespaces, terminal, login.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Facts about the surroundings of a process, as `/proc/PID` gives them; see proc(5).
///
/// `None` is for what the process or the host does not have, and for what could not be read: then
/// `Process::missing` says so.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Context {
    /// Working directory when it was looked at, in the mount namespace of the process; with the
    /// kernel's ` (deleted)` where it was removed.
    #[serde(with = "crate::verbatim::path")]
    pub working_directory: Option<PathBuf>,
    /// What its Linux security module calls it (`attr/current`): the profile and mode of `AppArmor`, the
    /// context of `SELinux`.
    pub label: Option<String>,
    /// Its namespaces, the one of the network aside.
    pub namespaces: Namespaces,
    /// Its pid inside its own pid namespace, where that is not portwatch's.
    pub inner_pid: Option<u32>,
    /// Pid of the leader of its session, in setsid(2)'s sense.
    pub session: Option<u32>,
    /// Its controlling terminal.
    pub terminal: Option<Terminal>,
    /// The login it descends from.
    pub login: Option<Login>,
}

/// Namespaces by the inode numbers of `/proc/PID/ns/*`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Namespaces {
    /// Mounts.
    pub mnt: Option<u64>,
    /// Pids.
    pub pid: Option<u64>,
    /// Users.
    pub user: Option<u64>,
}

/// A terminal, by device number.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Terminal {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Terminal {
    /// From `tty_nr` of `/proc/PID/stat`, where 0 is none: bits 8 to 15 are the major number, the
    /// others the minor (`new_encode_dev` in `include/linux/kdev_t.h`).
    pub const fn from_number(number: i32) -> Option<Self> {
        if number == 0 {
            return None;
        }
        let number = number.cast_unsigned();
        Some(Self { major: number >> 8 & 0xfff, minor: number & 0xff | number >> 12 & 0xf_ff00 })
    }
}

/// The name of the device below `/dev`, as Documentation/admin-guide/devices.txt has it; else
/// `major:minor`.
impl fmt::Display for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor } = *self;
        match (major, minor) {
            (136..=143, _) => write!(f, "pts/{}", (major - 136) * 256 + minor),
            (4, 0..64) => write!(f, "tty{minor}"),
            (4, _) => write!(f, "ttyS{}", minor - 64),
            (5, 1) => f.write_str("console"),
            _ => write!(f, "{major}:{minor}"),
        }
    }
}

/// A login as the kernel's audit subsystem keeps it: it cannot be changed by `su`, `sudo` or
/// `setsid`, and is inherited.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Login {
    /// Who logged in (`loginuid`).
    pub uid: u32,
    /// Name of that user.
    pub user: Option<String>,
    /// Number of the session (`sessionid`), the one of logind.
    pub session: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_the_name_of_its_device() {
        let table = [
            (0, None),
            (0x8803, Some("pts/3")),
            (0x892c, Some("pts/300")),
            (0x0401, Some("tty1")),
            (0x0440, Some("ttyS0")),
            (0x0501, Some("console")),
            (0xcc40, Some("204:64")),
            (0x0010_8800, Some("pts/256")),
        ];
        for (number, expected) in table {
            let name = Terminal::from_number(number).map(|terminal| terminal.to_string());
            assert_eq!(name.as_deref(), expected, "{number:#x}");
        }
    }
}
