//! The first frame of a recording: whose it is, and what the run was made for.

use std::path::Path;
use std::time::Duration;

use monitor_ebpf::wire::WIRE_VERSION;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::endpoint::Netns;
use crate::output::ecs::RunIdentity;
use crate::pipeline::{Payload, Settings};
use crate::policy::Policy;
use crate::ports::PortSet;

/// Version of the frames and of what is in them.
const FORMAT: u16 = 1;

/// Slots of the largest flow table that `--flow-table` makes.
const MAX_SLOTS: u64 = (4 << 30) / 64;

/// Where a recording was made.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Origin {
    /// Host, run and version of portwatch: what is in each document.
    pub run: RunIdentity,
    /// Release of the kernel; `uname -r`.
    pub kernel: String,
    /// Machine; `uname -m`.
    pub machine: String,
    /// Boot, as `/proc/sys/kernel/random/boot_id` names it.
    pub boot_id: Option<String>,
}

impl Origin {
    /// This host and boot.
    pub fn of_host(run: RunIdentity, boot_id: Option<String>) -> Self {
        let system = rustix::system::uname();
        let text = |bytes: &std::ffi::CStr| String::from_utf8_lossy(bytes.to_bytes()).into_owned();
        Self { run, kernel: text(system.release()), machine: text(system.machine()), boot_id }
    }
}

/// The first frame. Its fields are those of [`Settings`] and [`Origin`], and how to read the rest.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Header {
    format: u16,
    /// [`WIRE_VERSION`] of the records.
    wire: u16,
    /// Records are in the byte order of the host that made them.
    is_little_endian: bool,
    /// Where it was made.
    pub origin: Origin,
    ports: String,
    policy: Option<String>,
    payload: Payload,
    snaplen: u64,
    interval: Duration,
    idle_timeout: Duration,
    slots: u64,
    jiffy_ns: u64,
    netns: Netns,
    clock: Clock,
}

impl Header {
    /// The header of a recording of a run with these settings.
    pub fn of(origin: Origin, settings: &Settings) -> Self {
        // What is not recorded cannot be replayed.
        let Settings {
            ports,
            policy,
            payload,
            snaplen,
            interval,
            idle_timeout,
            slots,
            jiffy_ns,
            netns,
            clock,
            // No event shows it, and a replay may capture what the run did not.
            names_ends: _,
        } = settings;
        Self {
            format: FORMAT,
            wire: WIRE_VERSION,
            is_little_endian: cfg!(target_endian = "little"),
            origin,
            ports: ports.to_string(),
            policy: policy.text().map(str::to_owned),
            payload: *payload,
            snaplen: u64::try_from(*snaplen).unwrap_or(u64::MAX),
            interval: *interval,
            idle_timeout: *idle_timeout,
            slots: u64::try_from(*slots).unwrap_or(u64::MAX),
            jiffy_ns: *jiffy_ns,
            netns: netns.clone(),
            clock: *clock,
        }
    }

    /// Whether this version can read what follows; if not, why.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { format, wire, .. } = self;
        let by = || format!("; it was made by portwatch {}", self.origin.run.version);
        if *format != FORMAT {
            return Err(format!("a recording of format {format}, not {FORMAT}{}", by()));
        }
        if *wire != WIRE_VERSION {
            return Err(format!("records of version {wire}, not {WIRE_VERSION}{}", by()));
        }
        if self.is_little_endian != cfg!(target_endian = "little") {
            return Err(format!("records in the byte order of a {}", self.origin.machine));
        }
        Ok(())
    }

    /// The settings of the run; `policy` is used instead of its own, if there is one.
    pub fn settings(&self, policy: Option<Policy>) -> Result<Settings, String> {
        let ports: PortSet = self.ports.parse().map_err(|error| format!("its ports: {error}"))?;
        let policy = match (policy, &self.policy) {
            (Some(policy), _) => policy,
            (None, Some(text)) => {
                Policy::parse(Path::new("its policy"), text).map_err(|error| error.to_string())?
            }
            (None, None) => Policy::default(),
        };
        Ok(Settings {
            ports,
            policy,
            payload: self.payload,
            snaplen: usize::try_from(self.snaplen).unwrap_or(usize::MAX),
            interval: self.interval,
            idle_timeout: self.idle_timeout,
            slots: usize::try_from(self.slots.min(MAX_SLOTS)).unwrap_or(usize::MAX),
            jiffy_ns: self.jiffy_ns,
            netns: self.netns.clone(),
            clock: self.clock,
            names_ends: false,
        })
    }

    /// What may be shown of samples.
    pub const fn payload(&self) -> Payload {
        self.payload
    }

    /// The ports of the run, as its user wrote them.
    pub fn ports(&self) -> &str {
        &self.ports
    }
}
