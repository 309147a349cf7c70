//! Rules as they were written, for who has something to say of them.

use std::path::Path;

use ipnet::IpNet;
use jiff::civil::Date;

use super::draft::is_interpreter;
use super::pins::Pattern;
use super::rule::{AddressPin, Rule, RuleKind};
use super::{Answer, ClientView, ListenerView, Policy};
use crate::ports::PortSet;
use crate::report::RuleKey;

/// A rule as it was written.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    policy: &'a Policy,
    rule: &'a Rule,
}

impl Policy {
    /// Its rules: those of listeners, then those of clients, each in the order of the file.
    pub fn rules(&self) -> impl Iterator<Item = Written<'_>> {
        self.listeners.iter().chain(&self.clients).map(|rule| Written { policy: self, rule })
    }
}

impl<'a> Written<'a> {
    /// What it is about.
    pub const fn kind(&self) -> RuleKind {
        self.rule.kind
    }

    /// Its id.
    pub fn id(&self) -> &'a str {
        &self.rule.id
    }

    /// Its last day.
    pub const fn expires(&self) -> Option<Date> {
        self.rule.expires
    }

    /// The ports, if it names any.
    pub const fn ports(&self) -> Option<&'a PortSet> {
        self.rule.port.as_ref()
    }

    /// The addresses or networks, none if it names none.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.rule.network.iter().map(|AddressPin(net)| *net)
    }

    /// The values of a key about processes.
    pub fn values(&self, key: RuleKey) -> Vec<&'a str> {
        self.rule.pins.allowed(key)
    }

    /// Line and column of the value of a key; of the rule itself for one that was not given.
    pub fn place(&self, key: Option<RuleKey>) -> (usize, usize) {
        let value = self.rule.values.iter().find(|(given, _)| Some(*given) == key);
        let offset = value.map_or(self.rule.offset, |(_, offset)| *offset);
        self.policy.places.at(offset)
    }

    /// Its executables, each as it was written and with whether it matches a path.
    pub fn executables(&self) -> impl Iterator<Item = (&'a str, impl Fn(&Path) -> bool)> {
        let exe =
            |pattern: &'a Pattern| (&*pattern.text, |path: &Path| pattern.matcher.is_match(path));
        self.rule.pins.exe.iter().map(exe)
    }

    /// It expects this listener.
    pub fn expects(&self, listener: &ListenerView<'_>, today: Date) -> bool {
        self.rule.kind == RuleKind::Listener && self.answer(&self.policy.explain(listener, today))
    }

    /// It expects this client.
    pub fn expects_client(&self, client: &ClientView<'_>, today: Date) -> bool {
        let answers = || self.policy.explain_client(client, today);
        self.rule.kind == RuleKind::Client && self.answer(&answers())
    }

    fn answer(&self, answers: &[Answer]) -> bool {
        answers.iter().any(|answer| answer.rule == self.rule.id && answer.expects())
    }

    /// Everything that `other` expects it expects as well, as far as can be told from the rules: the
    /// later of the two has nothing to say.
    pub fn covers(&self, other: &Self) -> bool {
        let (one, other) = (self.rule, other.rule);
        let lasts = match (one.expires, other.expires) {
            (None, _) => true,
            (Some(one), Some(other)) => one >= other,
            (Some(_), None) => false,
        };
        // A path alone is one of this host; with the contents it may be one of a container.
        let reaches =
            one.pins.exe.is_empty() || one.pins.sha256.is_empty() == other.pins.sha256.is_empty();
        one.kind == other.kind
            && lasts
            && reaches
            && ports_cover(one.port.as_ref(), other.port.as_ref())
            && cover(&one.transport, &other.transport, |one, other| one == other)
            && cover(&one.network, &other.network, |one, other| one.0.contains(&other.0))
            && cover(&one.pins.exe, &other.pins.exe, glob_covers)
            && cover(&one.pins.sha256, &other.pins.sha256, |one, other| one == other)
            && cover(&one.pins.user, &other.pins.user, |one, other| one == other)
            && cover(&one.pins.unit, &other.pins.unit, glob_covers)
            && cover(&one.pins.package, &other.pins.package, |one, other| one == other)
            && cover(&one.pins.container_image, &other.pins.container_image, |one, other| {
                one == other
            })
    }
}

/// Is this a program that runs whatever it is given?
pub fn runs_anything(path: &Path) -> bool {
    is_interpreter(path)
}

/// A value that is no glob stands for itself.
pub fn is_literal(glob: &str) -> bool {
    !glob.contains(['*', '?', '[', '{', '\\'])
}

/// A key that was not given holds for all.
fn cover<T>(one: &[T], other: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    one.is_empty()
        || !other.is_empty() && other.iter().all(|it| one.iter().any(|by| covers(by, it)))
}

fn ports_cover(one: Option<&PortSet>, other: Option<&PortSet>) -> bool {
    match (one, other) {
        (None, _) => true,
        (Some(one), Some(other)) => other.iter().all(|port| one.contains(port)),
        (Some(_), None) => false,
    }
}

fn glob_covers(one: &Pattern, other: &Pattern) -> bool {
    one.text == other.text || is_literal(&other.text) && one.matcher.is_match(&other.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_covers_what_says_more() {
        let table = [
            ("port = 3516", "port = 3516\nuser = 'root'", true),
            ("port = '3510-3520'", "port = [3516, 3517]", true),
            ("port = 3516", "user = 'root'", false),
            ("address = '10.0.0.0/8'", "address = '10.1.0.0/16'", true),
            ("address = '10.1.0.0/16'", "address = '10.0.0.0/8'", false),
            ("exe = '/usr/bin/*'", "exe = '/usr/bin/ssh'", true),
            ("exe = '/usr/bin/*'", "exe = ['/usr/bin/ssh', '/opt/x']", false),
            ("exe = '/usr/bin/*'", "exe = '/usr/bin/s*'", false),
            ("user = ['a', 'b']", "user = 'a'", true),
            ("port = 1\nexpires = 2027-01-01", "port = 1", false),
            ("port = 1\nexpires = 2027-01-01", "port = 1\nexpires = 2026-01-01", true),
            ("exe = '/usr/bin/ssh'", "exe = '/usr/bin/ssh'\nsha256 = 'SHA'", false),
        ];
        for (one, other, expected) in table {
            let text = format!(
                "version = 1\n[[listener]]\nid = 'one'\n{one}\n[[listener]]\nid = 'other'\n{other}"
            );
            let text = text.replace("SHA", &"0".repeat(64));
            let policy = Policy::parse(Path::new("p"), &text).unwrap();
            let rules: Vec<_> = policy.rules().collect();
            assert_eq!(rules[0].covers(&rules[1]), expected, "{one:?} covers {other:?}");
        }
    }

    #[test]
    fn a_place_is_that_of_the_value_or_of_the_rule() {
        let text = "version = 1\n[[listener]]\nid = 'one'\nexe = '/x'\n";
        let policy = Policy::parse(Path::new("p"), text).unwrap();
        let rule = policy.rules().next().unwrap();

        assert_eq!(rule.place(Some(RuleKey::Exe)), (4, 7));
        assert_eq!(rule.place(Some(RuleKey::User)), (2, 1));
        assert_eq!(rule.place(None), (2, 1));
    }
}
