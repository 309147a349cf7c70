//! Who else is on the hooks of an interface, and what that keeps from us.
//!
//! A program that runs before ours may drop a packet, redirect it, or end the chain: then we never
//! see it. Whether it does cannot be told from outside, so what is reported is that it may. That ours
//! is no longer there is certain.

use std::collections::HashMap;
use std::io;

use aya::programs::loaded_programs;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Direction, Interface, Netns};
use crate::host::filters::{self, Filter};
use crate::host::links::{Link, Netkit, XdpMode};
use crate::kernel::interface::{Attached, Mode};
use crate::kernel::programs;
use crate::sys;

/// Packets of an interface that are not seen, or may not be.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Gap {
    /// Where.
    pub interface: Interface,
    /// The namespace of the interface.
    pub netns: Netns,
    /// What is in the way.
    pub kind: GapKind,
    /// What that rests on, a line each.
    pub evidence: Vec<String>,
}

/// What keeps packets from us.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum GapKind {
    /// Nothing could be attached.
    NotAttached,
    /// Its whole namespace could not be entered.
    NotEntered,
    /// Somebody else detached our program.
    Removed(Direction),
    /// What others have attached runs before our program.
    Behind(Direction),
    /// An XDP program runs before TC does.
    Xdp,
}

impl GapKind {
    /// Does it keep packets of this direction from us?
    pub fn keeps(self, direction: Direction) -> bool {
        match self {
            Self::NotAttached | Self::NotEntered => true,
            Self::Removed(of) | Self::Behind(of) => of == direction,
            Self::Xdp => direction == Direction::Ingress,
        }
    }
}

/// Looks at the hooks of interfaces, and remembers the names of the programs it has met.
#[derive(Debug, Default)]
pub struct Chains {
    programs: HashMap<u32, Known>,
}

/// What is known of a loaded program.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Known {
    /// Foreign bytes.
    name: Option<String>,
    /// Hash of its instructions, made by the kernel: equal for the same program of another instance.
    tag: Option<u64>,
}

impl Chains {
    /// What keeps packets of an interface from the programs we have there.
    pub fn gaps(&mut self, attached: &Attached, link: &Link, netns: &Netns) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let mut gap = |kind, evidence| {
            let interface = Interface { ifindex: link.ifindex, name: link.name.clone() };
            gaps.push(Gap { interface, netns: netns.clone(), kind, evidence });
        };
        for (direction, ours) in
            [Direction::Ingress, Direction::Egress].into_iter().zip(attached.programs)
        {
            match self.ahead(attached.mode, ours, link, direction) {
                Ok(None) => {
                    let evidence = removed(attached.mode, ours, direction);
                    gap(GapKind::Removed(direction), vec![evidence]);
                }
                Ok(Some(ahead)) if ahead.is_empty() => {}
                Ok(Some(ahead)) => gap(GapKind::Behind(direction), ahead),
                // The interface goes away while we look, or the kernel denies the look: no news.
                Err(error) => {
                    tracing::debug!(interface = link.ifindex, "hooks not looked at: {error}");
                }
            }
        }
        if let Some(xdp) = &link.xdp {
            let mode = match xdp.mode {
                XdpMode::Generic => "generic mode, after the driver",
                XdpMode::Driver => "native mode, in the driver",
                XdpMode::Offloaded => "the hardware",
                XdpMode::Several => "more than one mode",
            };
            let program = self.describe(xdp.program);
            gap(GapKind::Xdp, vec![format!("{program} runs as XDP in {mode}")]);
        }
        gaps
    }

    /// What runs before our program, a line each; `None` if ours does not run.
    fn ahead(
        &mut self,
        mode: Mode,
        ours: u32,
        link: &Link,
        direction: Direction,
    ) -> io::Result<Option<Vec<String>>> {
        let (ifindex, name) = (link.ifindex, direction.name());
        let on_tcx = match sys::bpf::tcx_programs(ifindex, direction == Direction::Egress) {
            // Before Linux 6.6 there is no such hook.
            Err(error) if mode == Mode::Clsact && error.raw_os_error() == Some(libc::EINVAL) => {
                Vec::new()
            }
            programs => programs?,
        };
        let place = on_tcx.iter().position(|program| *program == ours);
        let before = on_tcx.get(..place.unwrap_or(on_tcx.len())).unwrap_or_default();
        let mut ahead = match direction {
            Direction::Ingress => self.on_netkit(link),
            Direction::Egress => Vec::new(),
        };
        for &program in before {
            if !self.is_same_program(program, ours) {
                ahead.push(format!("{} runs before ours on TCX {name}", self.describe(program)));
            }
        }
        match mode {
            Mode::Tcx => Ok(place.map(|_place| ahead)),
            Mode::Clsact => {
                let filters = filters::list(ifindex, direction)?;
                let is_ours = |filter: &Filter| program_of(filter) == Some(ours);
                let Some(place) = filters.iter().position(is_ours) else { return Ok(None) };
                for filter in filters.iter().take(place) {
                    let id = program_of(filter);
                    if !id.is_some_and(|id| self.is_same_program(id, ours)) {
                        ahead.push(format!(
                            "{} is asked before ours on clsact {name}",
                            self.filter(filter)
                        ));
                    }
                }
                Ok(Some(ahead))
            }
        }
    }

    /// What runs on packets before they come in by an end of a netkit pair, as far as it can be asked here.
    fn on_netkit(&mut self, link: &Link) -> Vec<String> {
        let (hook, before) = match link.netkit {
            Some(Netkit { is_primary: true, .. }) => {
                ("peer", sys::bpf::netkit_programs(link.ifindex, true))
            }
            Some(Netkit { is_primary: false, other: Some(primary) }) => {
                ("primary", sys::bpf::netkit_programs(primary, false))
            }
            // The primary end is in another namespace, or it is no netkit.
            Some(Netkit { is_primary: false, other: None }) | None => return Vec::new(),
        };
        let before = before.unwrap_or_else(|error| {
            tracing::debug!(interface = link.ifindex, "netkit not looked at: {error}");
            Vec::new()
        });
        let told = |id| format!("{} runs before ours on netkit {hook}", self.describe(id));
        before.into_iter().map(told).collect()
    }

    /// `filter bpf guest.o:[ingress] at priority 10: program 57 (guest)`.
    fn filter(&mut self, filter: &Filter) -> String {
        let Filter { priority, kind, program } = filter;
        let name = program.as_ref().and_then(|program| program.name.as_ref());
        let name = name.map_or_else(String::new, |name| format!(" {name}"));
        let id = program_of(filter);
        let program = id.map_or_else(String::new, |id| format!(": {}", self.describe(id)));
        format!("filter {kind}{name} at priority {priority}{program}")
    }

    /// `program 57 (guest, tag 1f2e3d4c5b6a7988)`, or only the number where they cannot be read.
    fn describe(&mut self, id: u32) -> String {
        let Known { name, tag } = self.look_up(id);
        programs::with_identity(id, name.as_deref(), tag)
    }

    /// Ours in another instance of portwatch, which lets every packet go on.
    fn is_same_program(&mut self, id: u32, ours: u32) -> bool {
        let tag = self.look_up(id).tag;
        tag.is_some() && tag == self.look_up(ours).tag
    }

    /// Numbers of programs are not used again, so that what was once known stays true.
    fn look_up(&mut self, id: u32) -> Known {
        if !self.programs.contains_key(&id) {
            if self.programs.len() >= MAX_PROGRAMS {
                self.programs.clear();
            }
            // Needs CAP_SYS_ADMIN: without it the number has to do.
            let program = loaded_programs().filter_map(Result::ok).find(|it| it.id() == id);
            let known = program.map(|program| {
                let name = program.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned);
                Known { name, tag: Some(program.tag()) }
            });
            self.programs.insert(id, known.unwrap_or_default());
        }
        self.programs.get(&id).cloned().unwrap_or_default()
    }
}

fn program_of(filter: &Filter) -> Option<u32> {
    filter.program.as_ref()?.id
}

fn removed(mode: Mode, ours: u32, direction: Direction) -> String {
    let (mode, direction) = (mode.name(), direction.name());
    format!("program {ours}, which portwatch attached to {mode} {direction}, is not there any more")
}

/// Programs whose names are remembered.
const MAX_PROGRAMS: usize = 1024;
