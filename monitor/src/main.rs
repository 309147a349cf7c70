//! The `portwatch` command: parse, run, exit code.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use anstream::ColorChoice;
use monitor::cli::{self, Cli, Color, Command, Format};
use monitor::failure::{self, Failure};
use monitor::host::identity::Identity;
use monitor::kernel::pin;
use monitor::output::Style;
use monitor::output::ecs::RunIdentity;
use monitor::output::text::Look;
use monitor::{descriptor, scan, watch};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return answer(&exit),
    };
    start_log(cli.verbose);
    let code = run(cli).unwrap_or_else(|failure| {
        complain(&failure);
        failure.code()
    });
    ExitCode::from(code)
}

fn run(cli: Cli) -> Result<u8, Failure> {
    // First of all, while no descriptor of ours can have the number that the user means.
    let ready = match &cli.command {
        Command::Watch(watch) => take_ready_fd(watch)?,
        Command::Scan(_) => None,
        Command::Detach => return detach(),
    };
    let identity = Identity::read();
    let style = style(&cli, &identity);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Broken(error.into()))?;
    runtime.block_on(async {
        match cli.command {
            Command::Detach => Ok(failure::DONE),
            Command::Scan(args) => scan::run(args, &identity, style).await,
            Command::Watch(args) => watch::run(*args, ready, &identity, style).await,
        }
    })
}

/// Removes what is pinned, and says how much that was.
fn detach() -> Result<u8, Failure> {
    let line = match pin::remove_all()? {
        0 => "nothing was pinned".to_owned(),
        1 => "detached in 1 network namespace".to_owned(),
        count => format!("detached in {count} network namespaces"),
    };
    // A reader that has had enough is a normal end.
    let _written = writeln!(anstream::stdout(), "{line}");
    Ok(failure::DONE)
}

fn style(cli: &Cli, identity: &Identity) -> Style {
    let look = || {
        Look::of_stdout(match cli.color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        })
    };
    match &cli.command {
        Command::Watch(watch) if watch.common.format == Format::Text => Style::Lines(look()),
        Command::Scan(scan) if scan.common.format == Format::Text => Style::Table(look()),
        Command::Watch(_) | Command::Scan(_) | Command::Detach => Style::Json(RunIdentity {
            host_name: identity.name.clone(),
            host_id: identity.machine_id.clone().unwrap_or_default(),
            run_id: run_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
    }
}

/// A random name for this run.
fn run_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    id.trim().to_owned()
}

fn take_ready_fd(watch: &cli::Watch) -> Result<Option<OwnedFd>, Failure> {
    let Some(number) = watch.ready_fd else { return Ok(None) };
    descriptor::take(number)
        .map(Some)
        .map_err(|error| Failure::Usage(format!("--ready-fd {number}: {error}")))
}

fn answer(exit: &cli::Exit) -> ExitCode {
    // A reader that has had enough is a normal end.
    let _written = match exit {
        cli::Exit::Answer(text) => write!(anstream::stdout(), "{text}"),
        cli::Exit::Usage(line) => writeln!(std::io::stderr(), "{line}"),
    };
    ExitCode::from(exit.code())
}

fn complain(failure: &Failure) {
    let _written = writeln!(std::io::stderr(), "{failure}");
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    // aya speaks through `log`; its warnings about old kernels are for us to put into words.
    let filter = EnvFilter::new(format!("{level},aya=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}
