//! The system calls that portwatch never makes once it has started: they answer `EPERM`.
//!
//! A deny list, not an allow list: what the C library and the runtime call differs by version, and a
//! watch that is killed sees nothing. What is on it either runs other code, reaches into other
//! processes past `/proc`, or changes the host.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Programs: what runs and whose memory is read or written.
const CODE: [libc::c_long; 12] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
];

/// Files: mounts, devices, and handles that lead out of a container.
const FILES: [libc::c_long; 20] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
];

/// The host and who we are on it; and ways around this filter.
const HOST: [libc::c_long; 28] = [
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_unshare,
    libc::SYS_personality,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_process_mrelease,
];

/// The older calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
const OLDER: [libc::c_long; 7] = [
    libc::SYS_mknod,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: [libc::c_long; 0] = [];

/// The same calls by the numbers of x32, which a kernel built for it takes from any 64-bit program:
/// `arch/x86/entry/syscalls/syscall_64.tbl`.
#[cfg(target_arch = "x86_64")]
fn by_other_numbers(call: libc::c_long) -> impl Iterator<Item = libc::c_long> {
    const X32: libc::c_long = 0x4000_0000;
    let own = match call {
        libc::SYS_execve => Some(520),
        libc::SYS_ptrace => Some(521),
        libc::SYS_kexec_load => Some(528),
        libc::SYS_process_vm_readv => Some(539),
        libc::SYS_process_vm_writev => Some(540),
        libc::SYS_execveat => Some(545),
        _ => None,
    };
    [call, own.unwrap_or(call)].into_iter().map(|number| X32 | number)
}
#[cfg(not(target_arch = "x86_64"))]
fn by_other_numbers(_call: libc::c_long) -> impl Iterator<Item = libc::c_long> {
    std::iter::empty()
}

/// Denies them to the calling thread and all that it starts. Cannot be undone; sets
/// `PR_SET_NO_NEW_PRIVS`.
pub(super) fn deny() -> Result<()> {
    let program = program()?;
    seccompiler::apply_filter(&program).context("installing the filter")
}

fn program() -> Result<BpfProgram> {
    let calls = [&CODE[..], &FILES, &HOST, &OLDER].concat();
    let others = calls.iter().flat_map(|call| by_other_numbers(*call));
    let denied: BTreeMap<i64, _> =
        calls.iter().copied().chain(others).map(|call| (call, Vec::new())).collect();
    let eperm = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let here = std::env::consts::ARCH.try_into().context("this machine's calls are not known")?;
    let filter = SeccompFilter::new(denied, SeccompAction::Allow, eperm, here);
    filter.and_then(BpfProgram::try_from).context("making the filter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_was_denied_starts_no_program_and_the_others_do() {
        let runs = || std::process::Command::new("true").status();

        let denied = std::thread::spawn(move || {
            deny().unwrap();
            runs()
        });

        let error = denied.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(runs().unwrap().success());
    }

    /// One of each list, and none that could do harm where it is not denied, or that other users are
    /// refused anyhow.
    #[test]
    fn a_call_of_every_list_is_denied_and_was_not_before() {
        use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
        use rustix::time::{ClockId, Timespec, clock_settime};

        const NOWHERE: &str = "/nowhere/at/all";
        let errors = || {
            let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
            let no_time = Timespec { tv_sec: 0, tv_nsec: -1 };
            [
                pidfd_getfd(own, i32::MAX, PidfdGetfdFlags::empty()).map(drop).unwrap_err().into(),
                rustix::mount::mount_bind(NOWHERE, NOWHERE).unwrap_err().into(),
                rustix::process::chroot(NOWHERE).unwrap_err().into(),
                std::fs::hard_link(NOWHERE, NOWHERE).unwrap_err(),
                clock_settime(ClockId::Realtime, no_time).unwrap_err().into(),
                // `symlink` where there is such a call, else `symlinkat`.
                std::os::unix::fs::symlink(NOWHERE, NOWHERE).unwrap_err(),
            ]
            .map(|error: std::io::Error| error.raw_os_error())
        };
        let before = errors();

        let denied = std::thread::spawn(move || {
            deny().unwrap();
            errors()
        });

        // Root is refused none of them before, elsewhere others may be.
        if rustix::process::geteuid().is_root() {
            assert!(!before.contains(&Some(libc::EPERM)), "{before:?}");
        }
        assert_eq!(denied.join().unwrap(), [Some(libc::EPERM); 6]);
    }
}
