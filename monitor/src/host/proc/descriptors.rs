//! Where the descriptors of a process lead: the links in `/proc/PID/fd`.

use std::io;
use std::mem::MaybeUninit;

use rustix::fs::{CWD, Mode, OFlags, RawDir};

/// Reads one table of descriptors after the other, and no more than it was allowed to.
#[derive(Debug)]
pub(in crate::host) struct Descriptors {
    entries: Vec<MaybeUninit<u8>>,
    budget: usize,
}

impl Descriptors {
    /// May look at `budget` descriptors in all.
    pub(in crate::host) fn new(budget: usize) -> Self {
        Self { entries: vec![MaybeUninit::uninit(); ENTRY_BYTES], budget }
    }

    /// Hands every descriptor of a directory such as `/proc/PID/fd` to `each`, with where it leads if that
    /// is no long path.
    pub(in crate::host) fn read(
        &mut self,
        directory: &str,
        mut each: impl FnMut(u32, &[u8]),
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
        let mut entries = RawDir::new(&directory, &mut self.entries);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let Some(fd) = number(entry.file_name().to_bytes()) else { continue };
            let Some(budget) = self.budget.checked_sub(1) else { return Ok(()) };
            self.budget = budget;
            let mut target = [MaybeUninit::uninit(); TARGET_BYTES];
            let target = rustix::fs::readlinkat_raw(&directory, entry.file_name(), &mut target);
            // One that was closed meanwhile leads nowhere.
            if let Ok((target, _)) = target {
                each(fd, target);
            }
        }
        Ok(())
    }

    /// Nothing more will be read.
    pub(in crate::host) const fn is_exhausted(&self) -> bool {
        self.budget == 0
    }
}

/// The number in `socket:[NUMBER]`, `net:[NUMBER]` and the like.
pub(in crate::host) fn inode(target: &[u8], kind: &[u8]) -> Option<u64> {
    let digits = target.strip_prefix(kind)?.strip_prefix(b":[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn number(name: &[u8]) -> Option<u32> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// Room for the directory entries of one `getdents64`.
const ENTRY_BYTES: usize = 16 << 10;
/// `anon_inode:bpf-prog`, `socket:[` and 20 digits fit; what is longer is a path.
const TARGET_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_descriptor_is_read_with_where_it_leads_as_long_as_there_is_budget() {
        let file = std::fs::File::open("/proc/self/ns/net").unwrap();
        let inode_of_file = rustix::fs::fstat(&file).unwrap().st_ino;
        let own = u32::try_from(file.as_raw_fd()).unwrap();

        let mut found = None;
        let mut descriptors = Descriptors::new(100_000);
        descriptors
            .read("/proc/self/fd", |fd, target| {
                if fd == own {
                    found = inode(target, b"net");
                }
            })
            .unwrap();
        let mut none = Descriptors::new(0);
        none.read("/proc/self/fd", |fd, _| panic!("{fd} was not paid for")).unwrap();

        assert_eq!(found, Some(inode_of_file));
        assert!(none.is_exhausted() && !descriptors.is_exhausted());
    }

    #[test]
    fn only_what_has_the_form_of_the_kind_has_an_inode() {
        assert_eq!(inode(b"net:[4026531840]", b"net"), Some(4_026_531_840));
        assert_eq!(inode(b"mnt:[4026531840]", b"net"), None);
        assert_eq!(inode(b"/tmp/net:[1]", b"net"), None);
        assert_eq!(inode(b"net:[]", b"net"), None);
        assert_eq!(inode(b"net:[-1]", b"net"), None);
    }
}
