//! The life of findings: opened once, updated when it matters to a person, closed when they are so no
//! more, and the same one again when they come back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::endpoint::Transport;
use crate::flow::FlowId;
use crate::kernel::chain::GapKind;
use crate::pipeline::Pipeline;
use crate::report::{Body, Finding, FindingKind, FindingReport, FindingState, Indicator};

/// Findings that are followed at once.
const MAX_OPEN: usize = 16_384;
/// Findings that are known again when they come back.
const MAX_PAST: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Grounds that are remembered: as many as there can be listeners and flows.
const MAX_GROUNDS: usize = 131_072;
/// A finding is updated at most this often, unless it gets worse.
const UPDATE_NS: u64 = 10_000_000_000;
/// What is gone may be back in a moment: a service restarts. Until then its finding stays open.
const RETURN_NS: u64 = 5_000_000_000;

/// What a finding stands on: as long as one of its grounds is there, it is open.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Ground {
    /// A listener, by its cookie.
    Listener(u64),
    /// A flow.
    Flow(FlowId),
    /// Clients of a port that no rule expects, more than are told one by one: those on this host, or
    /// those elsewhere.
    Clients(u16, Transport, bool),
    /// A socket that answers without being on the port, by its cookie.
    Stranger(u64),
    /// An answer that no socket on the port explains, by its number.
    Answer(u64),
    /// A rule or program that sends a port elsewhere, by its number.
    Redirection(u64),
    /// Views that disagree, by a number of what they disagree about.
    Views(u64),
    /// An interface, by namespace and index, and what keeps its packets from us.
    Interface(u64, u32, GapKind),
}

impl Ground {
    /// How long it is waited for once it is gone.
    const fn patience_ns(self) -> u64 {
        match self {
            Self::Listener(_)
            | Self::Flow(_)
            | Self::Stranger(_)
            | Self::Answer(_)
            | Self::Redirection(_) => RETURN_NS,
            // Whoever keeps packets from us or hides is told of each time.
            Self::Clients(..) | Self::Interface(..) | Self::Views(_) => 0,
        }
    }
}

/// All findings; bounded.
#[derive(Debug)]
pub(super) struct Findings {
    open: HashMap<String, Open>,
    past: LruCache<String, Past>,
    /// The findings that stand on a ground: what is found there later is the same one, even if it looks
    /// like another by then.
    on: BTreeMap<Ground, Vec<(FindingKind, String)>>,
    /// Findings that something is due for when time has passed.
    restless: BTreeSet<String>,
    total: u64,
    unfollowed: u64,
}

/// A finding that is open.
#[derive(Debug)]
struct Open {
    told: Finding,
    told_ns: u64,
    /// The ground that it was told of.
    speaker: Ground,
    /// What is found by now, if that was not told yet.
    latest: Option<Finding>,
    first_seen_ns: u64,
    last_seen_ns: u64,
    occurrences: u64,
    grounds: BTreeSet<Ground>,
    /// The last ground is gone: until when it is waited for, and why it is so no more, in words.
    leaving: Option<(u64, String)>,
}

/// A finding that was open.
#[derive(Clone, Copy, Debug)]
struct Past {
    first_seen_ns: u64,
    occurrences: u64,
}

impl Default for Findings {
    fn default() -> Self {
        Self {
            open: HashMap::new(),
            past: LruCache::new(MAX_PAST),
            on: BTreeMap::new(),
            restless: BTreeSet::new(),
            total: 0,
            unfollowed: 0,
        }
    }
}

impl Findings {
    /// Findings there were so far.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// Those that are open.
    pub(super) fn open(&self) -> u64 {
        self.open.len() as u64
    }

    /// Those that were told and not followed.
    pub(super) const fn unfollowed(&self) -> u64 {
        self.unfollowed
    }

    /// Since when there is a finding of this kind on this ground.
    pub(super) fn first_seen_ns(&self, ground: Ground, kind: FindingKind) -> Option<u64> {
        self.open.get(self.id_on(ground, kind)?).map(|open| open.first_seen_ns)
    }

    fn id_on(&self, ground: Ground, kind: FindingKind) -> Option<&String> {
        let found = self.on.get(&ground)?.iter().find(|(other, _)| *other == kind);
        found.map(|(_, id)| id)
    }

    /// It stands on this ground too.
    fn stand(&mut self, id: &str, kind: FindingKind, ground: Ground) {
        if self.on.len() >= MAX_GROUNDS && !self.on.contains_key(&ground) {
            self.unfollowed += 1;
            return;
        }
        let found = self.on.entry(ground).or_default();
        if !found.iter().any(|(other, _)| *other == kind) {
            found.push((kind, id.to_owned()));
        }
    }

    fn leave(&mut self, kind: FindingKind, ground: Ground) -> Option<String> {
        let found = self.on.get_mut(&ground)?;
        let position = found.iter().position(|(other, _)| *other == kind)?;
        let (_, id) = found.swap_remove(position);
        if found.is_empty() {
            self.on.remove(&ground);
        }
        Some(id)
    }
}

impl Pipeline {
    /// Takes in that this is so: a new finding is told, a known one if that is news of it.
    pub(super) fn find(&mut self, mut finding: Finding, ground: Ground, now_ns: u64) {
        let findings = &mut self.findings;
        if let Some(known) = findings.id_on(ground, finding.kind) {
            finding.id.clone_from(known);
        }
        let (id, kind) = (finding.id.clone(), finding.kind);
        let Some(open) = findings.open.get_mut(&id) else {
            return self.open_finding(finding, ground, now_ns);
        };
        open.grounds.insert(ground);
        open.last_seen_ns = open.last_seen_ns.max(now_ns);
        if open.leaving.take().is_some() {
            open.occurrences += 1;
        }
        // Of several grounds one speaks: else each would be news after the other.
        if !open.grounds.contains(&open.speaker) || finding.severity > open.told.severity {
            open.speaker = ground;
        }
        if open.speaker == ground {
            open.latest = Some(finding);
        }
        findings.stand(&id, kind, ground);
        findings.restless.insert(id.clone());
        self.tell_news(&id, now_ns, false);
    }

    /// Takes in that findings of other kinds than these do not stand on this ground any more. What else
    /// those stand on may have something to say now.
    pub(super) fn resolve_others(
        &mut self,
        ground: Ground,
        kinds: &[FindingKind],
        why: &str,
        now_ns: u64,
    ) -> Vec<Ground> {
        let found = self.findings.on.get(&ground).into_iter().flatten();
        let gone: Vec<FindingKind> =
            found.map(|(kind, _)| *kind).filter(|kind| !kinds.contains(kind)).collect();
        gone.into_iter().filter_map(|kind| self.resolve(ground, kind, why, now_ns)).collect()
    }

    fn resolve(
        &mut self,
        ground: Ground,
        kind: FindingKind,
        why: &str,
        now_ns: u64,
    ) -> Option<Ground> {
        let findings = &mut self.findings;
        let id = findings.leave(kind, ground)?;
        let open = findings.open.get_mut(&id)?;
        open.grounds.remove(&ground);
        open.last_seen_ns = open.last_seen_ns.max(now_ns);
        if let Some(heir) = open.grounds.first() {
            return (open.speaker == ground).then_some(*heir);
        }
        open.leaving = Some((now_ns.saturating_add(ground.patience_ns()), why.to_owned()));
        findings.restless.insert(id.clone());
        if ground.patience_ns() == 0 {
            self.tell_news(&id, now_ns, false);
        }
        None
    }

    /// Tells what is due by now; with `all`, everything.
    pub(super) fn report_findings(&mut self, now_ns: u64, all: bool) {
        for id in std::mem::take(&mut self.findings.restless) {
            self.tell_news(&id, now_ns, all);
        }
    }

    fn open_finding(&mut self, finding: Finding, ground: Ground, now_ns: u64) {
        let findings = &mut self.findings;
        let past = findings.past.pop(&finding.id);
        findings.total += u64::from(past.is_none());
        let past = past.unwrap_or(Past { first_seen_ns: now_ns, occurrences: 0 });
        let open = Open {
            told: finding,
            told_ns: now_ns,
            speaker: ground,
            latest: None,
            first_seen_ns: past.first_seen_ns,
            last_seen_ns: now_ns,
            occurrences: past.occurrences + 1,
            grounds: BTreeSet::from([ground]),
            leaving: None,
        };
        let (id, kind) = (open.told.id.clone(), open.told.kind);
        let told = (FindingState::Open, Vec::new(), open.told.clone());
        let history = (open.first_seen_ns, open.last_seen_ns, open.occurrences);
        if findings.open.len() < MAX_OPEN {
            findings.stand(&id, kind, ground);
            findings.open.insert(id, open);
        } else {
            findings.unfollowed += 1;
        }
        self.tell(told, history, now_ns);
    }

    /// Tells of one finding what is due.
    fn tell_news(&mut self, id: &str, now_ns: u64, all: bool) {
        let findings = &mut self.findings;
        findings.restless.remove(id);
        let Some(open) = findings.open.get_mut(id) else { return };
        if let Some(latest) = open.latest.take_if(|_| open.leaving.is_none()) {
            let changes = changes(&open.told, &latest);
            let is_worse = latest.severity > open.told.severity;
            if changes.is_empty() {
                // What is no news may still be told better later.
                open.told = latest;
            } else if all || is_worse || now_ns.saturating_sub(open.told_ns) >= UPDATE_NS {
                (open.told, open.told_ns) = (latest, now_ns);
                let told = (FindingState::Updated, changes, open.told.clone());
                let history = (open.first_seen_ns, open.last_seen_ns, open.occurrences);
                self.tell(told, history, now_ns);
            } else {
                open.latest = Some(latest);
                findings.restless.insert(id.to_owned());
            }
            return;
        }
        let Some((until_ns, why)) = &open.leaving else { return };
        if !all && now_ns < *until_ns {
            findings.restless.insert(id.to_owned());
            return;
        }
        let message = why.clone();
        let Some(open) = findings.open.remove(id) else { return };
        let past = Past { first_seen_ns: open.first_seen_ns, occurrences: open.occurrences };
        findings.past.put(id.to_owned(), past);
        let finding = Finding { message, ..open.latest.unwrap_or(open.told) };
        let history = (open.first_seen_ns, open.last_seen_ns, open.occurrences);
        self.tell((FindingState::Closed, Vec::new(), finding), history, now_ns);
    }

    fn tell(
        &mut self,
        (state, changes, finding): (FindingState, Vec<String>, Finding),
        (first_seen_ns, last_seen_ns, occurrences): (u64, u64, u64),
        now_ns: u64,
    ) {
        let report = FindingReport {
            state,
            first_seen_unix_ns: self.clock.unix_ns(first_seen_ns),
            last_seen_unix_ns: self.clock.unix_ns(last_seen_ns),
            occurrences,
            changes,
            finding,
        };
        self.report(now_ns, Body::Finding(Box::new(report)));
    }
}

/// What is different in a way that a person cares about, a line each.
fn changes(before: &Finding, now: &Finding) -> Vec<String> {
    let mut changes = Vec::new();
    if before.severity != now.severity {
        changes.push(format!("severity: {} → {}", before.severity.name(), now.severity.name()));
    }
    if before.message != now.message {
        changes.push(format!("it was: {}", before.message));
    }
    let (before, now) = (lines(before), lines(now));
    changes.extend(now.difference(&before).map(|line| format!("new: {line}")));
    changes.extend(before.difference(&now).map(|line| format!("no longer: {line}")));
    changes
}

/// What it rests on. The differences from the nearest rule are part of the message.
fn lines(finding: &Finding) -> BTreeSet<&str> {
    let indicators = finding.indicators.iter().map(|Indicator { sentence, .. }| sentence.as_str());
    indicators.chain(finding.evidence.iter().map(String::as_str)).collect()
}
