//! Which policy is in force: the one the user named, else the one at its place on this host.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::cli;
use crate::failure::Failure;
use crate::policy::{Policy, PolicyError};
use crate::report::PolicyReport;

/// Where a host keeps its policy.
pub const PLACE: &str = "/etc/portwatch/policy.toml";

/// Where the policy is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyFile {
    /// `None`: the user wants none.
    path: Option<PathBuf>,
    is_default: bool,
}

impl PolicyFile {
    /// The one the user named, the one of this host, or none.
    pub fn of(common: &cli::Common) -> Self {
        match &common.policy {
            Some(path) => Self { path: Some(path.clone()), is_default: false },
            None if common.no_policy => Self { path: None, is_default: false },
            None => Self { path: Some(PLACE.into()), is_default: true },
        }
    }

    /// Reads it. Without a policy nothing is expected; that the host has none is no error, but one that
    /// is there and cannot be used is.
    pub fn read(&self) -> Result<(Policy, Option<PolicyReport>), PolicyError> {
        let Some(path) = &self.path else { return Ok((Policy::default(), None)) };
        if self.is_default
            && path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
        {
            return Ok((Policy::default(), None));
        }
        let policy = Policy::load(path)?;
        let (listener_rules, client_rules) = policy.counts();
        let file = path.to_string_lossy().into_owned();
        let report =
            PolicyReport { file, is_default: self.is_default, listener_rules, client_rules };
        Ok((policy, Some(report)))
    }

    /// As [`read`](Self::read), at the start of a command.
    pub fn open(&self) -> Result<(Policy, Option<PolicyReport>), Failure> {
        self.read().map_err(|error| Failure::Usage(error.to_string()))
    }

    /// Why there is no policy, in one line.
    pub fn absence(&self) -> String {
        match &self.path {
            Some(path) => format!("{}: no such file", path.display()),
            None => "--no-policy: there is no policy to read".to_owned(),
        }
    }
}
