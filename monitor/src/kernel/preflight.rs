//! Can this host be observed? Every obstacle at once, each with a remedy.

use std::fmt;
use std::path::Path;

use rustix::thread::CapabilitySet;

use crate::kernel::cgroup;

/// Something that keeps portwatch from observing this host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Obstacle {
    /// What is missing.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// What the command needs of the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Needs {
    /// Sockets and processes in every namespace.
    Look,
    /// The same, and attached programs.
    Watch,
}

const LOOK: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
];

const WATCH: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
];

/// Every obstacle on this host; none means it can be observed.
pub fn obstacles(needs: Needs) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    if let Some(missing) = missing_capabilities(needs) {
        obstacles.push(Obstacle {
            what: format!("portwatch lacks {missing}"),
            remedy: "run it as root, for example with sudo".to_owned(),
        });
    }
    if needs == Needs::Watch
        && let Err(error) = cgroup::root()
    {
        obstacles.push(Obstacle {
            what: format!("nobody can see who opens a socket: {error:#}"),
            remedy: "use a kernel with CONFIG_CGROUP_BPF".to_owned(),
        });
    }
    if !Path::new("/proc/self/stat").exists() {
        obstacles.push(Obstacle {
            what: "/proc is not mounted".to_owned(),
            remedy: "mount it: mount -t proc proc /proc".to_owned(),
        });
    }
    obstacles
}

/// The capabilities we need and lack, as a list in words.
fn missing_capabilities(needs: Needs) -> Option<String> {
    let effective = rustix::thread::capabilities(None).map(|sets| sets.effective);
    let effective = effective.unwrap_or(CapabilitySet::empty());
    // CAP_SYS_ADMIN contains CAP_BPF and CAP_PERFMON (capabilities(7)).
    let has = |capability| {
        effective.contains(capability)
            || capability != CapabilitySet::NET_ADMIN
                && WATCH.iter().any(|(watch, _)| *watch == capability)
                && effective.contains(CapabilitySet::SYS_ADMIN)
    };
    let watch = if needs == Needs::Watch { WATCH.as_slice() } else { &[] };
    let missing: Vec<&str> = LOOK
        .iter()
        .chain(watch)
        .filter(|(capability, _)| !has(*capability))
        .map(|(_, name)| *name)
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_obstacle_names_its_remedy() {
        let obstacle = Obstacle { what: "no fuel".to_owned(), remedy: "refuel".to_owned() };

        assert_eq!(obstacle.to_string(), "no fuel; refuel");
    }
}
