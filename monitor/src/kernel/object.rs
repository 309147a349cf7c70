//! The kernel object: sized and configured for this host, then loaded.

use std::fmt;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, RingBuf};
use aya::programs::{BtfTracePoint, Iter, Program};
use aya::{Btf, EbpfLoader};
use monitor_ebpf::key::MULTIPLIERS;
use monitor_ebpf::view::ViewOffsets;
use monitor_ebpf::wire::{self, Slot, SocketOwner, WIRE_VERSION, helper};
use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes as _;

use crate::kernel::btf::Offsets;
use crate::kernel::flow_ring::FlowRing;
use crate::kernel::flow_table::FlowTable;
use crate::kernel::layout::Layout;
use crate::kernel::packet_rings::PacketRings;
use crate::kernel::pin::{Found, Pins};
use crate::kernel::source::{self, Shape, Source};
use crate::kernel::tally::Tally;
use crate::kernel::{in_one_line, memlock, probe};
use crate::ports::PortSet;
use crate::privilege;
use crate::sys;

/// The compiled kernel object. Dual MIT/GPL.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portwatch-ebpf"));

/// First packets with payload of each flow that are sampled. Length and body may come separately, and
/// be two messages before it is clear who speaks.
const HEAD_SAMPLES: u32 = 4;
/// Bytes of those that are looked at: a `ClientHello` has up to 2000.
const HEAD_SNAPLEN: u16 = 2048;
/// Samples a second over all CPUs: what user space follows at a few per cent of a core.
const SAMPLES_PER_SECOND: u64 = 5_000;
/// The sampling budget is whole again this many times a second, so that a burst does not eat a
/// second's worth.
const BUDGETS_PER_SECOND: u64 = 10;

/// The program that finds the holders of sockets.
pub(super) const ITERATOR: &str = "pw_task_file";
/// What does the same where the kernel refuses that.
const OLD_ITERATOR: &str = "pw_task_file_5_10";
/// The programs that see every read and write, and the tracepoints they are for.
pub(super) const TRACEPOINTS: [(&str, &str); 2] =
    [("pw_send_length", "sock_send_length"), ("pw_recv_length", "sock_recv_length")];
/// What it means not to have those.
pub const UNSEEN_USERS: &str = "who reads and writes a socket that another process opened is \
     known only by who holds it";
/// The iterators of the cross-view, and what they go through.
pub(super) const VIEWS: [(&str, &str); 4] = [
    ("pw_view_files", "task_file"),
    ("pw_view_tcp", "tcp"),
    ("pw_view_udp", "udp"),
    ("pw_view_tasks", "task"),
];
/// What it means not to have those.
pub const UNCHECKED: &str =
    "what /proc and sock_diag say is not held against the kernel's own tables";
/// What it means not to have the iterator.
pub const IN_PROC: &str = "holders of sockets are looked up in /proc, not by iterator";

/// Insert only what is not there: include/uapi/linux/bpf.h.
const BPF_NOEXIST: u64 = 1;

/// What the user chose for the kernel side.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The watched ports.
    pub ports: PortSet,
    /// Bytes of the rings of flow records and samples together; a power of two of at least a page.
    pub ring_bytes: u32,
    /// Bytes of the flow table over all CPUs.
    pub flow_table_bytes: u64,
    /// Sample 1 in this many packets of a flow; 0: none, not even the first of a flow.
    pub sample_every: u16,
    /// Bytes of a packet that a sample carries.
    pub snaplen: u16,
}

/// The loaded object and the maps in it.
pub struct Object {
    pub(super) source: Source,
    /// The iterator that this kernel has accepted.
    iterator: Option<&'static str>,
    /// So were both programs for reads and writes.
    can_trace: bool,
    /// So were the iterators of the cross-view, all of them.
    can_view: bool,
    layout: Layout,
    ports: Vec<u16>,
    degraded: Vec<String>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl Object {
    /// Creates the maps, sized for this host; programs are verified as they are attached.
    pub fn load(settings: &Settings) -> Result<Self> {
        let ports: Vec<u16> = settings.ports.iter().collect();
        let layout = layout(settings)?;
        let helpers = probe::supported_helpers();
        let mut degraded: Vec<String> = probe::without(helpers).collect();
        let (btf, offsets) = running_kernel_types(&mut degraded);
        let wire_settings = wire_settings(settings, layout, helpers, offsets)?;
        let bitmap = settings.ports.bitmap();
        let view_offsets = offsets.and_then(|offsets| offsets.view).unwrap_or(ViewOffsets::ZERO);

        let mut loader = EbpfLoader::new();
        loader
            .override_global("PW_SETTINGS", wire_settings.as_bytes(), true)
            .override_global("PW_PORTS", bitmap.as_bytes(), true)
            .override_global("PW_VIEW_OFFSETS", view_offsets.as_bytes(), true)
            .map_max_entries("pw_flows", layout.cpus * layout.sets)
            .map_max_entries("pw_clocks", layout.cpus)
            .map_max_entries("pw_here", layout.cpus)
            .map_max_entries("pw_totals", layout.cpus * layout.total_rows)
            .map_max_entries("pw_scratch", layout.cpus)
            .map_max_entries("pw_flow_ring", layout.cpus * layout.flow_ring)
            .map_max_entries("pw_flow_ends", layout.cpus)
            .map_max_entries("pw_sample_ring", layout.sample_ring_bytes);
        if helpers & helper::SOCK_OPS_TASK != 0 {
            // Not used then.
            loader.map_max_entries("pw_connecting", 1);
        }
        if let Some(btf) = &btf {
            loader.btf(Some(btf));
        }
        let ebpf =
            memlock::within_limit(|| loader.load(OBJECT)).context("creating the kernel maps")?;
        let source = Source::Loaded(ebpf);
        let mut object = Self {
            source,
            iterator: None,
            can_trace: false,
            can_view: false,
            layout,
            ports,
            degraded,
        };
        object.fill_rows()?;
        if let (Some(btf), Some(offsets)) = (&btf, offsets) {
            object.load_iterator(btf, offsets.file.is_some());
            object.load_tracepoints(btf);
            object.load_views(btf, offsets);
        }
        drop(btf);
        sys::release_free_memory();
        Ok(object)
    }

    /// Loads, or with `pins` goes on with what is there. True: it goes on.
    pub fn load_or_resume(settings: &Settings, pins: Option<&Pins>) -> Result<(Self, bool)> {
        match pins {
            Some(pins) => Self::resume(settings, pins),
            None => Ok((Self::load(settings)?, false)),
        }
    }

    /// Goes on with what is pinned, if that is what is wanted; else loads anew and pins that. True: it
    /// goes on. What was pinned otherwise is removed first, and said in [`Object::degraded`].
    fn resume(settings: &Settings, pins: &Pins) -> Result<(Self, bool)> {
        let layout = layout(settings)?;
        let shapes = source::shapes(layout)?;
        let given_up = match pins.found(&config(settings, layout)) {
            Found::Nothing => None,
            Found::Different(what) => Some(format!("what was pinned has another {what}")),
            Found::Same => match Self::adopt(settings, layout, pins, &shapes) {
                Ok(object) => return Ok((object, true)),
                Err(error) => Some(format!("what was pinned cannot be used: {error:#}")),
            },
        };
        pins.clear()?;
        let mut object = Self::load(settings)?;
        if let Some(why) = given_up {
            let line = format!("counting starts anew: {why}");
            tracing::warn!("{line}");
            object.degraded.push(line);
        }
        object.verify_classifiers();
        object.source.pin(pins, &shapes)?;
        Ok((object, false))
    }

    fn adopt(settings: &Settings, layout: Layout, pins: &Pins, shapes: &[Shape]) -> Result<Self> {
        let mut source = Source::adopt(pins, shapes)?;
        let iterator = source.program(ITERATOR).is_some().then_some(ITERATOR);
        let can_trace = TRACEPOINTS.into_iter().all(|(name, _)| source.program(name).is_some());
        let can_view = VIEWS.into_iter().all(|(name, _)| source.program(name).is_some());
        let meanings =
            [(iterator.is_some(), IN_PROC), (can_trace, UNSEEN_USERS), (can_view, UNCHECKED)];
        let missing = meanings.into_iter().filter(|(is_there, _)| !is_there);
        let missing = missing.map(|(_, meaning)| meaning.to_owned());
        let degraded = probe::without(probe::supported_helpers()).chain(missing).collect();
        let ports = settings.ports.iter().collect();
        Ok(Self { source, iterator, can_trace, can_view, layout, ports, degraded })
    }

    /// What is pinned from now on stays when portwatch ends, until [`pin::remove_all`].
    ///
    /// [`pin::remove_all`]: crate::kernel::pin::remove_all
    pub fn keep(&self, settings: &Settings, pins: &Pins) -> Result<()> {
        pins.finish(&config(settings, self.layout))
    }

    /// What this kernel cannot offer, a sentence each.
    pub fn degraded(&self) -> &[String] {
        &self.degraded
    }

    /// A reader of the flow table.
    pub fn flow_table(&self) -> Result<FlowTable> {
        FlowTable::new(self.map("pw_flows")?, self.layout)
    }

    /// A reader of totals, fates and the packets counted apart. Can be taken once.
    pub fn tally(&mut self) -> Result<Tally> {
        let fates = self.take("pw_fates")?.try_into().context("opening pw_fates")?;
        let aside = self.take("pw_aside")?.try_into().context("opening pw_aside")?;
        Tally::new(self.map("pw_totals")?, fates, aside, self.layout, self.ports.clone())
    }

    /// The rings of flow records and samples. Can be taken once.
    pub fn packet_rings(&mut self) -> Result<PacketRings> {
        let samples = self.ring("pw_sample_ring")?;
        let (records, ends) = (self.map("pw_flow_ring")?.fd(), self.map("pw_flow_ends")?.fd());
        let flows = FlowRing::new(records.as_fd(), ends.as_fd(), self.layout)?;
        Ok(PacketRings::new(samples, flows))
    }

    /// The ring of socket events. Can be taken once.
    pub fn socket_ring(&mut self) -> Result<RingBuf<MapData>> {
        self.ring("pw_socket_ring")
    }

    /// Adds sockets that are older than the hooks, so that their holders are found and their release
    /// is seen.
    pub fn remember_sockets(
        &mut self,
        sockets: impl IntoIterator<Item = (u64, SocketOwner)>,
    ) -> Result<()> {
        let mut map = self.sockets()?;
        for (cookie, owner) in sockets {
            let owner: [u8; size_of::<SocketOwner>()] = zerocopy::transmute!(owner);
            // What a hook wrote meanwhile is newer and knows more.
            match map.insert(cookie, owner, BPF_NOEXIST) {
                Ok(()) => {}
                Err(aya::maps::MapError::SyscallError(error))
                    if error.io_error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context("adding a socket to pw_sockets"),
            }
        }
        Ok(())
    }

    /// Forgets a socket that was never accepted, hence never released.
    pub fn forget_socket(&mut self, cookie: u64) -> Result<()> {
        match self.sockets()?.remove(&cookie) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error).context("removing a socket from pw_sockets"),
        }
    }

    /// The iterator that this kernel has accepted.
    pub(super) const fn iterator(&self) -> Option<&'static str> {
        self.iterator
    }

    /// Verifies the iterator at once, so that the kernel's types, tens of megabytes, need not be kept.
    /// `knows_files`: the other one can be tried as well.
    fn load_iterator(&mut self, btf: &Btf, knows_files: bool) {
        let mut load = |name| {
            let program: &mut Iter = self.program(name)?.try_into()?;
            program.load("task_file", btf).with_context(|| format!("loading {name}"))
        };
        let refused = match load(ITERATOR) {
            Ok(()) => return self.iterator = Some(ITERATOR),
            Err(error) => error,
        };
        if knows_files && load(OLD_ITERATOR).is_ok() {
            self.iterator = Some(OLD_ITERATOR);
        } else {
            self.degraded.push(degradation(IN_PROC, &refused));
        }
    }

    /// The programs for reads and writes were accepted by this kernel.
    pub(super) const fn can_trace(&self) -> bool {
        self.can_trace
    }

    /// Verifies the programs for reads and writes at once, likewise.
    fn load_tracepoints(&mut self, btf: &Btf) {
        let loaded = TRACEPOINTS.into_iter().try_for_each(|(name, tracepoint)| {
            let program: &mut BtfTracePoint = self.program(name)?.try_into()?;
            program.load(tracepoint, btf).with_context(|| format!("loading {name}"))
        });
        match loaded {
            Ok(()) => self.can_trace = true,
            Err(error) => self.degraded.push(degradation(UNSEEN_USERS, &error)),
        }
    }

    /// The iterators of the cross-view were accepted by this kernel.
    pub(super) const fn can_view(&self) -> bool {
        self.can_view
    }

    /// Verifies the iterators of the cross-view, likewise.
    fn load_views(&mut self, btf: &Btf, offsets: Offsets) {
        let loaded = offsets.view.context("this kernel's types lack a member").and_then(|_| {
            VIEWS.into_iter().try_for_each(|(name, of)| {
                let program: &mut Iter = self.program(name)?.try_into()?;
                program.load(of, btf).with_context(|| format!("loading {name}"))
            })
        });
        match loaded {
            Ok(()) => self.can_view = true,
            Err(error) => self.degraded.push(degradation(UNCHECKED, &error)),
        }
    }

    /// Whether this kernel asks for `CAP_BPF` even to look at a map that is open.
    pub fn asks_for_bpf(&self) -> bool {
        let Ok(map) = self.map("pw_totals") else { return true };
        let without_rights = || {
            privilege::renounce();
            map.info().is_err()
        };
        std::thread::scope(|scope| scope.spawn(without_rights).join().unwrap_or(true))
    }

    pub(super) fn program(&mut self, name: &str) -> Result<&mut Program> {
        self.source.program(name).with_context(|| format!("the kernel object has no {name}"))
    }

    /// The map data behind an array that we map and read by hand.
    pub(super) fn map(&self, name: &str) -> Result<&MapData> {
        match self.source.map(name) {
            Some(Map::Array(data)) => Ok(data),
            _ => anyhow::bail!("the kernel object has no array {name}"),
        }
    }

    fn take(&mut self, name: &str) -> Result<Map> {
        self.source.take_map(name).with_context(|| format!("{name} is already taken"))
    }

    fn ring(&mut self, name: &str) -> Result<RingBuf<MapData>> {
        self.take(name)?.try_into().with_context(|| format!("mapping {name}"))
    }

    fn sockets(&mut self) -> Result<HashMap<&mut MapData, u64, [u8; size_of::<SocketOwner>()]>> {
        let map =
            self.source.map_mut("pw_sockets").context("the kernel object has no pw_sockets")?;
        HashMap::try_from(map).context("opening pw_sockets")
    }

    fn fill_rows(&mut self) -> Result<()> {
        let mut rows = vec![0_u16; 65536];
        for (row, port) in (0_u16..).zip(&self.ports) {
            if let Some(entry) = rows.get_mut(usize::from(*port)) {
                *entry = row;
            }
        }
        let map = self.source.map_mut("pw_rows").context("the kernel object has no pw_rows")?;
        let mut array: Array<_, [u16; 65536]> = Array::try_from(map).context("opening pw_rows")?;
        let rows: Box<[u16; 65536]> = rows
            .into_boxed_slice()
            .try_into()
            .map_err(|_other_length| anyhow::anyhow!("pw_rows has a row for every port"))?;
        array.set(0, rows.as_ref(), 0).context("filling pw_rows")
    }
}

/// What it means, and why.
fn degradation(meaning: &str, error: &anyhow::Error) -> String {
    format!("{meaning}: {}", in_one_line(error))
}

fn layout(settings: &Settings) -> Result<Layout> {
    let cpus = aya::util::nr_cpus()
        .map_err(|(path, error)| anyhow::Error::new(error).context(format!("reading {path}")))?;
    Ok(Layout::new(
        u32::try_from(cpus).context("counting CPUs")?,
        settings.flow_table_bytes,
        u32::try_from(settings.ports.iter().count()).context("counting ports")?,
        settings.ring_bytes,
    ))
}

/// What has to be the same for a pinned set to be used: `key=value`, separated by spaces.
fn config(settings: &Settings, layout: Layout) -> String {
    let short = |bytes: &[u8]| {
        let digest = Sha256::digest(bytes);
        digest.iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    };
    format!(
        "kernel-object={}-{WIRE_VERSION} ports={} flow-table={}x{} ring-size={} sample={} snaplen={}",
        short(OBJECT),
        short(settings.ports.bitmap().as_bytes()),
        layout.cpus,
        layout.sets,
        settings.ring_bytes,
        settings.sample_every,
        settings.snaplen,
    )
}

fn running_kernel_types(degraded: &mut Vec<String>) -> (Option<Btf>, Option<Offsets>) {
    let offsets = Offsets::of_running_kernel();
    match (Btf::from_sys_fs(), offsets) {
        (Ok(btf), Ok(offsets)) => (Some(btf), Some(offsets)),
        (btf, offsets) => {
            if let Err(error) = offsets {
                degraded.push(format!("{IN_PROC}: {error:#}"));
                degraded.push(format!("{UNSEEN_USERS}: {error:#}"));
                degraded.push(format!("{UNCHECKED}: {error:#}"));
            }
            (btf.ok(), None)
        }
    }
}

fn wire_settings(
    settings: &Settings,
    layout: Layout,
    helpers: u32,
    offsets: Option<Offsets>,
) -> Result<wire::Settings> {
    let ticks = ticks_per_second()?;
    let budget = SAMPLES_PER_SECOND / BUDGETS_PER_SECOND / u64::from(layout.cpus);
    let sampling = settings.sample_every != 0;
    let files = offsets.and_then(|offsets| offsets.file);
    Ok(wire::Settings {
        hash_multipliers: random_odd_multipliers()?,
        set_shift: u64::BITS - layout.sets.ilog2(),
        sets: layout.sets,
        total_rows: layout.total_rows,
        snaplen: u32::from(settings.snaplen),
        head_snaplen: u32::from(settings.snaplen.max(HEAD_SNAPLEN)),
        sample_every: u32::from(settings.sample_every),
        head_samples: if sampling { HEAD_SAMPLES.min(Slot::MAX_HEAD_SAMPLES.into()) } else { 0 },
        sample_budget: u32::try_from(budget.max(1)).unwrap_or(u32::MAX),
        budget_window: u32::try_from(ticks / BUDGETS_PER_SECOND).unwrap_or(1).max(1),
        helpers,
        socket_sk_offset: offsets.map_or(0, |offsets| offsets.socket_sk),
        task_tgid_offset: offsets.map_or(0, |offsets| offsets.task_tgid),
        sock_num_offset: offsets.map_or(0, |offsets| offsets.sock.num),
        sock_dport_offset: offsets.map_or(0, |offsets| offsets.sock.dport),
        sock_family_offset: offsets.map_or(0, |offsets| offsets.sock.family),
        sock_protocol_offset: offsets.map_or(0, |offsets| offsets.sock.protocol),
        sock_cookie_offset: files.map_or(0, |files| files.sock_cookie),
        file_inode_offset: files.map_or(0, |files| files.inode),
        file_private_data_offset: files.map_or(0, |files| files.private_data),
        inode_mode_offset: files.map_or(0, |files| files.inode_mode),
        only_port: only_port(&settings.ports),
        flow_ring: layout.flow_ring,
    })
}

/// One port is the usual case, and comparing is cheaper than looking into a table.
fn only_port(ports: &PortSet) -> u32 {
    let mut ports = ports.iter();
    match (ports.next(), ports.next()) {
        (Some(only), None) => u32::from(only),
        _ => 0,
    }
}

/// Jiffies a second (`CONFIG_HZ`): the coarse clocks advance once a jiffy.
pub fn ticks_per_second() -> Result<u64> {
    Ok(1_000_000_000 / jiffy_ns()?)
}

/// Nanoseconds of a jiffy.
pub fn jiffy_ns() -> Result<u64> {
    let resolution = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(resolution.tv_nsec)
        .ok()
        .filter(|ns| *ns > 0)
        .context("reading the resolution of CLOCK_MONOTONIC_COARSE")
}

/// Multipliers that nobody outside can know, so that nobody can craft keys that collide.
fn random_odd_multipliers() -> Result<[u64; MULTIPLIERS]> {
    let mut bytes = [0_u8; 8 * MULTIPLIERS];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("asking for random numbers")?;
    anyhow::ensure!(filled == bytes.len(), "asking for random numbers: got {filled} bytes");
    let words: [u64; MULTIPLIERS] = zerocopy::transmute!(bytes);
    Ok(words.map(|word| word | 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_multipliers_are_odd_and_differ_from_run_to_run() {
        let multipliers = random_odd_multipliers().unwrap();

        assert!(multipliers.iter().all(|multiplier| multiplier % 2 == 1));
        assert_ne!(multipliers, random_odd_multipliers().unwrap());
    }
}
