//! A process: its executable and its files in `/proc`, all through one directory that was opened while it was
//! there.

use std::fs::File;
use std::io;

use rustix::fs::{Dir, Mode, OFlags};
use serde_json::{Map, Value, json};

use super::super::proc::{self, Directory};
use super::{Artifact, Content, Lines, Sink, read};
use crate::escape;

/// A process, held: whatever becomes of it, its pid is never taken for that of another, and what it runs can
/// still be read.
#[derive(Debug)]
pub struct Held {
    /// Its pid.
    pub pid: u32,
    /// When it started, in ticks since boot.
    pub start_ticks: u64,
    parent: u32,
    directory: Directory,
    executable: Result<File, String>,
}

impl Held {
    /// Takes hold of the process that has this pid now; an error is in words.
    ///
    /// What it runs may lie in a file system that never answers: call this where that can be waited for.
    pub fn of(pid: u32) -> Result<Self, String> {
        let gone = |error: io::Error| {
            if proc::is_gone(&error) { IT_IS_GONE.to_owned() } else { proc::words(&error) }
        };
        let directory = Directory::open(pid).map_err(gone)?;
        let stat = directory.stat().map_err(|error| match error.raw_os_error() {
            // Of a process that is gone the kernel says `ESRCH`.
            Some(libc::ENOENT) => COVERED.to_owned(),
            _ => gone(error),
        })?;
        let executable = directory.file("exe").map_err(|error| {
            if proc::is_gone(&error) { NO_FILE.to_owned() } else { proc::words(&error) }
        });
        let (start_ticks, parent) = (stat.starttime, u32::try_from(stat.ppid).unwrap_or_default());
        Ok(Self { pid, start_ticks, parent, directory, executable })
    }

    /// What it ran when it was taken hold of; an error is in words.
    pub fn executable(&self) -> Result<File, String> {
        let file = self.executable.as_ref().map_err(Clone::clone)?;
        file.try_clone().map_err(|error| proc::words(&error))
    }

    /// Tells its files in `/proc`. What reaches into its memory, and may never end, comes last.
    pub fn tell(&self, with_environment: bool, tell: &mut Sink<'_>) {
        let is_wanted = |name: &str| with_environment || name != ENVIRONMENT;
        let links = |name| (name, self.links());
        let files = FILES.into_iter().filter(|(_, file, _)| is_wanted(file));
        let told = tell(self.artifact(links("links.json"), "{exe,cwd,root,ns/*}"))
            && tell(self.artifact(("fds.ndjson", self.descriptors()), "{fd,fdinfo}"));
        if !told {
            return;
        }
        for (name, file, limit) in files {
            let content = read(self.directory.file(file), limit);
            if !tell(self.artifact((name, content), file)) {
                return;
            }
        }
    }

    fn artifact(&self, named: (&'static str, io::Result<Content>), file: &str) -> Artifact {
        let (name, content) = named;
        let source = format!("/proc/{}/{file}", self.pid);
        Artifact { name, source, content: content.map_err(|error| self.words(&error)) }
    }

    /// A file that is not there may be one that this kernel does not have.
    fn words(&self, error: &io::Error) -> String {
        // The label of a process is a security module's to tell.
        if error.raw_os_error() == Some(libc::EINVAL) {
            return "nobody on this host gives it".to_owned();
        }
        if !proc::is_gone(error) {
            return proc::words(error);
        }
        match self.directory.stat() {
            Ok(_) => "there is none".to_owned(),
            Err(_) => IT_IS_GONE.to_owned(),
        }
    }

    fn links(&self) -> io::Result<Content> {
        let target = |name: &str| match self.directory.link(name) {
            Ok(path) => json!(escape::text_from_bytes(path.as_os_str().as_encoded_bytes())),
            Err(error) => json!({ "missing": self.words(&error) }),
        };
        // While there is a process there is a link to its namespace.
        self.directory.link("ns/pid")?;
        let links: Map<_, _> =
            LINKS.iter().map(|name| ((*name).to_owned(), target(name))).collect();
        let mut lines = Lines::default();
        lines.push(&Value::Object(links));
        Ok(lines.into_content())
    }

    fn descriptors(&self) -> io::Result<Content> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.directory, "fd", flags, Mode::empty())?;
        let mut lines = Lines::default();
        let numbers = Dir::read_from(&directory)?.filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_name().to_str().ok()?.parse::<u32>().ok()
        });
        for (count, number) in numbers.enumerate() {
            if count == DESCRIPTORS {
                lines.lack([format!("descriptors after the first {DESCRIPTORS}")]);
                break;
            }
            // One that was closed meanwhile leads nowhere.
            let Ok(target) = rustix::fs::readlinkat(&directory, number.to_string(), Vec::new())
            else {
                continue;
            };
            let info = self.directory.read(&format!("fdinfo/{number}"), INFO_BYTES);
            lines.push(&json!({
                "fd": number,
                "target": escape::text_from_bytes(target.to_bytes()),
                "info": info.map(|info| escape::text_from_bytes(&info).into_owned()).ok(),
            }));
        }
        Ok(lines.into_content())
    }
}

/// The parent of a process, unless its pid is somebody else's by now; `None` of one that has none to be seen.
///
/// No parent is younger than its child.
pub fn lineage(child: &Held) -> Option<Result<Held, String>> {
    (child.parent != 0).then(|| {
        let parent = Held::of(child.parent)?;
        let is_older = parent.start_ticks <= child.start_ticks;
        is_older.then_some(parent).ok_or_else(|| IT_IS_GONE.to_owned())
    })
}

/// Why nothing is known of a process that `/proc` does not have.
pub const IT_IS_GONE: &str = "gone before it could be read";
const COVERED: &str = "something else is mounted over its directory in /proc";
const NO_FILE: &str = "it runs no file: a kernel thread, or one that has exited";
const ENVIRONMENT: &str = "environ";

/// Name to keep it under, file in `/proc/PID`, and how much of it is kept.
const FILES: [(&str, &str, usize); 15] = [
    ("comm", "comm", 1 << 10),
    ("stat", "stat", 4 << 10),
    ("status", "status", 1 << 20),
    ("cgroup", "cgroup", 64 << 10),
    ("limits", "limits", 64 << 10),
    ("loginuid", "loginuid", 64),
    ("sessionid", "sessionid", 64),
    ("attr-current", "attr/current", 64 << 10),
    ("io", "io", 4 << 10),
    ("uid_map", "uid_map", 64 << 10),
    ("gid_map", "gid_map", 64 << 10),
    ("mountinfo", "mountinfo", 4 << 20),
    ("maps", "maps", 16 << 20),
    ("cmdline", "cmdline", 4 << 20),
    (ENVIRONMENT, ENVIRONMENT, 4 << 20),
];
const LINKS: [&str; 12] = [
    "exe",
    "cwd",
    "root",
    "ns/cgroup",
    "ns/ipc",
    "ns/mnt",
    "ns/net",
    "ns/pid",
    "ns/pid_for_children",
    "ns/time",
    "ns/user",
    "ns/uts",
];
/// Descriptors told of one process.
const DESCRIPTORS: usize = 4096;
/// `fdinfo` of an epoll descriptor has a line for each that it waits for.
const INFO_BYTES: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read as _, Write as _};
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_told_with_its_descriptors_and_without_its_environment() {
        let mut child = cat();
        let held = Held::of(child.id()).unwrap();

        let bare = told(&held, false);
        let full = told(&held, true);

        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(bare["cmdline"].as_ref().unwrap().bytes, b"cat\0");
        assert!(!bare.contains_key("environ"));
        let environment = &full["environ"].as_ref().unwrap().bytes;
        assert!(environment.windows(9).any(|part| part == b"A_WORD=it"), "{environment:?}");
        let fds = String::from_utf8(bare["fds.ndjson"].clone().unwrap().bytes).unwrap();
        assert!(fds.contains(r#"{"fd":0,"info":"pos:\t0\n"#), "{fds}");
    }

    #[test]
    fn what_it_ran_can_be_read_when_it_is_gone_and_its_files_are_said_to_be_gone() {
        let mut child = cat();
        let held = Held::of(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();

        let told = told(&held, true);

        assert!(held.executable().unwrap().metadata().unwrap().len() > 0);
        assert!(told.values().all(Result::is_err), "{told:?}");
        assert_eq!(told["maps"].as_ref().unwrap_err(), "gone before it could be read");
        assert_eq!(Held::of(child.id()).unwrap_err(), "gone before it could be read");
    }

    #[test]
    fn the_parent_of_a_child_of_ours_is_this_process() {
        let mut child = cat();

        let parent = lineage(&Held::of(child.id()).unwrap()).unwrap().unwrap();

        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(parent.pid, std::process::id());
    }

    fn told(
        held: &Held,
        with_environment: bool,
    ) -> BTreeMap<&'static str, Result<Content, String>> {
        let mut told = BTreeMap::new();
        held.tell(with_environment, &mut |artifact| {
            told.insert(artifact.name, artifact.content);
            true
        });
        told
    }

    /// One that waits for its input, and has read some: before that its arguments may not be there yet.
    fn cat() -> Child {
        let mut command = Command::new("cat");
        command.env("A_WORD", "it").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        child
    }
}
