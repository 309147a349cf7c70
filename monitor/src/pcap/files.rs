//! The files of a capture: made one after the other, each with its SHA-256 beside it once it is whole.
//!
//! A file is never written over another, a link is never followed, and what is removed again was made
//! by this run. Names are looked up in the directory that was there at the start, wherever that goes.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::escape;

/// When a file is closed and the next one begun, and how many are kept.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Before it would have more bytes than this.
    pub size: Option<u64>,
    /// After this time.
    pub interval: Option<Duration>,
    /// The last so many are kept, the one that is written among them.
    pub files: Option<u32>,
}

impl Limits {
    /// There are several files.
    pub const fn rotates(&self) -> bool {
        self.size.is_some() || self.interval.is_some()
    }
}

/// The files of one capture, the last of which is open.
#[derive(Debug)]
pub struct Files {
    directory: OwnedFd,
    /// The path that was asked for.
    path: PathBuf,
    limits: Limits,
    made: u64,
    /// Closed ones that are kept, the oldest first.
    closed: VecDeque<OsString>,
    open: Open,
}

/// A file that is being written.
#[derive(Debug)]
struct Open {
    name: OsString,
    file: File,
    /// Where its SHA-256 goes.
    sums: File,
    hash: Sha256,
    length: u64,
    since_unix_ns: i64,
}

impl Files {
    /// Makes the first file, and the empty one beside it.
    pub fn make(path: &Path, limits: Limits, now_unix_ns: i64) -> Result<Self, String> {
        let shown = |path: &Path| escape::quote(&path.to_string_lossy()).into_owned();
        let file = path.file_name().ok_or_else(|| format!("{}: is not a file", shown(path)))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, parent, flags, Mode::empty())
            .map_err(|error| format!("{}: {}", shown(parent), io::Error::from(error)))?;
        if limits.rotates() && !is_ours(&directory) {
            return Err(format!(
                "{}: later files can only be made in a directory that the user of portwatch may \
                 write into without privileges",
                shown(parent)
            ));
        }
        let name = if limits.rotates() { numbered(file, 1, now_unix_ns) } else { file.to_owned() };
        let open = Open::make(&directory, name, now_unix_ns).map_err(|(name, error)| {
            let problem = match error.kind() {
                io::ErrorKind::AlreadyExists => "is there already; write to a new file".to_owned(),
                _ => error.to_string(),
            };
            format!("{}: {problem}", shown(&path.with_file_name(name)))
        })?;
        let path = path.to_owned();
        Ok(Self { directory, path, limits, made: 1, closed: VecDeque::new(), open })
    }

    /// The paths of the first file and what is beside it.
    pub fn made(&self) -> [PathBuf; 2] {
        let name = &self.open.name;
        [name, &sums_name(name)].map(|name| self.path.with_file_name(name))
    }

    /// The name of the file that is written, for messages.
    pub(super) fn name(&self) -> String {
        let path = self.path.with_file_name(&self.open.name);
        escape::escape_bytes(path.as_os_str().as_bytes()).into_owned()
    }

    /// Would so many bytes more at this time belong into the next file?
    pub(super) fn is_over(&self, more: u64, now_unix_ns: i64) -> bool {
        let is_full = self.limits.size.is_some_and(|size| self.open.length + more > size);
        let age_ns = now_unix_ns.saturating_sub(self.open.since_unix_ns);
        let age = Duration::from_nanos(u64::try_from(age_ns).unwrap_or(0));
        is_full || self.limits.interval.is_some_and(|interval| age >= interval)
    }

    /// Begins the next file; the one before has to be finished.
    pub(super) fn next(&mut self, now_unix_ns: i64) -> io::Result<()> {
        let file = self.path.file_name().unwrap_or_default();
        self.made += 1;
        let name = numbered(file, self.made, now_unix_ns);
        let next = Open::make(&self.directory, name, now_unix_ns).map_err(|(_, error)| error)?;
        let before = std::mem::replace(&mut self.open, next);
        self.closed.push_back(before.name);
        let kept = self.limits.files.map(|files| usize::try_from(files).unwrap_or(usize::MAX));
        while kept.is_some_and(|kept| self.closed.len() + 1 > kept) {
            let Some(oldest) = self.closed.pop_front() else { break };
            for name in [&oldest, &sums_name(&oldest)] {
                rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())?;
            }
        }
        Ok(())
    }

    /// Appends bytes; how many are there, and why not all.
    pub(super) fn append(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        crate::output::write_all(&self.open.file, bytes)
    }

    /// Takes the bytes that were appended last as part of the file, so many of them: others are cut off.
    pub(super) fn keep(&mut self, bytes: &[u8], are_all: bool) -> io::Result<()> {
        let Open { file, hash, length, .. } = &mut self.open;
        hash.update(bytes);
        *length = length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if are_all {
            return Ok(());
        }
        file.set_len(*length)?;
        file.seek(SeekFrom::Start(*length)).map(|_| ())
    }

    /// Puts the file on the disk, and its SHA-256 beside it.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let Open { name, file, sums, hash, .. } = &mut self.open;
        file.sync_all()?;
        let mut line = sum_line(&hash.clone().finalize(), name);
        line.push(b'\n');
        sums.write_all(&line)?;
        sums.sync_all()?;
        // Names are data of the directory, which an `O_PATH` descriptor cannot sync.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.directory, ".", flags, Mode::empty())?;
        Ok(rustix::fs::fsync(directory)?)
    }
}

impl Open {
    fn make(
        directory: &OwnedFd,
        name: OsString,
        since_unix_ns: i64,
    ) -> Result<Self, (OsString, io::Error)> {
        let create = |name: &OsStr| {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
                .map(File::from)
                .map_err(|error| (name.to_owned(), error.into()))
        };
        let file = create(&name)?;
        let sums_name = sums_name(&name);
        let sums = create(&sums_name).inspect_err(|_error| {
            // Made a moment ago, and empty.
            let _removed: Result<(), Errno> =
                rustix::fs::unlinkat(directory, &name, AtFlags::empty());
        })?;
        Ok(Self { name, file, sums, hash: Sha256::new(), length: 0, since_unix_ns })
    }
}

/// May we go on making and removing files there once all privileges are given up?
fn is_ours(directory: &OwnedFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(directory) else { return false };
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let class = if stat.st_uid == user.as_raw() {
        0o300
    } else if stat.st_gid == group.as_raw() {
        0o030
    } else {
        0o003
    };
    stat.st_mode & class == class
}

/// `capture.pcapng` as `capture_00001_20261129T072649Z.pcapng`: as Wireshark names a ring of files, in
/// UTC.
pub(super) fn numbered(file: &OsStr, number: u64, unix_ns: i64) -> OsString {
    let path = Path::new(file);
    let (stem, extension) = (path.file_stem().unwrap_or(file), path.extension());
    let time = Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or_default();
    let time = time.to_zoned_datetime(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut name = stem.to_owned();
    name.push(format!("_{number:05}_{time}"));
    if let Some(extension) = extension {
        name.push(".");
        name.push(extension);
    }
    name
}

fn sums_name(name: &OsStr) -> OsString {
    let mut name = name.to_owned();
    name.push(".sha256");
    name
}

/// A line of `sha256sum`, which escapes a name that would break it.
pub(super) fn sum_line(hash: &[u8], name: &OsStr) -> Vec<u8> {
    let hash = escape::hexadecimal(hash);
    let name = name.as_bytes();
    if !name.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r')) {
        return [hash.as_bytes(), b"  ", name].concat();
    }
    let mut line = format!("\\{hash}  ").into_bytes();
    for &byte in name {
        match byte {
            b'\\' => line.extend(b"\\\\"),
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            _ => line.push(byte),
        }
    }
    line
}
