//! Reads a file that says what to trust, and therefore only one that nobody else can change.
//!
//! What is checked is what was opened, never a path that could mean something else a moment later.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{PolicyError, shown};
use crate::escape;

/// Size limit of a policy.
pub(super) const MAX_BYTES: u64 = 1024 * 1024;

/// Symbolic links followed from the name given to the file; each one's directory is checked.
const MAX_LINKS: usize = 8;

/// Who besides root could change a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exposure {
    /// The file, or a directory in which it could be replaced.
    pub path: PathBuf,
    /// It is a directory.
    pub directory: bool,
    /// Owner.
    pub uid: u32,
    /// Permissions, with the sticky bit.
    pub mode: u32,
}

/// The bytes of a policy file.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, PolicyError> {
    let unreadable = |errno: Errno| unreadable(file, errno.into());
    let mut path = file.to_owned();
    for _ in 0..MAX_LINKS {
        let Some(name) = path.file_name() else {
            return Err(PolicyError::NotAFile { file: file.to_owned() });
        };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory_fd = rustix::fs::open(
            directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(unreadable)?;
        stat_unexposed(file, directory, directory_fd.as_fd())?;
        // A pipe must not block us, a terminal not become ours.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match rustix::fs::openat(&directory_fd, name, flags, Mode::empty()) {
            Ok(fd) => return read_opened(file, &path, fd),
            Err(Errno::LOOP) => {
                let target = rustix::fs::readlinkat(&directory_fd, name, Vec::new())
                    .map_err(unreadable)?
                    .into_bytes();
                path = directory.join(std::ffi::OsString::from_vec(target));
            }
            Err(errno) => return Err(unreadable(errno)),
        }
    }
    Err(unreadable(Errno::LOOP))
}

fn read_opened(file: &Path, path: &Path, fd: OwnedFd) -> Result<Vec<u8>, PolicyError> {
    let stat = stat_unexposed(file, path, fd.as_fd())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(PolicyError::NotAFile { file: file.to_owned() });
    }
    let mut bytes = Vec::new();
    File::from(fd)
        .take(MAX_BYTES.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(file, error))?;
    // Counted as read: the file may have grown since `fstat`.
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= MAX_BYTES) {
        Ok(bytes)
    } else {
        Err(PolicyError::TooLarge { file: file.to_owned() })
    }
}

fn stat_unexposed(file: &Path, path: &Path, fd: BorrowedFd<'_>) -> Result<Stat, PolicyError> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| unreadable(file, errno.into()))?;
    let exposure = Exposure {
        path: path.to_owned(),
        directory: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
        uid: stat.st_uid,
        mode: Mode::from_raw_mode(stat.st_mode).as_raw_mode(),
    };
    if exposure.trusted_owner() && !exposure.writable_by_others() {
        Ok(stat)
    } else {
        Err(PolicyError::Exposed { file: file.to_owned(), exposure })
    }
}

fn unreadable(file: &Path, cause: io::Error) -> PolicyError {
    PolicyError::Unreadable { file: file.to_owned(), cause }
}

impl Exposure {
    /// Root, or who we are: without privileges we report to nobody but ourselves.
    fn trusted_owner(&self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }

    fn writable_by_others(&self) -> bool {
        // With an ACL the group bits are its mask, so that this sees ACLs too. The sticky bit stops
        // others from removing the file, not from putting one there before us.
        Mode::from_raw_mode(self.mode).intersects(Mode::WGRP | Mode::WOTH)
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, directory, uid, mode } = self;
        let word = shown(path);
        if *directory {
            write!(f, "its directory {word} ")?;
        }
        if !self.trusted_owner() {
            return write!(f, "belongs to uid {uid}, not to root: chown root {}", argument(path));
        }
        write!(f, "can be written by others than root (mode {mode:04o}): ")?;
        if Mode::from_raw_mode(*mode).contains(Mode::SVTX) {
            return f.write_str("move the policy to a directory of root's, such as /etc/portwatch");
        }
        write!(f, "chmod go-w {}", argument(path))
    }
}

/// A path as a shell takes it, as far as a reader needs it.
fn argument(path: &Path) -> String {
    escape::quote(&escape::text_from_bytes(path.as_os_str().as_encoded_bytes())).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::policy::Policy;

    #[test]
    fn a_file_of_ours_in_a_directory_of_ours_is_read() {
        let lab = Lab::new();

        assert!(Policy::load(&lab.policy).is_ok());
        assert_eq!(read(&lab.policy).unwrap(), b"version = 1\n");
    }

    #[test]
    fn a_file_that_others_can_write_is_refused_with_the_remedy() {
        for mode in [0o620, 0o602, 0o666] {
            let lab = Lab::new();
            lab.set_mode(&lab.policy, mode);

            assert_eq!(
                lab.error(&lab.policy),
                format!(
                    "DIR/policy.toml: can be written by others than root (mode {mode:04o}): \
                     chmod go-w DIR/policy.toml"
                )
            );
        }
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused_with_the_remedy() {
        let lab = Lab::new();
        lab.set_mode(lab.directory.path(), 0o775);

        assert_eq!(
            lab.error(&lab.policy),
            "DIR/policy.toml: its directory DIR can be written by others than root (mode 0775): \
             chmod go-w DIR"
        );
    }

    #[test]
    fn a_sticky_directory_is_refused_although_files_in_it_cannot_be_removed() {
        let lab = Lab::new();
        lab.set_mode(lab.directory.path(), 0o1777);

        assert_eq!(
            lab.error(&lab.policy),
            "DIR/policy.toml: its directory DIR can be written by others than root (mode 1777): \
             move the policy to a directory of root's, such as /etc/portwatch"
        );
    }

    #[test]
    fn a_link_is_followed_and_the_directory_of_its_target_is_checked() {
        let lab = Lab::new();
        let elsewhere = TempDir::new().unwrap();
        let link = elsewhere.path().join("link.toml");
        symlink(&lab.policy, &link).unwrap();
        assert_eq!(read(&link).unwrap(), b"version = 1\n");

        lab.set_mode(lab.directory.path(), 0o777);

        assert!(matches!(
            read(&link),
            Err(PolicyError::Exposed { exposure, .. }) if exposure.path == lab.directory.path()
        ));
    }

    #[test]
    fn the_directory_of_a_link_is_checked_too() {
        let lab = Lab::new();
        let elsewhere = TempDir::new().unwrap();
        let link = elsewhere.path().join("link.toml");
        symlink(&lab.policy, &link).unwrap();
        fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o777)).unwrap();

        assert!(matches!(
            read(&link),
            Err(PolicyError::Exposed { exposure, .. }) if exposure.path == elsewhere.path()
        ));
    }

    #[test]
    fn a_link_to_itself_ends() {
        let lab = Lab::new();
        let link = lab.directory.path().join("loop");
        symlink("loop", &link).unwrap();

        assert_eq!(lab.error(&link), "DIR/loop: Too many levels of symbolic links (os error 40)");
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_without_waiting() {
        let lab = Lab::new();
        let pipe = lab.directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
        let directory = lab.directory.path().join("directory");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();

        assert_eq!(lab.error(&pipe), "DIR/pipe: not a regular file");
        assert_eq!(lab.error(&directory), "DIR/directory: not a regular file");
        assert_eq!(lab.error(Path::new("/")), "/: not a regular file");
    }

    #[test]
    fn a_missing_or_huge_or_foreign_text_is_refused() {
        let lab = Lab::new();
        let path = lab.directory.path().join("other");
        assert_eq!(lab.error(&path), "DIR/other: No such file or directory (os error 2)");

        let limit = usize::try_from(MAX_BYTES).unwrap();
        lab.write(&path, &vec![b'#'; limit]);
        assert!(Policy::load(&path).unwrap_err().to_string().contains("`version = 1` is missing"));
        lab.write(&path, &vec![b'#'; limit + 1]);
        assert_eq!(lab.error(&path), "DIR/other: larger than 1024 KiB");

        lab.write(&path, b"version = 1\n# \xc3\xbc\xff");
        assert_eq!(lab.error(&path), "DIR/other:2:4: not UTF-8");
    }

    #[test]
    fn a_file_of_somebody_else_is_refused_with_the_remedy() {
        let we = rustix::process::geteuid();
        let stranger = we.as_raw() + 1;
        let exposure =
            Exposure { path: "/p q/x\n".into(), directory: false, uid: stranger, mode: 0o644 };
        let message = format!("belongs to uid {stranger}, not to root: chown root");

        assert_eq!(exposure.to_string(), format!(r#"{message} "/p q/x\n""#));
        // Only root can give a file away.
        if we.is_root() {
            let lab = Lab::new();
            chown(&lab.policy, Some(stranger), None).unwrap();
            assert_eq!(
                lab.error(&lab.policy),
                format!("DIR/policy.toml: {message} DIR/policy.toml")
            );
        }
    }

    struct Lab {
        directory: TempDir,
        policy: PathBuf,
    }

    impl Lab {
        fn new() -> Self {
            let directory = TempDir::new().unwrap();
            let policy = directory.path().join("policy.toml");
            let lab = Self { directory, policy };
            lab.write(&lab.policy, b"version = 1\n");
            lab
        }

        fn write(&self, path: &Path, bytes: &[u8]) {
            fs::write(path, bytes).unwrap();
            self.set_mode(path, 0o600);
        }

        #[expect(clippy::unused_self, reason = "reads like the other steps of a test")]
        fn set_mode(&self, path: &Path, mode: u32) {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }

        /// The error of loading a policy, with the directory's changing name as `DIR`.
        fn error(&self, path: &Path) -> String {
            let error = Policy::load(path).unwrap_err().to_string();
            error.replace(self.directory.path().to_str().unwrap(), "DIR")
        }
    }
}
