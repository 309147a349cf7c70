//! dpkg: `info/NAME.list` has the files of a package, `info/NAME.md5sums` their checksums, `status` its
//! version, `diversions` which files lie elsewhere than their package says; see dpkg-query(1),
//! deb-md5sums(5), dpkg-divert(1).

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;

use super::{Checksum, Installed, Stamp, changed};
use crate::escape;
use crate::host::proc;
use crate::owner::PackageFormat;

/// A database of dpkg.
#[derive(Clone, Debug)]
pub(super) struct Dpkg {
    directory: PathBuf,
}

/// The file of a package that lies under another name, since a package `by` has taken its own.
struct Diversion {
    from: Vec<u8>,
    to: Vec<u8>,
    /// `:` for the administrator.
    by: Vec<u8>,
}

/// A paragraph of `status`.
#[derive(Default)]
struct Paragraph {
    package: Vec<u8>,
    version: Option<Vec<u8>>,
    architecture: Option<Vec<u8>>,
}

impl Dpkg {
    /// The one in this directory, which need not be there.
    pub(super) fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// There is one.
    pub(super) fn is_there(&self) -> bool {
        self.directory.join("status").is_file()
    }

    /// When it last changed.
    pub(super) fn stamp(&self) -> Stamp {
        ["info", "status", "diversions"].map(|name| changed(&self.directory.join(name))).to_vec()
    }

    /// The package that installed a file with one of these names; an error is in words.
    pub(super) fn owner_of(&self, names: &[PathBuf]) -> Result<Option<Installed>, String> {
        self.search(names).map_err(|error| format!("the dpkg database: {}", proc::words(&error)))
    }

    fn search(&self, names: &[PathBuf]) -> io::Result<Option<Installed>> {
        let mut names: Vec<Vec<u8>> =
            names.iter().map(|name| name.as_os_str().as_bytes().to_vec()).collect();
        let diversions = self.diversions()?;
        // Where a package has diverted this name, the file is its own, and no other's.
        let only = diversions.iter().find(|it| names.contains(&it.from)).map(|it| &it.by);
        // Where the file was diverted to this name, its package knows it by the former.
        let diverted = diversions.iter().find(|it| names.contains(&it.to));
        names.extend(diverted.map(|it| it.from.clone()));
        let not = diverted.map(|it| &it.by);
        let mut packages = self.packages_with(&names)?;
        packages.retain(|package| {
            let package = name(package);
            only.is_none_or(|only| package == only.as_slice())
                && not.is_none_or(|not| package != not.as_slice())
        });
        // Of several (the same file of two architectures) always the same one.
        let Some(package) = packages.into_iter().min() else { return Ok(None) };
        let checksum = self.checksum(&package, &names);
        let Paragraph { version, architecture, .. } = self.paragraph(&package)?;
        let text = |bytes: &[u8]| escape::text_from_bytes(bytes).into_owned();
        Ok(Some(Installed {
            format: PackageFormat::Dpkg,
            name: text(name(&package)),
            version: version.as_deref().map(text),
            architecture: architecture.as_deref().map(text),
            checksum,
        }))
    }

    /// Names of the packages that list a file with one of these names: `NAME` or `NAME:ARCHITECTURE`.
    fn packages_with(&self, names: &[Vec<u8>]) -> io::Result<Vec<Vec<u8>>> {
        let ends = names.iter().filter_map(|name| name.rsplit(|&byte| byte == b'/').next());
        let ends = ends.map(|end| Finder::new(&[b"/", end, b"\n"].concat()).into_owned());
        let mut ends: Vec<Finder<'static>> = ends.collect();
        ends.dedup_by(|one, other| one.needle() == other.needle());
        let mut packages = Vec::new();
        let mut list = Vec::new();
        for entry in fs::read_dir(self.directory.join("info"))? {
            let file = entry?.file_name();
            let Some(package) = file.as_bytes().strip_suffix(b".list") else { continue };
            read(&self.info(package, "list"), &mut list)?;
            // The last line may lack its end.
            list.push(b'\n');
            if ends.iter().any(|end| has_line(&list, end, names)) {
                packages.push(package.to_vec());
            }
        }
        Ok(packages)
    }

    /// What the package has installed under one of these names.
    fn checksum(&self, package: &[u8], names: &[Vec<u8>]) -> Result<Checksum, String> {
        let mut sums = Vec::new();
        match read(&self.info(package, "md5sums"), &mut sums) {
            Err(error) if proc::is_gone(&error) => {}
            read => read.map_err(|error| format!("its checksums: {}", proc::words(&error)))?,
        }
        // `MD5  usr/bin/x`
        let sum = sums.split(|&byte| byte == b'\n').find_map(|line| {
            let (sum, name) = line.split_at_checked(32)?;
            let name = name.strip_prefix(b"  ")?;
            let is_it = |known: &Vec<u8>| known.strip_prefix(b"/") == Some(name);
            names.iter().any(is_it).then_some(sum)
        });
        let sum = sum.and_then(|sum| std::str::from_utf8(sum).ok());
        let sum = sum.filter(|sum| sum.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let none = "the package has no checksum of it";
        sum.map(|sum| Checksum::Md5(sum.to_ascii_lowercase())).ok_or_else(|| none.to_owned())
    }

    /// What `status` says of an installed package; nothing if it does not have it.
    fn paragraph(&self, package: &[u8]) -> io::Result<Paragraph> {
        let of_architecture = package.split(|&byte| byte == b':').nth(1);
        let status = File::open(self.directory.join("status"))?.take(STATUS_BYTES);
        let mut paragraph = Paragraph::default();
        let mut lines = BufReader::with_capacity(64 << 10, status);
        let mut line = Vec::new();
        loop {
            line.clear();
            let at_end = lines.read_until(b'\n', &mut line)? == 0;
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            if line.is_empty() {
                // There is one for each architecture.
                let architecture_fits = of_architecture.is_none()
                    || paragraph.architecture.as_deref() == of_architecture;
                if paragraph.package == name(package) && architecture_fits {
                    return Ok(paragraph);
                }
                paragraph = Paragraph::default();
            } else if let Some(value) = line.strip_prefix(b"Package: ") {
                paragraph.package = value.to_vec();
            } else if let Some(value) = line.strip_prefix(b"Version: ") {
                paragraph.version = Some(value.to_vec());
            } else if let Some(value) = line.strip_prefix(b"Architecture: ") {
                paragraph.architecture = Some(value.to_vec());
            }
            if at_end {
                return Ok(Paragraph::default());
            }
        }
    }

    /// Three lines each: the name, where the file is instead, the package that has taken the name.
    fn diversions(&self) -> io::Result<Vec<Diversion>> {
        let mut text = Vec::new();
        match read(&self.directory.join("diversions"), &mut text) {
            Err(error) if proc::is_gone(&error) => return Ok(Vec::new()),
            read => read?,
        }
        let lines: Vec<_> = text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        let (triples, _) = lines.as_chunks::<3>();
        let diversion = |[from, to, by]: &[Vec<u8>; 3]| Diversion {
            from: from.clone(),
            to: to.clone(),
            by: by.clone(),
        };
        Ok(triples.iter().map(diversion).collect())
    }

    fn info(&self, package: &[u8], kind: &str) -> PathBuf {
        let mut file = std::ffi::OsStr::from_bytes(package).to_owned();
        file.push(".");
        file.push(kind);
        self.directory.join("info").join(file)
    }
}

/// The name of a package without its architecture.
fn name(package: &[u8]) -> &[u8] {
    package.split(|&byte| byte == b':').next().unwrap_or(package)
}

/// One of the lines is one of the names, all of which end as `end` says.
fn has_line(list: &[u8], end: &Finder<'_>, names: &[Vec<u8>]) -> bool {
    end.find_iter(list).any(|at| {
        let before = list.get(..at).unwrap_or_default();
        let begin = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let line_end = at.saturating_add(end.needle().len()).saturating_sub(1);
        list.get(begin..line_end).is_some_and(|line| names.iter().any(|name| name == line))
    })
}

/// Reads a whole file in place of what is there. One too large to be read is an error: an answer without
/// it could be wrong.
fn read(path: &Path, into: &mut Vec<u8>) -> io::Result<()> {
    into.clear();
    let length = File::open(path)?.take(FILE_BYTES).read_to_end(into)?;
    if u64::try_from(length).is_ok_and(|length| length == FILE_BYTES) {
        return Err(io::Error::other(format!("{} is too large", path.display())));
    }
    Ok(())
}

/// The longest lists, of kernel headers and documentation, have some megabytes.
const FILE_BYTES: u64 = 64 << 20;
/// `status` has some kilobytes for each package.
const STATUS_BYTES: u64 = 1 << 30;

#[cfg(test)]
mod tests;
