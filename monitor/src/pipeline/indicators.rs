//! Circumstances that make a finding worse: each has a name, a test, words and a weight.

use crate::owner::{Attribution, Integrity, Owner, Packaging, Process, Role};
use crate::pipeline::judgement::name;
use crate::report::{Indicator, Severity, Technique};

/// A process that started so short before it was found is a hint.
const RECENTLY_NS: i64 = 10 * 60 * 1_000_000_000;

/// What a finding is about, as far as it can make it worse.
pub(super) struct Case<'a> {
    /// Who has to do with it and is there, the most telling first; those that were, if nobody is.
    owners: Vec<&'a Owner>,
    found_unix_ns: i64,
    own_netns: u64,
}

/// How much worse.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Weight {
    /// Two of them are one level, but never the last.
    Hint,
    /// So many levels.
    Levels(u8),
}

struct Row {
    name: &'static str,
    weight: Weight,
    /// Words, where it is so. What is not known is not so.
    says: fn(&Case<'_>, &Process) -> Option<String>,
    technique: Option<&'static Technique>,
}

const CRITICAL: Weight = Weight::Levels(3);

/// All of them, the gravest first.
const TABLE: [Row; 7] = [
    Row {
        name: "memfd-executable",
        weight: CRITICAL,
        says: |_, process| {
            let words = "what it runs never was a file: it is in memory only (memfd)";
            is_memfd(process).then(|| words.to_owned())
        },
        technique: Some(&Technique::REFLECTIVE_CODE_LOADING),
    },
    Row {
        name: "modified-executable",
        weight: CRITICAL,
        says: |_, process| {
            let package = process.packaging.package()?;
            let words = || format!("what it runs is not what package {} installed", package.name);
            (package.integrity == Integrity::Modified).then(words)
        },
        technique: Some(&Technique::COMPROMISED_BINARY),
    },
    Row {
        name: "deleted-executable",
        weight: Weight::Levels(2),
        says: |_, process| {
            let is_deleted = process.deleted && !is_memfd(process);
            is_deleted.then(|| "the file it runs has been deleted".to_owned())
        },
        technique: Some(&Technique::FILE_DELETION),
    },
    Row {
        name: "no-package",
        weight: Weight::Hint,
        says: |_, process| {
            let words = "no package has installed what it runs";
            (process.packaging == Packaging::NoPackage).then(|| words.to_owned())
        },
        technique: None,
    },
    Row {
        name: "orphan",
        weight: Weight::Hint,
        says: |_, process| {
            let words = "whoever started it is gone, and it is no service: init has adopted it";
            is_orphan(process).then(|| words.to_owned())
        },
        technique: None,
    },
    Row {
        name: "recent-start",
        weight: Weight::Hint,
        says: |case, process| {
            let age_ns = case.found_unix_ns.saturating_sub(process.start_unix_ns?);
            let words = "it started in the ten minutes before it was found";
            (0..RECENTLY_NS).contains(&age_ns).then(|| words.to_owned())
        },
        technique: None,
    },
    Row {
        name: "host-network-container",
        weight: Weight::Hint,
        says: |case, process| {
            let container = process.container.as_ref()?;
            let words = || format!("it runs in container {} with the host's network", container.id);
            (process.netns == Some(case.own_netns)).then(words)
        },
        technique: None,
    },
];

impl<'a> Case<'a> {
    /// `found_unix_ns` is when it was found, `own_netns` the namespace of the host's network.
    pub(super) fn of(attribution: &'a Attribution, found_unix_ns: i64, own_netns: u64) -> Self {
        let is_there = |owner: &&Owner| !owner.is_gone() && owner.role != Role::Releaser;
        let mut owners: Vec<&Owner> = attribution.owners.iter().filter(is_there).collect();
        if owners.is_empty() {
            owners = attribution.owners.iter().collect();
        }
        Self { owners, found_unix_ns, own_netns }
    }

    /// The words about the first process of which it is so; who that is, unless it is the first.
    fn says(&self, row: &Row) -> Option<String> {
        let first = self.owners.first()?.process.pid;
        self.owners.iter().find_map(|owner| {
            let process = &owner.process;
            let words = (row.says)(self, process)?;
            Some(match process.pid {
                pid if pid == first => words,
                pid => format!("{} (pid {pid}): {words}", name(process)),
            })
        })
    }
}

/// Those that are so, and what an attacker would be doing.
pub(super) fn all(case: &Case<'_>) -> (Vec<Indicator>, Vec<&'static Technique>) {
    let mut techniques = Vec::new();
    let indicators = TABLE.iter().filter_map(|row| {
        let sentence = case.says(row)?;
        techniques.extend(row.technique);
        Some(Indicator { name: row.name, sentence })
    });
    let indicators = indicators.collect();
    (indicators, techniques)
}

/// The severity of a finding that has this one without them.
pub(super) fn severity(base: Severity, indicators: &[Indicator]) -> Severity {
    let is = |row: &&Row| indicators.iter().any(|indicator| indicator.name == row.name);
    let (mut levels, mut hints) = (0_u8, 0_u8);
    for row in TABLE.iter().filter(is) {
        match row.weight {
            Weight::Hint => hints += 1,
            Weight::Levels(more) => levels = levels.saturating_add(more),
        }
    }
    let severity = (0..levels).fold(base, |severity, _| severity.next());
    if hints >= 2 { severity.max(severity.next().min(Severity::High)) } else { severity }
}

/// It never was a file of any file system that one could mount.
pub(super) fn is_memfd(process: &Process) -> bool {
    let path = process.executable.as_ref().map(|path| path.as_os_str().as_encoded_bytes());
    process.deleted && path.is_some_and(|path| path.starts_with(b"/memfd:"))
}

/// Init is its only parent, although somebody logged in started it and no service manager did.
fn is_orphan(process: &Process) -> bool {
    let only_init = matches!(process.ancestors.as_slice(), [init] if init.pid == 1);
    let unit = process.unit.as_deref().unwrap_or_default();
    let kind = unit.rsplit_once('.').map_or("", |(_, kind)| kind);
    let context = &process.context;
    let of_login = context.login.is_some()
        || context.terminal.is_some()
        || unit.starts_with("session-") && kind == "scope";
    only_init && of_login && kind != "service"
}
