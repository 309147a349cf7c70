//! What was changed is found, and whoever made the directory or archive leads us nowhere.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::clock::Clock;
use crate::evidence::archive;
use crate::evidence::manifest::Header as About;
use crate::evidence::store::Store;
use crate::host::artifacts::Content;

/// Two files and their manifest, as a directory and as an archive.
struct Evidence {
    lab: TempDir,
}

impl Evidence {
    fn new() -> Self {
        let lab = tempfile::tempdir().unwrap();
        let mut store = Store::create(&lab.path().join("case"), Clock::of_host()).unwrap();
        for (path, bytes) in [("one", &b"first"[..]), ("a/two", b"second")] {
            store.put(path, "a test", &Content { bytes: bytes.to_vec(), cut: None });
        }
        let finished = store.finish(About::default()).unwrap();
        let file = File::create(lab.path().join("case.tar")).unwrap();
        archive::write(&finished, "case", 7, file).unwrap();
        Self { lab }
    }

    fn directory(&self, path: &str) -> PathBuf {
        self.lab.path().join("case").join(path)
    }

    fn archive(&self) -> PathBuf {
        self.lab.path().join("case.tar")
    }

    fn of_directory(&self) -> Vec<String> {
        verify(&self.directory("")).unwrap().differences
    }

    fn of_archive(&self) -> Vec<String> {
        verify(&self.archive()).unwrap().differences
    }

    fn manifest(&self) -> Vec<u8> {
        fs::read(self.directory(NAME)).unwrap()
    }

    /// Another archive instead: the manifest, the two files, and what is given.
    fn pack(&self, more: &[(Header, &[u8])]) {
        let mut archive = Builder::new(File::create(self.archive()).unwrap());
        let manifest = self.manifest();
        let files = [(NAME, &*manifest), ("one", b"first"), ("a/two", b"second")];
        let files = files.map(|(path, bytes)| (regular(&format!("case/{path}"), bytes), bytes));
        for (header, bytes) in files
            .iter()
            .map(|(header, bytes)| (header, *bytes))
            .chain(more.iter().map(|(header, bytes)| (header, *bytes)))
        {
            archive.append(header, bytes).unwrap();
        }
        archive.finish().unwrap();
    }
}

#[test]
fn what_nobody_touched_is_intact_and_both_have_the_same_manifest() {
    let evidence = Evidence::new();

    let (directory, archive) = (verify(&evidence.directory("")), verify(&evidence.archive()));

    let (directory, archive) = (directory.unwrap(), archive.unwrap());
    assert_eq!((directory.differences, archive.differences), (vec![], vec![]));
    assert_eq!(directory.sha256, archive.sha256);
    assert_eq!(archive.manifest.items.len(), 2);
    evidence.pack(&[]);
    assert!(evidence.of_archive().is_empty(), "what the other tests add to is intact");
}

#[test]
fn a_byte_a_length_a_file_more_and_a_file_less_are_found() {
    let evidence = Evidence::new();
    fs::write(evidence.directory("one"), "First").unwrap();
    fs::write(evidence.directory("a/two"), "seconds").unwrap();
    fs::write(evidence.directory("a/three"), "").unwrap();
    fs::create_dir(evidence.directory("b")).unwrap();
    fs::write(evidence.directory("b/\u{1b}[2J"), "").unwrap();

    let mut differences = evidence.of_directory();
    differences.sort();

    assert_eq!(differences.len(), 4, "{differences:?}");
    assert_eq!(differences[..2], ["added: a/three", r"added: b/\x1b[2J"]);
    assert_eq!(differences[2], "changed: a/two has 7 bytes, not 6");
    assert!(differences[3].starts_with("changed: one has the SHA-256 "), "{differences:?}");
    fs::remove_file(evidence.directory("one")).unwrap();
    assert!(evidence.of_directory().contains(&"missing: one".to_owned()));
}

#[test]
fn a_link_a_pipe_or_a_directory_in_place_of_a_file_is_not_followed() {
    let evidence = Evidence::new();
    fs::write(evidence.lab.path().join("outside"), "first").unwrap();
    fs::remove_file(evidence.directory("one")).unwrap();
    symlink("../outside", evidence.directory("one")).unwrap();
    assert_eq!(evidence.of_directory(), ["changed: one is a link"]);

    fs::remove_file(evidence.directory("one")).unwrap();
    fs::create_dir(evidence.directory("one")).unwrap();
    assert_eq!(evidence.of_directory(), ["missing: one"]);

    fs::remove_dir(evidence.directory("one")).unwrap();
    rustix::fs::mknodat(CWD, evidence.directory("one"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(evidence.of_directory(), ["changed: one is no file"]);
}

#[test]
fn a_directory_that_became_a_link_or_a_manifest_that_is_one_is_not_followed() {
    let evidence = Evidence::new();
    fs::rename(evidence.directory("a"), evidence.lab.path().join("elsewhere")).unwrap();
    symlink("../elsewhere", evidence.directory("a")).unwrap();
    assert_eq!(evidence.of_directory(), ["changed: a is a link", "missing: a/two"]);

    fs::rename(evidence.directory(NAME), evidence.lab.path().join("manifest")).unwrap();
    symlink("../manifest", evidence.directory(NAME)).unwrap();
    assert!(verify(&evidence.directory("")).unwrap_err().starts_with("manifest.json: "));
}

#[test]
fn what_is_no_evidence_is_said_to_be_none() {
    let lab = tempfile::tempdir().unwrap();
    let at = |name: &str| lab.path().join(name);
    fs::write(at("text"), "hello").unwrap();
    fs::write(at("empty"), "").unwrap();
    rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();

    for (name, why) in [
        ("", "manifest.json: "),
        ("text", "no archive of portwatch"),
        ("empty", "it has no manifest.json"),
        ("pipe", "neither a directory nor an archive"),
        ("none", "No such file"),
    ] {
        let error = verify(&at(name)).unwrap_err();
        assert!(error.contains(why), "{name}: {error}");
    }
}

#[test]
fn every_truncation_of_an_archive_is_found_without_a_panic() {
    let evidence = Evidence::new();
    let whole = fs::read(evidence.archive()).unwrap();
    let content = whole.len() - 1024;
    for length in (0..content).step_by(97) {
        fs::write(evidence.archive(), &whole[..length]).unwrap();

        let verified = verify(&evidence.archive());

        let is_found = verified.as_ref().map_or(true, |it| !it.differences.is_empty());
        assert!(is_found, "{length} of {} bytes: {verified:?}", whole.len());
    }
}

#[test]
fn every_changed_byte_of_a_file_in_an_archive_is_found() {
    let evidence = Evidence::new();
    let whole = fs::read(evidence.archive()).unwrap();
    let start = whole.windows(6).rposition(|part| part == b"second").unwrap();
    for position in start..start + 6 {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        fs::write(evidence.archive(), changed).unwrap();

        let differences = evidence.of_archive();

        assert!(differences[0].starts_with("changed: a/two has the SHA-256"), "{differences:?}");
    }
}

#[test]
fn entries_that_lead_out_link_or_come_twice_are_differences() {
    let table: [(&str, EntryType, &str); 9] = [
        ("case/../../etc/passwd", EntryType::Regular, "added: case/../../etc/passwd"),
        ("/etc/passwd", EntryType::Regular, "added: /etc/passwd"),
        ("other/one", EntryType::Regular, "added: other/one"),
        ("case/one", EntryType::Regular, "added: one"),
        ("case/three", EntryType::Regular, "added: three"),
        ("case/link", EntryType::Symlink, "changed: link is no file"),
        ("case/link", EntryType::Link, "changed: link is no file"),
        ("case/long", EntryType::GNULongName, "changed: long is no file"),
        ("case/pax", EntryType::XHeader, "changed: pax is no file"),
    ];
    let evidence = Evidence::new();
    for (path, kind, expected) in table {
        let mut header = regular(path, b"");
        header.set_entry_type(kind);
        header.set_cksum();
        evidence.pack(&[(header, b"")]);

        assert_eq!(evidence.of_archive(), [expected], "{path} {kind:?}");
    }
}

#[test]
fn a_program_that_could_be_run_and_a_size_that_lies_are_differences() {
    let evidence = Evidence::new();
    let manifest = evidence.manifest();
    let mut archive = Builder::new(File::create(evidence.archive()).unwrap());
    archive.append(&regular("case/manifest.json", &manifest), &*manifest).unwrap();
    let mut program = regular("case/one", b"first");
    program.set_mode(0o4755);
    program.set_cksum();
    archive.append(&program, &b"first"[..]).unwrap();
    let mut huge = regular("case/a/two", b"");
    huge.set_size(1 << 60);
    huge.set_cksum();
    archive.append(&huge, &b"second"[..]).unwrap();
    archive.finish().unwrap();

    let differences = evidence.of_archive();

    assert_eq!(differences[0], "changed: one has the mode 4755");
    assert!(differences[1].starts_with("changed: a/two has 1152921504606846976 bytes"));
}

#[test]
fn a_manifest_that_does_not_come_first_or_is_hostile_is_none() {
    let evidence = Evidence::new();
    let pack = |files: &[(&str, &[u8])]| {
        let mut archive = Builder::new(File::create(evidence.archive()).unwrap());
        for (path, bytes) in files {
            archive.append(&regular(path, bytes), *bytes).unwrap();
        }
        archive.finish().unwrap();
        verify(&evidence.archive()).unwrap_err()
    };
    let manifest = evidence.manifest();
    let hostile = String::from_utf8(manifest.clone()).unwrap().replace("a/two", "../two");

    assert!(pack(&[("case/one", b"first"), ("case/manifest.json", &manifest)]).contains("first"));
    assert!(pack(&[("case/a/manifest.json", &manifest)]).contains("does not come first"));
    let error = pack(&[("case/manifest.json", hostile.as_bytes())]);
    assert!(error.contains("names ../two, which is no path in it"), "{error}");
}

#[test]
fn what_stands_behind_the_end_of_an_archive_is_found() {
    let evidence = Evidence::new();
    let mut file = File::options().append(true).open(evidence.archive()).unwrap();
    file.write_all(&[0; 10_240]).unwrap();
    assert!(evidence.of_archive().is_empty());

    file.write_all(b"more").unwrap();

    assert_eq!(evidence.of_archive(), ["added: something behind the end of the archive"]);
}

/// The header of a file; whatever its path is.
fn regular(path: &str, bytes: &[u8]) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    header
}
