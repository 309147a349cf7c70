//! The two `bpf` commands that aya keeps to itself: a link to a cgroup whose descriptor we own, and a
//! pin of any descriptor.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// Commands of `include/uapi/linux/bpf.h`.
const BPF_OBJ_PIN: libc::c_int = 6;
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

/// Attaches a loaded program to a cgroup; closing the link detaches it, unless it is pinned.
///
/// `attach_type` is one of `enum bpf_attach_type`.
pub(crate) fn link_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.as_raw_fd().unsigned_abs(),
        target: cgroup.as_raw_fd().unsigned_abs(),
        attach_type,
        flags: 0,
    };
    let link = call(BPF_LINK_CREATE, &attributes)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Pins a program, map or link at a path on a mounted BPF file system that does not exist yet.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let attributes = ObjectPin {
        path: path.as_ptr() as u64,
        object: object.as_raw_fd().unsigned_abs(),
        flags: 0,
    };
    call(BPF_OBJ_PIN, &attributes).map(drop)
}

fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size` bytes from `attributes`, plain integers one of which may point
    // to a string that the caller holds, and writes nothing for these commands.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
