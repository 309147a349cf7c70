//! Which files of this host a glob matches: looked for, bounded, without following links.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Entries looked at before the search is given up.
const MAX_ENTRIES: usize = 200_000;

/// Directories in which there are no programs of this host.
const ELSEWHERE: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What a search has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files that can be executed, sorted.
    pub(super) programs: Vec<PathBuf>,
    /// There may be more: it was given up.
    pub(super) is_cut: bool,
}

/// The programs below the part of `glob` that has no wildcard, of those that `matches` takes.
pub(super) fn programs(glob: &str, matches: &impl Fn(&Path) -> bool) -> Found {
    let mut found = Found::default();
    let mut directories = vec![start(glob)];
    let depth = (!glob.contains("**")).then(|| Path::new(glob).components().count());
    let mut entries = 0_usize;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            entries = entries.saturating_add(1);
            if entries > MAX_ENTRIES {
                found.is_cut = true;
                found.programs.sort();
                return found;
            }
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            let is_deep = depth.is_some_and(|depth| path.components().count() >= depth);
            if kind.is_dir() && !is_deep && !ELSEWHERE.iter().any(|it| path == Path::new(it)) {
                directories.push(path);
            } else if kind.is_file() && matches(&path) && is_executable(&path) {
                found.programs.push(path);
            }
        }
    }
    found.programs.sort();
    found
}

/// The directory that a glob begins with.
fn start(glob: &str) -> PathBuf {
    let wildcard = glob.find(['*', '?', '[', '{', '\\']).unwrap_or(glob.len());
    let literal = glob.get(..wildcard).unwrap_or_default();
    let directory = literal.rfind('/').and_then(|slash| literal.get(..=slash));
    PathBuf::from(directory.unwrap_or("/"))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn a_search_begins_where_the_wildcards_do() {
        let table = [
            ("/usr/bin/*sh", "/usr/bin/"),
            ("/usr/**", "/usr/"),
            ("/*", "/"),
            ("/opt/{a,b}/x", "/opt/"),
            ("/opt/x", "/opt/"),
        ];
        for (glob, directory) in table {
            assert_eq!(start(glob), Path::new(directory), "{glob}");
        }
    }

    #[test]
    fn only_programs_are_found_and_only_as_deep_as_the_glob_goes() {
        let lab = tempfile::tempdir().unwrap();
        let root = lab.path();
        fs::create_dir(root.join("deep")).unwrap();
        for (name, mode) in [("a", 0o755), ("b", 0o644), ("deep/a", 0o755)] {
            fs::write(root.join(name), "").unwrap();
            fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();

        let shallow = programs(&format!("{}/*", root.display()), &|_: &Path| true);
        let all = programs(&format!("{}/**", root.display()), &|_: &Path| true);

        assert_eq!(shallow.programs, [root.join("a")]);
        assert_eq!(all.programs, [root.join("a"), root.join("deep/a")]);
        assert!(!all.is_cut);
    }
}
