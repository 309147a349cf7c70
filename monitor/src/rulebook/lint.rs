//! What a rule does not do although it looks like it: never match, match more, be of no use, end soon.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use jiff::civil::Date;
use jiff::{ToSpan as _, Unit};
use uzers::{Users as _, UsersCache};

use super::check::Seen;
use super::files;
use crate::escape::text_from_bytes;
use crate::host::{executable, packages};
use crate::policy::{RuleKind, Written, exposed, is_literal, runs_anything};
use crate::ports::PortSet;
use crate::report::{RuleKey, Warning};

/// A rule that ends within so many days is worth a word.
const SOON_DAYS: i64 = 14;

/// Files that a warning names.
const MAX_NAMED: usize = 6;

/// Where systemd has its units.
const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// What rules are held against.
pub(super) struct Host {
    today: Date,
    /// The ports that the user named, if any.
    ports: Option<PortSet>,
    users: UsersCache,
}

impl Host {
    /// This host on this day.
    pub(super) fn new(today: Date, ports: Option<PortSet>) -> Self {
        Self { today, ports, users: UsersCache::new() }
    }

    /// The date.
    pub(super) const fn today(&self) -> Date {
        self.today
    }
}

/// What there is to warn about in a rule, in the order of its keys. `earlier` are those before it.
pub(super) fn warnings(
    rule: &Written<'_>,
    earlier: &[Written<'_>],
    seen: &Seen,
    host: &Host,
) -> Vec<Warning> {
    let mut lint = Lint { rule, host, warnings: Vec::new() };
    lint.shadow(earlier);
    lint.lack_of_identity();
    lint.expiry();
    lint.ports();
    lint.addresses(seen);
    lint.executables();
    lint.contents();
    lint.users();
    lint.units(seen);
    lint.packages();
    lint.warnings
}

struct Lint<'a> {
    rule: &'a Written<'a>,
    host: &'a Host,
    warnings: Vec<Warning>,
}

impl Lint<'_> {
    fn warn(&mut self, key: Option<RuleKey>, message: impl Into<String>) {
        let (line, column) = self.rule.place(key);
        self.warnings.push(Warning { line, column, message: message.into() });
    }

    fn shadow(&mut self, earlier: &[Written<'_>]) {
        if let Some(first) = earlier.iter().find(|first| first.covers(self.rule)) {
            let (line, _) = first.place(None);
            let id = first.id();
            self.warn(
                None,
                format!("is never used: rule `{id}` on line {line} expects all of it already"),
            );
        }
    }

    fn lack_of_identity(&mut self) {
        let has = |key| !self.rule.values(key).is_empty();
        let names_program =
            [RuleKey::Exe, RuleKey::Sha256, RuleKey::Package, RuleKey::ContainerImage].map(has);
        let (user, unit) = (has(RuleKey::User), has(RuleKey::Unit));
        let does = match self.rule.kind() {
            RuleKind::Listener => "listen",
            RuleKind::Client => "talk",
        };
        if names_program.contains(&true) || unit {
            return;
        }
        if user {
            let users = self.rule.values(RuleKey::User).join(" or ");
            let message =
                format!("any program of {users} may {does}: pin `exe`, `package` or `unit`");
            self.warn(Some(RuleKey::User), message);
        } else if self.rule.kind() == RuleKind::Listener {
            self.warn(
                None,
                "anybody may listen there: it pins no `exe`, `sha256`, `user`, `unit`, `package` or \
                 `container_image`",
            );
        }
    }

    fn expiry(&mut self) {
        let Some(last_day) = self.rule.expires() else { return };
        let today = self.host.today;
        if last_day < today {
            let message = format!("ended on {last_day}: the rule expects nothing any more");
            self.warn(Some(RuleKey::Expires), message);
        } else if last_day <= today.saturating_add(SOON_DAYS.days()) {
            let days = today.until((Unit::Day, last_day)).map(|span| span.get_days());
            let days = days.unwrap_or_default();
            let message = format!("ends in {days} days, on {last_day}");
            self.warn(Some(RuleKey::Expires), message);
        }
    }

    fn ports(&mut self) {
        let (Some(ports), Some(looked_at)) = (self.rule.ports(), &self.host.ports) else { return };
        if !ports.iter().any(|port| looked_at.contains(port)) {
            let message =
                format!("is not among the ports looked at ({looked_at}): never matches there");
            self.warn(Some(RuleKey::Port), message);
        }
    }

    fn addresses(&mut self, seen: &Seen) {
        if self.rule.kind() == RuleKind::Client {
            return;
        }
        let single = self.rule.networks().filter(|net| net.prefix_len() == net.max_prefix_len());
        let missing: Vec<IpAddr> = single
            .map(|net| net.addr())
            .filter(|ip| !seen.listeners.iter().any(|listener| listener.local.ip == *ip))
            .filter(|ip| is_elsewhere(*ip))
            .collect();
        for ip in missing {
            self.warn(
                Some(RuleKey::Address),
                format!("{ip} is no address of this host (of this network namespace)"),
            );
        }
    }

    fn executables(&mut self) {
        // What runs in a container has a path that means nothing here.
        let may_be_elsewhere = !self.rule.values(RuleKey::Sha256).is_empty()
            || !self.rule.values(RuleKey::ContainerImage).is_empty();
        let has_unit = !self.rule.values(RuleKey::Unit).is_empty();
        let mut warnings = Vec::new();
        for (text, matches) in self.rule.executables() {
            if is_literal(text) {
                warnings.extend(literal_warnings(text, may_be_elsewhere, has_unit));
                continue;
            }
            let found = files::programs(text, &matches);
            let names: Vec<_> = found
                .programs
                .iter()
                .map(|it| text_from_bytes(it.as_os_str().as_encoded_bytes()))
                .collect();
            let named =
                names.iter().take(MAX_NAMED).map(|name| &**name).collect::<Vec<_>>().join(", ");
            let more = match names.len().saturating_sub(MAX_NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let cut = if found.is_cut { ", and the search was given up" } else { "" };
            match names.len() {
                0 if may_be_elsewhere || found.is_cut => {}
                0 => warnings.push(format!("no program on this host matches {text}")),
                1 => {}
                count => warnings.push(format!(
                    "{text} matches more than it may look: {count} programs, {named}{more}{cut}"
                )),
            }
        }
        for warning in warnings {
            self.warn(Some(RuleKey::Exe), warning);
        }
    }

    /// Of one executable that is here it can be told whether the hash is its.
    fn contents(&mut self) {
        let hashes = self.rule.values(RuleKey::Sha256);
        let [exe] = *self.rule.values(RuleKey::Exe) else { return };
        if hashes.is_empty() || !is_literal(exe) {
            return;
        }
        if let Ok(actual) = executable::sha256_of(Path::new(exe))
            && !hashes.contains(&&*actual)
        {
            let message = format!("is not that of {exe} here, which is {actual}");
            self.warn(Some(RuleKey::Sha256), message);
        }
    }

    fn users(&mut self) {
        for user in self.rule.values(RuleKey::User) {
            let by_name = self.host.users.get_user_by_name(user).is_some();
            let by_number = user.parse().ok().map(|uid| self.host.users.get_user_by_uid(uid));
            match by_number {
                _ if by_name => {}
                None => self.warn(Some(RuleKey::User), format!("there is no user {user} here")),
                Some(None) => {}
                Some(Some(named)) => {
                    let name = text_from_bytes(named.name().as_encoded_bytes()).into_owned();
                    let message = format!("never matches: user {user} is called {name} here");
                    self.warn(Some(RuleKey::User), message);
                }
            }
        }
    }

    fn units(&mut self, seen: &Seen) {
        let owners = || seen.listeners.iter().flat_map(|it| &it.attribution.owners);
        let running: BTreeSet<&str> =
            owners().filter_map(|owner| owner.process.unit.as_deref()).collect();
        if !UNITS.iter().any(|directory| Path::new(directory).is_dir()) {
            return;
        }
        for unit in self.rule.values(RuleKey::Unit) {
            let is_there = |name: &str| {
                UNITS.iter().any(|it| Path::new(it).join(name).symlink_metadata().is_ok())
            };
            if is_literal(unit)
                && !running.contains(unit)
                && !is_there(unit)
                && !template(unit).is_some_and(|template| is_there(&template))
            {
                self.warn(Some(RuleKey::Unit), format!("there is no unit file {unit} here"));
            }
        }
    }

    fn packages(&mut self) {
        let packages = self.rule.values(RuleKey::Package);
        let [exe] = *self.rule.values(RuleKey::Exe) else { return };
        if packages.is_empty() || !is_literal(exe) || fs::symlink_metadata(exe).is_err() {
            return;
        }
        let message = match packages::owner(Path::new(exe)) {
            Ok(Some(owner)) if packages.contains(&&*owner) => return,
            Ok(Some(owner)) => format!("{exe} belongs to the package {owner} here"),
            Ok(None) => format!("no package has installed {exe} here"),
            Err(_unknown) => return,
        };
        self.warn(Some(RuleKey::Package), message);
    }
}

/// What there is to say of an executable that is named without a wildcard.
fn literal_warnings(exe: &str, may_be_elsewhere: bool, has_unit: bool) -> Vec<String> {
    let path = Path::new(exe);
    let mut warnings = Vec::new();
    match fs::canonicalize(path) {
        Ok(real) if real != path => {
            let real = text_from_bytes(real.as_os_str().as_encoded_bytes());
            warnings.push(format!("never matches: {exe} leads to {real}, which is what runs"));
        }
        Ok(_) => warnings.extend(exposed(path, None)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !may_be_elsewhere => {
            warnings.push(format!("there is no file {exe} here"));
        }
        Err(_) => {}
    }
    if runs_anything(path) && !has_unit {
        warnings.push(format!(
            "{exe} runs whatever it is given: pin `unit` as well, or be aware that any script may do it"
        ));
    }
    warnings
}

/// `getty@.service` of `getty@tty1.service`.
fn template(unit: &str) -> Option<String> {
    let (name, rest) = unit.split_once('@')?;
    let (_, suffix) = rest.rsplit_once('.')?;
    Some(format!("{name}@.{suffix}"))
}

/// Nobody could bind it here. Asked of the kernel, with a socket that is gone at once.
fn is_elsewhere(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests;
