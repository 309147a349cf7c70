//! Debian packages: what is missing is told, then installed; package lists are fetched only when an
//! installation needs them.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::command::{self, say};

/// Who installs packages on this machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Installer {
    /// This process, which is root.
    Root,
    /// `sudo`, which may ask for a password.
    Sudo,
}

impl Installer {
    /// The way packages can be installed here, if there is one.
    pub(crate) fn find() -> Option<Self> {
        command::program("apt-get")?;
        if command::is_root() {
            Some(Self::Root)
        } else {
            command::program("sudo").map(|_| Self::Sudo)
        }
    }

    /// Installs those of `packages` that are missing; fails when one cannot be had.
    pub(crate) fn install(self, packages: &[String]) -> Result<()> {
        let missing = missing(packages);
        if missing.is_empty() {
            return Ok(());
        }
        ensure!(self.offers(&missing), "apt offers no {}", missing.join(", "));
        say(&format!("setup: installs Debian packages: {}", missing.join(", ")));
        let options = ["install", "--yes", "--no-install-recommends"];
        command::run(self.apt_get().args(options).args(&missing))
    }

    /// Whether all of `packages` can be installed, going by fresh package lists if need be.
    pub(crate) fn offers(self, packages: &[String]) -> bool {
        let known = || packages.iter().all(|package| is_known(package));
        known() || (command::run(self.apt_get().arg("update")).is_ok() && known())
    }

    fn apt_get(self) -> Command {
        let mut command = match self {
            Self::Root => Command::new("env"),
            Self::Sudo => {
                let mut sudo = Command::new("sudo");
                sudo.arg("env");
                sudo
            }
        };
        // Through `env`, since sudo does not hand variables on.
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        // Another apt may be at work, as on a machine that has just booted.
        command.args(["--quiet=2", "--option=DPkg::Lock::Timeout=120"]);
        // No progress bars in a log.
        command.arg("--option=Dpkg::Use-Pty=0");
        command
    }
}

/// Those of `packages` that are not installed.
pub(crate) fn missing(packages: &[String]) -> Vec<String> {
    packages.iter().filter(|package| !is_installed(package)).cloned().collect()
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", package]);
    command::output(&mut query).is_ok_and(|status| status == "installed")
}

/// Whether apt's lists name a version of `package` that could be installed.
fn is_known(package: &str) -> bool {
    let mut policy = Command::new("apt-cache");
    // The words that are looked for are translated otherwise.
    policy.args(["policy", package]).env("LC_ALL", "C");
    command::output(&mut policy).is_ok_and(|report| has_candidate(&report))
}

fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|candidate| candidate.trim() != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_has_a_candidate_when_apt_names_a_version() {
        let known = "tcpdump:\n  Installed: (none)\n  Candidate: 4.99.3-1\n  Version table:\n";
        let removed = "tcpdump:\n  Installed: 4.99.3-1\n  Candidate: (none)\n";

        assert!(has_candidate(known));
        assert!(!has_candidate(removed));
        assert!(!has_candidate(""));
    }
}
