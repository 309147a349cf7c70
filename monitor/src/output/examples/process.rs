//! Processes and what they have to do with a socket.

use std::sync::Arc;

use crate::owner::{
    Ancestor, Attribution, Context, Evidence, Integrity, Login, Namespaces, Owner, Ownership,
    Package, PackageFormat, Packaging, Process, Role, Side, Terminal,
};

use super::START_NS;
use super::network::host_netns;

pub(in crate::output) fn python() -> Process {
    let sha256 = "9f2c3a0f2d5c7d1f0c7c7f4e5b8d9a6e1b2c3d4e5f60718293a4b5c6d7e8f901";
    Process {
        pid: 4_242,
        start_ticks: Some(98_765),
        start_unix_ns: Some(START_NS - 60_000_000_000),
        name: "python3".to_owned(),
        executable: Some("/usr/bin/python3.11".into()),
        on_host: Some(true),
        packaging: Packaging::Package(python_package()),
        sha256: Some(sha256.to_owned()),
        args: ["python3", "-m", "http.server", "3516"].map(str::to_owned).to_vec(),
        uid: Some(0),
        user: Some("root".to_owned()),
        cgroup: Some("/user.slice/user-0.slice/session-3.scope".to_owned()),
        unit: Some("session-3.scope".to_owned()),
        slice: Some("user-0.slice".to_owned()),
        netns: Some(host_netns().inode),
        context: Context {
            working_directory: Some("/root".into()),
            label: Some("unconfined".to_owned()),
            namespaces: Namespaces {
                mnt: Some(4_026_531_841),
                pid: Some(4_026_531_836),
                user: Some(4_026_531_837),
            },
            inner_pid: None,
            session: Some(4_200),
            terminal: Some(Terminal { major: 136, minor: 2 }),
            login: Some(Login { uid: 1000, user: Some("alice".to_owned()), session: Some(3) }),
        },
        ancestors: vec![
            ancestor(4_200, "bash", "/usr/bin/bash", "RmV5bm1hbiBuYXMgYmFzaA"),
            ancestor(1, "systemd", "/usr/lib/systemd/systemd", "c3lzdGVtZCBpcyBwaWQgMQ"),
        ],
        entity_id: Some("qL0z3cYV1mHn5b2R7uXo9A".to_owned()),
        ..Process::default()
    }
}

pub(in crate::output) fn python_package() -> Package {
    Package {
        format: PackageFormat::Dpkg,
        name: "python3.11-minimal".to_owned(),
        version: Some("3.11.2-6+deb12u6".to_owned()),
        architecture: Some("amd64".to_owned()),
        integrity: Integrity::Unmodified,
    }
}

pub(in crate::output) fn ancestor(
    pid: u32,
    name: &str,
    executable: &str,
    entity_id: &str,
) -> Ancestor {
    Ancestor {
        pid,
        start_ticks: Some(100),
        name: name.to_owned(),
        executable: Some(executable.into()),
        args: vec![name.to_owned()],
        entity_id: Some(entity_id.to_owned()),
    }
}

pub(in crate::output) fn attribution(owners: Vec<Owner>) -> Attribution {
    let reason = "a process has a descriptor of the socket".to_owned();
    Attribution { ownership: Ownership::Process, reason, owners }
}

pub(in crate::output) fn owner(
    side: Option<Side>,
    role: Role,
    evidence: Evidence,
    process: Process,
) -> Owner {
    Owner { side, role, evidence, exited: false, replaced: false, process: Arc::new(process) }
}
