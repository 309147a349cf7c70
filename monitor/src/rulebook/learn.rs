//! `policy learn`: what is there becomes a policy for a person to review.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::fmt::friendly::{Designator, SpanPrinter};

use crate::cli;
use crate::clock::{self, Clock};
use crate::escape;
use crate::failure::{self, Failure};
use crate::host::identity::Identity;
use crate::output::Style;
use crate::output::ecs::RunIdentity;
use crate::policy::draft::{Draft, Settings};
use crate::policy::exposed;
use crate::recording::Origin;
use crate::{scan, watch};

/// Looks or watches, and writes what came of it; the exit code.
pub(super) async fn run(args: cli::LearnPolicy, identity: &Identity) -> Result<u8, Failure> {
    let ports = cli::union(&args.port);
    let draft = Draft::new(Settings {
        host: identity.name.clone(),
        ports: ports.to_string(),
        how: match args.duration {
            None => "one look".to_owned(),
            Some(duration) => {
                let printer = SpanPrinter::new().designator(Designator::Compact);
                format!("watching for {}", printer.unsigned_duration_to_string(&duration))
            }
        },
        today: Clock::of_host().date(clock::boot_ns()),
        with_clients: args.clients,
        exposed,
    });
    if let Some(file) = &args.output {
        redirect(file)?;
    }
    let style = Style::Policy(Box::new(draft));
    let done = match args.duration {
        None => scan::run(cli::Scan::for_learning(args.port), identity, style).await,
        Some(duration) => {
            let watch = cli::Watch::for_learning(args.port, duration);
            let watch = watch.map_err(|error| Failure::Broken(error.into()))?;
            let origin = Origin::of_host(RunIdentity::default(), identity.boot_id.clone());
            watch::run(watch, None, identity, origin, style).await
        }
    };
    // That nothing is expected yet is why we learn.
    let done = done.map(|code| if code == failure::FINDINGS { failure::DONE } else { code });
    if let (Err(_), Some(file)) = (&done, &args.output)
        && let Err(error) = std::fs::remove_file(file)
    {
        tracing::warn!("{}: {error}; it holds no policy", shown(file));
    }
    done
}

/// From now on stdout is this file, which was not there before.
fn redirect(file: &Path) -> Result<(), Failure> {
    let refused =
        |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", shown(file)));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let made: File = made.map_err(|error| refused(&error))?;
    rustix::stdio::dup2_stdout(&made).map_err(|error| refused(&error))
}

fn shown(path: &Path) -> std::borrow::Cow<'_, str> {
    escape::escape_bytes(path.as_os_str().as_encoded_bytes())
}
