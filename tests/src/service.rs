//! Programs of others that serve: started in the foreground, ended by `SIGTERM` as a service manager does.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::lab::Host;
use crate::process::{signal, wait};
use crate::skip;

/// A running service; terminated when dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
}

impl Service {
    /// Starts it. Its `/run` is its own, with these directories; what it says is not shown.
    pub fn start(host: &Host, directories: &[&str], program: &str, args: &[&str]) -> Self {
        let mut command = host.command("unshare");
        let script = "mount -t tmpfs none /run && cd /run && mkdir -p . $0 && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script, &directories.join(" "), program]).args(args);
        Self::of(&mut command)
    }

    fn of(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = command.spawn();
        Self { child: started.unwrap_or_else(|error| panic!("start {command:?}: {error}")) }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Of one that has ended already there is nothing to end, which is no failure.
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(&self.child, Signal::TERM);
            let _ended = wait(&mut self.child);
        }
    }
}

/// Are these programs there? Noted as skipped if one is not, with the package to install.
pub fn are_installed(programs: &[(&str, &str)]) -> bool {
    let missing = programs.iter().find(|(program, _)| !Path::new(program).exists());
    if let Some((program, package)) = missing {
        skip(&format!("{program} is not there: it comes with Debian's {package}"));
    }
    missing.is_none()
}
