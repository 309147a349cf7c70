//! Looking who holds the listeners, which reads every descriptor of the host.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::{FATES_PER_TABLES, Watch};
use crate::clock;
use crate::crossview::Told;
use crate::lookup::OwnTables;
use crate::session;

/// Rest after a look that was not due, in times of what it took, and what of that is saved up: whoever hands
/// sockets on all the time takes a tenth of this thread at most.
const REST: u32 = 9;
const SAVED: Duration = Duration::from_secs(1);

impl Watch {
    /// Looks who holds the listeners, and holds against `/proc` what the kernel says of that. Once a minute,
    /// and when views disagree, also looks at all processes and at the tables of our network namespace; at these
    /// too where they may tell of the kernel.
    pub(super) fn look_for_holders(&mut self) -> Result<()> {
        let listeners = self.pipeline.open_listeners();
        let is_thorough =
            self.pipeline.is_suspicious() || self.fates_asked.is_multiple_of(FATES_PER_TABLES);
        let is_unexplained = self.pipeline.has_unexplained_socket();
        if listeners.is_empty() && !is_thorough && !is_unexplained
            || !crate::kernel::holders::is_available(&self.object)
        {
            return Ok(());
        }
        let told = Told::ask(Some(&mut self.object), is_thorough);
        self.tell_portless(&told);
        let held = match told.holders() {
            Some(held) => held,
            None => session::by_iterator(&mut self.object)?,
        };
        session::tell_holders(&mut self.pipeline, &listeners, &held, clock::boot_ns());
        let own = if is_thorough || is_unexplained {
            let iterators = self.object.view_tables()?;
            Some(OwnTables { iterators, ports: self.args.common.ports() })
        } else {
            None
        };
        self.lookup.ask_to_compare(told, own);
        Ok(())
    }

    /// Looks who has the listeners that nobody who is known to have had to do with them is left of, before they
    /// are told as nobody's.
    pub(super) fn look_for_heirs(&mut self) -> Result<()> {
        let listeners = self.pipeline.abandoned_listeners();
        let began = Instant::now();
        let is_time = self.read.heirs <= began;
        if listeners.is_empty() || !is_time || !crate::kernel::holders::is_available(&self.object) {
            return Ok(());
        }
        let held = session::by_iterator(&mut self.object)?;
        session::tell_holders(&mut self.pipeline, &listeners, &held, clock::boot_ns());
        self.pipeline.take_up_requests();
        let saved = began.checked_sub(SAVED).unwrap_or(began);
        let took = began.elapsed();
        self.read.heirs = self.read.heirs.max(saved) + took + REST * took;
        Ok(())
    }
}
