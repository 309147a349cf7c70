//! Processes read from the real `/proc`: this one, its children, and some that are gone.

use std::process::{Child, Command, Stdio};

use super::*;
use crate::host::executable::tests::Running;
use crate::owner::{Context, Namespaces};

#[test]
fn this_process_is_read_completely() {
    let reader = reader();
    let pid = std::process::id();
    let stat = Directory::open(pid).unwrap().stat().unwrap();

    let process = reader.read(pid, None);

    let inode = |name| Some(rustix::fs::stat(format!("/proc/self/ns/{name}")).unwrap().st_ino);
    let expected = Process {
        pid,
        start_ticks: Some(stat.starttime),
        start_unix_ns: process.start_unix_ns,
        noted_name: None,
        name: std::fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned(),
        executable: Some(std::env::current_exe().unwrap()),
        deleted: false,
        on_host: Some(true),
        // Wherever this is built.
        world_writable: process.world_writable.clone(),
        sha256: None,
        relays_to: None,
        packaging: Packaging::Unknown,
        args: std::env::args().collect(),
        uid: Some(rustix::process::geteuid().as_raw()),
        user: process.user.clone(),
        cgroup: process.cgroup.clone(),
        unit: process.unit.clone(),
        slice: process.slice.clone(),
        container: process.container.clone(),
        netns: inode("net"),
        context: Context {
            working_directory: Some(std::env::current_dir().unwrap()),
            label: process.context.label.clone(),
            namespaces: Namespaces { mnt: inode("mnt"), pid: inode("pid"), user: inode("user") },
            inner_pid: None,
            session: process.context.session,
            terminal: process.context.terminal,
            login: process.context.login.clone(),
        },
        ancestors: process.ancestors.clone(),
        entity_id: reader.entity_id(pid, stat.starttime),
        missing: Vec::new(),
    };
    assert_eq!(*process, expected);
    assert!(process.cgroup.is_some());
    assert_eq!(
        process.ancestors.first().map(|it| it.pid),
        Some(std::os::unix::process::parent_id())
    );
    assert_eq!(process.ancestors.last().map(|it| it.pid), Some(1));
}

#[test]
fn the_start_of_a_child_lies_between_two_looks_at_the_clock() {
    let reader = reader();
    let now = || {
        let now = rustix::time::clock_gettime(ClockId::Realtime);
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    };

    let before = now();
    let child = Waiting::start();
    let after = now();

    let start = reader.read(child.pid(), None).start_unix_ns.unwrap();
    let tick = i64::try_from(reader.tick_ns).unwrap();
    assert!((before - 2 * tick..=after + tick).contains(&start), "{before} {start} {after}");
}

#[test]
fn a_pid_that_is_not_there_is_gone() {
    let process = reader().read(u32::MAX / 2, None);

    assert_eq!(*process, gone(u32::MAX / 2));
    assert_eq!(
        process.missing,
        [
            "start time, exe, sha256, package, args, cwd, cgroup, label, namespaces, terminal, login, \
          parents: gone before they could be read"
        ]
    );
}

#[test]
fn a_process_that_started_later_is_not_the_one_asked_for() {
    let reader = reader();
    let child = Waiting::start();
    let start_ns = reader.read(child.pid(), None).start_ticks.unwrap() * reader.tick_ns;

    let earlier = reader.read(child.pid(), Some(start_ns - 1));
    let same_tick = reader.read(child.pid(), Some(start_ns));

    assert_eq!(*earlier, gone(child.pid()));
    assert_eq!(same_tick.start_ticks, Some(start_ns / reader.tick_ns));
}

#[test]
fn a_process_is_remembered_until_it_runs_another_program() {
    let reader = reader();
    let mut child =
        Waiting::of(Command::new("sh").args(["-c", "read line; echo; read line; exec cat"]));
    let shell = reader.read(child.pid(), None);
    let again = reader.read(child.pid(), None);

    // The first line is for the shell; that the second comes back shows that `cat` runs.
    child.send_line();
    child.send_line();
    child.await_line();
    let cat = reader.read(child.pid(), None);
    let refused = reader.hash(&shell);

    assert!(Arc::ptr_eq(&shell, &again));
    assert_eq!(shell.args, ["sh", "-c", "read line; echo; read line; exec cat"]);
    assert_eq!(cat.args, ["cat"]);
    assert_eq!(cat.entity_id, shell.entity_id);
    assert_eq!(refused.unwrap_err(), "sha256: it runs another program by now");
}

#[test]
fn a_process_is_read_anew_once_its_executable_is_deleted() {
    let reader = reader();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cat");
    let mut child = Running::copy_of_cat(&path);
    let before = reader.read(child.pid(), None);

    std::fs::remove_file(&path).unwrap();
    let after = reader.read(child.pid(), None);
    let (hash, packaging) = (reader.hash(&before), reader.packaging(&before));
    child.end();

    let deleted = Process { deleted: true, on_host: Some(false), ..Process::clone(&before) };
    assert_eq!(*after, deleted);
    assert_eq!(hash.unwrap().len(), 64);
    assert_eq!(packaging.unwrap_err(), "package: what runs was deleted, or never had a name");
}

#[test]
fn a_hash_is_known_the_next_time() {
    let reader = reader();
    let child = Waiting::start();
    let before = reader.read(child.pid(), None);

    let hash = reader.hash(&before).unwrap();
    let after = reader.read(child.pid(), None);

    assert_eq!(before.sha256, None);
    assert_eq!(after.sha256, Some(hash));
}

#[test]
fn a_process_that_has_exited_is_what_it_was() {
    let reader = reader();
    let mut child = Waiting::start();
    let alive = reader.read(child.pid(), None);
    let start_ticks = alive.start_ticks.unwrap();

    child.exit_without_being_waited_for();
    let zombie = reader.read(child.pid(), None);
    let unknown = Reader::new(&Identity::read()).read(child.pid(), None);

    assert_eq!(zombie, alive);
    assert!(unknown.missing.contains(&"exe: it has exited".to_owned()), "{:?}", unknown.missing);
    assert_eq!(reader.recall(child.pid(), start_ticks), Some(alive));
}

#[test]
fn init_is_read_as_far_as_this_host_lets_us() {
    let process = reader().read(1, None);

    assert_eq!((process.pid, process.ancestors.len()), (1, 0));
    assert!(process.start_ticks.is_some());
    if process.executable.is_none() {
        assert!(process.missing.contains(&"exe: permission denied".to_owned()));
    }
}

#[test]
fn a_kernel_thread_has_no_executable() {
    let process = reader().read(2, None);
    if process.name != "kthreadd" || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: pid 2 is not kthreadd, or only root may look at it");
        return;
    }

    assert!(process.missing.contains(&"exe: a kernel thread has none".to_owned()));
}

#[test]
fn an_entity_id_depends_on_pid_start_and_boot() {
    let host = Identity { name: "h".into(), machine_id: None, boot_id: Some("b".into()) };
    let reader = Reader::new(&host);
    let rebooted = Reader::new(&Identity { boot_id: Some("c".into()), ..host.clone() });
    let unknown = Reader::new(&Identity { boot_id: None, ..host });

    let id = reader.entity_id(1, 2).unwrap();

    assert_eq!(id.len(), 22);
    assert_ne!(Some(&id), reader.entity_id(1, 3).as_ref());
    assert_ne!(Some(&id), reader.entity_id(12, 2).as_ref());
    assert_ne!(Some(&id), rebooted.entity_id(1, 2).as_ref());
    assert_eq!(unknown.entity_id(1, 2), None);
}

/// A child that waits until its input ends.
struct Waiting(Child);

impl Waiting {
    fn start() -> Self {
        Self::of(&mut Command::new("cat"))
    }

    /// Of a program that answers each line with one.
    fn of(program: &mut Command) -> Self {
        let child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut waiting = Self(child);
        // `spawn` returns in the midst of `execve`.
        waiting.send_line();
        waiting.await_line();
        waiting
    }

    fn send_line(&mut self) {
        io::Write::write_all(self.0.stdin.as_mut().unwrap(), b"\n").unwrap();
    }

    fn await_line(&mut self) {
        io::Read::read_exact(self.0.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn exit_without_being_waited_for(&mut self) {
        drop(self.0.stdin.take());
        let pid = rustix::process::Pid::from_child(&self.0);
        let options =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn reader() -> Reader {
    Reader::new(&Identity::read())
}
