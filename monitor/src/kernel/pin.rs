//! `--pin`: what stays in the kernel when portwatch ends, so that the next one goes on with it.
//!
//! Everything lies in one directory per network namespace on the BPF file system, which only root can
//! enter. A directory that others could have made or changed is refused, never used and never
//! removed. `config` in it is a symbolic link whose target is no path but says what was pinned; it is
//! written last, so that a set without it is one that was never finished.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::sys;

/// Where the BPF file system is mounted, by convention of every tool.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// The name of the symbolic link that says what was pinned.
const CONFIG: &str = "config";
/// How the names of our directories begin; the inode of the network namespace follows.
const NETNS: &str = "netns-";
/// How the names of pins begin.
const PREFIXES: [&str; 3] = ["map-", "program-", LINK];
const LINK: &str = "link-";

/// The pins of one network namespace, held by one portwatch at a time.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    /// The set is whole: it stays.
    is_whole: AtomicBool,
    /// Locked while we live.
    _lock: OwnedFd,
}

/// What was found pinned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Found {
    /// Nothing, or a set that was never finished.
    Nothing,
    /// What is wanted.
    Same,
    /// Something of ours that is not what is wanted: how it differs.
    Different(String),
}

impl Pins {
    /// Makes or opens the directory for a network namespace.
    pub fn open(netns: u64) -> Result<Self> {
        let parent = parent()?;
        make_directory(&parent)?;
        drop(trusted(&parent)?);
        let directory = parent.join(format!("{NETNS}{netns}"));
        make_directory(&directory)?;
        let lock = lock(&directory)?;
        Ok(Self { directory, is_whole: AtomicBool::new(false), _lock: lock })
    }

    /// Compares what is pinned with what is wanted: `key=value`, separated by spaces.
    pub fn found(&self, wanted: &str) -> Found {
        let Ok(config) = fs::read_link(self.directory.join(CONFIG)) else { return Found::Nothing };
        let pinned = config.to_string_lossy();
        if pinned == wanted {
            return Found::Same;
        }
        let is_different = |pair: &&str| !pinned.split(' ').any(|other| other == *pair);
        let different = wanted.split(' ').filter(is_different);
        let names: Vec<&str> = different.filter_map(|pair| pair.split('=').next()).collect();
        Found::Different(names.join(", "))
    }

    /// From now on the set stays when portwatch ends.
    pub fn finish(&self, config: &str) -> Result<()> {
        if self.found(config) != Found::Same {
            rustix::fs::symlink(config, self.directory.join(CONFIG))
                .context("writing what is pinned")?;
        }
        self.is_whole.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(format!("map-{name}"))
    }

    /// Where a program is pinned.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(format!("program-{name}"))
    }

    /// Where the link of a program is pinned; `ifindex` is 0 for a cgroup.
    pub(super) fn link(&self, ifindex: u32, name: &str) -> PathBuf {
        self.directory.join(format!("{LINK}{ifindex}-{name}"))
    }

    /// Pins something at one of these places, where nothing is.
    pub(super) fn pin(&self, object: impl AsFd, path: &Path) -> Result<()> {
        ensure!(path.starts_with(&self.directory), "{} is not ours", path.display());
        let name = CString::new(path.as_os_str().as_bytes()).context("naming a pin")?;
        sys::bpf::pin(object.as_fd(), &name).with_context(|| format!("pinning {}", path.display()))
    }

    /// Removes the links of interfaces that are not among these, which detaches their programs.
    pub fn keep_links_of(&self, interfaces: &BTreeSet<u32>) -> Result<()> {
        for name in names(&self.directory)? {
            let ifindex = name.strip_prefix(LINK).and_then(|rest| rest.split('-').next());
            let ifindex = ifindex.and_then(|ifindex| ifindex.parse::<u32>().ok());
            if ifindex.is_some_and(|ifindex| ifindex != 0 && !interfaces.contains(&ifindex)) {
                remove_link(&self.directory.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes everything that is pinned here, which detaches all programs.
    pub fn clear(&self) -> Result<()> {
        clear(&self.directory)
    }
}

impl Drop for Pins {
    /// A start that failed leaves nothing.
    fn drop(&mut self) {
        if !self.is_whole.load(Ordering::Relaxed)
            && let Err(error) = self.clear().and_then(|()| remove_directory(&self.directory))
        {
            tracing::warn!("{error:#}");
        }
    }
}

/// Removes what every `watch --pin` left, in all network namespaces. How many there were.
///
/// One that is in use is an error, and so is what is not ours; the others are removed all the same.
pub fn remove_all() -> Result<usize> {
    // Without that file system nothing can be pinned either.
    if rustix::process::geteuid().is_root() && !is_mounted() {
        return Ok(0);
    }
    let parent = parent()?;
    if !parent.exists() {
        return Ok(0);
    }
    drop(trusted(&parent)?);
    let mut removed = 0;
    let mut refused = Vec::new();
    for name in names(&parent)? {
        let directory = parent.join(&name);
        let is_ours = name.strip_prefix(NETNS).is_some_and(|rest| rest.parse::<u64>().is_ok());
        let result = if is_ours {
            lock(&directory).and_then(|_lock| {
                clear(&directory)?;
                remove_directory(&directory)
            })
        } else {
            Err(anyhow::anyhow!("{} is not portwatch's and stays", shown(&directory)))
        };
        match result {
            Ok(()) => removed += 1,
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    ensure!(refused.is_empty(), "{}", refused.join("; "));
    remove_directory(&parent)?;
    Ok(removed)
}

fn is_mounted() -> bool {
    rustix::fs::statfs(BPFFS).is_ok_and(|it| it.f_type.cast_unsigned() == BPF_FS_MAGIC)
}

/// Our directory on the BPF file system, which must be mounted.
fn parent() -> Result<PathBuf> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "what is pinned belongs to root; run portwatch as root, for example with sudo"
    );
    ensure!(
        is_mounted(),
        "no BPF file system is mounted at {BPFFS}; mount it: mount -t bpf bpf {BPFFS}"
    );
    Ok(Path::new(BPFFS).join("portwatch"))
}

/// Makes a directory for root alone, unless it is there.
fn make_directory(directory: &Path) -> Result<()> {
    match rustix::fs::mkdir(directory, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => bail!("{} cannot be made: {error}", directory.display()),
    }
}

/// Opens a directory that only root can have made and changed.
fn trusted(directory: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty());
    let opened = opened.with_context(|| format!("opening {}", shown(directory)))?;
    let stat =
        rustix::fs::fstat(&opened).with_context(|| format!("reading {}", shown(directory)))?;
    ensure!(
        stat.st_uid == 0 && !Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO),
        "{} belongs to user {} and has mode {:o}, so that others than root may have put something \
         there; look at it and remove it",
        shown(directory),
        stat.st_uid,
        stat.st_mode & 0o7777
    );
    Ok(opened)
}

/// Opens a directory and keeps every other portwatch out of it.
fn lock(directory: &Path) -> Result<OwnedFd> {
    let opened = trusted(directory)?;
    match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(opened),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!(
            "another `portwatch watch --pin` uses {}; stop it first, or watch without --pin",
            shown(directory)
        ),
        Err(error) => Err(error).with_context(|| format!("locking {}", shown(directory))),
    }
}

fn clear(directory: &Path) -> Result<()> {
    // Without it the set is unfinished, should we be killed on the way.
    remove(&directory.join(CONFIG))?;
    for name in names(directory)? {
        let path = directory.join(&name);
        if name.starts_with(LINK) {
            remove_link(&path)?;
        } else if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let reading = || format!("reading {}", shown(directory));
    let entries = fs::read_dir(directory).with_context(reading)?;
    entries
        .map(|entry| Ok(entry.with_context(reading)?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Detaches a pinned link and removes it. Without its pin the kernel detaches it as well, but only when it
/// comes to that.
fn remove_link(path: &Path) -> Result<()> {
    let name = CString::new(path.as_os_str().as_bytes()).context("naming a pin")?;
    // Where this is not possible, removing it is all that can be done.
    let detached = sys::bpf::open_pin(&name).and_then(|link| sys::bpf::detach_link(link.as_fd()));
    if let Err(error) = detached {
        tracing::debug!("{} is not detached at once: {error}", shown(path));
    }
    remove(path)
}

/// Removes a pin; that there is none is no error.
pub(super) fn remove(path: &Path) -> Result<()> {
    unless_absent(fs::remove_file(path), path)
}

fn remove_directory(directory: &Path) -> Result<()> {
    unless_absent(fs::remove_dir(directory), directory)
}

fn unless_absent(removed: io::Result<()>, path: &Path) -> Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", shown(path)))
        }
        _ => Ok(()),
    }
}

fn shown(path: &Path) -> String {
    crate::escape::escape(&path.to_string_lossy()).into_owned()
}
