//! Writes a cpio archive in the format that the kernel unpacks as its first root file system.
//!
//! The kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`, format `newc`. Written
//! here since the archive needs a device node, which `cpio(1)` makes only for root.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Component, Path};

use anyhow::{Context as _, Result};

/// An archive that is being written.
pub(super) struct Archive<W> {
    output: W,
    /// Directories that are there already.
    directories: BTreeSet<String>,
    entries: u32,
    position: u64,
}

/// What an entry is besides its name and content.
#[derive(Clone, Copy)]
struct Kind {
    /// File type and permissions, as in `st_mode`.
    mode: u32,
    /// Major and minor number of a device.
    device: (u32, u32),
}

impl<W: Write> Archive<W> {
    /// An empty archive that goes to `output`.
    pub(super) fn new(output: W) -> Self {
        Self { output, directories: BTreeSet::new(), entries: 0, position: 0 }
    }

    /// Adds a directory and those above it.
    pub(super) fn directory(&mut self, path: &Path) -> Result<()> {
        let mut name = String::new();
        for component in path.components() {
            let Component::Normal(part) = component else { continue };
            if !name.is_empty() {
                name.push('/');
            }
            name.push_str(part.to_str().context("a path is no text")?);
            if self.directories.insert(name.clone()) {
                self.entry(&name, Kind { mode: 0o040_755, device: (0, 0) }, b"")?;
            }
        }
        Ok(())
    }

    /// Adds a file that everybody may read and, if so wished, run.
    pub(super) fn file(&mut self, path: &Path, is_program: bool, content: &[u8]) -> Result<()> {
        let mode = if is_program { 0o100_755 } else { 0o100_644 };
        self.below_its_directory(path, Kind { mode, device: (0, 0) }, content)
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &Path, target: &str) -> Result<()> {
        self.below_its_directory(path, Kind { mode: 0o120_777, device: (0, 0) }, target.as_bytes())
    }

    /// Adds a character device.
    pub(super) fn device(&mut self, path: &Path, major: u32, minor: u32) -> Result<()> {
        self.below_its_directory(path, Kind { mode: 0o020_600, device: (major, minor) }, b"")
    }

    /// Closes the archive.
    pub(super) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", Kind { mode: 0, device: (0, 0) }, b"")?;
        Ok(self.output)
    }

    fn below_its_directory(&mut self, path: &Path, kind: Kind, content: &[u8]) -> Result<()> {
        self.directory(path.parent().context("a file without a directory")?)?;
        let name = path.to_str().context("a path is no text")?.trim_start_matches('/');
        self.entry(name, kind, content)
    }

    fn entry(&mut self, name: &str, kind: Kind, content: &[u8]) -> Result<()> {
        self.entries = self.entries.saturating_add(1);
        let (major, minor) = kind.device;
        let size = u32::try_from(content.len()).context("a file of more than 4 GiB")?;
        let name_size = u32::try_from(name.len())?.saturating_add(1);
        // Inode, mode, owner, group, links, time, size, device of the file, device that it is, name,
        // checksum, which this format leaves at 0.
        let fields = [self.entries, kind.mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.write(b"070701")?;
        for field in fields {
            self.write(format!("{field:08x}").as_bytes())?;
        }
        self.write(name.as_bytes())?;
        self.write(b"\0")?;
        self.align()?;
        self.write(content)?;
        self.align()
    }

    /// Header with name, and content, each end at a multiple of four.
    fn align(&mut self) -> Result<()> {
        while !self.position.is_multiple_of(4) {
            self.write(b"\0")?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).context("write the archive")?;
        self.position = self.position.saturating_add(bytes.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_say_what_they_are() {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/a/init"), true, b"12345").unwrap();
        archive.device(Path::new("a/console"), 5, 1).unwrap();
        archive.link(Path::new("/b"), "a").unwrap();

        let bytes = archive.finish().unwrap();

        let entries = entries(&bytes);
        let expected = [
            ("a", 0o040_755, (0, 0), &b""[..]),
            ("a/init", 0o100_755, (0, 0), b"12345"),
            ("a/console", 0o020_600, (5, 1), b""),
            ("b", 0o120_777, (0, 0), b"a"),
            ("TRAILER!!!", 0, (0, 0), b""),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn a_directory_is_there_once_and_before_what_is_in_it() {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/x/y/one"), false, b"1").unwrap();
        archive.file(Path::new("/x/y/two"), false, b"2").unwrap();

        let bytes = archive.finish().unwrap();

        let names: Vec<&str> = entries(&bytes).iter().map(|(name, ..)| *name).collect();
        assert_eq!(names, ["x", "x/y", "x/y/one", "x/y/two", "TRAILER!!!"]);
    }

    type Entry<'a> = (&'a str, u32, (u32, u32), &'a [u8]);

    /// Reads an archive as the format says, in another way than it was written.
    fn entries(bytes: &[u8]) -> Vec<Entry<'_>> {
        let mut entries = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let field = |index: usize| {
                let start = at + 6 + index * 8;
                let text = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let name_end = at + 110 + field(11) as usize;
            let content = name_end.next_multiple_of(4);
            let content_end = content + field(6) as usize;
            let name = std::str::from_utf8(&bytes[at + 110..name_end - 1]).unwrap();
            entries.push((name, field(1), (field(9), field(10)), &bytes[content..content_end]));
            at = content_end.next_multiple_of(4);
        }
        entries
    }
}
