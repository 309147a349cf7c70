//! Which package installed a file, from the package databases of this host.
//!
//! The databases are read as files: by then portwatch can start no program, and wants no lock. They
//! are searched, not loaded: some ten milliseconds for each executable, and no memory in between.

mod dpkg;
mod rpm;
mod spelling;

use std::fmt;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use self::dpkg::Dpkg;
use self::rpm::Rpm;
use self::spelling::Spellings;
use crate::owner::PackageFormat;

/// The package that installed a file, and what that was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Installed {
    /// Whose database says so.
    pub(super) format: PackageFormat,
    /// Name of the package.
    pub(super) name: String,
    /// Its version.
    pub(super) version: Option<String>,
    /// Its architecture.
    pub(super) architecture: Option<String>,
    /// What the contents of the file were, or why that is not known.
    pub(super) checksum: Result<Checksum, String>,
}

/// A checksum in lower-case hex.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Checksum {
    /// MD5.
    Md5(String),
    /// SHA-256.
    Sha256(String),
}

/// The package databases of this host.
pub(super) struct Packages {
    spellings: Spellings,
    dpkg: Dpkg,
    rpm: Rpm,
    known: Mutex<LruCache<PathBuf, (Stamp, Answer)>>,
}

/// `None`: no package has such a file. An error is in words.
type Answer = Result<Option<Installed>, String>;

/// Times of the last change of the files a database is made of, in seconds and nanoseconds: with the
/// same stamp there is the same answer.
type Stamp = Vec<Option<(i64, u32)>>;

impl Packages {
    /// Those of this host, as portwatch's own root shows them.
    pub(super) fn of_host() -> Self {
        Self {
            spellings: Spellings::of_host(),
            dpkg: Dpkg::in_directory("/var/lib/dpkg"),
            rpm: Rpm::of_host(),
            known: Mutex::new(LruCache::new(KNOWN)),
        }
    }

    /// The package that installed the file with this path, which has to be the one of this host; an
    /// error is in words.
    pub(super) fn owner_of(&self, path: &Path) -> Answer {
        let stamp = [self.dpkg.stamp(), self.rpm.stamp()].concat();
        if let Some((known_at, answer)) = self.lock().get(path)
            && *known_at == stamp
        {
            return answer.clone();
        }
        let answer = self.look_up(path);
        self.lock().put(path.to_owned(), (stamp, answer.clone()));
        answer
    }

    fn look_up(&self, path: &Path) -> Answer {
        let (dpkg, rpm) = (self.dpkg.is_there(), self.rpm.is_there());
        if !dpkg && !rpm {
            return Err("this host has neither a dpkg nor an rpm database".to_owned());
        }
        let names = self.spellings.of(path);
        // A host of one kind may have a database of the other, for what was built on it.
        let by_dpkg = if dpkg { self.dpkg.owner_of(&names)? } else { None };
        if by_dpkg.is_some() || !rpm {
            return Ok(by_dpkg);
        }
        self.rpm.owner_of(&names)
    }

    /// A cache has no state that a panic elsewhere could leave half done.
    fn lock(&self) -> MutexGuard<'_, LruCache<PathBuf, (Stamp, Answer)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kinds of package database that this host has.
pub fn kinds() -> Vec<&'static str> {
    let packages = Packages::of_host();
    let kinds = [(packages.dpkg.is_there(), "dpkg"), (packages.rpm.is_there(), "rpm")];
    kinds.into_iter().filter_map(|(is_there, kind)| is_there.then_some(kind)).collect()
}

/// Name of the package that installed the file with this path on this host; an error is in words.
pub fn owner(path: &Path) -> Result<Option<String>, String> {
    Ok(Packages::of_host().owner_of(path)?.map(|installed| installed.name))
}

/// When a file was last changed.
fn changed(file: &Path) -> Option<(i64, u32)> {
    let file = fs::metadata(file).ok()?;
    Some((file.ctime(), u32::try_from(file.ctime_nsec()).unwrap_or_default()))
}

impl fmt::Debug for Packages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packages").field("dpkg", &self.dpkg).finish_non_exhaustive()
    }
}

/// Paths remembered.
const KNOWN: NonZeroUsize = NonZeroUsize::new(512).unwrap();
