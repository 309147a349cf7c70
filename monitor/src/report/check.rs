//! What `doctor` looked at, and how that came out.

/// What a check is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CheckPart {
    /// What this host offers.
    Host,
    /// A decoy that must be seen.
    SelfTest,
}

impl CheckPart {
    /// The name in `portwatch.check.part`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::SelfTest => "self-test",
        }
    }
}

/// How a check came out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CheckOutcome {
    /// As it should be.
    Ok,
    /// This host offers less than others; what that means is said.
    Degraded,
    /// It was there, and was not seen or not attributed.
    Missed,
    /// The decoy did not do what it was to do: nothing is known.
    NotDone,
    /// This host has nothing of the kind.
    NotApplicable,
}

impl CheckOutcome {
    /// The words in `portwatch.check.outcome`.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missed => "missed",
            Self::NotDone => "not done",
            Self::NotApplicable => "not applicable",
        }
    }

    /// Not everything was seen.
    pub const fn is_gap(self) -> bool {
        matches!(self, Self::Missed | Self::NotDone)
    }
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckReport {
    /// What it is about.
    pub part: CheckPart,
    /// Its name: `"brief-client"`.
    pub name: &'static str,
    /// What is checked, in words.
    pub subject: String,
    /// How it came out.
    pub outcome: CheckOutcome,
    /// What would be right.
    pub expected: String,
    /// What was found.
    pub seen: String,
    /// What that rests on, a line each.
    pub evidence: Vec<String>,
}
