//! The programs that see who reads and writes sockets, where the kernel has the tracepoints for them.
//!
//! They run in every system call of the host that sends or receives, and cost each about 0.1 µs. So they
//! are attached only while somebody listens on a watched port: only then can a process serve what
//! another one opened.

use anyhow::{Context as _, Result};
use aya::programs::BtfTracePoint;
use aya::programs::tp_btf::BtfTracePointLinkId;

use crate::kernel::object::{Object, TRACEPOINTS, UNSEEN_USERS};

/// How these programs are attached, in words.
pub const MODE: &str = "tp_btf, while somebody listens";

/// The programs as they are attached now.
#[derive(Debug, Default)]
pub struct Tracepoints {
    links: Vec<(&'static str, BtfTracePointLinkId)>,
    /// The kernel would not have them attached: nobody asks again.
    refused: bool,
}

impl Tracepoints {
    /// The programs this kernel accepted.
    pub fn offered(object: &Object) -> impl Iterator<Item = &'static str> {
        TRACEPOINTS.into_iter().map(|(name, _)| name).filter(|_| object.can_trace())
    }

    /// Attaches them if they are needed, detaches them if they are not. Where that fails, it is said
    /// once, and what they would tell is not known.
    pub fn follow(&mut self, object: &mut Object, needed: bool) {
        if needed != self.links.is_empty() || self.refused || !object.can_trace() {
            return;
        }
        let outcome = if needed { self.attach(object) } else { self.detach(object) };
        if let Err(error) = outcome {
            tracing::warn!("{UNSEEN_USERS}: {error:#}");
            self.refused = true;
        }
    }

    fn attach(&mut self, object: &mut Object) -> Result<()> {
        for (name, tracepoint) in TRACEPOINTS {
            let program: &mut BtfTracePoint = object.program(name)?.try_into()?;
            let link =
                program.attach().with_context(|| format!("attaching {name} to {tracepoint}"))?;
            self.links.push((name, link));
        }
        Ok(())
    }

    fn detach(&mut self, object: &mut Object) -> Result<()> {
        for (name, link) in self.links.drain(..) {
            let program: &mut BtfTracePoint = object.program(name)?.try_into()?;
            program.detach(link).with_context(|| format!("detaching {name}"))?;
        }
        Ok(())
    }
}
