//! The `bpf` commands that aya keeps to itself: a link to a cgroup whose descriptor we own, a pin of any
//! descriptor and back, the programs of a TCX hook by their numbers, and a classifier written by hand.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// Commands of `include/uapi/linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_DETACH: libc::c_int = 34;

/// The part of `union bpf_attr` that each of them reads; the kernel takes the rest as zero.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Of `BPF_OBJ_PIN` and, without an object, of `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectPin {
    path: u64,
    object: u32,
    flags: u32,
}

#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_LENGTH],
}

#[repr(C)]
struct InfoByDescriptor {
    descriptor: u32,
    length: u32,
    info: u64,
}

/// `BPF_OBJ_NAME_LEN`, the terminating zero included.
const NAME_LENGTH: usize = 16;

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Instruction {
    /// Class, operation and mode.
    pub(crate) code: u8,
    /// Destination in the lower half, source in the upper.
    pub(crate) registers: u8,
    /// Signed offset.
    pub(crate) offset: i16,
    /// Signed constant.
    pub(crate) immediate: i32,
}

/// `struct { … } query` of that union.
#[repr(C)]
#[expect(clippy::struct_field_names, reason = "the kernel's names")]
struct Query {
    target: u32,
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

/// Opens what is pinned at a path: a program, map or link.
pub(crate) fn open_pin(path: &CStr) -> io::Result<OwnedFd> {
    let mut attributes = ObjectPin { path: path.as_ptr() as u64, object: 0, flags: 0 };
    let object = call(BPF_OBJ_GET, &mut attributes)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(object) })
}

/// Takes the program of a link off its hook, before this returns, whoever else has the link: Linux 5.9, and
/// only hooks of interfaces and cgroups.
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = link.as_raw_fd();
    call(BPF_LINK_DETACH, &mut attributes).map(drop)
}

/// Numbers of the programs on a TCX hook of an interface, in the order in which they run: Linux 6.6.
///
/// Only numbers: reading more of a program takes `CAP_SYS_ADMIN`, this `CAP_NET_ADMIN`.
pub(crate) fn tcx_programs(ifindex: u32, egress: bool) -> io::Result<Vec<u32>> {
    const BPF_TCX_INGRESS: u32 = 46;

    query(ifindex, BPF_TCX_INGRESS + u32::from(egress))
}

/// Numbers of the programs that run on what an end of a netkit pair sends, asked for at the primary end: Linux
/// 6.7, `CAP_NET_ADMIN`.
pub(crate) fn netkit_programs(primary: u32, of_the_other: bool) -> io::Result<Vec<u32>> {
    const BPF_NETKIT_PRIMARY: u32 = 54;

    query(primary, BPF_NETKIT_PRIMARY + u32::from(of_the_other))
}

/// Numbers of the programs that choose sockets in a network namespace: Linux 5.9, `CAP_NET_ADMIN`.
pub(crate) fn sk_lookup_programs(namespace: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    const BPF_SK_LOOKUP: u32 = 36;

    query(namespace.as_raw_fd().unsigned_abs(), BPF_SK_LOOKUP)
}

/// Numbers of the programs on a hook. The target is a descriptor or the index of an interface, as the hook
/// has it.
fn query(target: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    /// No hook holds more: `BPF_MPROG_MAX` of kernel/bpf/mprog.c, `MAX_BPF_LINKS` in a namespace.
    const MAX: u32 = 64;

    let mut ids = [0_u32; MAX as usize];
    let mut query = Query {
        target,
        attach_type,
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

/// Loads a classifier under a name of at most 15 bytes, and its number.
///
/// The kernel refuses what it cannot prove to be safe, as with any program.
pub(crate) fn load_classifier(
    name: &str,
    instructions: &[Instruction],
) -> io::Result<(OwnedFd, u32)> {
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

    let mut padded = [0; NAME_LENGTH];
    for (to, from) in padded.iter_mut().zip(name.bytes().take(NAME_LENGTH - 1)) {
        *to = from;
    }
    let mut load = ProgramLoad {
        program_type: BPF_PROG_TYPE_SCHED_CLS,
        instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: c"Dual MIT/GPL".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: padded,
    };
    let program = call(BPF_PROG_LOAD, &mut load)?;
    // SAFETY: the kernel has just opened it for us.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    // The beginning of `struct bpf_prog_info`: type and number.
    let mut info = [0_u32; 2];
    let mut request = InfoByDescriptor {
        descriptor: program.as_raw_fd().unsigned_abs(),
        length: u32::try_from(size_of_val(&info)).map_err(io::Error::other)?,
        info: info.as_mut_ptr().expose_provenance() as u64,
    };
    call(BPF_OBJ_GET_INFO_BY_FD, &mut request)?;
    let [_type, id] = info;
    Ok((program, id))
}

fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes at most `size` bytes of `attributes`, plain integers. Some may
    // be addresses: of a string, or of as many numbers as another says, which the caller holds.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
