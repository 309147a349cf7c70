//! rpm: `rpmdb.sqlite` has the header of each package, and an index of the names of files.
//!
//! The older formats of the database (Berkeley DB, ndb) are not read.

mod header;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use self::header::Header;
use super::{Checksum, Installed, Stamp, changed};
use crate::escape;
use crate::owner::PackageFormat;

/// A database of rpm.
#[derive(Clone, Debug)]
pub(super) struct Rpm {
    directory: PathBuf,
}

impl Rpm {
    /// The one of this host: newer distributions keep it with what is read-only.
    pub(super) fn of_host() -> Self {
        let directories = ["/usr/lib/sysimage/rpm", "/var/lib/rpm"].map(Self::in_directory);
        let [newer, older] = directories;
        if newer.is_there() { newer } else { older }
    }

    /// The one in this directory, which need not be there.
    pub(super) fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// There is one, of whatever format.
    pub(super) fn is_there(&self) -> bool {
        std::iter::once(SQLITE).chain(OLDER).any(|file| self.directory.join(file).is_file())
    }

    /// When it last changed.
    pub(super) fn stamp(&self) -> Stamp {
        [SQLITE, JOURNAL].map(|name| changed(&self.directory.join(name))).to_vec()
    }

    /// The package that installed a file with one of these names; an error is in words.
    pub(super) fn owner_of(&self, names: &[PathBuf]) -> Result<Option<Installed>, String> {
        let file = self.directory.join(SQLITE);
        if !file.is_file() {
            let older = OLDER.into_iter().find(|file| self.directory.join(file).is_file());
            let older = older.unwrap_or("no file");
            return Err(format!("the rpm database is {older}, a format portwatch does not read"));
        }
        // What is in the journal would be missing from the answer.
        if fs::metadata(self.directory.join(JOURNAL)).is_ok_and(|journal| journal.len() > 0) {
            return Err("the rpm database is being changed".to_owned());
        }
        search(&file, names).map_err(|error| format!("the rpm database: {error}"))
    }
}

fn search(file: &Path, names: &[PathBuf]) -> rusqlite::Result<Option<Installed>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // `immutable`: no lock is taken and no file beside it written.
    let database =
        Connection::open_with_flags(format!("file:{}?immutable=1", file.display()), flags)?;
    let mut ends: Vec<&str> = names.iter().filter_map(|name| name.file_name()?.to_str()).collect();
    ends.dedup();
    let mut headers = database.prepare(
        "SELECT blob FROM Packages
         WHERE hnum IN (SELECT hnum FROM Basenames WHERE key = ?1) ORDER BY hnum",
    )?;
    for end in ends {
        let mut rows = headers.query([end])?;
        while let Some(row) = rows.next()? {
            let blob = row.get_ref(0)?.as_blob()?;
            if let Some(installed) = Header::parse(blob).and_then(|header| owner(&header, names)) {
                return Ok(Some(installed));
            }
        }
    }
    Ok(None)
}

/// The package, if it has a file with one of these names.
fn owner(header: &Header<'_>, names: &[PathBuf]) -> Option<Installed> {
    let directories: Vec<&[u8]> = header.texts(tag::DIRNAMES)?.collect();
    let files = header.texts(tag::BASENAMES)?.zip(header.numbers(tag::DIRINDEXES)?);
    let is_it = |(end, directory): (&[u8], u32)| {
        let directory = usize::try_from(directory).ok().and_then(|at| directories.get(at));
        directory.is_some_and(|directory| {
            let name = [directory, end].concat();
            names.iter().any(|known| known.as_os_str().as_bytes() == name)
        })
    };
    let file = files.map(is_it).position(|it| it)?;
    let text = |tag| Some(escape::text_from_bytes(header.text(tag)?).into_owned());
    let epoch = header.numbers(tag::EPOCH).and_then(|mut epochs| epochs.next());
    let epoch = epoch.map(|epoch| format!("{epoch}:")).unwrap_or_default();
    let version = text(tag::VERSION).zip(text(tag::RELEASE));
    Some(Installed {
        format: PackageFormat::Rpm,
        name: text(tag::NAME)?,
        version: version.map(|(version, release)| format!("{epoch}{version}-{release}")),
        architecture: text(tag::ARCH),
        checksum: checksum(header, file),
    })
}

/// The checksum of a file of the package.
fn checksum(header: &Header<'_>, file: usize) -> Result<Checksum, String> {
    let digest = header.texts(tag::FILEDIGESTS).and_then(|mut digests| digests.nth(file));
    let digest = digest.and_then(|digest| std::str::from_utf8(digest).ok());
    let digest = digest.filter(|digest| !digest.is_empty());
    let digest = digest.ok_or("the package has no checksum of it")?.to_ascii_lowercase();
    // RFC 4880, section 9.4; the oldest packages do not say.
    let algorithm = header.numbers(tag::FILEDIGESTALGO).and_then(|mut numbers| numbers.next());
    match algorithm.unwrap_or(1) {
        1 => Ok(Checksum::Md5(digest)),
        8 => Ok(Checksum::Sha256(digest)),
        other => Err(format!("its checksum is of algorithm {other}, which is not computed")),
    }
}

/// `include/rpm/rpmtag.h` of rpm.
mod tag {
    pub(super) const NAME: u32 = 1000;
    pub(super) const VERSION: u32 = 1001;
    pub(super) const RELEASE: u32 = 1002;
    pub(super) const EPOCH: u32 = 1003;
    pub(super) const ARCH: u32 = 1022;
    pub(super) const FILEDIGESTS: u32 = 1035;
    pub(super) const DIRINDEXES: u32 = 1116;
    pub(super) const BASENAMES: u32 = 1117;
    pub(super) const DIRNAMES: u32 = 1118;
    pub(super) const FILEDIGESTALGO: u32 = 5011;
}

const SQLITE: &str = "rpmdb.sqlite";
/// What was not taken over into the database yet.
const JOURNAL: &str = "rpmdb.sqlite-wal";
/// Of Berkeley DB, and of ndb.
const OLDER: [&str; 2] = ["Packages", "Packages.db"];

#[cfg(test)]
mod tests;
