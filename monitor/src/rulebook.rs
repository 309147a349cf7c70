//! `portwatch policy`: writes, validates and explains what is expected on this host.
//!
//! All three look at what is there now, as `scan` does; `learn --for` watches instead, as `watch` does.

mod check;
mod explain;
mod files;
mod learn;
mod lint;

use std::io::{self, Write as _};

use crate::cli::PolicyCommand;
use crate::failure::{self, Failure};
use crate::host::identity::Identity;
use crate::output::text::Look;

/// Does what is asked; the exit code. `look` is how text is to look.
pub async fn run(command: PolicyCommand, identity: &Identity, look: Look) -> Result<u8, Failure> {
    match command {
        PolicyCommand::Learn(args) => learn::run(args, identity).await,
        PolicyCommand::Check(args) => check::run(args, identity, &look).await,
        PolicyCommand::Explain(args) => explain::run(args, identity, &look).await,
    }
}

/// Writes to stdout. A reader that has had enough is a normal end.
pub(crate) fn print(text: &str, code: u8) -> u8 {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
        written => match written.and_then(|()| io::stdout().flush()) {
            Ok(()) => code,
            Err(error) => {
                tracing::error!("writing to stdout: {error}");
                failure::OUTPUT_FAILED
            }
        },
    }
}
