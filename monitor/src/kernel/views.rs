//! What there is in the kernel's own tables: sockets behind descriptors, sockets of a network namespace,
//! processes. One pass of an iterator each.

use std::fs::File;
use std::io::{self, Read as _};

use anyhow::{Context as _, Result};
use aya::programs::Iter;
use aya::programs::iter::IterLink;
use monitor_ebpf::view::{SocketView, TaskView};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::kernel::object::Object;

/// An upper bound on what is read of one iterator.
const MAX_BYTES: u64 = 32 << 20;
/// The kernel gives up after a million objects of which nothing was told, and wants to be asked again.
const MAX_PASSES: usize = 64;

/// Passes over the TCP and UDP sockets of one network namespace: of the one in which it is read.
#[derive(Debug)]
pub struct Tables {
    tcp: IterLink,
    udp: IterLink,
}

impl Object {
    /// Every descriptor of a socket on a watched port, or of one that has no port, on the whole host.
    /// `None`: this kernel does not tell.
    pub fn view_files(&mut self) -> Result<Option<Vec<SocketView>>> {
        self.look("pw_view_files")?.map(|link| read(open(link)?)).transpose()
    }

    /// Every process. `None` likewise.
    pub fn view_tasks(&mut self) -> Result<Option<Vec<TaskView>>> {
        self.look("pw_view_tasks")?.map(|link| read(open(link)?)).transpose()
    }

    /// To look at the sockets of a network namespace. `None` likewise.
    pub fn view_tables(&mut self) -> Result<Option<Tables>> {
        let tcp = self.look("pw_view_tcp")?;
        let udp = self.look("pw_view_udp")?;
        Ok(tcp.zip(udp).map(|(tcp, udp)| Tables { tcp, udp }))
    }

    fn look(&mut self, name: &str) -> Result<Option<IterLink>> {
        if !self.can_view() {
            return Ok(None);
        }
        let program: &mut Iter = self.program(name)?.try_into()?;
        let id = program.attach().with_context(|| format!("starting {name}"))?;
        program.take_link(id).with_context(|| format!("starting {name}")).map(Some)
    }
}

impl Tables {
    /// The sockets on watched ports in the network namespace of the calling thread.
    pub fn read(self) -> Result<Vec<SocketView>> {
        let mut sockets = read(open(self.tcp)?)?;
        sockets.extend(read::<SocketView>(open(self.udp)?)?);
        Ok(sockets)
    }
}

fn open(link: IterLink) -> Result<File> {
    link.into_file().context("opening an iterator")
}

/// Reads an iterator to its end.
fn read<T: FromBytes + Immutable + KnownLayout>(file: File) -> Result<Vec<T>> {
    let mut bytes = Vec::new();
    let mut file = file.take(MAX_BYTES);
    for _ in 0..MAX_PASSES {
        match file.read_to_end(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            ended => {
                ended.context("reading an iterator")?;
                break;
            }
        }
    }
    let records = bytes.chunks_exact(size_of::<T>());
    Ok(records.filter_map(|record| T::read_from_bytes(record).ok()).collect())
}
