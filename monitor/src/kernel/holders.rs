//! Who holds a descriptor of a watched socket: one pass of the `task_file` iterator over the host.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use aya::programs::Iter;
use monitor_ebpf::wire::{HolderRecord, SocketOwner};
use zerocopy::FromBytes as _;

use crate::kernel::object::Object;

/// A descriptor of a watched socket.
pub type Holder = HolderRecord;

/// An upper bound on what is read: a million descriptors of watched sockets.
const MAX_BYTES: u64 = 1_000_000 * size_of::<HolderRecord>() as u64;

/// Can this kernel tell? Where not, `/proc` is walked.
pub const fn is_available(object: &Object) -> bool {
    object.iterator().is_some()
}

impl Object {
    /// As [`list`], of sockets that no hook has told of. They are forgotten again: the kernel side does not
    /// learn when they are closed.
    pub fn holders_of_strangers(&mut self, cookies: &[u64]) -> Result<Vec<Holder>> {
        let nobody = SocketOwner { tgid: 0, local_port: 0, family: 0, protocol: 0 };
        self.remember_sockets(cookies.iter().map(|cookie| (*cookie, nobody)))?;
        let held = list(self);
        for cookie in cookies {
            self.forget_socket(*cookie)?;
        }
        held
    }
}

/// Every descriptor of every socket in `pw_sockets`, over all processes, namespaces and containers.
pub fn list(object: &mut Object) -> Result<Vec<Holder>> {
    let name = object.iterator().context("this kernel has no task_file iterator")?;
    let program: &mut Iter = object.program(name)?.try_into()?;
    let id = program.attach().context("starting the task_file iterator")?;
    let link = program.take_link(id).context("starting the task_file iterator")?;
    let file = link.into_file().context("opening the task_file iterator")?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).context("reading the task_file iterator")?;
    Ok(bytes
        .chunks_exact(size_of::<HolderRecord>())
        .filter_map(|chunk| HolderRecord::read_from_bytes(chunk).ok())
        .collect())
}
