//! The system calls that have no safe crate: the only `unsafe` of user space.

#![expect(unsafe_code, reason = "each call below argues for itself")]

pub(crate) mod bpf;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use procfs::process::{MMPermissions, MMapPath, Process};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A read-only shared mapping of a BPF array that was made with `BPF_F_MMAPABLE`.
///
/// The kernel writes while we read, so that the words are atomics: they may change between two
/// loads, but each load gives a value that was once there.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

/// The same, of which words may be written too.
#[derive(Debug)]
pub(crate) struct WritableMapping(Mapping);

impl WritableMapping {
    /// Maps the first `words` 64-bit words of the array behind `fd`.
    pub(crate) fn new(fd: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        Mapping::with(fd, words, libc::PROT_READ | libc::PROT_WRITE).map(Self)
    }

    /// The mapped words.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }
}

// SAFETY: the mapping is memory that any thread may load atomically from, until it is unmapped by
// `drop`, which has the only owner.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the first `words` 64-bit words of the array behind `fd`.
    pub(crate) fn new(fd: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        Self::with(fd, words, libc::PROT_READ)
    }

    fn with(fd: BorrowedFd<'_>, words: usize, protection: libc::c_int) -> io::Result<Self> {
        let Some(length) = words.checked_mul(size_of::<u64>()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // SAFETY: a new mapping at an address the kernel chooses; touches no memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(address.cast()) {
            Some(start) => Ok(Self { start, words }),
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// The mapped words: to be loaded, never stored to.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` words from `start` stay mapped until `drop`; the address is page-aligned;
        // atomics may change under a shared reference. The kernel's BPF arrays are never shrunk.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped, to which no reference is left.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.words * size_of::<u64>());
        }
    }
}

/// The cookie of the network namespace a socket belongs to: `SO_NETNS_COOKIE`, Linux 5.14.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let Ok(mut length) = libc::socklen_t::try_from(size_of::<u64>()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, and what it wrote to `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Reads a socket option into `bytes`, which say what is asked for; gives how many of them the kernel wrote.
pub(crate) fn socket_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    bytes: &mut [u8],
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads and writes at most `length` bytes of `bytes`, and writes to `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    usize::try_from(length).map_err(io::Error::other)
}

/// The number of a namespace (`NS_GET_ID` of `ioctl_nsfs(2)`, Linux 6.18).
pub(crate) fn namespace_id(namespace: BorrowedFd<'_>) -> io::Result<u64> {
    // `_IOR(0xb7, 13, __u64)`: include/uapi/linux/nsfs.h.
    const NS_GET_ID: libc::Ioctl = libc::_IOR::<u64>(0xb7, 13);
    let mut id = 0_u64;
    // SAFETY: the kernel writes one 64-bit number to `id`, or nothing where it knows no such call.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_ID, &raw mut id) };
    if result == 0 { Ok(id) } else { Err(io::Error::last_os_error()) }
}

/// Whether an open namespace is one of the network (`NS_GET_NSTYPE` of `ioctl_nsfs(2)`, Linux 4.11).
pub(crate) fn is_network_namespace(namespace: BorrowedFd<'_>) -> bool {
    // `_IO(0xb7, 3)`: include/uapi/linux/nsfs.h.
    const NS_GET_NSTYPE: libc::Ioctl = libc::_IO(0xb7, 3);
    // SAFETY: the call takes no argument, and answers with the type.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

/// How the clock of the host is kept right (`adjtimex(2)` that changes nothing), and its state: `TIME_*`.
pub(crate) fn clock_discipline() -> io::Result<(libc::timex, libc::c_int)> {
    // SAFETY: numbers only, all of which may be zero; without `modes` the kernel sets nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads and writes one `struct timex`.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state == -1 { Err(io::Error::last_os_error()) } else { Ok((timex, state)) }
}

/// Moves the calling thread into a new network namespace, which takes `CAP_SYS_ADMIN`. It is gone with
/// the last process in it.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: a network namespace is nothing that memory or descriptors of ours depend on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .map_err(Into::into)
}

/// Gives memory that was freed back to the kernel: reading BTF takes tens of megabytes, once.
pub(crate) fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no precondition; it only returns pages that hold no allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the code that is in memory: most of it only the start needed, and the kernel may now use those
/// pages for others. Code that runs on comes back page by page, from the kernel's cache of the file.
pub(crate) fn release_code() {
    let code = MMPermissions::READ | MMPermissions::EXECUTE | MMPermissions::PRIVATE;
    let Ok(maps) = Process::myself().and_then(|process| process.maps()) else { return };
    for map in maps {
        let (true, MMapPath::Path(_)) = (map.perms == code, map.pathname) else { continue };
        let (start, end) = map.address;
        let Ok(length) = usize::try_from(end.saturating_sub(start)) else { continue };
        let start =
            std::ptr::with_exposed_provenance_mut(usize::try_from(start).unwrap_or_default());
        // SAFETY: a private mapping of a file that nobody may write to: what it holds is what the file
        // holds, and is read from there again.
        unsafe {
            libc::madvise(start, length, libc::MADV_DONTNEED);
        }
    }
}

/// Asks for huge pages behind memory that will be read again and again, whole, by the megabyte: each page
/// that the processor does not know the place of costs it more than what is read there. Where the kernel
/// has none to give (`transparent_hugepage/enabled`), nothing changes.
pub(crate) fn prefer_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    let page = rustix::param::page_size();
    let start = memory.as_mut_ptr();
    let before = start.addr().next_multiple_of(page) - start.addr();
    let whole = size_of_val(memory).saturating_sub(before) / page * page;
    // SAFETY: whole pages of memory that is ours alone; how it is backed changes nothing in it.
    let advised = unsafe {
        libc::madvise(start.wrapping_byte_add(before).cast(), whole, libc::MADV_HUGEPAGE)
    };
    if advised != 0 {
        tracing::debug!("no huge pages for {whole} bytes: {}", io::Error::last_os_error());
    }
}

/// Takes ownership of a descriptor that was inherited, if there is one with this number.
pub(crate) fn take_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: reads the flags of a descriptor; harmless for a number that is none.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, as was just seen. The caller takes it before anything else in the process
    // opens descriptors, so that nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Registers a descriptor with the runtime, to wait until it is readable.
pub(crate) fn readable<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the ring buffers, netlink sockets and loggers that are passed here own their descriptor,
    // give the same one each time, and close it only when the `AsyncFd` that owns them is dropped.
    unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }.map_err(Into::into)
}
