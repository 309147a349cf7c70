//! `scan` on a host with very many open descriptors, all of them of sockets.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::UdpSocket;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, getrlimit};

use crate::Effort;
use crate::commands::time_scan;
use crate::process::Running;
use crate::report::Row;
use crate::spread::Spread;

/// How many there are to be, and how many a process holds of them if it may.
const DESCRIPTORS: u32 = 100_000;
const EACH: u32 = 5_000;
/// What a process has open besides.
const OTHERS: u64 = 64;

/// Processes that hold descriptors.
pub(crate) struct Holders {
    _processes: Vec<Running>,
    /// How many descriptors.
    pub(crate) descriptors: u32,
}

impl Holders {
    /// Starts as many processes as it takes.
    pub(crate) fn start(descriptors: u32) -> Result<Self> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let each = limit.saturating_sub(OTHERS).clamp(1, EACH.into());
        let each = u32::try_from(each).unwrap_or(EACH);
        let (mut processes, mut held) = (Vec::new(), 0);
        while held < descriptors {
            let count = each.min(descriptors - held);
            let mut command = Command::new(env::current_exe().context("finding the bench")?);
            command.args(["--hold", &count.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut holder = Running::start(&mut command)?;
            let stdout = holder.child().stdout.as_mut().context("reading from a process")?;
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).context("reading from a process")?;
            ensure!(line == "holding\n", "a process cannot open {count} descriptors");
            processes.push(holder);
            held += count;
        }
        Ok(Self { _processes: processes, descriptors: held })
    }
}

/// Opens so many descriptors of a socket and holds them until stdin ends.
pub(crate) fn hold(count: u32) -> Result<()> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).context("opening a socket")?;
    let held = (1..count).map(|_| socket.try_clone()).collect::<Result<Vec<_>, _>>();
    let _held = held.context("opening descriptors")?;
    std::io::stdout().write_all(b"holding\n").context("writing to stdout")?;
    std::io::stdin().read_to_end(&mut Vec::new()).context("reading stdin")?;
    Ok(())
}

/// Wall time of `portwatch scan`.
pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let holders = Holders::start(DESCRIPTORS)?;
    let times = (0..effort.runs).map(|_| time_scan()).collect::<Result<_>>()?;
    let what = format!("scan, {} descriptors of sockets", holders.descriptors);
    Ok(vec![Row::new(what, "ms", Spread::of(times))])
}
