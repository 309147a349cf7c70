//! Cgroups of a test's own: what a service manager makes for its units.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip;

/// A cgroup of a test's own; removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A unit in a slice; `None`, noted as skipped, where none can be made.
    pub fn make(slice: &str, unit: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
        let mounted = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then_some(path)
        });
        let Some(mounted) = mounted else {
            skip("no cgroup v2 hierarchy is mounted");
            return None;
        };
        let path = Path::new(mounted).join(slice).join(unit);
        if let Err(error) = fs::create_dir_all(&path) {
            skip(&format!("no cgroup can be made: {error}"));
            return None;
        }
        Some(Self { path })
    }

    /// Gives its slice to another user, as a service manager does who delegates it.
    pub fn delegate(&self, user: u32) {
        let slice = self.path.parent().expect("a cgroup in a slice");
        std::os::unix::fs::chown(slice, Some(user), None).expect("delegate a slice");
    }

    /// A command that will run in it, with the pid that its child has: to be followed by a program.
    pub fn command(&self) -> Command {
        let mut command = Command::new("sh");
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        command.args(["-c", script]).arg(&self.path);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Not asserted: a test that fails already must not abort the others.
        drop(fs::remove_dir(&self.path));
        drop(self.path.parent().map(fs::remove_dir));
    }
}
