//! The names one file has: `/usr/bin/bash` is also `/bin/bash` where `/bin` leads to `/usr/bin`, and a
//! package may have installed it under either.

use std::fs;
use std::path::{Path, PathBuf};

/// Directories of this host that are links to others.
#[derive(Clone, Debug, Default)]
pub(super) struct Spellings {
    /// The link, and what it leads to in the end.
    links: Vec<(PathBuf, PathBuf)>,
}

impl Spellings {
    /// Those that merging `/usr` has made, on this host.
    pub(super) fn of_host() -> Self {
        let links = MERGED.iter().map(PathBuf::from).filter(|link| link.is_symlink());
        let leads = |link: PathBuf| Some((fs::canonicalize(&link).ok()?, link));
        Self { links: links.filter_map(leads).map(|(target, link)| (link, target)).collect() }
    }

    /// All names of a file, that without links first.
    pub(super) fn of(&self, path: &Path) -> Vec<PathBuf> {
        let other =
            |(link, target): &(PathBuf, PathBuf)| Some(link.join(path.strip_prefix(target).ok()?));
        let others = self.links.iter().filter_map(other);
        std::iter::once(path.to_owned()).chain(others).collect()
    }
}

/// What distributions have merged: everything into `/usr`, and `sbin` into `bin`.
const MERGED: [&str; 9] =
    ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libo32", "/libx32", "/usr/sbin", "/usr/lib64"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_name_through_each_link_to_its_directory() {
        let links = [("/bin", "/usr/bin"), ("/sbin", "/usr/bin"), ("/lib64", "/usr/lib64")];
        let links = links.map(|(link, target)| (link.into(), target.into())).to_vec();
        let spellings = Spellings { links };
        let table: [(&str, &[&str]); 4] = [
            ("/usr/bin/bash", &["/usr/bin/bash", "/bin/bash", "/sbin/bash"]),
            ("/usr/lib64/x/y", &["/usr/lib64/x/y", "/lib64/x/y"]),
            ("/usr/binx/bash", &["/usr/binx/bash"]),
            ("/opt/x", &["/opt/x"]),
        ];
        for (path, expected) in table {
            let expected: Vec<_> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(spellings.of(Path::new(path)), expected);
        }
    }
}
