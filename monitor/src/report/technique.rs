//! What an attacker would be doing, in the words of MITRE ATT&CK for Enterprise: a finding is
//! consistent with it, and proves nothing of the kind.

/// A technique, or one of its sub-techniques.
#[derive(Debug, Eq, PartialEq)]
pub struct Technique {
    /// `T1036`, and its name.
    pub technique: (&'static str, &'static str),
    /// `T1036.005`, and its name.
    pub subtechnique: Option<(&'static str, &'static str)>,
    /// The tactics it serves, of those that fit a port: `TA0011`, and its name.
    pub tactics: &'static [(&'static str, &'static str)],
}

const COMMAND_AND_CONTROL: (&str, &str) = ("TA0011", "Command and Control");
const EXECUTION: (&str, &str) = ("TA0002", "Execution");
const STEALTH: (&str, &str) = ("TA0005", "Defense Evasion");
const PERSISTENCE: (&str, &str) = ("TA0003", "Persistence");

impl Technique {
    /// A service on a port that is not the one of its protocol.
    pub const NON_STANDARD_PORT: Self = Self {
        technique: ("T1571", "Non-Standard Port"),
        subtechnique: None,
        tactics: &[COMMAND_AND_CONTROL],
    };
    /// Packets that nobody listens for wake something up.
    pub const TRAFFIC_SIGNALING: Self = Self {
        technique: ("T1205", "Traffic Signaling"),
        subtechnique: None,
        tactics: &[STEALTH, PERSISTENCE, COMMAND_AND_CONTROL],
    };
    /// What the kernel is asked is answered wrong.
    pub const ROOTKIT: Self =
        Self { technique: ("T1014", "Rootkit"), subtechnique: None, tactics: &[STEALTH] };
    /// Something is mounted over the directory of a process.
    pub const BIND_MOUNTS: Self = Self {
        technique: ("T1564", "Hide Artifacts"),
        subtechnique: Some(("T1564.013", "Bind Mounts")),
        tactics: &[STEALTH],
    };
    /// Commands are run by a shell.
    pub const UNIX_SHELL: Self = Self {
        technique: ("T1059", "Command and Scripting Interpreter"),
        subtechnique: Some(("T1059.004", "Unix Shell")),
        tactics: &[EXECUTION],
    };
    /// Traffic goes on from here to somewhere else.
    pub const PROXY: Self =
        Self { technique: ("T1090", "Proxy"), subtechnique: None, tactics: &[COMMAND_AND_CONTROL] };
    /// A program's file is deleted while it runs.
    pub const FILE_DELETION: Self = Self {
        technique: ("T1070", "Indicator Removal"),
        subtechnique: Some(("T1070.004", "File Deletion")),
        tactics: &[STEALTH],
    };
    /// A program that never had a file.
    pub const REFLECTIVE_CODE_LOADING: Self = Self {
        technique: ("T1620", "Reflective Code Loading"),
        subtechnique: None,
        tactics: &[STEALTH],
    };
    /// A program is not the one that its package installed.
    pub const COMPROMISED_BINARY: Self = Self {
        technique: ("T1554", "Compromise Host Software Binary"),
        subtechnique: None,
        tactics: &[PERSISTENCE],
    };
    /// Who watches is kept from seeing.
    pub const DISABLED_TOOLS: Self = Self {
        technique: ("T1562", "Impair Defenses"),
        subtechnique: Some(("T1562.001", "Disable or Modify Tools")),
        tactics: &[STEALTH],
    };
}
