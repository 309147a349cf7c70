//! Copies of what processes run, read through `/proc/PID/exe`: also of what was deleted or never had a name.
//! Each is kept once, under its SHA-256, and can never be run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::in_time;
use super::manifest::Item;
use super::processes::SILENT;
use super::store::{Part, Store};
use crate::escape;
use crate::host::artifacts::Held;

/// What is copied, and what was.
#[derive(Debug)]
pub(super) struct Copies {
    max_file: u64,
    /// Bytes that may still be copied.
    left: u64,
    begun: u32,
    /// SHA-256 of those that many processes run.
    known: BTreeMap<State, String>,
}

/// Which contents: device, inode, size, and the times of the last change of contents and of anything.
type State = (u64, u64, u64, (i64, i64), (i64, i64));

/// What became of a file while it was copied.
struct Copied {
    size: u64,
    sha256: String,
    is_changed: bool,
}

impl Copies {
    /// No file may be larger than this.
    pub(super) const fn new(max_file: u64) -> Self {
        Self { max_file, left: TOTAL, begun: 0, known: BTreeMap::new() }
    }

    /// Keeps what a process runs; gives its SHA-256.
    pub(super) fn copy(&mut self, held: &Held, store: &mut Store) -> Option<String> {
        let source = format!("/proc/{}/exe", held.pid);
        match self.try_copy(held, &source, store) {
            Ok(sha256) => Some(sha256),
            Err(reason) => {
                store.miss(format!("copy of {source}"), reason);
                None
            }
        }
    }

    fn try_copy(&mut self, held: &Held, source: &str, store: &mut Store) -> Result<String, String> {
        let words = |error: io::Error| error.to_string();
        let from = held.executable()?;
        let looked = in_time(PATIENCE, move || state(&from).map(|state| (state, from)));
        let (state, from) = looked.ok_or(SILENT)?.map_err(words)?;
        if let Some(sha256) = self.known.get(&state) {
            return Ok(sha256.clone());
        }
        let size = state.2;
        if size > self.max_file {
            return Err(format!("{size} bytes are more than --max-file {}", self.max_file));
        }
        if size > self.left {
            return Err(format!("copies of more than {} MiB in all", TOTAL >> 20));
        }
        self.begun = self.begun.saturating_add(1);
        let path = format!("{DIRECTORY}/part-{}", self.begun);
        let part = store.begin(path.clone()).map_err(|error| {
            store.fail(&path, &error);
            words(error)
        })?;
        let to = part.file.try_clone().map_err(words)?;
        let copied = in_time(PATIENCE, move || copy(from, to, state));
        let copied = copied.unwrap_or_else(|| Err((false, io::Error::other(SILENT))));
        match copied {
            Ok(copied) => {
                self.left = self.left.saturating_sub(copied.size);
                let sha256 = copied.sha256.clone();
                if !copied.is_changed {
                    self.known.insert(state, sha256.clone());
                }
                keep(copied, source, part, store);
                Ok(sha256)
            }
            Err((is_ours, error)) => {
                store.abandon(&path);
                if is_ours {
                    store.fail(&format!("copy of {source}"), &error);
                }
                Err(words(error))
            }
        }
    }
}

fn keep(copied: Copied, source: &str, part: Part, store: &mut Store) {
    let Copied { size, sha256, is_changed } = copied;
    let item = Item {
        path: format!("{DIRECTORY}/{sha256}"),
        sha256,
        size,
        source: source.to_owned(),
        obtained: store.now(),
        cut: is_changed.then(|| "it changed while it was read".to_owned()),
    };
    store.keep(part, item);
}

fn state(file: &File) -> io::Result<State> {
    let it = file.metadata()?;
    let (modified, changed) = ((it.mtime(), it.mtime_nsec()), (it.ctime(), it.ctime_nsec()));
    Ok((it.dev(), it.ino(), it.len(), modified, changed))
}

/// Copies a file that was in this state. An error is of the file we write to, or of the other one.
fn copy(mut from: File, mut to: File, before: State) -> Result<Copied, (bool, io::Error)> {
    let size = before.2;
    let theirs = |error| (false, error);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut copied = 0_u64;
    let mut limited = (&mut from).take(size);
    loop {
        let length = match limited.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(theirs(error)),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        hasher.update(bytes);
        to.write_all(bytes).map_err(|error| (true, error))?;
        copied = copied.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }
    let is_changed = copied != size || state(&from).map_err(theirs)? != before;
    Ok(Copied { size: copied, sha256: escape::hexadecimal(&hasher.finalize()), is_changed })
}

const DIRECTORY: &str = "executables";
/// Bytes of all copies together: a full disk would harm the host.
const TOTAL: u64 = 2 << 30;
/// A file system may never answer; a disk may be slow.
const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Child, Command, Stdio};

    use super::super::manifest::Header;
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn what_two_processes_run_is_kept_once_and_can_not_be_run() {
        let lab = tempfile::tempdir().unwrap();
        let mut store = Store::create(&lab.path().join("case"), Clock::of_host()).unwrap();
        let mut children = [cat(), cat()];
        let mut copies = Copies::new(1 << 30);

        let copied = children
            .each_ref()
            .map(|child| copies.copy(&Held::of(child.id()).unwrap(), &mut store).unwrap());

        end(&mut children);
        assert_eq!((&copied[0], copies.begun), (&copied[1], 1));
        let finished = store.finish(Header::default()).unwrap();
        let [item] = &*finished.manifest.items else { panic!("{:?}", finished.manifest) };
        assert_eq!((&item.path, &item.cut), (&format!("executables/{}", copied[0]), &None));
        let kept = fs::metadata(lab.path().join("case").join(&item.path)).unwrap();
        assert_eq!((kept.len(), kept.mode() & 0o777), (item.size, 0o600));
    }

    #[test]
    fn a_file_that_is_shorter_than_it_was_is_said_to_have_changed() {
        let lab = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| lab.path().join(name));
        fs::write(&from, b"abcdef").unwrap();
        let file = File::open(&from).unwrap();
        let before = state(&file).unwrap();
        fs::write(&from, b"abc").unwrap();

        let copied = copy(file, File::create(&to).unwrap(), before).ok().unwrap();

        assert_eq!((copied.size, copied.is_changed), (3, true));
        assert!(copied.sha256.starts_with("ba7816bf8f01cfea"));
    }

    /// One that waits for its input.
    fn cat() -> Child {
        Command::new("cat").stdin(Stdio::piped()).spawn().unwrap()
    }

    fn end(children: &mut [Child]) {
        for child in children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
