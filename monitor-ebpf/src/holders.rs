//! The `task_file` iterator: who holds a descriptor of a watched socket, on the whole host, in every
//! namespace and container, in one pass and without `/proc`.

use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write, bpf_sock_from_file};
use core::ffi::c_void;

use monitor_ebpf::wire::HolderRecord;

use crate::config;
use crate::socket::SOCKETS;

/// `struct bpf_iter__task_file`: the context is UAPI, the kernel structs behind it are not. See
/// `kernel/bpf/task_iter.c`.
#[repr(C)]
struct Context {
    meta: *const Meta,
    task: *const c_void,
    fd: u32,
    _pad: u32,
    file: *mut c_void,
}

/// `struct bpf_iter_meta` of `include/linux/bpf.h`.
#[repr(C)]
struct Meta {
    seq: *mut c_void,
    session_id: u64,
    seq_num: u64,
}

/// Writes a [`HolderRecord`] for each descriptor of a socket in `pw_sockets`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
unsafe extern "C" fn pw_task_file(ctx: *const Context) -> i32 {
    // SAFETY: the context the kernel called us with; `file` and `task` are null at the end.
    let (file, task, fd, seq) =
        unsafe { ((*ctx).file, (*ctx).task, (*ctx).fd, (*(*ctx).meta).seq) };
    if file.is_null() || task.is_null() {
        return 0;
    }
    // SAFETY: a helper on a file the kernel gave us.
    let socket: *mut c_void = unsafe { bpf_sock_from_file(file.cast()) }.cast();
    if socket.is_null() {
        return 0;
    }
    // SAFETY: the offsets come from this kernel's BTF, and the verifier checks that a `struct sock *`
    // and an integer are there.
    let (sk, tgid) = unsafe {
        (
            *socket.byte_add(config::socket_sk_offset() as usize).cast::<*mut c_void>(),
            *task.byte_add(config::task_tgid_offset() as usize).cast::<u32>(),
        )
    };
    if sk.is_null() {
        return 0;
    }
    // SAFETY: a socket held by the file above.
    let cookie = unsafe { bpf_get_socket_cookie(sk) };
    // SAFETY: only asks whether the entry is there.
    if unsafe { SOCKETS.get(cookie) }.is_none() {
        return 0;
    }
    let record = HolderRecord { cookie, tgid, fd };
    // SAFETY: copies the record out of our stack into the iterator's buffer. When that is full the
    // kernel calls us again for the same descriptor.
    unsafe {
        bpf_seq_write(seq.cast(), (&raw const record).cast(), size_of::<HolderRecord>() as u32);
    }
    0
}
