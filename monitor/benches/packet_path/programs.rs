//! The kernel programs as `portwatch watch` loads them, run by `BPF_PROG_TEST_RUN`.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::MapInfo;
use aya::programs::{TestRun as _, TestRunOptions};
use monitor::cli::{self, Command};
use monitor::kernel::classifiers::Classifiers as _;
use monitor::kernel::flow_table::FlowTable;
use monitor::kernel::object::{Object, Settings};
use monitor::kernel::packet_rings::PacketRings;

use crate::clock::Stopwatch;
use crate::quiet;

/// What is measured. Egress runs the same code.
pub(crate) const OURS: &str = "pw_ingress";
/// What it is compared with.
pub(crate) const EMPTY: &str = "pw_empty";

/// Loaded programs and the rings that they write into.
pub(crate) struct Programs {
    object: Object,
    rings: PacketRings,
}

/// What `portwatch watch` uses when the user chooses nothing.
pub(crate) fn default_settings() -> Result<Settings> {
    let arguments = ["portwatch", "watch"].map(OsString::from);
    let Ok(Command::Watch(watch)) = cli::parse(arguments).map(|cli| cli.command) else {
        bail!("portwatch does not know `watch`");
    };
    Ok(Settings {
        ports: watch.common.ports(),
        ring_bytes: watch.ring_size,
        flow_table_bytes: watch.flow_table,
        sample_every: u16::try_from(watch.sample).context("reading the default of --sample")?,
        snaplen: u16::try_from(watch.snaplen).context("reading the default of --snaplen")?,
    })
}

impl Programs {
    /// Loads both.
    pub(crate) fn load(settings: &Settings) -> Result<Self> {
        let mut object = Object::load(settings)?;
        for name in [EMPTY, OURS] {
            object.classifier(name)?;
        }
        let rings = object.packet_rings()?;
        Ok(Self { object, rings })
    }

    /// Runs the program called `name` on a packet `repeat` times.
    pub(crate) fn run(&mut self, name: &str, packet: &[u8], repeat: u32) -> Result<Duration> {
        let program = self.object.classifier(name)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.repeat = repeat;
        // The kernel's own measure has no fractions of a nanosecond.
        let running = Stopwatch::of_thread();
        program.test_run(options).with_context(|| format!("running {name}"))?;
        Ok(running.elapsed())
    }

    /// Runs both, in turns first, and gives how many nanoseconds a packet ours costs more.
    pub(crate) fn difference(
        &mut self,
        packet: &[u8],
        repeat: u32,
        ours_first: bool,
    ) -> Result<f64> {
        let (ours, empty) = if ours_first {
            let ours = self.run(OURS, packet, repeat)?;
            (ours, self.run(EMPTY, packet, repeat)?)
        } else {
            let empty = self.run(EMPTY, packet, repeat)?;
            (self.run(OURS, packet, repeat)?, empty)
        };
        Ok(nanoseconds_each(ours, repeat) - nanoseconds_each(empty, repeat))
    }

    /// The same while the machine is quiet; what that leaves in the rings is thrown away.
    pub(crate) fn difference_in_quiet(
        &mut self,
        packet: &[u8],
        repeat: u32,
        ours_first: bool,
    ) -> Result<f64> {
        quiet::measure(|| {
            let cost = self.difference(packet, repeat, ours_first);
            self.drain();
            cost
        })
    }

    /// Throws away what is in the rings: the number of records. A full ring would be another cost.
    pub(crate) fn drain(&mut self) -> usize {
        let mut records = 0;
        while self.rings.take().is_some() {
            records += 1;
        }
        self.rings.give_back();
        records
    }

    /// New flows that leave half of the room in the ring of a CPU.
    pub(crate) fn batch(&self) -> u32 {
        u32::try_from(self.rings.flow_records() / 2).unwrap_or(u32::MAX)
    }

    /// The descriptor of a program.
    pub(crate) fn descriptor(&mut self, name: &str) -> Result<BorrowedFd<'_>> {
        Ok(self.object.classifier(name)?.fd().context("finding a program")?.as_fd())
    }

    /// How many instructions the kernel looked at to verify a program: an older one looks at more, and
    /// refuses a program at a million.
    pub(crate) fn verified(&mut self, name: &str) -> Result<u32> {
        let info = self.object.classifier(name)?.info().context("asking about a program")?;
        info.verified_instruction_count().context("asking how many instructions were verified")
    }

    /// A map that a program uses.
    pub(crate) fn map(&mut self, program: &str, name: &str) -> Result<MapInfo> {
        let info = self.object.classifier(program)?.info().context("asking about a program")?;
        let ids = info.map_ids().context("asking for the maps of a program")?.unwrap_or_default();
        let maps = ids.into_iter().filter_map(|id| MapInfo::from_id(id).ok());
        let mut named = maps.filter(|map| map.name_as_str() == Some(name));
        named.next().with_context(|| format!("{program} uses no map {name}"))
    }

    /// A reader of the flow table.
    pub(crate) fn flow_table(&self) -> Result<FlowTable> {
        self.object.flow_table()
    }
}

/// Nanoseconds for each of `count` things that took `time` together.
pub(crate) fn nanoseconds_each(time: Duration, count: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(count)
}
