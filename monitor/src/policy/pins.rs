//! Who it has to be: the keys of a rule about processes, and what each of them says of one.

use std::fmt;
use std::path::Path;

use globset::GlobSet;

use crate::escape;
use crate::owner::{Container, Image, Integrity, Packaging, Process};
use crate::report::RuleKey;

/// What a rule says of the processes. An empty list is a key that was not given.
#[derive(Clone, Debug, Default)]
pub(super) struct Pins {
    pub(super) exe: Vec<Pattern>,
    pub(super) sha256: Vec<String>,
    pub(super) user: Vec<String>,
    pub(super) unit: Vec<Pattern>,
    pub(super) package: Vec<String>,
    pub(super) container_image: Vec<String>,
}

/// A glob, with the text it was written as.
#[derive(Clone)]
pub(super) struct Pattern {
    pub(super) text: String,
    pub(super) matcher: GlobSet,
}

/// The keys about processes, in the order in which they are told.
pub(super) const PIN_KEYS: [RuleKey; 6] = [
    RuleKey::Exe,
    RuleKey::Sha256,
    RuleKey::User,
    RuleKey::Unit,
    RuleKey::Package,
    RuleKey::ContainerImage,
];

impl Pins {
    /// The keys that were given.
    pub(super) fn given(&self) -> impl Iterator<Item = RuleKey> {
        PIN_KEYS.into_iter().filter(|key| !self.allowed(*key).is_empty())
    }

    /// The values of a key, as they were written.
    pub(super) fn allowed(&self, key: RuleKey) -> Vec<&str> {
        match key {
            RuleKey::Exe => globs(&self.exe),
            RuleKey::Sha256 => texts(&self.sha256),
            RuleKey::User => texts(&self.user),
            RuleKey::Unit => globs(&self.unit),
            RuleKey::Package => texts(&self.package),
            RuleKey::ContainerImage => texts(&self.container_image),
            RuleKey::Expires
            | RuleKey::Port
            | RuleKey::Transport
            | RuleKey::Address
            | RuleKey::Remote => Vec::new(),
        }
    }

    /// Does one of the values of this key hold for a process? What cannot be read never does.
    pub(super) fn hold(&self, key: RuleKey, process: &Process) -> bool {
        match key {
            RuleKey::Exe => self.exe_holds(process),
            RuleKey::Sha256 => process.sha256.as_ref().is_some_and(|it| self.sha256.contains(it)),
            RuleKey::User => user_name(process).is_some_and(|name| self.user.contains(&name)),
            RuleKey::Unit => {
                process.unit.as_ref().is_some_and(|unit| matches(&self.unit, Path::new(unit)))
            }
            RuleKey::Package => process.packaging.package().is_some_and(|package| {
                package.integrity == Integrity::Unmodified && self.package.contains(&package.name)
            }),
            RuleKey::ContainerImage => images(process).any(|it| self.container_image.contains(it)),
            RuleKey::Expires
            | RuleKey::Port
            | RuleKey::Transport
            | RuleKey::Address
            | RuleKey::Remote => false,
        }
    }

    /// A path of another mount namespace is whatever somebody made it: it counts only where the
    /// contents are pinned as well.
    fn exe_holds(&self, process: &Process) -> bool {
        if process.on_host != Some(true) && self.sha256.is_empty() {
            return false;
        }
        // Not only by its `deleted` mark: a memfd's path looks like that of a file in the root.
        let memfd = |path: &Path| path.as_os_str().as_encoded_bytes().starts_with(b"/memfd:");
        process.executable.as_ref().is_some_and(|path| {
            !process.deleted && path.is_absolute() && !memfd(path) && matches(&self.exe, path)
        })
    }
}

/// The compiled glob would fill pages.
impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// What a process has under a key.
#[derive(Debug)]
pub(super) struct Fact {
    /// Words that follow "is".
    pub(super) words: String,
    /// It could be read.
    pub(super) is_known: bool,
}

impl Fact {
    fn known(words: impl Into<String>) -> Self {
        Self { words: words.into(), is_known: true }
    }

    fn unknown(words: impl Into<String>) -> Self {
        Self { words: words.into(), is_known: false }
    }

    fn of(words: Option<String>) -> Self {
        words.map_or_else(|| Self::unknown("not readable"), Self::known)
    }
}

/// What a process has under a key about processes.
pub(super) fn fact(key: RuleKey, process: &Process) -> Fact {
    let has_none = || process.cgroup.as_ref().map(|_| "none".to_owned());
    match key {
        RuleKey::Exe => exe_fact(process),
        RuleKey::Sha256 => Fact::of(process.sha256.clone()),
        RuleKey::User => Fact::of(user_name(process)),
        RuleKey::Unit => Fact::of(process.unit.clone().or_else(has_none)),
        RuleKey::Package => package_fact(process),
        RuleKey::ContainerImage => match &process.container {
            Some(Container { image: Some(image), .. }) => Fact::known(image_words(image)),
            Some(_) => Fact::unknown("not known"),
            None => Fact::of(has_none()),
        },
        RuleKey::Expires
        | RuleKey::Port
        | RuleKey::Transport
        | RuleKey::Address
        | RuleKey::Remote => Fact::of(None),
    }
}

fn exe_fact(process: &Process) -> Fact {
    let Some(path) = &process.executable else {
        return Fact::of(process.deleted.then(|| "a deleted file".to_owned()));
    };
    let place = match process.on_host {
        _ if process.deleted => " (deleted)",
        Some(true) => "",
        Some(false) => " of another mount namespace, not this host's",
        None => ", which may not be this host's",
    };
    let path = escape::text_from_bytes(path.as_os_str().as_encoded_bytes());
    Fact::known(format!("{path}{place}"))
}

fn package_fact(process: &Process) -> Fact {
    let package = match &process.packaging {
        Packaging::Unknown => return Fact::unknown("not known"),
        Packaging::NoPackage => return Fact::known("none"),
        Packaging::Replaced(_) => return Fact::known("deleted"),
        Packaging::Package(package) => package,
    };
    let name = &package.name;
    match &package.integrity {
        Integrity::Unmodified => Fact::known(name),
        Integrity::Modified => Fact::known(format!("{name}, but the file was modified")),
        Integrity::Unverifiable(why) => {
            Fact::unknown(format!("{name}, but whether the file is intact is open: {why}"))
        }
    }
}

/// Every name of the image it runs in: the one it was asked for by, its digests, its id.
fn images(process: &Process) -> impl Iterator<Item = &String> {
    let image = process.container.as_ref().and_then(|container| container.image.as_ref());
    image
        .into_iter()
        .flat_map(|image| std::iter::once(&image.name).chain(&image.digests).chain(&image.id))
}

/// `registry.example/web:1.4 (registry.example/web@sha256:…)`.
fn image_words(image: &Image) -> String {
    let by_contents = image.digests.first().or(image.id.as_ref());
    match by_contents.filter(|it| **it != image.name) {
        Some(contents) => format!("{} ({contents})", image.name),
        None => image.name.clone(),
    }
}

/// The name, or the number of a user that has no name here, as in a container.
fn user_name(process: &Process) -> Option<String> {
    process.user.clone().or_else(|| process.uid.map(|uid| uid.to_string()))
}

fn matches(patterns: &[Pattern], path: &Path) -> bool {
    patterns.iter().any(|pattern| pattern.matcher.is_match(path))
}

fn texts(values: &[String]) -> Vec<&str> {
    values.iter().map(String::as_str).collect()
}

fn globs(patterns: &[Pattern]) -> Vec<&str> {
    patterns.iter().map(|pattern| pattern.text.as_str()).collect()
}
