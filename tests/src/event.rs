//! One line of `--format json`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// A document of the event stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Event(Value);

/// One of `portwatch.owners[]`: who, in which role, on what evidence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner<'a> {
    /// End of the flow; empty for a listener.
    pub side: &'a str,
    /// What it did.
    pub role: &'a str,
    /// How that is known.
    pub evidence: &'a str,
    /// Who.
    pub pid: u32,
}

impl Event {
    /// Reads a line; one that is no JSON becomes a string, which no check accepts as an event.
    pub fn parse(line: &str) -> Self {
        Self(serde_json::from_str(line).unwrap_or_else(|_error| Value::String(line.to_owned())))
    }

    /// The whole document.
    pub const fn document(&self) -> &Value {
        &self.0
    }

    /// The value at a path such as `portwatch.flow.role`; null where there is none.
    pub fn at(&self, path: &str) -> &Value {
        self.0.pointer(&format!("/{}", path.replace('.', "/"))).unwrap_or(&Value::Null)
    }

    /// The text at a path; empty where there is none.
    pub fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or_default()
    }

    /// The bytes that are Base64 at a path; none where there is nothing.
    pub fn bytes(&self, path: &str) -> Vec<u8> {
        STANDARD.decode(self.text(path)).unwrap_or_else(|error| panic!("{error} in {self}"))
    }

    /// The number at a path, which must be there.
    pub fn number(&self, path: &str) -> u64 {
        self.at(path).as_u64().unwrap_or_else(|| panic!("no number at {path} in {self}"))
    }

    /// The elements at a path, which must be an array.
    pub fn list(&self, path: &str) -> &[Value] {
        self.at(path).as_array().unwrap_or_else(|| panic!("no array at {path} in {self}"))
    }

    /// Is this its `event.action`?
    pub fn is(&self, action: &str) -> bool {
        self.text("event.action") == action
    }

    /// Is it a change of the listener on `port` in the namespace with this inode?
    pub fn is_listener(&self, action: &str, port: u16, netns: u64) -> bool {
        self.is(action)
            && self.at("portwatch.listener.port") == port
            && self.at("portwatch.listener.netns.inode") == netns
    }

    /// Is it a change of the flow that `source` opened?
    pub fn is_flow(&self, action: &str, source: SocketAddr) -> bool {
        self.is(action) && self.endpoint("source") == Some(source)
    }

    /// Is it news of a finding of this kind, in this state?
    pub fn is_finding(&self, kind: &str, state: &str) -> bool {
        self.is("finding")
            && self.text("portwatch.finding.kind") == kind
            && self.text("portwatch.finding.state") == state
    }

    /// Address and port of `source` or `destination`.
    pub fn endpoint(&self, side: &str) -> Option<SocketAddr> {
        let ip: IpAddr = self.text(&format!("{side}.ip")).parse().ok()?;
        let port = self.at(&format!("{side}.port")).as_u64()?;
        Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
    }

    /// Everybody who had to do with it.
    pub fn owners(&self) -> Vec<Owner<'_>> {
        self.list("portwatch.owners").iter().map(Owner::of).collect()
    }

    /// Fields of the owner with this pid, from the entry of the given role.
    pub fn owner(&self, role: &str, pid: u32) -> &Value {
        let owners = self.list("portwatch.owners");
        let owner = owners.iter().find(|owner| {
            let Owner { role: its_role, pid: its_pid, .. } = Owner::of(owner);
            (its_role, its_pid) == (role, pid)
        });
        owner.unwrap_or_else(|| panic!("{pid} is no {role} in {self}"))
    }

    /// Asserts that a process owns one side, in this role and on this evidence.
    #[track_caller]
    pub fn assert_owner(&self, side: &str, role: &str, evidence: &str, pid: u32) {
        let owner = Owner { side, role, evidence, pid };
        let owners = self.owners();
        assert!(owners.contains(&owner), "{owner:?} is none of {owners:?}");
    }
}

impl<'a> Owner<'a> {
    fn of(owner: &'a Value) -> Self {
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let pid = owner.get("pid").and_then(Value::as_u64);
        Self {
            side: text("side"),
            role: text("role"),
            evidence: text("evidence"),
            pid: pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
