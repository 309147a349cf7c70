//! Who: processes, the sockets they own, the listeners and flows those sockets make.
//!
//! No I/O here. What has to be looked up on the host is asked for as a [`Request`] and comes back as
//! a call; until then the answer is what the kernel captured. Sockets are joined by cookie; addresses
//! only stand in where no cookie is known, and then the evidence says so.

mod processes;
mod namespaces;
mod sockets;
mod translation;
mod ends;

pub use ends::{Known, Sender};
pub use namespaces::Namespaces;
pub use processes::{Captured, ProcessKey, Processes};
pub use sockets::{OwnerKey, Socket, Sockets};
pub use translation::{Place, Translation, Translations};

use crate::endpoint::{Endpoint, Transport};
use crate::flow::FlowId;
use crate::host::conntrack::Tuple;
use crate::owner::{Attribution, Seen};

/// Something to look up on the host.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Request {
    /// Read `/proc/PID`, unless that process started after the moment it was seen.
    Identify {
        /// Whom the answer is for.
        key: ProcessKey,
        /// The process.
        pid: u32,
        /// What the kernel saw of it.
        seen: Seen,
    },
    /// Hash the executable.
    Hash {
        /// Whom the answer is for.
        key: ProcessKey,
    },
    /// Find the package of the executable.
    Package {
        /// Whom the answer is for.
        key: ProcessKey,
    },
    /// Ask the container's runtime for its name and image.
    Container {
        /// Whom the answer is for.
        key: ProcessKey,
    },
    /// Look what kind of socket a descriptor is.
    Recognise {
        /// Whom the answer is for.
        cookie: u64,
        /// The process that holds it.
        pid: u32,
        /// The descriptor.
        fd: u32,
    },
    /// List the network namespaces: a cookie is not known.
    Namespaces,
    /// Ask what a connection is called on the other side of a translation of addresses.
    Translate {
        /// Whom the answer is for.
        flow: FlowId,
        /// Its ends, the opener first.
        tuple: Tuple,
        /// Inode of the network namespace to ask.
        netns: u64,
    },
    /// Look whether a process has a connection to where it says that it passes on what comes for a port.
    Relay {
        /// Whom the answer is for.
        key: ProcessKey,
        /// The process.
        pid: u32,
        /// When it started.
        start_ticks: u64,
        /// The transport.
        transport: Transport,
        /// Where it says.
        to: Endpoint,
    },
    /// Find out what else than a socket can answer for a port.
    Explain {
        /// Whom the answer is for.
        number: u64,
        /// The transport.
        transport: Transport,
        /// What answered.
        answered: Endpoint,
        /// Inode of the network namespace in which that was seen.
        netns: u64,
    },
}

/// An attribution, and whether more is still being looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// As far as is known.
    pub attribution: Attribution,
    /// Nothing is outstanding.
    pub settled: bool,
}
