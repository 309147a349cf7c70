//! Attaches the socket hooks to the cgroup v2 root, where they cover every container and every
//! network namespace of the host.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, Program, SockOps};

use crate::kernel::object::Object;

/// The cgroup id of the root of the hierarchy: anything else is a subtree, seen from a container.
const ROOT_ID: u64 = 1;

const SOCKET_PROGRAMS: [&str; 8] = [
    "pw_post_bind4",
    "pw_post_bind6",
    "pw_connect4",
    "pw_connect6",
    "pw_sendmsg4",
    "pw_sendmsg6",
    "pw_sock_ops",
    "pw_release",
];

/// Where the cgroup v2 hierarchy is mounted.
pub fn mount_point() -> Result<PathBuf> {
    let mounts =
        std::fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .next()
        .context("no cgroup v2 hierarchy is mounted")
}

/// Attaches all socket hooks. They stay as long as `object` does.
///
/// Returns what is attached, and adds to `degraded` what is not seen because of where we run.
pub fn attach(object: &mut Object, degraded: &mut Vec<String>) -> Result<Vec<String>> {
    let path = mount_point()?;
    let root = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let id = root.metadata().with_context(|| format!("reading {}", path.display()))?.ino();
    if id != ROOT_ID {
        degraded.push(format!(
            "sockets outside the cgroup {} are not seen as they open: portwatch runs in a cgroup \
             namespace",
            path.display()
        ));
    }
    for name in SOCKET_PROGRAMS {
        attach_program(object.program(name)?, &root)
            .with_context(|| format!("attaching {name} to {}", path.display()))?;
    }
    Ok(SOCKET_PROGRAMS.map(str::to_owned).to_vec())
}

fn attach_program(program: &mut Program, root: &File) -> Result<()> {
    // `Single` is flags 0: a link never takes the place of another program.
    let mode = CgroupAttachMode::Single;
    match program {
        Program::CgroupSock(_) => {
            let program: &mut CgroupSock = program.try_into()?;
            program.load()?;
            program.attach(root, mode)?;
        }
        Program::CgroupSockAddr(_) => {
            let program: &mut CgroupSockAddr = program.try_into()?;
            program.load()?;
            program.attach(root, mode)?;
        }
        _ => {
            let program: &mut SockOps = program.try_into()?;
            program.load()?;
            program.attach(root, mode)?;
        }
    }
    Ok(())
}
