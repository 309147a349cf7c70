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
    if needs == Needs::Watch && is_real_time() {
        obstacles.push(Obstacle {
            what: "the kernel is a real-time one (PREEMPT_RT), where one packet's program can interrupt \
                   another's on the same CPU, and packets would be counted wrong"
                .to_owned(),
            remedy: "use a kernel without PREEMPT_RT; `portwatch scan` works on this one".to_owned(),
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

/// Is it a kernel whose softirqs can be preempted? Older patches tell in sysfs, and every such kernel in
/// its version (`scripts/mkcompile_h`, `init/Makefile`).
fn is_real_time() -> bool {
    let flag = std::fs::read_to_string("/sys/kernel/realtime").unwrap_or_default();
    let version = rustix::system::uname();
    tells_real_time(&flag, &version.version().to_string_lossy())
}

fn tells_real_time(flag: &str, version: &str) -> bool {
    flag.trim() == "1" || version.contains("PREEMPT_RT") || version.contains("PREEMPT RT")
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
    fn a_real_time_kernel_is_known_by_its_flag_or_its_version() {
        let usual = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.38-1 (2025-07-16)";
        assert!(!tells_real_time("", usual));
        assert!(!tells_real_time("0\n", usual));

        assert!(tells_real_time("1\n", usual));
        assert!(tells_real_time("", "#1 SMP PREEMPT_RT Debian 6.12.38-1 (2025-07-16)"));
        assert!(tells_real_time("", "#1 SMP PREEMPT RT Debian 4.19.316-1 (2024-06-25)"));
    }

    #[test]
    fn an_obstacle_names_its_remedy() {
        let obstacle = Obstacle { what: "no fuel".to_owned(), remedy: "refuel".to_owned() };

        assert_eq!(obstacle.to_string(), "no fuel; refuel");
    }
}
