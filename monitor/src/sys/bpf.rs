//! The `bpf` commands that aya keeps to itself: a link to a cgroup whose descriptor we own, a pin of any
//! descriptor, and the programs of a TCX hook by their numbers.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// Commands of `include/uapi/linux/bpf.h`.
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;

/// The part of `union bpf_attr` that each of them reads; the kernel takes the rest as zero.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct ObjectPin {
    path: u64,
    object: u32,
    flags: u32,
}

/// `struct { … } query` of that union.
#[repr(C)]
#[expect(clippy::struct_field_names, reason = "the kernel's names")]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Attaches a loaded program to a cgroup; closing the link detaches it, unless it is pinned.
///
/// `attach_type` is one of `enum bpf_attach_type`.
pub(crate) fn link_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate {
        program: program.as_raw_fd().unsigned_abs(),
        target: cgroup.as_raw_fd().unsigned_abs(),
        attach_type,
        flags: 0,
    };
    let link = call(BPF_LINK_CREATE, &mut attributes)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Pins a program, map or link at a path on a mounted BPF file system that does not exist yet.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let mut attributes = ObjectPin {
        path: path.as_ptr() as u64,
        object: object.as_raw_fd().unsigned_abs(),
        flags: 0,
    };
    call(BPF_OBJ_PIN, &mut attributes).map(drop)
}

/// Numbers of the programs on a TCX hook of an interface, in the order in which they run: Linux 6.6.
///
/// Only numbers: reading more of a program takes `CAP_SYS_ADMIN`, this `CAP_NET_ADMIN`.
pub(crate) fn tcx_programs(ifindex: u32, egress: bool) -> io::Result<Vec<u32>> {
    const BPF_TCX_INGRESS: u32 = 46;
    /// A chain holds no more: `BPF_MPROG_MAX` of kernel/bpf/mprog.c.
    const MAX: u32 = 64;

    let mut ids = [0_u32; MAX as usize];
    let mut query = Query {
        target_ifindex: ifindex,
        attach_type: BPF_TCX_INGRESS + u32::from(egress),
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: MAX,
        padding: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    call(BPF_PROG_QUERY, &mut query)?;
    Ok(ids.into_iter().take(query.count as usize).collect())
}

fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes at most `size` bytes of `attributes`, plain integers. One may
    // be the address of a string, or of as many numbers as another says, which the caller holds.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
