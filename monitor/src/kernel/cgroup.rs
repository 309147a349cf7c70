//! Attaches the socket hooks to the cgroup v2 root, where they cover every container and every
//! network namespace of the host.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use aya::programs::links::{FdLink, LinkType, PinnedLink};
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, Program, SockOps};

use monitor_ebpf::wire::{PROGRAMS, program};
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::kernel::classifiers::Classifiers as _;
use crate::kernel::object::Object;
use crate::kernel::pin::Pins;
use crate::sys;

/// The cgroup id of the root of the hierarchy: anything else is a subtree, seen from a container.
const ROOT_ID: u64 = 1;

/// The socket hooks, all of which attach to a cgroup, each with its `enum bpf_attach_type` of
/// `include/uapi/linux/bpf.h`.
const HOOKS: [(u32, u32); 10] = [
    (program::POST_BIND4, 12),
    (program::POST_BIND6, 13),
    (program::CONNECT4, 10),
    (program::CONNECT6, 11),
    (program::SENDMSG4, 14),
    (program::SENDMSG6, 15),
    (program::RECVMSG4, 19),
    (program::RECVMSG6, 20),
    (program::SOCK_OPS, 3),
    (program::RELEASE, 34),
];

/// Names and attach types of the socket hooks.
fn hooks() -> impl Iterator<Item = (&'static str, u32)> {
    let named = |(hook, attach_type)| Some((*PROGRAMS.get(hook as usize)?, attach_type));
    HOOKS.into_iter().filter_map(named)
}

/// Names of the socket hooks.
pub(super) fn socket_programs() -> impl Iterator<Item = &'static str> {
    hooks().map(|(name, _)| name)
}

/// Opens the root of the cgroup v2 hierarchy, wherever it is mounted.
///
/// Where it is not, as inside `ip netns exec`, which covers `/sys`, it is opened through a mount that
/// is attached nowhere and goes away with the descriptor.
pub fn root() -> Result<OwnedFd> {
    let mounts =
        std::fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    let mounted = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(path)
    });
    match mounted {
        Some(path) => {
            let root = File::open(path).with_context(|| format!("opening {path}"))?;
            Ok(root.into())
        }
        None => detached_mount().context("opening the cgroup v2 hierarchy, which is not mounted"),
    }
}

fn detached_mount() -> rustix::io::Result<OwnedFd> {
    let context = mount::fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    mount::fsconfig_create(context.as_fd())?;
    mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// What it means that the hooks are not at the root of the host.
pub const OUTSIDE: &str =
    "sockets of processes outside portwatch's own cgroup namespace are not seen as they open";

/// Attaches all socket hooks. They stay as long as `object` does, or with `pins`: as long as these.
/// Those that are pinned already are left as they are.
///
/// Returns what is attached, and adds to `degraded` what is not seen because of where we run.
pub fn attach(
    object: &mut Object,
    pins: Option<&Pins>,
    degraded: &mut Vec<String>,
) -> Result<Vec<String>> {
    let root = root()?;
    let id = rustix::fs::fstat(&root).context("reading the root of the cgroup hierarchy")?.st_ino;
    if id != ROOT_ID {
        degraded.push(OUTSIDE.to_owned());
    }
    for (name, attach_type) in hooks() {
        match pins {
            Some(pins) if is_attached(pins, name) => continue,
            Some(pins) => {
                let root = root.as_fd();
                attach_pinned(object.program(name)?, (name, attach_type), root, pins)
            }
            None => attach_program(object.program(name)?, root.as_fd()),
        }
        .with_context(|| format!("attaching {name} to the cgroup root"))?;
    }
    Ok(socket_programs().map(str::to_owned).collect())
}

/// The link of this hook is pinned.
pub(super) fn is_attached(pins: &Pins, name: &str) -> bool {
    let link = PinnedLink::from_pin(pins.link(0, name));
    let info = link.ok().and_then(|link| FdLink::from(link).info().ok());
    info.is_some_and(|info| matches!(info.link_type(), Ok(LinkType::Cgroup)))
}

/// Attaches by a link of our own making, since aya lets go of none that leads to a cgroup.
fn attach_pinned(
    program: &mut Program,
    (name, attach_type): (&str, u32),
    root: BorrowedFd<'_>,
    pins: &Pins,
) -> Result<()> {
    match program {
        Program::CgroupSock(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        Program::SockOps(program) => program.load()?,
        other => anyhow::bail!("{name} is a {:?}", other.prog_type()),
    }
    let link = sys::bpf::link_to_cgroup(program.fd()?.as_fd(), root, attach_type)?;
    pins.pin(link, &pins.link(0, name))
}

/// Detaches all socket hooks, unless their links are pinned.
pub fn detach(object: &mut Object) -> Result<()> {
    if object.are_adopted() {
        return Ok(());
    }
    for name in socket_programs() {
        let detached = match object.program(name)? {
            Program::CgroupSock(program) => program.unload(),
            Program::CgroupSockAddr(program) => program.unload(),
            Program::SockOps(program) => program.unload(),
            other => anyhow::bail!("{name} is a {:?}", other.prog_type()),
        };
        detached.with_context(|| format!("detaching {name}"))?;
    }
    Ok(())
}

fn attach_program(program: &mut Program, root: BorrowedFd<'_>) -> Result<()> {
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
