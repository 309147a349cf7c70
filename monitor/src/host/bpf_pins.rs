//! Under which paths BPF programs, or links of them, are pinned: who has put one there can be gone.
//!
//! Opening a pinned object takes `CAP_BPF` and, of what others have pinned, the right to its file.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::bpf_holders::program;
use crate::sys;

/// Finds the paths at which programs are pinned in the usual place, by the numbers of these; none where no BPF
/// file system is mounted there. Foreign text: escape before showing.
pub fn find() -> BTreeMap<u32, Vec<PathBuf>> {
    let mut found: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
    let mut left = OBJECTS;
    visit(Path::new(ROOT), DEPTH, &mut left, &mut |path| {
        if let Ok(Some(id)) = program_at(path) {
            found.entry(id).or_default().push(path.to_owned());
        }
    });
    found
}

fn visit(directory: &Path, depth: u32, left: &mut u32, see: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().map_while(Result::ok) {
        if *left == 0 {
            return;
        }
        *left -= 1;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => visit(&entry.path(), depth - 1, left, see),
            // What is no object of the BPF file system is refused when it is opened.
            Ok(kind) if kind.is_file() => see(&entry.path()),
            _ => {}
        }
    }
}

/// The number of the program that is pinned at a path, or of which a link is.
fn program_at(path: &Path) -> io::Result<Option<u32>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let object = sys::bpf::open_pin(&path)?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd()))?;
    Ok(program(&info))
}

/// Where the BPF file system is by convention.
const ROOT: &str = "/sys/fs/bpf";
/// Files and directories looked at, and how deep they lie.
const OBJECTS: u32 = 4096;
const DEPTH: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_gone_through_as_deep_and_as_far_as_it_may_be() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        for file in [root.path().join("one"), root.path().join("a/two"), deep.join("three")] {
            std::fs::write(file, "").unwrap();
        }
        std::os::unix::fs::symlink("/", root.path().join("loop")).unwrap();
        let seen = |depth, mut left| {
            let mut names = Vec::new();
            visit(root.path(), depth, &mut left, &mut |path| {
                names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
            });
            names.sort();
            names
        };

        assert_eq!(seen(8, 100), ["one", "three", "two"]);
        assert_eq!(seen(0, 100), ["one"]);
        assert!(seen(8, 1).len() <= 1);
    }

    #[test]
    fn a_file_that_is_no_bpf_object_is_none() {
        let file = tempfile::NamedTempFile::new().unwrap();

        assert!(program_at(file.path()).is_err());
    }
}
