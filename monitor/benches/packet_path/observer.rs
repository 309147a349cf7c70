//! What can look at the packets of a device: nothing, an empty program, portwatch, tcpdump, nftables.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::LinkOrder;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use monitor::kernel::classifiers::Classifiers as _;
use monitor::kernel::object::Object;

use crate::cable::DEVICES;
use crate::process::Running;
use crate::programs::{EMPTY, default_settings};

/// Portwatch still hashes executables and learns who holds what was there before.
const SETTLING: Duration = Duration::from_millis(400);

/// Who looks at the packets that a device receives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Observer {
    /// Nobody.
    Nothing,
    /// A program that does nothing, on the hooks that portwatch uses.
    Empty,
    /// `portwatch watch`.
    Portwatch,
    /// `tcpdump port 3516 -w /dev/null`.
    Tcpdump,
    /// A counter of the watched port in a netdev chain.
    Nft,
}

/// An observer that observes until it is told to stop, or dropped.
#[derive(Debug)]
pub(crate) enum Observing {
    Nothing,
    Empty(#[expect(dead_code, reason = "dropping them detaches")] [SchedClassifierLink; 2]),
    Process(Running),
    Nft,
}

impl Observer {
    /// Why it cannot be used on this host, if it cannot.
    pub(crate) fn missing(self) -> Option<&'static str> {
        let is_there = |program: &str, option: &str| {
            let mut command = Command::new(program);
            command.arg(option).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        match self {
            Self::Tcpdump if !is_there("tcpdump", "--version") => Some("no tcpdump"),
            Self::Nft if !is_there("nft", "--version") => Some("no nft"),
            _ => None,
        }
    }

    /// Begins to observe the first of [`DEVICES`]. `object` has the empty program.
    pub(crate) fn start(self, object: &mut Object) -> Result<Observing> {
        let [device, _] = DEVICES;
        Ok(match self {
            Self::Nothing => Observing::Nothing,
            Self::Empty => Observing::Empty(attach_empty(object, device)?),
            Self::Portwatch => Observing::Process(watch(&["--format", "json"])?),
            Self::Tcpdump => Observing::Process(start_tcpdump(device)?),
            Self::Nft => {
                nft(&format!(
                    "add table netdev portwatch_bench; \
                     add chain netdev portwatch_bench in \
                     {{ type filter hook ingress device {device} priority 0; }}; \
                     add rule netdev portwatch_bench in udp dport 3516 counter"
                ))?;
                Observing::Nft
            }
        })
    }
}

impl Observing {
    /// Ends it.
    pub(crate) fn stop(self) -> Result<()> {
        match self {
            Self::Nothing | Self::Empty(_) => Ok(()),
            Self::Process(process) => process.stop(),
            // Had it not come so far, it would have vanished with the namespace.
            Self::Nft => nft("delete table netdev portwatch_bench"),
        }
    }
}

/// The kernel object, with the empty program ready to be attached.
pub(crate) fn empty_program() -> Result<Object> {
    let mut object = Object::load(&default_settings()?)?;
    object.classifier(EMPTY)?;
    Ok(object)
}

/// Attaches the empty program to both hooks of a device, until the links are dropped.
pub(crate) fn attach_empty(object: &mut Object, device: &str) -> Result<[SchedClassifierLink; 2]> {
    let program = object.classifier(EMPTY)?;
    let mut attach = |hook| {
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let link = program.attach_with_options(device, hook, options);
        let link = link.context("attaching the empty program by TCX, which takes Linux 6.6")?;
        program.take_link(link).context("keeping the empty program attached")
    };
    Ok([attach(TcAttachType::Ingress)?, attach(TcAttachType::Egress)?])
}

/// Starts `portwatch watch` and lets it settle.
pub(crate) fn watch(arguments: &[&str]) -> Result<Running> {
    let watch = Running::watch(arguments)?;
    thread::sleep(SETTLING);
    Ok(watch)
}

fn start_tcpdump(device: &str) -> Result<Running> {
    let mut tcpdump = Command::new("tcpdump");
    tcpdump.args(["-i", device, "-w", "/dev/null", "port", "3516"]);
    tcpdump.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut tcpdump = Running::start(&mut tcpdump)?;
    let stderr = tcpdump.child().stderr.as_mut().context("reading what tcpdump says")?;
    let mut said = String::new();
    while !said.contains("listening on") {
        let length = BufReader::with_capacity(1, &mut *stderr).read_line(&mut said);
        ensure!(length.context("reading what tcpdump says")? > 0, "tcpdump ends: {}", said.trim());
    }
    Ok(tcpdump)
}

fn nft(commands: &str) -> Result<()> {
    let output = Command::new("nft").arg(commands).output().context("running nft")?;
    let reason = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`nft` fails: {}", reason.trim());
    Ok(())
}
