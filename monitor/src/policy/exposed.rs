//! Whether others than root could put something else in the place of an executable.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::escape;

/// Written by its group or by everybody, and the bit that keeps others from removing files.
const WRITABLE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why others than root, and than who runs it, could change what is at this path, if they can.
pub fn exposed(path: &Path, runs_as: Option<u32>) -> Option<String> {
    let trusted = |file: &Metadata| file.uid() == 0 || Some(file.uid()) == runs_as;
    let complaint = |of: &Path, what: &str, file: &Metadata| {
        let path = escape::escape_bytes(of.as_os_str().as_encoded_bytes());
        let mode = file.mode() & 0o7777;
        if trusted(file) {
            Some(format!("others than root can write {what}{path} (mode {mode:04o})"))
        } else {
            Some(format!("{what}{path} belongs to uid {}, neither root nor its user", file.uid()))
        }
    };
    for (depth, part) in path.ancestors().enumerate() {
        let file = match fs::symlink_metadata(part) {
            Ok(file) => file,
            Err(error) => {
                let part = escape::escape_bytes(part.as_os_str().as_encoded_bytes());
                return Some(format!("who can write {part} could not be read: {error}"));
            }
        };
        let what = if depth == 0 { "" } else { "its directory " };
        // In a directory further up others can make files, not replace what is root's.
        let is_kept = depth > 1 && file.mode() & STICKY != 0;
        if !trusted(&file) || file.mode() & WRITABLE != 0 && !is_kept {
            return complaint(part, what, &file);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    #[test]
    fn what_only_root_and_its_user_can_write_is_not_exposed() {
        let (_lab, file) = program();

        assert_eq!(exposed(&file, None), None);
        if rustix::process::geteuid().is_root() {
            chown(&file, Some(1234), None).unwrap();
            assert_eq!(exposed(&file, Some(1234)), None);
            let why = exposed(&file, Some(1)).unwrap();
            assert!(why.ends_with("belongs to uid 1234, neither root nor its user"), "{why}");
        }
    }

    #[test]
    fn what_others_can_write_or_replace_is() {
        let (lab, file) = program();
        fs::set_permissions(&file, Permissions::from_mode(0o775)).unwrap();
        let why = exposed(&file, None).unwrap();
        assert_eq!(why, format!("others than root can write {} (mode 0775)", file.display()));

        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(lab.path(), Permissions::from_mode(0o1777)).unwrap();
        let why = exposed(&file, None).unwrap();
        assert!(why.starts_with("others than root can write its directory "), "{why}");
    }

    #[test]
    fn what_is_not_there_cannot_be_trusted() {
        let why = exposed(Path::new("/no/such/program"), None).unwrap();
        assert!(why.starts_with("who can write /no/such/program could not be read"), "{why}");
    }

    fn program() -> (tempfile::TempDir, std::path::PathBuf) {
        let lab = tempfile::tempdir().unwrap();
        let file = lab.path().join("program");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        (lab, file)
    }
}
