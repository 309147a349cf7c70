//! Which host this is, and which boot of it: `host.name`, `host.id`, and half of every process' id.

use std::fs;

use crate::escape;

/// The host, as far as it says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// Host name of the UTS namespace portwatch runs in; `uname -n`. Foreign text: escape before
    /// showing.
    pub name: String,
    /// `/etc/machine-id`: 32 hex digits, the same until the system is installed anew.
    pub machine_id: Option<String>,
    /// `/proc/sys/kernel/random/boot_id`: a UUID, another one after each boot.
    pub boot_id: Option<String>,
}

impl Identity {
    /// Asks the host.
    pub fn read() -> Self {
        let system = rustix::system::uname();
        let name = escape::text_from_bytes(system.nodename().to_bytes()).into_owned();
        // D-Bus had the machine id before systemd; some systems without systemd have only that
        // file.
        let machine_id = ["/etc/machine-id", "/var/lib/dbus/machine-id"]
            .into_iter()
            .find_map(|path| one_line(path).filter(|id| is_machine_id(id)));
        Self { name, machine_id, boot_id: one_line("/proc/sys/kernel/random/boot_id") }
    }
}

fn one_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Images that are to get their id at first boot have the word `uninitialized` in the file.
fn is_machine_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_name_and_a_boot_id() {
        let identity = Identity::read();

        assert!(!identity.name.is_empty());
        assert_eq!(identity.boot_id.map(|id| id.len()), Some(36));
    }

    #[test]
    fn a_machine_id_that_is_not_yet_set_is_none() {
        assert!(is_machine_id("0123456789abcdef0123456789abcdef"));
        assert!(!is_machine_id("uninitialized"));
        assert!(!is_machine_id(""));
    }
}
