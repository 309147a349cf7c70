//! Which package installed a file, from the package databases of this host.
//!
//! The databases are read as files: by then portwatch can start no program, and wants no lock. They
//! are searched, not loaded: some ten milliseconds for each executable, and no memory in between.

mod dpkg;
mod spelling;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use self::dpkg::Dpkg;
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
}

/// The package databases of this host.
pub(super) struct Packages {
    spellings: Spellings,
    dpkg: Dpkg,
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
            known: Mutex::new(LruCache::new(KNOWN)),
        }
    }

    /// The package that installed the file with this path, which has to be the one of this host; an
    /// error is in words.
    pub(super) fn owner_of(&self, path: &Path) -> Answer {
        let stamp = self.dpkg.stamp();
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
        if !self.dpkg.is_there() {
            return Err("this host has no package database that portwatch can read".to_owned());
        }
        self.dpkg.owner_of(&self.spellings.of(path))
    }

    /// A cache has no state that a panic elsewhere could leave half done.
    fn lock(&self) -> MutexGuard<'_, LruCache<PathBuf, (Stamp, Answer)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Packages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packages").field("dpkg", &self.dpkg).finish_non_exhaustive()
    }
}

/// Paths remembered.
const KNOWN: NonZeroUsize = NonZeroUsize::new(512).unwrap();
