//! What is not seen, said once: a finding when a gap opens or changes, and again at the end of the run.

use std::collections::HashMap;

use crate::endpoint::{Direction, Netns};
use crate::kernel::chain::{Gap, GapKind};
use crate::pipeline::Pipeline;
use crate::pipeline::listeners::{HIGH, MEDIUM};
use crate::report::{FindingKind, FindingReport};

/// Sentences repeated at the end of a run; what is beyond only counts.
const REPEATED: usize = 32;

/// The gaps there are, and those there were.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// By namespace, interface and kind: the evidence that was reported.
    open: HashMap<(u64, u32, GapKind), Vec<String>>,
    said: Vec<String>,
}

impl Pipeline {
    /// Takes in all gaps there are now; those that are new or have changed become findings.
    pub(super) fn coverage(&mut self, gaps: Vec<Gap>, now_ns: u64) {
        let before = std::mem::take(&mut self.coverage.open);
        for Gap { interface, netns, kind, evidence } in gaps {
            let key = (netns.inode, interface.ifindex, kind);
            if before.get(&key) != Some(&evidence) {
                let place = self.place(interface.name, &netns);
                self.coverage_gap(kind, sentence(kind, &place), evidence.clone(), now_ns);
            }
            self.coverage.open.insert(key, evidence);
        }
    }

    /// `eth0`, with its namespace where that is not portwatch's.
    fn place(&self, interface: String, netns: &Netns) -> String {
        if self.known.observed.get(&0) == Some(&netns.inode) {
            return interface;
        }
        format!("{interface} of network namespace {netns}")
    }

    fn coverage_gap(&mut self, kind: GapKind, message: String, evidence: Vec<String>, now_ns: u64) {
        let said = &mut self.coverage.said;
        if said.len() < REPEATED && !said.contains(&message) {
            said.push(message.clone());
        }
        let severity = match kind {
            GapKind::Removed(_) => HIGH,
            GapKind::NotAttached | GapKind::NotEntered | GapKind::Behind(_) | GapKind::Xdp => {
                MEDIUM
            }
        };
        let finding = FindingReport {
            kind: FindingKind::CoverageGap,
            severity,
            message,
            evidence,
            nearest: None,
            listener: None,
        };
        self.find(finding, now_ns);
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
