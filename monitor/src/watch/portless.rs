//! Sockets that get or send packets without being on a port, looked for again and again: nobody tells when one is
//! opened.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock;
use crate::crossview::Told;
use crate::host::netns;
use crate::kernel::holders;
use crate::pipeline::Input;
use crate::watch::Watch;

/// Time between two looks for sockets without a port, at least: each reads every descriptor of the host.
const PORTLESS: Duration = Duration::from_millis(900);

impl Watch {
    /// Looks for sockets that get or send packets without being on a port.
    pub(super) fn look_for_portless(&mut self) {
        let is_due = self.read.portless.elapsed() >= PORTLESS;
        if is_due && holders::is_available(&self.object) {
            let told = Told::ask(Some(&mut self.object), false);
            self.tell_portless(&told);
        }
    }

    /// Tells which of them are new or have another filter, and which are gone. What filters one in a namespace
    /// that portwatch may not enter is not known.
    pub(super) fn tell_portless(&mut self, told: &Told) {
        let (Some(there), Ok(own)) = (told.without_port(), netns::own()) else { return };
        self.read.portless = Instant::now();
        let now_ns = clock::boot_ns();
        let cookies = self.pipeline.missing_portless(&there);
        if !cookies.is_empty() {
            self.pipeline.apply(Input::PortlessGone { cookies, now_ns });
        }
        let others = self.interfaces.get_ref().namespaces();
        let is_news = |socket: &_| !self.pipeline.knows_portless(socket);
        // Should there be more than are told at once, the next look tells of them.
        let (found, _more) =
            told.portless(std::iter::once(&own).chain(others), &self.args.common.ports(), &is_news);
        if !found.is_empty() {
            self.pipeline.apply(Input::Portless { found, now_ns });
        }
    }
}
