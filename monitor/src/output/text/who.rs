//! Who, in a few words: `python3[4242]~ root (holder, exited) +1`. What the parts mean is in
//! docs/owners.md.

use std::collections::BTreeSet;

use crate::owner::{Attribution, Evidence, Owner, Ownership, Process, Side};

use super::line::{Ink, Line};

/// The principal owner of a listener, or why there is none.
pub(super) fn principal(line: &mut Line<'_>, attribution: &Attribution) {
    let Some(owner) = attribution.principal() else {
        return nobody(line, attribution);
    };
    process(line, owner);
    line.put(part_ink(owner), &format!(" ({})", part(owner)));
    others(line, owner, &attribution.owners.iter().collect::<Vec<_>>());
}

/// The owners of both ends of a flow: `curl[5123]~ alice (holder) > python3[4242] root (user)`.
pub(super) fn both_ends(line: &mut Line<'_>, attribution: &Attribution) {
    if attribution.owners.is_empty() {
        return nobody(line, attribution);
    }
    if of_side(attribution, true).next().is_some() {
        end(line, attribution, true);
        line.put(Ink::Plain, " ");
    }
    line.put(Ink::Plain, ">");
    if of_side(attribution, false).next().is_some() {
        line.put(Ink::Plain, " ");
        end(line, attribution, false);
    }
}

/// What kind of answer it is when no process is named.
pub(super) const fn in_a_word(ownership: Ownership) -> &'static str {
    match ownership {
        Ownership::Process => "process not named",
        Ownership::Kernel => "kernel",
        Ownership::OtherNamespace => "other namespace",
        Ownership::Forwarded => "forwarded",
        Ownership::None => "nobody",
        Ownership::Unknown => "owner unknown",
    }
}

/// The user by name, or by number where it has no name.
pub(super) fn user(process: &Process) -> Option<String> {
    process.user.clone().or_else(|| process.uid.map(|uid| uid.to_string()))
}

/// `~` for what was observed afterwards, `?` for what was inferred.
pub(super) const fn mark(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Exact => "",
        Evidence::Observed => "~",
        Evidence::Inferred => "?",
    }
}

/// Its part in it: `user`, `opener, exited`.
pub(super) fn part(owner: &Owner) -> String {
    let fate = match (owner.exited, owner.replaced) {
        (true, _) => ", exited",
        (false, true) => ", replaced",
        (false, false) => "",
    };
    format!("{}{fate}", owner.role.name())
}

/// That nobody is left to ask is worth notice.
pub(super) const fn part_ink(owner: &Owner) -> Ink {
    if owner.is_gone() { Ink::Notable } else { Ink::Faint }
}

/// The owners at one end; an owner without a side is a listener's, hence the destination's.
pub(super) fn of_side(attribution: &Attribution, source: bool) -> impl Iterator<Item = &Owner> {
    attribution.owners.iter().filter(move |owner| (owner.side == Some(Side::Source)) == source)
}

fn end(line: &mut Line<'_>, attribution: &Attribution, source: bool) {
    let owners: Vec<&Owner> = of_side(attribution, source).collect();
    let Some(owner) = owners.first() else {
        return;
    };
    process(line, owner);
    line.put(Ink::Faint, &format!(" ({})", part(owner)));
    others(line, owner, &owners);
}

fn process(line: &mut Line<'_>, owner: &Owner) {
    let Process { name, pid, .. } = &*owner.process;
    line.foreign(Ink::Name, &format!("{name}[{pid}]"));
    line.put(Ink::Notable, mark(owner.evidence));
    if let Some(user) = user(&owner.process) {
        line.foreign(Ink::Plain, &format!(" {user}"));
    }
}

fn others(line: &mut Line<'_>, named: &Owner, owners: &[&Owner]) {
    let count = other_processes(named, owners);
    if count > 0 {
        line.put(Ink::Faint, &format!(" +{count}"));
    }
}

/// How many processes there are besides the one that is named, whatever their roles.
pub(super) fn other_processes(named: &Owner, owners: &[&Owner]) -> usize {
    let identity = |owner: &Owner| (owner.process.pid, owner.process.start_ticks);
    let owners = owners.iter().copied();
    let others: BTreeSet<_> = owners.map(identity).filter(|it| *it != identity(named)).collect();
    others.len()
}

fn nobody(line: &mut Line<'_>, attribution: &Attribution) {
    line.put(Ink::Notable, in_a_word(attribution.ownership));
    if !attribution.reason.is_empty() {
        line.foreign(Ink::Faint, &format!(": {}", attribution.reason));
    }
}
