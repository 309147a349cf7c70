//! What the policy says, and what differs from the rule that came nearest.

use std::fmt;

/// What the policy says of a listener or a client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// A rule expects it.
    Expected {
        /// The rule's id.
        rule: String,
        /// The rule's reason.
        reason: Option<String>,
    },
    /// No rule does.
    Unknown {
        /// The rule that came nearest, if there is a policy with rules of its kind.
        nearest: Option<NearMiss>,
    },
}

/// The rule that came nearest and what differs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NearMiss {
    /// The rule's id.
    pub rule: String,
    /// The rule is about this very port and address and has not expired, but somebody else is there:
    /// every difference is one of identity, and at least one is known for sure.
    pub is_change: bool,
    /// What differs, in the order of the keys in docs/policy.md.
    pub differences: Vec<Difference>,
}

/// A key of a rule that does not hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// The key.
    pub key: RuleKey,
    /// What the rule says: `cardbridge`, `tcp or udp`.
    pub expected: String,
    /// What is there: `root`, `not readable`. Foreign text: escape before showing.
    pub actual: String,
    /// It is another for sure: not just something that could not be read.
    pub is_known: bool,
}

/// `user: rule says cardbridge, is root`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, expected, actual, is_known: _ } = self;
        let name = key.name();
        match key {
            RuleKey::Expires => write!(f, "{name}: rule ended on {expected}, today is {actual}"),
            _ => write!(f, "{name}: rule says {expected}, is {actual}"),
        }
    }
}

/// A key of a policy rule.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RuleKey {
    /// The last day on which the rule holds.
    Expires,
    /// The watched port.
    Port,
    /// TCP or UDP.
    Transport,
    /// The address that is listened on.
    Address,
    /// The address at the other end of a client's conversation.
    Remote,
    /// The path of what runs.
    Exe,
    /// Its contents.
    Sha256,
    /// Effective user.
    User,
    /// systemd unit.
    Unit,
    /// The package that installed what runs, which must be intact.
    Package,
    /// The image of the container it runs in.
    ContainerImage,
}

impl RuleKey {
    /// The name in a policy file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expires => "expires",
            Self::Port => "port",
            Self::Transport => "transport",
            Self::Address => "address",
            Self::Remote => "remote",
            Self::Exe => "exe",
            Self::Sha256 => "sha256",
            Self::User => "user",
            Self::Unit => "unit",
            Self::Package => "package",
            Self::ContainerImage => "container_image",
        }
    }

    /// Is it about who it is, not about where?
    pub const fn is_identity(self) -> bool {
        match self {
            Self::Exe
            | Self::Sha256
            | Self::User
            | Self::Unit
            | Self::Package
            | Self::ContainerImage => true,
            Self::Expires | Self::Port | Self::Transport | Self::Address | Self::Remote => false,
        }
    }
}
