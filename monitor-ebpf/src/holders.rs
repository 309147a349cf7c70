//! The `task_file` iterator: who holds a descriptor of a watched socket, on the whole host, in every
//! namespace and container, in one pass and without `/proc`.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write, bpf_sock_from_file};
use core::ffi::c_void;

use monitor_ebpf::wire::HolderRecord;

use crate::config;
use crate::socket::SOCKETS;

/// `struct bpf_iter__task_file`: the context is UAPI, the kernel structs behind it are not. See
/// `kernel/bpf/task_iter.c`.
#[repr(C)]
pub(crate) struct Context {
    meta: *const Meta,
    task: *const c_void,
    fd: u32,
    _pad: u32,
    file: *mut c_void,
}

/// `struct bpf_iter_meta` of `include/linux/bpf.h`.
#[repr(C)]
pub(crate) struct Meta {
    pub(crate) seq: *mut c_void,
    session_id: u64,
    seq_num: u64,
}

/// A descriptor that the iterator has come to.
pub(crate) struct Descriptor {
    pub(crate) file: *mut c_void,
    pub(crate) task: *const c_void,
    pub(crate) fd: u32,
    pub(crate) seq: *mut c_void,
}

impl Descriptor {
    /// `None` at the end.
    ///
    /// # Safety
    ///
    /// The context is the one the kernel called us with.
    #[inline(always)]
    pub(crate) unsafe fn of(ctx: *const Context) -> Option<Self> {
        // SAFETY: as the caller says; `file` and `task` are null at the end.
        let it = unsafe {
            Self { file: (*ctx).file, task: (*ctx).task, fd: (*ctx).fd, seq: (*(*ctx).meta).seq }
        };
        (!it.file.is_null() && !it.task.is_null()).then_some(it)
    }

    /// Writes a [`HolderRecord`] if the socket is in `pw_sockets`.
    #[inline(always)]
    fn tell(&self, cookie: u64) {
        // SAFETY: only asks whether the entry is there.
        if unsafe { SOCKETS.get(cookie) }.is_none() {
            return;
        }
        // SAFETY: the offset comes from this kernel's BTF, and the verifier checks that an integer is
        // there.
        let tgid =
            unsafe { *self.task.byte_add(config::task_tgid_offset() as usize).cast::<u32>() };
        let record = HolderRecord { cookie, tgid, fd: self.fd };
        // SAFETY: copies the record out of our stack into the iterator's buffer. When that is full the
        // kernel calls us again for the same descriptor.
        unsafe {
            bpf_seq_write(
                self.seq.cast(),
                (&raw const record).cast(),
                size_of::<HolderRecord>() as u32,
            );
        }
    }
}

/// Tells of each descriptor of a socket in `pw_sockets`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
unsafe extern "C" fn pw_task_file(ctx: *const Context) -> i32 {
    // SAFETY: the context the kernel called us with.
    let Some(descriptor) = (unsafe { Descriptor::of(ctx) }) else { return 0 };
    // SAFETY: a helper on a file the kernel gave us.
    let socket: *mut c_void = unsafe { bpf_sock_from_file(descriptor.file.cast()) }.cast();
    if socket.is_null() {
        return 0;
    }
    // SAFETY: the offset comes from this kernel's BTF, and the verifier checks that a `struct sock *` is
    // there.
    let sk = unsafe { *socket.byte_add(config::socket_sk_offset() as usize).cast::<*mut c_void>() };
    if sk.is_null() {
        return 0;
    }
    // SAFETY: a socket held by the file above.
    descriptor.tell(unsafe { bpf_get_socket_cookie(sk) });
    0
}

/// The same on kernels without `bpf_sock_from_file` (Linux 5.11) and `bpf_get_socket_cookie` in
/// iterators (5.12): the file of a socket is one whose inode says so, and its private data is the
/// `struct socket` (`sock_alloc_file` of `net/socket.c`).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
unsafe extern "C" fn pw_task_file_5_10(ctx: *const Context) -> i32 {
    // SAFETY: the context the kernel called us with.
    let Some(descriptor) = (unsafe { Descriptor::of(ctx) }) else { return 0 };
    let file = descriptor.file;
    // SAFETY: the offsets come from this kernel's BTF, and the verifier checks that members of these
    // types are there.
    let (inode, socket) = unsafe {
        (
            *file.byte_add(config::file_inode_offset() as usize).cast::<*const c_void>(),
            *file.byte_add(config::file_private_data_offset() as usize).cast::<usize>(),
        )
    };
    if inode.is_null() {
        return 0;
    }
    // SAFETY: likewise.
    let mode = unsafe { *inode.byte_add(config::inode_mode_offset() as usize).cast::<u16>() };
    if mode & S_IFMT != S_IFSOCK {
        return 0;
    }
    let cookie = || {
        let sk = socket + config::socket_sk_offset() as usize;
        // SAFETY: a helper that reads any address or fails: that of a path to a socket, opened with
        // `O_PATH`, which has no private data.
        let sk = unsafe { bpf_probe_read_kernel::<usize>(sk as *const usize) }?;
        let cookie = sk + config::sock_cookie_offset() as usize;
        // SAFETY: likewise.
        unsafe { bpf_probe_read_kernel::<u64>(cookie as *const u64) }
    };
    if let Ok(cookie) = cookie() {
        descriptor.tell(cookie);
    }
    0
}

/// The type of a file in its mode: `include/uapi/linux/stat.h`.
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
