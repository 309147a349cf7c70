//! What was preserved and what could not be: `manifest.json`, by which everything else is verified.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::escape;

/// The name of the manifest.
pub(super) const NAME: &str = "manifest.json";
const FORMAT: &str = "portwatch-evidence";
const VERSION: u32 = 1;

/// The manifest.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Manifest {
    format: String,
    version: u32,
    #[serde(flatten)]
    pub(super) header: Header,
    /// Every file but the manifest itself, in the order in which it was obtained.
    pub(super) items: Vec<Item>,
    /// What could not be obtained.
    pub(super) missing: Vec<Missing>,
}

/// How it came about. Times are RFC 3339 in UTC, by the clock of the host.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Header {
    pub(super) portwatch: Tool,
    pub(super) run_id: String,
    pub(super) host: Host,
    pub(super) arguments: Vec<String>,
    pub(super) ports: String,
    pub(super) selection: String,
    pub(super) by: Operator,
    pub(super) started: String,
    pub(super) ended: String,
}

/// The program that preserved it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Tool {
    pub(super) version: String,
    pub(super) sha256: Option<String>,
}

/// Where that was.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) machine_id: Option<String>,
    pub(super) boot_id: Option<String>,
    pub(super) kernel: String,
}

/// Who ran it, as the kernel knows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Operator {
    pub(super) uid: Option<u32>,
    pub(super) user: Option<String>,
    /// Who logged in, whatever he has become since.
    pub(super) login: Option<String>,
    pub(super) terminal: Option<String>,
    /// The programs it was started by, nearest first.
    pub(super) parents: Vec<String>,
}

/// A file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Item {
    pub(super) path: String,
    pub(super) sha256: String,
    pub(super) size: u64,
    /// The file of the host it is a copy of, or what was asked.
    pub(super) source: String,
    pub(super) obtained: String,
    /// What is missing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cut: Option<String>,
}

/// Something that could not be obtained.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Missing {
    pub(super) what: String,
    pub(super) reason: String,
}

impl Manifest {
    /// Of these files.
    pub(super) fn new(header: Header, items: Vec<Item>, missing: Vec<Missing>) -> Self {
        Self { format: FORMAT.to_owned(), version: VERSION, header, items, missing }
    }

    /// As it is written: JSON for people, in which nothing deceives.
    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        let json = serde_json::to_string_pretty(self)?;
        Ok(format!("{}\n", escape::in_json(&json)))
    }

    /// Reads one, whoever has written it; an error is in words.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("{NAME}: {error}"))?;
        if manifest.format != FORMAT {
            return Err(format!("{NAME} is not one of portwatch"));
        }
        if manifest.version != VERSION {
            let version = manifest.version;
            return Err(format!("{NAME} is of version {version}, this portwatch reads {VERSION}"));
        }
        let mut paths = BTreeSet::new();
        for Item { path, .. } in &manifest.items {
            if !is_safe(path) || path == NAME {
                return Err(format!("{NAME} names {}, which is no path in it", shown(path)));
            }
            if !paths.insert(path) {
                return Err(format!("{NAME} names {path} twice"));
            }
        }
        Ok(manifest)
    }
}

/// It leads to nowhere else, and shows as what it is.
pub(super) fn is_safe(path: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_name = |name: &str| {
        !name.is_empty() && ![".", ".."].contains(&name) && name.bytes().all(is_letter)
    };
    path.len() <= MAX_PATH && path.split('/').count() <= MAX_DEPTH && path.split('/').all(is_name)
}

/// A name that others chose, in a line.
pub(super) fn shown(name: &str) -> String {
    escape::truncate(name, MAX_SHOWN).into_owned()
}

const MAX_PATH: usize = 200;
/// Names in a path.
pub(super) const MAX_DEPTH: usize = 4;
const MAX_SHOWN: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_safe() {
        for path in ["a", "a/b", "processes/12-34/attr-current", "executables/0f", "..a", "a..b"] {
            assert!(is_safe(path), "{path}");
        }
        let unsafe_paths = [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "../a",
            "a/../b",
            ".",
            "./a",
            "a b",
            "a\0",
            "a\n",
            "ä",
            "a\\b",
            "a/b/c/d/e",
        ];
        for path in unsafe_paths {
            assert!(!is_safe(path), "{path:?}");
        }
        assert!(!is_safe(&"a".repeat(201)));
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_and_shows_nothing_that_deceives() {
        let header = Header { selection: "a\u{202e}b\u{1b}".to_owned(), ..Header::default() };
        let manifest = Manifest::new(header, vec![item("a/b")], Vec::new());

        let json = manifest.to_json().unwrap();

        assert!(json.contains(r"a\u202eb\u001b"), "{json}");
        assert_eq!(Manifest::parse(json.as_bytes()), Ok(manifest));
    }

    #[test]
    fn a_manifest_of_somebody_else_or_with_odd_paths_is_none() {
        let parse = |items, format: &str, version| {
            let header = Header::default();
            let manifest = Manifest {
                format: format.to_owned(),
                version,
                ..Manifest::new(header, items, vec![])
            };
            Manifest::parse(manifest.to_json().unwrap().as_bytes()).map(drop).unwrap_err()
        };

        assert!(parse(vec![], "other", 1).contains("not one of portwatch"));
        assert!(parse(vec![], FORMAT, 2).contains("version 2"));
        assert!(parse(vec![item("../a")], FORMAT, 1).contains("names ../a, which is no path"));
        assert!(parse(vec![item(NAME)], FORMAT, 1).contains("no path"));
        assert!(parse(vec![item("a"), item("a")], FORMAT, 1).contains("names a twice"));
        assert!(Manifest::parse(b"{").is_err() && Manifest::parse(b"\xff").is_err());
    }

    fn item(path: &str) -> Item {
        let (sha256, source, obtained) = (String::new(), String::new(), String::new());
        Item { path: path.to_owned(), sha256, size: 0, source, obtained, cut: None }
    }
}
