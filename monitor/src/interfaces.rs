//! Which interfaces are observed: all, or those the user named; also those that appear later.
//!
//! What is gone is let go of at once, so that no descriptor outlives its interface.

mod scope;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use monitor_ebpf::wire::InterfaceId;

use crate::endpoint::{Interface, Netns};
use crate::escape;
use crate::host::links::{self, Link, LinkEvent};
use crate::host::netns;
use crate::kernel::chain::{Chains, Gap, GapKind};
use crate::kernel::classifiers::Classifiers;
use crate::kernel::in_one_line;
use crate::kernel::interface::{Attached, Attacher, Hook, Mode};
use crate::kernel::pin::Pins;
use crate::report::{InterfaceChange, InterfaceReport};

pub use scope::{Scope, Wanted};

/// An interface that is observed from now on, or no longer.
pub type Change = (InterfaceChange, InterfaceReport);

/// The interfaces of one network namespace. Everything is done on a thread that is in there.
#[derive(Debug)]
pub struct Interfaces {
    wanted: HashSet<String>,
    attacher: Attacher,
    watch: links::Watch,
    observed: HashMap<u32, (Interface, Attached)>,
    /// Why interfaces that are there cannot be observed.
    refused: HashMap<u32, String>,
    chains: Chains,
    netns: Netns,
    /// See [`InterfaceId::new`].
    number: u32,
}

impl Interfaces {
    /// Subscribes to changes; attaches to nothing yet. No `wanted` names mean all interfaces. `number` is
    /// how packets tell this namespace: see [`InterfaceId::new`].
    pub fn open(
        wanted: &[String],
        hook: Hook,
        (netns, number): (Netns, u32),
        pins: Option<Arc<Pins>>,
    ) -> Result<Self> {
        Ok(Self {
            wanted: wanted.iter().cloned().collect(),
            attacher: Attacher::new(hook, pins),
            watch: links::Watch::open().context("subscribing to interface changes")?,
            observed: HashMap::new(),
            refused: HashMap::new(),
            chains: Chains::default(),
            netns,
            number,
        })
    }

    /// Attaches to what is there and lets go of what is not.
    pub fn rescan(&mut self, programs: &mut dyn Classifiers) -> Result<Vec<Change>> {
        let links = links::list().context("listing interfaces")?;
        let present: HashSet<u32> = links.iter().map(|link| link.ifindex).collect();
        let gone: Vec<u32> =
            self.observed.keys().copied().filter(|ifindex| !present.contains(ifindex)).collect();
        let mut changes: Vec<Change> =
            gone.into_iter().filter_map(|ifindex| self.let_go(ifindex)).collect();
        self.refused.retain(|ifindex, _reason| present.contains(ifindex));
        changes.extend(links.iter().filter_map(|link| self.take_up(programs, link)));
        Ok(changes)
    }

    /// Takes in what changed since the last call.
    pub fn changes(&mut self, programs: &mut dyn Classifiers) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        loop {
            match self.watch.read() {
                Ok(events) => {
                    for event in events {
                        self.take_in(programs, event, &mut changes)?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changes),
                Err(error) => return Err(error).context("reading interface changes"),
            }
        }
    }

    fn take_in(
        &mut self,
        programs: &mut dyn Classifiers,
        event: LinkEvent,
        changes: &mut Vec<Change>,
    ) -> Result<()> {
        match event {
            LinkEvent::Changed(link) => changes.extend(self.take_up(programs, &link)),
            LinkEvent::Gone { ifindex } => {
                self.refused.remove(&ifindex);
                changes.extend(self.let_go(ifindex));
            }
            LinkEvent::Overflow => changes.extend(self.rescan(programs)?),
        }
        Ok(())
    }

    /// Lets go of what an earlier portwatch pinned and this one does not observe.
    pub fn let_go_of_others(&self) -> Result<()> {
        self.attacher.keep(&self.observed.keys().copied().collect())
    }

    /// Detaches from everything that is not pinned.
    pub fn detach(&mut self) {
        self.observed.clear();
    }

    /// What is observed now, in order of index.
    pub fn observed(&self) -> Vec<InterfaceReport> {
        let mut reports: Vec<InterfaceReport> = self
            .observed
            .values()
            .map(|(interface, attached)| self.describe(interface.clone(), attached.mode))
            .collect();
        reports.sort_by_key(|report| report.interface.ifindex);
        reports
    }

    fn take_up(&mut self, programs: &mut dyn Classifiers, link: &Link) -> Option<Change> {
        let interface = Interface { ifindex: link.ifindex, name: link.name.clone() };
        if let Some((known, _)) = self.observed.get_mut(&link.ifindex) {
            // Renamed: the programs stay where they are.
            known.name.clone_from(&link.name);
            return None;
        }
        if !self.wanted.is_empty() && !self.wanted.contains(&link.name) {
            return None;
        }
        match self.attacher.attach(programs, link) {
            Ok(attached) => {
                self.refused.remove(&link.ifindex);
                let report = self.describe(interface.clone(), attached.mode);
                self.observed.insert(link.ifindex, (interface, attached));
                Some((InterfaceChange::Attached, report))
            }
            Err(error) => {
                self.refuse(&interface, &error);
                None
            }
        }
    }

    /// An interface that went away while we attached is no news; one that stays is a gap.
    fn refuse(&mut self, interface: &Interface, error: &anyhow::Error) {
        let still_there = links::list()
            .is_ok_and(|links| links.iter().any(|link| link.ifindex == interface.ifindex));
        if !still_there {
            return;
        }
        let reason = in_one_line(error);
        // Of a program that the kernel refuses: the verifier's log.
        tracing::debug!("{error:#}");
        if self.refused.insert(interface.ifindex, reason.clone()).is_none() {
            tracing::warn!("{} is not observed: {reason}", escape::escape(&interface.name));
        }
    }

    /// What keeps packets from us now, on the interfaces that are there.
    ///
    /// Asks the kernel for its interfaces, and for who is on the hooks of each.
    pub fn gaps(&mut self) -> Result<Vec<Gap>> {
        let links = links::list().context("listing interfaces")?;
        let mut gaps = Vec::new();
        for link in &links {
            if let Some((_, attached)) = self.observed.get(&link.ifindex) {
                gaps.extend(self.chains.gaps(attached, link, &self.netns));
            } else if let Some(reason) = self.refused.get(&link.ifindex) {
                let interface = Interface { ifindex: link.ifindex, name: link.name.clone() };
                let (kind, evidence) = (GapKind::NotAttached, vec![reason.clone()]);
                gaps.push(Gap { interface, netns: self.netns.clone(), kind, evidence });
            }
        }
        Ok(gaps)
    }

    fn let_go(&mut self, ifindex: u32) -> Option<Change> {
        let (interface, attached) = self.observed.remove(&ifindex)?;
        self.attacher.let_go(ifindex);
        let report = self.describe(interface, attached.mode);
        Some((InterfaceChange::Detached, report))
    }

    fn describe(&self, interface: Interface, mode: Mode) -> InterfaceReport {
        let id = InterfaceId::new(self.number, interface.ifindex);
        InterfaceReport { interface, id, netns: self.netns.clone(), mode: mode.name().into() }
    }
}

impl AsFd for Interfaces {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

impl AsRawFd for Interfaces {
    fn as_raw_fd(&self) -> RawFd {
        self.watch.as_raw_fd()
    }
}

/// The names of the interfaces there are: of our own namespace, or of all, each once.
pub fn names(everywhere: bool) -> Result<Vec<String>> {
    let mut links = links::list().context("listing interfaces")?;
    if everywhere {
        // The first is our own.
        for namespace in netns::list(&mut netns::Descriptors::default())
            .context("listing network namespaces")?
            .found
            .iter()
            .skip(1)
        {
            // One that cannot be entered is told of by those who attach there.
            links.extend(netns::within(namespace, links::list).flatten().unwrap_or_default());
        }
    }
    let mut names = Vec::new();
    for link in links {
        if !names.contains(&link.name) {
            names.push(link.name);
        }
    }
    Ok(names)
}
