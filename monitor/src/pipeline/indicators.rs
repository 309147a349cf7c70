//! Circumstances that make a finding worse: each has a name, a test, words and a weight.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::app::Protocol;
use crate::escape::text_from_bytes;
use crate::owner::{Attribution, Integrity, Owner, Package, Packaging, Process, Role};
use crate::pipeline::judgement::name;
use crate::report::{Indicator, ListenerReport, NearMiss, RuleKey, Severity, Technique, Verdict};

/// A process that started so short before it was found is a hint.
const RECENTLY_NS: i64 = 10 * 60 * 1_000_000_000;

/// What a finding is about, as far as it can make it worse.
pub(super) struct Case<'a> {
    /// Who has to do with it and is there, the most telling first; those that were, if nobody is.
    owners: Vec<&'a Owner>,
    listener: Option<&'a ListenerReport>,
    spoken: Option<Protocol>,
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

enum Says {
    /// Of a process.
    Process(fn(&Case<'_>, &Process) -> Option<String>),
    /// Of the listener.
    Listener(fn(&ListenerReport) -> Option<String>),
    /// Of what conversations with it look like.
    Spoken(Protocol, &'static str),
}

struct Row {
    name: &'static str,
    weight: Weight,
    /// Words, where it is so. What is not known is not so.
    says: Says,
    technique: Option<&'static Technique>,
}

const CRITICAL: Weight = Weight::Levels(3);
const MEMFD: &str = "what it runs never was a file: it is in memory only (memfd)";
const DELETED: &str = "the file it runs has been deleted";

/// All of them, the gravest first.
const TABLE: [Row; 13] = [
    Row {
        name: "memfd-executable",
        weight: CRITICAL,
        says: Says::Process(|_, process| is_memfd(process).then(|| MEMFD.to_owned())),
        technique: Some(&Technique::REFLECTIVE_CODE_LOADING),
    },
    Row {
        name: "modified-executable",
        weight: CRITICAL,
        says: Says::Process(|_, process| {
            let package = process.packaging.package()?;
            let words = || format!("what it runs is not what package {} installed", package.name);
            (package.integrity == Integrity::Modified).then(words)
        }),
        technique: Some(&Technique::COMPROMISED_BINARY),
    },
    Row {
        name: "speaks-shell",
        weight: CRITICAL,
        says: Says::Spoken(Protocol::Shell, "a conversation with it looks like a shell"),
        technique: Some(&Technique::UNIX_SHELL),
    },
    Row {
        name: "deleted-executable",
        weight: Weight::Levels(2),
        says: Says::Process(|_, process| {
            let is_gone = process.deleted && !is_memfd(process) && replaced(process).is_none();
            is_gone.then(|| DELETED.to_owned())
        }),
        technique: Some(&Technique::FILE_DELETION),
    },
    Row {
        name: "writable-executable",
        weight: Weight::Levels(2),
        says: Says::Process(|_, process| {
            let writable = process.world_writable.as_ref()?;
            let path = text_from_bytes(writable.as_os_str().as_encoded_bytes());
            Some(if process.executable.as_ref() == Some(writable) {
                "anybody can write to the file it runs".to_owned()
            } else {
                format!("what it runs lies in or below {path}, where anybody can put files")
            })
        }),
        technique: None,
    },
    Row {
        name: "all-addresses",
        weight: Weight::Levels(1),
        says: Says::Listener(|listener| {
            let Verdict::Unknown { nearest: Some(nearest) } = &listener.verdict else {
                return None;
            };
            let loopback = expected_loopback(nearest).filter(|_| listener.on_all_addresses())?;
            Some(format!("it listens on all addresses, where the policy says {loopback}"))
        }),
        technique: None,
    },
    Row {
        name: "speaks-proxy",
        weight: Weight::Levels(1),
        says: Says::Spoken(Protocol::Socks, "a conversation with it looks like a SOCKS proxy"),
        technique: Some(&Technique::PROXY),
    },
    Row {
        name: "foreign-path",
        weight: Weight::Levels(1),
        says: Says::Process(|_, process| {
            let words = "its executable has a path of its own mount namespace: on this host another \
                         file has that path, or none";
            let is_forged =
                process.on_host == Some(false) && !process.deleted && process.container.is_none();
            is_forged.then(|| words.to_owned())
        }),
        technique: None,
    },
    Row {
        name: "replaced-executable",
        weight: Weight::Levels(0),
        says: Says::Process(|_, process| replaced(process).map(upgraded)),
        technique: None,
    },
    Row {
        name: "no-package",
        weight: Weight::Hint,
        says: Says::Process(|_, process| {
            let words = "no package has installed what it runs";
            (process.packaging == Packaging::NoPackage).then(|| words.to_owned())
        }),
        technique: None,
    },
    Row {
        name: "orphan",
        weight: Weight::Hint,
        says: Says::Process(|_, process| {
            let words = "whoever started it is gone, and it is no service: init has adopted it";
            is_orphan(process).then(|| words.to_owned())
        }),
        technique: None,
    },
    Row {
        name: "recent-start",
        weight: Weight::Hint,
        says: Says::Process(|case, process| {
            let age_ns = case.found_unix_ns.saturating_sub(process.start_unix_ns?);
            let words = "it started in the ten minutes before it was found";
            (0..RECENTLY_NS).contains(&age_ns).then(|| words.to_owned())
        }),
        technique: None,
    },
    Row {
        name: "host-network-container",
        weight: Weight::Hint,
        says: Says::Process(|case, process| {
            let container = process.container.as_ref()?;
            let words = || format!("it runs in container {} with the host's network", container.id);
            (process.netns == Some(case.own_netns)).then(words)
        }),
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
        Self { owners, listener: None, spoken: None, found_unix_ns, own_netns }
    }

    /// About one process, whatever became of it.
    pub(super) fn of_owner(owner: &'a Owner, found_unix_ns: i64, own_netns: u64) -> Self {
        Self { owners: vec![owner], listener: None, spoken: None, found_unix_ns, own_netns }
    }

    /// The same, about a listener, and what conversations with it looked like.
    pub(super) fn with_listener(
        self,
        listener: &'a ListenerReport,
        spoken: Option<Protocol>,
    ) -> Self {
        Self { listener: Some(listener), spoken, ..self }
    }

    /// The first process of which `is` holds.
    pub(super) fn owner(&self, is: impl Fn(&Process) -> bool) -> Option<&'a Owner> {
        self.owners.iter().find(|owner| is(&owner.process)).copied()
    }

    /// The words about the first process of which it is so; who that is, unless it is the first.
    fn says(&self, row: &Row) -> Option<String> {
        let says = match row.says {
            Says::Process(says) => says,
            Says::Listener(says) => return says(self.listener?),
            Says::Spoken(protocol, words) => {
                return (self.spoken == Some(protocol)).then(|| words.to_owned());
            }
        };
        let first = self.owners.first()?.process.pid;
        self.owners.iter().find_map(|owner| {
            let process = &owner.process;
            let words = says(self, process)?;
            Some(match process.pid {
                pid if pid == first => words,
                pid => format!("{} (pid {pid}): {words}", name(process)),
            })
        })
    }
}

/// What is wrong with the executable of a process, if that has been deleted.
pub(super) fn deleted(process: &Process) -> Option<String> {
    if !process.deleted {
        None
    } else if is_memfd(process) {
        Some(MEMFD.to_owned())
    } else {
        Some(replaced(process).map_or_else(|| DELETED.to_owned(), upgraded))
    }
}

fn upgraded(package: &Package) -> String {
    let version = package.version.as_deref().unwrap_or_default();
    format!(
        "the file it runs has been replaced since by the one of package {} {version}, as an upgrade \
         does: it was not restarted",
        package.name
    )
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

/// The package whose file has taken the place of the one it runs.
pub(super) const fn replaced(process: &Process) -> Option<&Package> {
    match &process.packaging {
        Packaging::Replaced(package) => Some(package),
        Packaging::Unknown | Packaging::NoPackage | Packaging::Package(_) => None,
    }
}

/// What the rule says of the address, if that is loopback addresses only.
fn expected_loopback(nearest: &NearMiss) -> Option<&str> {
    let address = nearest.differences.iter().find(|it| it.key == RuleKey::Address)?;
    let is_loopback = |text: &str| {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.is_ok_and(|net| net.network().is_loopback() && net.broadcast().is_loopback())
    };
    address.expected.split(" or ").all(is_loopback).then_some(&*address.expected)
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
