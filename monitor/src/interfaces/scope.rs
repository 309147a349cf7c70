//! Whose interfaces are observed: those of portwatch's network namespace, or with `--netns all` those of
//! every namespace of the host, also of namespaces that appear later.
//!
//! What is attached in a namespace, and the subscription to its changes, keep it alive. So a namespace
//! that no process, no path and no descriptor of others leads to any more is let go of at the next look,
//! within about a second.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use monitor_ebpf::wire::InterfaceId;
use rustix::event::epoll;

use crate::endpoint::{Interface, Netns};
use crate::host::netns::{self, Namespace};
use crate::interfaces::{Change, Interfaces};
use crate::kernel::chain::{Gap, GapKind};
use crate::kernel::gate::{Gate, Ways};
use crate::kernel::in_one_line;
use crate::kernel::interface::Hook;
use crate::kernel::object::Object;
use crate::kernel::pin::Pins;
use crate::report::{InterfaceChange, InterfaceReport};

/// Namespaces with pending changes that are asked for at a time.
const EVENTS: usize = 64;

/// What the user wants observed, and how.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Names of interfaces; none: all.
    pub interfaces: Vec<String>,
    /// The hook to attach to.
    pub hook: Hook,
    /// In every namespace.
    pub everywhere: bool,
}

/// All interfaces that are observed. Readable when something has changed.
#[derive(Debug)]
pub struct Scope {
    own: Interfaces,
    own_inode: u64,
    elsewhere: Option<Elsewhere>,
    /// An epoll instance; its data are inodes of namespaces.
    events: OwnedFd,
}

/// The namespaces other than our own.
#[derive(Debug)]
struct Elsewhere {
    wanted: Wanted,
    ways: Arc<Ways>,
    /// By inode.
    entered: BTreeMap<u64, Entered>,
    /// Why one cannot be observed.
    refused: BTreeMap<u64, (Netns, String)>,
    /// Of namespaces that are kept alive by nothing else.
    descriptors: netns::Descriptors,
    /// Numbers are not given twice: reports of what was seen there may come later.
    last_number: u32,
}

/// A namespace whose interfaces are observed.
#[derive(Debug)]
struct Entered {
    namespace: Namespace,
    interfaces: Interfaces,
    gate: Gate,
}

impl Scope {
    /// Attaches to everything that is wanted and there.
    pub fn open(
        wanted: &Wanted,
        netns: Netns,
        pins: Option<Arc<Pins>>,
        object: &mut Object,
    ) -> Result<Self> {
        let own_inode = netns.inode;
        let events = epoll::create(epoll::CreateFlags::CLOEXEC).context("opening epoll")?;
        let mut own = Interfaces::open(&wanted.interfaces, wanted.hook, (netns, 0), pins)?;
        subscribe(&events, &own, own_inode)?;
        own.rescan(object)?;
        let elsewhere = wanted.everywhere.then(|| Elsewhere::new(wanted, object)).transpose()?;
        let mut scope = Self { own, own_inode, elsewhere, events };
        scope.follow_namespaces()?;
        Ok(scope)
    }

    /// Takes in namespaces that are new, and lets go of those that are gone.
    pub fn follow_namespaces(&mut self) -> Result<Vec<Change>> {
        let Some(elsewhere) = &mut self.elsewhere else { return Ok(Vec::new()) };
        let namespaces = netns::list(&mut elsewhere.descriptors);
        let namespaces = namespaces.context("listing network namespaces")?.found;
        let others = namespaces.into_iter().filter(|it| it.netns.inode != self.own_inode);
        Ok(elsewhere.follow(others.collect(), &self.events))
    }

    /// Takes in what has changed at the interfaces since the last call.
    pub fn changes(&mut self, object: &mut Object) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        let mut pending = Vec::with_capacity(EVENTS);
        let at_once = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            pending.clear();
            epoll::wait(&self.events, rustix::buffer::spare_capacity(&mut pending), Some(&at_once))
                .context("asking which interfaces have changed")?;
            for event in &pending {
                let inode = event.data.u64();
                if inode == self.own_inode {
                    changes.extend(self.own.changes(object)?);
                } else if let Some(elsewhere) = &mut self.elsewhere {
                    changes.extend(elsewhere.changes(inode));
                }
            }
            if pending.len() < EVENTS {
                return Ok(changes);
            }
        }
    }

    /// What keeps packets from us now.
    pub fn gaps(&mut self) -> Result<Vec<Gap>> {
        let mut gaps = self.own.gaps()?;
        if let Some(elsewhere) = &mut self.elsewhere {
            gaps.extend(elsewhere.gaps());
        }
        Ok(gaps)
    }

    /// What is observed now: our own namespace first, the others by inode.
    pub fn observed(&self) -> Vec<InterfaceReport> {
        let others = self.elsewhere.iter().flat_map(|elsewhere| elsewhere.entered.values());
        let others = others.flat_map(|entered| entered.interfaces.observed());
        self.own.observed().into_iter().chain(others).collect()
    }

    /// The namespaces other than our own that are observed.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        let entered = self.elsewhere.iter().flat_map(|elsewhere| elsewhere.entered.values());
        entered.map(|entered| &entered.namespace)
    }

    /// Lets go of what an earlier portwatch pinned and this one does not observe.
    pub fn let_go_of_others(&self) -> Result<()> {
        self.own.let_go_of_others()
    }

    /// Detaches from everything that is not pinned.
    pub fn detach(&mut self) {
        self.own.detach();
        if let Some(elsewhere) = &mut self.elsewhere {
            elsewhere.entered.clear();
        }
    }
}

impl Elsewhere {
    fn new(wanted: &Wanted, object: &mut Object) -> Result<Self> {
        Ok(Self {
            wanted: wanted.clone(),
            ways: object.open_gates()?,
            entered: BTreeMap::new(),
            refused: BTreeMap::new(),
            descriptors: netns::Descriptors::default(),
            last_number: 0,
        })
    }

    fn follow(&mut self, namespaces: Vec<Namespace>, events: &OwnedFd) -> Vec<Change> {
        let present: BTreeSet<u64> = namespaces.iter().map(|it| it.netns.inode).collect();
        self.refused.retain(|inode, _reason| present.contains(inode));
        let mut changes = Vec::new();
        let is_gone = |inode: &u64, _entered: &mut Entered| !present.contains(inode);
        for (_, gone) in self.entered.extract_if(.., is_gone) {
            let detached = |report| (InterfaceChange::Detached, report);
            changes.extend(gone.interfaces.observed().into_iter().map(detached));
        }
        for namespace in namespaces {
            let inode = namespace.netns.inode;
            if self.entered.contains_key(&inode) {
                continue;
            }
            let netns = namespace.netns.clone();
            match self.enter(namespace, events) {
                Ok((entered, attached)) => {
                    self.refused.remove(&inode);
                    self.entered.insert(inode, entered);
                    changes.extend(attached);
                }
                Err(error) => {
                    let reason = in_one_line(&error);
                    if self.refused.insert(inode, (netns, reason.clone())).is_none() {
                        tracing::warn!("network namespace {inode} is not observed: {reason}");
                    }
                }
            }
        }
        changes
    }

    fn enter(&mut self, namespace: Namespace, events: &OwnedFd) -> Result<(Entered, Vec<Change>)> {
        let number = self.last_number + 1;
        anyhow::ensure!(
            number <= InterfaceId::NETNS_MAX,
            "portwatch tells {} namespaces apart in one run, and there were as many",
            InterfaceId::NETNS_MAX
        );
        let mut gate = Gate::new(&self.ways, number);
        let (wanted, netns) = (&self.wanted, namespace.netns.clone());
        let opened = netns::within(&namespace, || {
            let mut interfaces =
                Interfaces::open(&wanted.interfaces, wanted.hook, (netns, number), None)?;
            let attached = interfaces.rescan(&mut gate)?;
            anyhow::Ok((interfaces, attached))
        });
        let (interfaces, attached) = opened.context("entering it")??;
        subscribe(events, &interfaces, namespace.netns.inode)?;
        self.last_number = number;
        Ok((Entered { namespace, interfaces, gate }, attached))
    }

    fn changes(&mut self, inode: u64) -> Vec<Change> {
        let Some(Entered { namespace, interfaces, gate }) = self.entered.get_mut(&inode) else {
            return Vec::new();
        };
        let changes = netns::within(namespace, || interfaces.changes(gate));
        changes.map_err(anyhow::Error::new).flatten().unwrap_or_else(|error| {
            tracing::warn!("changes in network namespace {inode} are not seen: {error:#}");
            Vec::new()
        })
    }

    fn gaps(&mut self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for (inode, Entered { namespace, interfaces, .. }) in &mut self.entered {
            let there = netns::within(namespace, || interfaces.gaps());
            match there.map_err(anyhow::Error::new).flatten() {
                Ok(there) => gaps.extend(there),
                Err(error) => tracing::debug!("no look at namespace {inode}: {error:#}"),
            }
        }
        gaps.extend(self.refused.values().map(|(netns, reason)| Gap {
            interface: Interface { ifindex: 0, name: String::new() },
            netns: netns.clone(),
            kind: GapKind::NotEntered,
            evidence: vec![reason.clone()],
        }));
        gaps
    }
}

impl Drop for Entered {
    /// In the namespace: what netlink undoes, it undoes where the thread is.
    fn drop(&mut self) {
        let interfaces = &mut self.interfaces;
        if let Err(error) = netns::within(&self.namespace, || interfaces.detach()) {
            tracing::debug!("detaching in another network namespace: {error}");
        }
    }
}

/// The subscription of a namespace ends with its socket.
fn subscribe(events: &OwnedFd, interfaces: &Interfaces, inode: u64) -> Result<()> {
    let data = epoll::EventData::new_u64(inode);
    epoll::add(events, interfaces, data, epoll::EventFlags::IN)
        .context("waiting for interface changes")
}

impl AsFd for Scope {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl AsRawFd for Scope {
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}
