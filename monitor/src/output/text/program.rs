//! What runs, in a few words: its path, and where it comes from.

use std::os::unix::ffi::OsStrExt as _;

use crate::escape::text_from_bytes;
use crate::owner::{Integrity, Packaging, Process};

use super::line::Ink;

/// Behind the path of an executable that has none any more.
pub(super) const DELETED: &str = " (deleted)";

/// Behind the path of one that is not as its package installed it.
pub(super) const MODIFIED: &str = " (modified)";

/// The path of what runs, marked when it was deleted or modified.
pub(super) fn path(process: &Process) -> String {
    let path = process.executable.as_ref();
    let path = path.map(|path| text_from_bytes(path.as_os_str().as_bytes())).unwrap_or_default();
    format!("{path}{}", mark(process)).trim_start().to_owned()
}

/// An executable that was deleted or modified is alarming.
pub(super) fn ink(process: &Process) -> Ink {
    if mark(process).is_empty() { Ink::Plain } else { Ink::Alarming }
}

fn mark(process: &Process) -> &'static str {
    let package = process.packaging.package();
    if process.deleted {
        DELETED
    } else if package.is_some_and(|package| package.integrity == Integrity::Modified) {
        MODIFIED
    } else {
        ""
    }
}

/// The package, or why there is none; nothing where nothing is known.
pub(super) fn origin(process: &Process) -> Option<(Ink, String)> {
    match &process.packaging {
        Packaging::Package(package) => {
            let unverified = matches!(package.integrity, Integrity::Unverifiable(_));
            let unverified = if unverified { ", unverified" } else { "" };
            Some((Ink::Faint, format!("{}{unverified}", package.name)))
        }
        Packaging::NoPackage => Some((Ink::Notable, "no package".to_owned())),
        Packaging::Replaced(package) => {
            Some((Ink::Notable, format!("{} was upgraded since", package.name)))
        }
        // What was deleted says so already.
        Packaging::Unknown if process.on_host == Some(false) && !process.deleted => {
            Some((Ink::Notable, "not this host's file".to_owned()))
        }
        Packaging::Unknown => None,
    }
}
