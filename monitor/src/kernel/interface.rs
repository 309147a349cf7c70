//! Attaches the classifiers to an interface: TCX where the kernel has it, else the clsact hook.
//!
//! A good guest: ahead of everybody on TCX, so that nobody can hide a packet from us; with a
//! priority and handle of our own on clsact; never a qdisc deleted that others use.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle,
};
use aya::programs::{LinkOrder, SchedClassifier};
use rustix::fs::FlockOperation;

use crate::host::links::{Link, LinkLayer};
use crate::host::qdisc::OwnClsact;
use crate::kernel::classifiers::{CLASSIFIERS, Classifiers};
use crate::kernel::pin::{self, Pins};

/// Our place on the clsact hook. A filter is only ever removed when its name is ours as well.
const PRIORITY: u16 = 3516;
/// Handles of concurrent instances: `3516:1`, `3516:2`, …
const HANDLE_MAJOR: u16 = 0x3516;
const MAX_INSTANCES: u16 = 16;
/// Held by the instance that may clean up what a killed one left on clsact hooks.
const CLSACT_LOCK: &str = "/run/portwatch/clsact.lock";

/// Which hook to attach to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hook {
    /// TCX if the kernel has it, else clsact.
    #[default]
    Auto,
    /// TCX, Linux 6.6.
    Tcx,
    /// Filters on the clsact qdisc.
    Clsact,
}

/// How an interface is observed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// By TCX links.
    Tcx,
    /// By filters on the clsact qdisc.
    Clsact,
}

impl Mode {
    /// The name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// The classifiers of one interface; dropping it detaches them.
#[derive(Debug)]
pub struct Attached {
    /// How.
    pub mode: Mode,
    /// Numbers of the programs at ingress and egress.
    pub programs: [u32; 2],
    /// Never read: owning them keeps the programs attached.
    _links: [SchedClassifierLink; 2],
    /// Dropped after the links: a qdisc of ours goes when nobody uses it.
    _qdisc: Option<OwnClsact>,
}

/// Attaches to interfaces, and remembers what this host turned out to offer.
#[derive(Debug)]
pub struct Attacher {
    hook: Hook,
    /// Whether what clsact hooks have under our name is left over from a killed instance; asked when
    /// clsact is first used.
    leftovers: Leftovers,
    /// Where links are pinned, with `--pin`.
    pins: Option<Arc<Pins>>,
}

/// Filters under our name on clsact hooks.
#[derive(Debug)]
enum Leftovers {
    NotAsked,
    /// No other instance lives: they may be cleaned up. The file holds the lock that says so.
    Ours {
        _lock: File,
    },
    /// Another instance lives, and they may be its.
    MaybeAlive,
}

impl Attacher {
    /// An attacher that uses `hook`, and pins what it attaches where there are `pins`.
    #[must_use]
    pub const fn new(hook: Hook, pins: Option<Arc<Pins>>) -> Self {
        Self { hook, leftovers: Leftovers::NotAsked, pins }
    }

    /// Forgets an interface that is gone or no longer wanted.
    pub fn let_go(&self, ifindex: u32) {
        for name in CLASSIFIERS {
            if let Some(pins) = &self.pins
                && let Err(error) = pin::remove(&pins.link(ifindex, name))
            {
                tracing::warn!("{error:#}");
            }
        }
    }

    /// Forgets all interfaces but these.
    pub fn keep(&self, interfaces: &BTreeSet<u32>) -> Result<()> {
        self.pins.as_ref().map_or(Ok(()), |pins| pins.keep_links_of(interfaces))
    }

    /// Attaches both classifiers to an interface, or neither.
    pub fn attach(&mut self, programs: &mut dyn Classifiers, link: &Link) -> Result<Attached> {
        let names = match link.link_layer {
            LinkLayer::Ethernet => ["pw_ingress", "pw_egress"],
            LinkLayer::Ip => ["pw_ingress_l3", "pw_egress_l3"],
            LinkLayer::Unsupported(kind) => {
                anyhow::bail!("its link layer (ARPHRD {kind}) carries no packets we can parse")
            }
        };
        let still_ours = rustix::net::netdevice::name_to_index(
            rustix::net::socket(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::DGRAM,
                None,
            )
            .context("opening a socket")?,
            &link.name,
        );
        ensure!(still_ours == Ok(link.ifindex), "it was renamed or removed meanwhile");
        programs.verify(&names);
        match self.hook {
            Hook::Tcx => self.attach_tcx(programs, link, names),
            Hook::Clsact => self.attach_clsact(programs, link, names),
            Hook::Auto => match self.attach_tcx(programs, link, names) {
                Err(error) if is_unsupported(&error) => {
                    self.hook = Hook::Clsact;
                    self.attach_clsact(programs, link, names)
                }
                attached => attached,
            },
        }
    }

    fn attach_tcx(
        &self,
        programs: &mut dyn Classifiers,
        link: &Link,
        names: [&str; 2],
    ) -> Result<Attached> {
        let attach = |programs: &mut dyn Classifiers, name, hook| {
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            match &self.pins {
                Some(pins) => attach_pinned(programs, link, name, hook, options, pins),
                None => attach_one(programs, link, name, hook, options),
            }
        };
        let [ingress, egress] = names;
        let ingress = attach(programs, ingress, TcAttachType::Ingress)?;
        let egress = attach(programs, egress, TcAttachType::Egress)?;
        let programs = program_ids(programs, names)?;
        Ok(Attached { mode: Mode::Tcx, programs, _links: [ingress, egress], _qdisc: None })
    }

    fn attach_clsact(
        &mut self,
        programs: &mut dyn Classifiers,
        link: &Link,
        names: [&str; 2],
    ) -> Result<Attached> {
        ensure!(
            self.pins.is_none(),
            "--pin needs TCX, which this kernel does not have (Linux 6.6)"
        );
        let qdisc = match tc::qdisc_add_clsact(&link.name) {
            Ok(()) => Some(OwnClsact::added_to(link.ifindex)),
            Err(TcError::AlreadyAttached) => None,
            Err(error) => {
                let error = anyhow::Error::new(error);
                // Somebody has put one there before: it serves us both.
                if !is_taken(&error) {
                    return Err(error.context("adding a clsact qdisc"));
                }
                None
            }
        };
        let [ingress, egress] = names;
        if self.may_clean_up()? {
            for (name, hook) in [(ingress, TcAttachType::Ingress), (egress, TcAttachType::Egress)] {
                // An error is the usual case: nothing of ours was there.
                if tc::qdisc_detach_program(&link.name, hook, name).is_ok() {
                    tracing::info!(
                        interface = %crate::escape::escape(&link.name),
                        "removed the filter {name}, left over from an instance that was killed"
                    );
                }
            }
        }
        let ingress = attach_filter(programs, link, ingress, TcAttachType::Ingress)?;
        let egress = attach_filter(programs, link, egress, TcAttachType::Egress)?;
        let programs = program_ids(programs, names)?;
        Ok(Attached { mode: Mode::Clsact, programs, _links: [ingress, egress], _qdisc: qdisc })
    }

    /// Whether filters under our name are left over: true if no other instance uses clsact.
    fn may_clean_up(&mut self) -> Result<bool> {
        if matches!(self.leftovers, Leftovers::NotAsked) {
            let path = std::path::Path::new(CLSACT_LOCK);
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)
                    .with_context(|| format!("creating {}", directory.display()))?;
            }
            let file = File::create(path).with_context(|| format!("creating {CLSACT_LOCK}"))?;
            let lock = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            self.leftovers = match lock {
                Ok(()) => Leftovers::Ours { _lock: file },
                Err(_held) => Leftovers::MaybeAlive,
            };
        }
        Ok(matches!(self.leftovers, Leftovers::Ours { .. }))
    }
}

/// The numbers the kernel gave our programs.
fn program_ids(programs: &mut dyn Classifiers, [ingress, egress]: [&str; 2]) -> Result<[u32; 2]> {
    let mut id = |name: &str| -> Result<u32> {
        let info = programs.classifier(name)?.info();
        Ok(info.with_context(|| format!("asking for the number of {name}"))?.id())
    };
    Ok([id(ingress)?, id(egress)?])
}

/// Takes the first handle of ours that no other instance has on this hook.
fn attach_filter(
    programs: &mut dyn Classifiers,
    link: &Link,
    name: &str,
    hook: TcAttachType,
) -> Result<SchedClassifierLink> {
    let mut minor = 1;
    loop {
        let handle = TcHandle::new(HANDLE_MAJOR, minor);
        let options = NlOptions { priority: PRIORITY, handle, classid: None };
        match attach_one(programs, link, name, hook, TcAttachOptions::Netlink(options)) {
            Err(error) if is_taken(&error) && minor < MAX_INSTANCES => minor += 1,
            attached => return attached,
        }
    }
}

/// Takes over the pinned link if it is still attached, else attaches and pins.
fn attach_pinned(
    programs: &mut dyn Classifiers,
    link: &Link,
    name: &str,
    hook: TcAttachType,
    options: TcAttachOptions,
    pins: &Pins,
) -> Result<SchedClassifierLink> {
    let path = pins.link(link.ifindex, name);
    let pinned = if programs.are_adopted() { PinnedLink::from_pin(&path).ok() } else { None };
    let pinned =
        pinned.map(FdLink::from).filter(|pinned| is_attached(programs, pinned, link, name, hook));
    if let Some(pinned) = pinned {
        return pinned.try_into().with_context(|| format!("taking over {}", path.display()));
    }
    pin::remove(&path)?;
    let attached: FdLink = attach_one(programs, link, name, hook, options)?
        .try_into()
        .with_context(|| format!("keeping {name}"))?;
    let pinned = attached.pin(&path).with_context(|| format!("pinning {}", path.display()))?;
    FdLink::from(pinned).try_into().with_context(|| format!("keeping {name}"))
}

/// The link leads to this interface: an index may have been given to another one meanwhile.
fn is_attached(
    programs: &mut dyn Classifiers,
    pinned: &FdLink,
    link: &Link,
    name: &str,
    hook: TcAttachType,
) -> bool {
    let ours = programs.classifier(name).ok().and_then(|program| program.info().ok());
    let there = SchedClassifier::query_tcx(&link.name, hook).map(|(_revision, programs)| programs);
    match (ours, there, pinned.info()) {
        (Some(ours), Ok(there), Ok(info)) => {
            info.program_id() == ours.id() && there.iter().any(|program| program.id() == ours.id())
        }
        _ => false,
    }
}

fn attach_one(
    programs: &mut dyn Classifiers,
    link: &Link,
    name: &str,
    hook: TcAttachType,
    options: TcAttachOptions,
) -> Result<SchedClassifierLink> {
    let direction = match hook {
        TcAttachType::Ingress => "ingress",
        TcAttachType::Egress => "egress",
        TcAttachType::Custom(_) => "a custom hook",
    };
    let program = programs.classifier(name)?;
    let id = program
        .attach_with_options(&link.name, hook, options)
        .with_context(|| format!("attaching {name} at tc {direction}"))?;
    program.take_link(id).with_context(|| format!("keeping {name} at tc {direction}"))
}

/// The kernel does not know TCX.
fn is_unsupported(error: &anyhow::Error) -> bool {
    matches!(errno(error), Some(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP))
}

/// Another filter has this priority and handle.
fn is_taken(error: &anyhow::Error) -> bool {
    matches!(errno(error), Some(rustix::io::Errno::EXIST))
}

fn errno(error: &anyhow::Error) -> Option<rustix::io::Errno> {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>())?;
    rustix::io::Errno::from_io_error(io)
}
