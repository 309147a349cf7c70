//! Who a rule would pin, as specifically as can be; or why nobody should.

use std::collections::BTreeSet;
use std::path::Path;

use super::LooksExposed;
use crate::owner::{Integrity, Packaging, Process};

/// The values of the keys about processes: what has no value is not written.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Identity {
    pub(super) exe: BTreeSet<String>,
    pub(super) sha256: BTreeSet<String>,
    pub(super) user: BTreeSet<String>,
    pub(super) unit: BTreeSet<String>,
    pub(super) package: BTreeSet<String>,
    pub(super) container_image: BTreeSet<String>,
    /// Programs among them that run whatever they are given.
    pub(super) interpreters: BTreeSet<String>,
}

/// What runs programs or passes on connections of others' choice: to pin it pins not what it does.
const INTERPRETERS: [&str; 22] = [
    "ash", "awk", "bash", "busybox", "csh", "dash", "deno", "java", "ksh", "lua", "mono", "nc",
    "ncat", "node", "perl", "php", "python", "ruby", "sh", "socat", "tclsh", "zsh",
];

impl Identity {
    /// Of all processes that own it: a rule must hold for each.
    pub(super) fn of(processes: &[&Process], exposed: LooksExposed) -> Result<Self, String> {
        if processes.is_empty() {
            return Err("nobody is seen to own it".to_owned());
        }
        let mut identity = Self::default();
        for process in processes {
            identity.add(process, exposed)?;
        }
        // A key must hold for everybody, so it is given only where everybody has it.
        let is_packaged = |process: &&&Process| package(process).is_some();
        if processes.iter().all(|it| is_packaged(&it)) {
            identity.package = processes.iter().filter_map(|it| package(it)).collect();
        } else {
            let hashes = processes.iter().map(|process| process.sha256.clone());
            identity.sha256 = hashes
                .collect::<Option<_>>()
                .ok_or("no package vouches for what it runs, and its contents could not be read")?;
        }
        if let Some(units) = processes.iter().map(|it| service(it)).collect() {
            identity.unit = units;
        }
        if let Some(images) = processes.iter().map(|it| image(it)).collect() {
            identity.container_image = images;
        }
        Ok(identity)
    }

    fn add(&mut self, process: &Process, exposed: LooksExposed) -> Result<(), String> {
        let path = process.executable.as_deref();
        if process.deleted {
            return Err("what it runs was deleted, or never had a name".to_owned());
        }
        let Some(path) = path else {
            return Err("what it runs could not be read".to_owned());
        };
        let Some(text) = path.to_str().filter(|text| text.starts_with('/')) else {
            return Err("the path of what it runs cannot be written down".to_owned());
        };
        if text.starts_with("/memfd:") {
            return Err("what it runs never had a name".to_owned());
        }
        if let Packaging::Package(package) = &process.packaging
            && package.integrity == Integrity::Modified
        {
            let name = &package.name;
            return Err(format!("what it runs is not as the package {name} installed it"));
        }
        if process.on_host == Some(true)
            && let Some(why) = exposed(path, process.uid)
        {
            return Err(why);
        }
        let Some(user) = process.user.clone().or_else(|| process.uid.map(|uid| uid.to_string()))
        else {
            return Err("its user could not be read".to_owned());
        };
        self.exe.insert(text.to_owned());
        self.user.insert(user);
        if is_interpreter(path) {
            self.interpreters.extend(path.file_name().map(|it| it.to_string_lossy().into_owned()));
        }
        Ok(())
    }
}

/// The package, where it vouches for the contents.
fn package(process: &Process) -> Option<String> {
    let package = process.packaging.package()?;
    (package.integrity == Integrity::Unmodified).then(|| package.name.clone())
}

/// The image it runs in, by what it is where that is known: a tag may be another image tomorrow.
fn image(process: &Process) -> Option<String> {
    let image = process.container.as_ref()?.image.as_ref()?;
    Some(image.digests.first().or(image.id.as_ref()).unwrap_or(&image.name).clone())
}

/// The unit, if its name is the same tomorrow: those of sessions and transient units are not.
fn service(process: &Process) -> Option<String> {
    let unit = process.unit.as_ref()?;
    let lasts = unit.ends_with(".service") && !unit.starts_with("run-");
    lasts.then(|| unit.clone())
}

/// Is this a program that runs whatever it is given? `python3.11` is python.
pub(in crate::policy) fn is_interpreter(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    // `nc.openbsd`, `busybox.static`.
    let first = name.split('.').next().unwrap_or_default();
    INTERPRETERS.contains(&bare) || INTERPRETERS.contains(&first)
}
