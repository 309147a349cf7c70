//! What is not seen: a finding for each gap while it is there, and a sentence at the end of the run.

use std::collections::BTreeMap;

use crate::endpoint::{Direction, Netns};
use crate::kernel::chain::{Gap, GapKind};
use crate::pipeline::findings::Ground;
use crate::pipeline::{Pipeline, next_steps};
use crate::report::{Finding, FindingKind, Severity, Technique};

/// Sentences repeated at the end of a run; what is beyond only counts.
const REPEATED: usize = 32;

/// The gaps there are, and those there were.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// With the name of each place.
    open: BTreeMap<Ground, String>,
    said: Vec<String>,
}

impl Coverage {
    /// What keeps packets of a direction on an interface from us now.
    pub(super) fn of(&self, netns: &Netns, ifindex: u32, direction: Direction) -> Option<String> {
        self.open.iter().find_map(|(ground, place)| {
            let Ground::Interface(inode, index, kind) = *ground else { return None };
            let is_it = (inode, index) == (netns.inode, ifindex) && kind.keeps(direction);
            is_it.then(|| sentence(kind, place))
        })
    }
}

impl Pipeline {
    /// Takes in all gaps there are now; those there were and that are not among them are closed.
    pub(super) fn coverage(&mut self, gaps: Vec<Gap>, now_ns: u64) {
        let mut before = std::mem::take(&mut self.coverage.open);
        for Gap { interface, netns, kind, evidence } in gaps {
            let ground = Ground::Interface(netns.inode, interface.ifindex, kind);
            let place = self.place(&interface.name, &netns);
            let finding = Finding {
                evidence,
                next_steps: next_steps::of_gap(kind, &interface.name),
                ..self.gap(kind, &place, &netns, &interface.name)
            };
            before.remove(&ground);
            self.coverage.open.insert(ground, place);
            self.find(finding, ground, now_ns);
        }
        for (ground, place) in before {
            let why = format!(
                "What kept packets on interface {place} from portwatch is no longer there, or the \
                 interface is not."
            );
            self.resolve_others(ground, &[], &why, now_ns);
        }
    }

    /// `eth0`, with its namespace where that is not portwatch's.
    fn place(&self, interface: &str, netns: &Netns) -> String {
        if self.own_netns() == netns.inode {
            return interface.to_owned();
        }
        format!("{interface} of network namespace {netns}")
    }

    fn gap(&mut self, kind: GapKind, place: &str, netns: &Netns, interface: &str) -> Finding {
        let message = sentence(kind, place);
        let said = &mut self.coverage.said;
        if said.len() < REPEATED && !said.contains(&message) {
            said.push(message.clone());
        }
        let (severity, technique) = match kind {
            GapKind::Removed(_) => (Severity::High, Some(&Technique::DISABLED_TOOLS)),
            GapKind::NotAttached | GapKind::NotEntered | GapKind::Behind(_) | GapKind::Xdp => {
                (Severity::Medium, None)
            }
        };
        let subject = format!("{interface}|{}|{kind:?}", self.whose(netns));
        let mut finding = Finding::new(FindingKind::CoverageGap, &subject, severity, message);
        finding.techniques.extend(technique);
        finding
    }

    /// What was not seen in this run, a sentence each, in the order in which it was reported.
    pub(super) fn coverage_gaps(&self) -> Vec<String> {
        self.coverage.said.clone()
    }
}

/// One sentence a colleague would understand. A program ahead of ours may do no harm: that it may is
/// all that can be known.
fn sentence(kind: GapKind, interface: &str) -> String {
    let moving = |direction: Direction| match direction {
        Direction::Ingress => ("incoming", "come in"),
        Direction::Egress => ("outgoing", "go out"),
    };
    match kind {
        GapKind::NotAttached => {
            format!(
                "Traffic on interface {interface} is not seen: nothing could be attached to it."
            )
        }
        GapKind::NotEntered => {
            format!("Traffic{interface} is not seen: nothing could be attached there.")
        }
        GapKind::Removed(direction) => format!(
            "Packets that {} on interface {interface} are not seen any more: somebody has removed \
             portwatch's program.",
            moving(direction).1
        ),
        GapKind::Behind(direction) => format!(
            "Not all {} packets on interface {interface} may be seen: programs of others come first \
             and can keep packets from portwatch.",
            moving(direction).0
        ),
        GapKind::Xdp => format!(
            "Not all incoming packets on interface {interface} may be seen: an XDP program comes \
             first and can drop or redirect them."
        ),
    }
}
