//! What was preserved, in a few lines, or as one of JSON.

use std::path::Path;

use serde_json::json;

use super::manifest;
use super::selection::Seen;
use super::store::Finished;
use crate::cli::{Evidence, Format, Selection};
use crate::escape;

/// What is said about.
#[derive(Debug)]
pub(super) struct Summary<'a> {
    pub(super) args: &'a Evidence,
    pub(super) seen: &'a Seen,
    /// The processes, as they are shown.
    pub(super) names: &'a [String],
}

impl Summary<'_> {
    /// The text for stdout; `archive` with its hash, if there is one.
    pub(super) fn text(
        &self,
        finished: &Finished,
        directory: &Path,
        archive: Option<(&Path, String)>,
    ) -> String {
        match self.args.format {
            Format::Json => self.json(finished, directory, archive),
            Format::Text => self.lines(finished, directory, archive),
        }
    }

    fn json(
        &self,
        finished: &Finished,
        directory: &Path,
        archive: Option<(&Path, String)>,
    ) -> String {
        let path =
            |path: &Path| escape::text_from_bytes(path.as_os_str().as_encoded_bytes()).into_owned();
        let (archive, archive_sha256) = archive.unzip();
        let summary = json!({
            "directory": path(directory),
            "manifest_sha256": finished.sha256,
            "archive": archive.map(path),
            "archive_sha256": archive_sha256,
            "listeners": self.seen.listeners,
            "flows": self.seen.flows,
            "findings": self.seen.findings,
            "processes": self.names.len(),
            "files": finished.manifest.items.len(),
            "bytes": finished.bytes,
            "missing": finished.manifest.missing.len(),
        });
        format!("{}\n", escape::in_json(&summary.to_string()))
    }

    fn lines(
        &self,
        finished: &Finished,
        directory: &Path,
        archive: Option<(&Path, String)>,
    ) -> String {
        let (seen, ports) = (self.seen, self.args.common().ports());
        let path = |path: &Path| escape::quote(&path.to_string_lossy()).into_owned();
        let mut lines = vec![if seen.is_nothing() {
            format!("nothing on the port ({ports}); the tables are preserved")
        } else {
            let counts = [
                (seen.listeners, "listener"),
                (seen.flows, "connection"),
                (seen.portless, "socket without a port"),
                (seen.findings, "finding"),
            ];
            let counts = counts.iter().filter(|(count, what)| *count > 0 || *what == "finding");
            let counts: Vec<String> = counts.map(|(count, what)| plural(*count, what)).collect();
            format!("on {ports}: {}", counts.join(", "))
        }];
        if !seen.is_selected && self.args.selection() != Selection::Ports {
            lines.push("of what was selected there is nothing on the port".to_owned());
        }
        if !self.names.is_empty() {
            let more = self.names.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let some: Vec<&str> = self.names.iter().take(NAMED).map(String::as_str).collect();
            lines.push(format!("processes  {}{more}", some.join(", ")));
        }
        let (items, missing) = (finished.manifest.items.len(), finished.manifest.missing.len());
        let kibibytes = finished.bytes.div_ceil(1 << 10);
        lines.push(format!("files      {items}, {kibibytes} KiB, in {}", path(directory)));
        lines.push(format!("missing    {missing}; {} says what and why", manifest::NAME));
        if let Some((archive, sha256)) = archive {
            lines.push(format!("archive    {}, sha256 {sha256}", path(archive)));
        }
        lines.push(format!("sha256 of {}: {}\n", manifest::NAME, finished.sha256));
        lines.join("\n")
    }
}

fn plural(count: u64, what: &str) -> String {
    match (count, what.split_once(' ')) {
        (1, _) => format!("1 {what}"),
        (count, Some((noun, rest))) => format!("{count} {noun}s {rest}"),
        (count, None) => format!("{count} {what}s"),
    }
}

/// Processes named.
const NAMED: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_not_many() {
        assert_eq!(plural(0, "finding"), "0 findings");
        assert_eq!(plural(1, "socket without a port"), "1 socket without a port");
        assert_eq!(plural(2, "socket without a port"), "2 sockets without a port");
    }
}
