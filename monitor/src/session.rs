//! The kernel side and the pipeline, wired: what `watch` and `scan` share.
//!
//! Start order: load → hooks → only then the snapshot of what is already there, so that nothing falls
//! between the two.

pub mod policy;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use monitor_ebpf::wire::SocketOwner;

use crate::attribution::Request;
use crate::clock;
use crate::crossview::{self, Told, Wanted};
use crate::endpoint::Family;
use crate::explanation::{self, Standing};
use crate::flow::{Doubt, FlowId};
use crate::host;
use crate::host::cgroup::{Hierarchy, Placement};
use crate::host::netns::{self, Namespace};
use crate::host::sockets::Socket;
use crate::kernel::flow_table::FlowTable;
use crate::kernel::object::Object;
use crate::kernel::packet_rings::PacketRings;
use crate::kernel::pin::Pins;
use crate::kernel::programs::Programs;
use crate::kernel::tally::Tally;
use crate::kernel::tracepoint::{self, Tracepoints};
use crate::kernel::{cgroup, holders};
use crate::ledger::Tenure;
use crate::lookup::{Answer, Lookup};
use crate::pipeline::{Input, KernelCounts, Pipeline};
use crate::views::Tables;

/// Packet records read in one go, before anything else gets its turn. What is not read in time finds
/// the ring full, which the kernel side counts.
const RECORDS_PER_READ: usize = 5_000;

/// Sockets that are told of at a time: an input is no larger than a recording takes.
const SOCKETS_AT_ONCE: usize = 1024;
/// Looks after the first, as long as views disagree, and the time between two of them.
const MORE_LOOKS: usize = 4;
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

/// Slots that are read before they are handed on: their copies stay in the nearest cache.
const SLOTS_AT_ONCE: usize = 256;

/// A reading of the flow table that brings so much news takes at most one in so many nanoseconds of a core:
/// the next one waits, but no longer than [`LONGEST_WAIT_NS`]. Nothing is missed: counters only grow, and
/// what a slot held before travels through the ring.
const MUCH_NEWS: usize = 4096;
const READING_SHARE: u64 = 256;
const LONGEST_WAIT_NS: u64 = 3_000_000_000;

/// What a look at the rings brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Brought {
    /// It was empty.
    Nothing,
    /// All that was in it.
    All,
    /// As much as is read at once: there may be more.
    Part,
}

impl Brought {
    /// Reads as many records as are read at once, `one` each time; false: there is none.
    fn by(mut one: impl FnMut() -> bool) -> Self {
        match (0..RECORDS_PER_READ).take_while(|_| one()).count() {
            0 => Self::Nothing,
            RECORDS_PER_READ.. => Self::Part,
            _ => Self::All,
        }
    }
}

/// What is read from the kernel while it runs.
pub struct Readers {
    packets: PacketRings,
    table: FlowTable,
    tally: Tally,
    /// Packets in the totals when the flow table was last read.
    read_at: u64,
    /// It was read since then without news. A packet counts in the totals a moment before it counts in its
    /// flow, and that in its slot may wait for a record, so that one reading is not enough.
    read_again: bool,
    /// What a portwatch before this one has taken over is known, or there was none.
    knows_earlier: bool,
    /// Until then the flow table need not be read.
    waits_until_ns: u64,
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Readers {
    /// Takes the maps out of a loaded object.
    ///
    /// `resumes`: the counters go on from a portwatch before this one.
    pub fn new(object: &mut Object, resumes: bool) -> Result<Self> {
        Ok(Self {
            packets: object.packet_rings()?,
            table: object.flow_table()?,
            tally: object.tally()?,
            read_at: 0,
            read_again: true,
            knows_earlier: !resumes,
            waits_until_ns: 0,
        })
    }

    /// How many slots the flow table has.
    pub const fn slots(&self) -> usize {
        self.table.slots()
    }

    /// How many flow records of one CPU there is room for.
    pub const fn flow_records(&self) -> usize {
        self.packets.flow_records()
    }

    /// Hands what is in the rings of flows and samples to the pipeline.
    pub fn read_packets(&mut self, pipeline: &mut Pipeline, now_ns: u64) -> Brought {
        let brought = Brought::by(|| {
            let Some(record) = self.packets.take() else { return false };
            if let Some(doubt) = pipeline.in_doubt(record) {
                settle(&doubt, &self.table, pipeline, self.knows_earlier, now_ns);
            }
            hand_on(record, pipeline, now_ns)
        });
        self.packets.give_back();
        brought
    }

    /// As [`read_table`](Self::read_table), unless the last reading brought so much that this one can
    /// wait. False: it waits.
    pub fn look_at_table(&mut self, pipeline: &mut Pipeline, now_ns: u64) -> bool {
        let waits = now_ns < self.waits_until_ns;
        if waits {
            pipeline.apply(Input::TableRead { now_ns });
        } else {
            self.read_table(pipeline, now_ns);
        }
        !waits
    }

    /// Hands what is news in the flow table to the pipeline; costs next to nothing when no packet has
    /// come since the last time.
    pub fn read_table(&mut self, pipeline: &mut Pipeline, now_ns: u64) {
        let packets = self.tally.packets();
        let stands_still = packets == self.read_at;
        if stands_still && self.read_again {
            pipeline.apply(Input::TableRead { now_ns });
            return;
        }
        let before = clock::thread_ns();
        let mut news = 0;
        for part in self.parts() {
            news += read_news(&self.table, part, pipeline, self.knows_earlier, now_ns);
        }
        pipeline.apply(Input::TableRead { now_ns });
        (self.read_at, self.read_again) = (packets, stands_still && news == 0);
        if news >= MUCH_NEWS {
            let took_ns = clock::thread_ns().saturating_sub(before);
            let wait_ns = took_ns.saturating_mul(READING_SHARE).min(LONGEST_WAIT_NS);
            self.waits_until_ns = now_ns.saturating_add(wait_ns);
        }
    }

    /// Hands every slot to the pipeline, news or not: the last reading, when nothing runs in the kernel
    /// any more. One that fell between the two stores of a packet saw its count without its bytes.
    pub fn read_whole_table(&self, pipeline: &mut Pipeline, now_ns: u64) {
        for part in self.parts() {
            let mut readings = Vec::new();
            self.table.read_part(part, |_, _| true, |reading| readings.push(reading));
            if !readings.is_empty() {
                pipeline.apply(Input::Readings { readings: readings.into(), now_ns });
            }
        }
        pipeline.apply(Input::TableRead { now_ns });
    }

    fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        (0..self.table.slots()).step_by(SLOTS_AT_ONCE).map(|start| start..start + SLOTS_AT_ONCE)
    }

    /// Reads everything there is, until nothing was counted meanwhile, so that all counters are of one
    /// moment. False: there was no such moment; `patience` is how often it is tried.
    ///
    /// The first such moment of a run that goes on from another tells what that other had taken over.
    pub fn read_all(
        &mut self,
        sockets: &mut RingBuf<MapData>,
        pipeline: &mut Pipeline,
        patience: u32,
    ) -> Result<bool> {
        for _ in 0..patience {
            let before = self.counts()?;
            let now_ns = clock::boot_ns();
            while read_sockets(sockets, pipeline, now_ns) == Brought::Part {}
            while self.read_packets(pipeline, now_ns) == Brought::Part {}
            self.read_whole_table(pipeline, now_ns);
            if self.counts()? == before {
                if !self.knows_earlier {
                    pipeline.apply(Input::Earlier(before));
                    self.knows_earlier = true;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What an earlier portwatch had taken over is known.
    pub const fn knows_earlier(&self) -> bool {
        self.knows_earlier
    }

    /// The kernel's counters now.
    pub fn counts(&self) -> Result<KernelCounts> {
        Ok(KernelCounts {
            totals: self.tally.totals(),
            fates: self.tally.fates()?,
            aside: self.tally.aside()?,
        })
    }
}

/// Hands what is news in a part of the flow table to the pipeline; how many slots have any.
///
/// `has_all_records`: the flow of each slot was announced since this run began. Of one whose record is still
/// in a ring nothing is handed on yet: that record tells first whether its ports begin a flow anew.
fn read_news(
    table: &FlowTable,
    part: Range<usize>,
    pipeline: &mut Pipeline,
    has_all_records: bool,
    now_ns: u64,
) -> usize {
    let (mut readings, mut news) = (Vec::new(), 0);
    let is_news = |slot, count| !pipeline.is_current(slot, count);
    table.read_part(part, is_news, |reading| {
        news += 1;
        if !has_all_records || !pipeline.awaits_record(&reading) {
            readings.push(reading);
        }
    });
    if !readings.is_empty() {
        pipeline.apply(Input::Readings { readings: readings.into(), now_ns });
    }
    news
}

/// Hands to the pipeline what tells whether a connection is over before its ports come up again.
fn settle(
    doubt: &Doubt,
    table: &FlowTable,
    pipeline: &mut Pipeline,
    has_all_records: bool,
    now_ns: u64,
) {
    for part in doubt.counted.iter().flat_map(|tenure| table.beside(tenure.slot)) {
        read_news(table, part, pipeline, has_all_records, now_ns);
    }
    let is_overtaken = doubt.counted.iter().any(|tenure| {
        let content = table.get(tenure.slot);
        content.is_some_and(|now| {
            Tenure::of(tenure.slot, &now) != *tenure && FlowId::of(&now.key).0 == doubt.flow
        })
    });
    if is_overtaken {
        pipeline.apply(Input::Overtaken(doubt.flow));
    }
}

/// Hands what is in the ring of sockets to the pipeline.
pub fn read_sockets(
    sockets: &mut RingBuf<MapData>,
    pipeline: &mut Pipeline,
    now_ns: u64,
) -> Brought {
    Brought::by(|| sockets.next().is_some_and(|bytes| hand_on(&bytes, pipeline, now_ns)))
}

/// Hands a record to the pipeline: there was one.
fn hand_on(bytes: &[u8], pipeline: &mut Pipeline, now_ns: u64) -> bool {
    pipeline.apply(Input::Record { bytes: Cow::Borrowed(bytes), now_ns });
    true
}

/// Everything that is already there: namespaces and the sockets on the watched ports in them.
#[derive(Debug)]
pub struct Snapshot<'a> {
    wanted: Wanted<'a>,
    /// Network namespaces, held open: dropped with the snapshot.
    namespaces: Vec<Namespace>,
    /// Their sockets, by every view.
    tables: Vec<Tables>,
    /// Sockets in all of them.
    sockets: Vec<Socket>,
    /// What could not be looked at, a sentence each.
    degraded: Vec<String>,
}

impl<'a> Snapshot<'a> {
    /// Looks at every network namespace of the host. `cgroups`: where sockets were made. Gives also what sends watched ports elsewhere.
    pub fn take(
        wanted: Wanted<'a>,
        programs: &Programs,
        cgroups: Option<&Hierarchy>,
        mut object: Option<&mut Object>,
    ) -> Result<(Self, Vec<Standing>)> {
        let watched = wanted.ports.iter().next().filter(|_| wanted.has_hooks);
        let namespaces = netns::enumerate(watched).context("listing network namespaces")?;
        let mut snapshot = Self {
            wanted,
            namespaces: namespaces.found,
            tables: Vec::new(),
            sockets: Vec::new(),
            degraded: namespaces.unseen,
        };
        for namespace in &snapshot.namespaces {
            match crossview::tables(namespace, object.as_deref_mut(), wanted) {
                Ok((tables, sockets)) => {
                    snapshot.tables.push(tables);
                    snapshot.sockets.extend(sockets.found);
                    snapshot.degraded.extend(sockets.degraded);
                }
                Err(error) => snapshot.degraded.push(format!(
                    "the sockets of network namespace {} are not seen: {error}",
                    namespace.netns.inode
                )),
            }
        }
        snapshot.degraded.dedup();
        let Self { namespaces, degraded, .. } = &mut snapshot;
        let standing = explanation::standing(namespaces, wanted.ports, programs, degraded);
        snapshot.sockets.retain_mut(has_identity);
        if let Some(cgroups) = cgroups {
            tell_units(&mut snapshot.sockets, cgroups);
        }
        Ok((snapshot, standing))
    }

    /// Hands the snapshot to the pipeline, with who holds each socket. `object` is the loaded kernel
    /// side, if there is one; else `/proc` tells.
    pub fn apply(
        mut self,
        mut object: Option<&mut Object>,
        pipeline: &mut Pipeline,
        degraded: &mut Vec<String>,
    ) -> Result<Vec<Socket>> {
        let now_ns = clock::boot_ns();
        let marks = self.namespaces.iter().map(|it| (it.netns.clone(), it.mark)).collect();
        pipeline.apply(Input::Namespaces(marks));
        for some in self.sockets.chunks(SOCKETS_AT_ONCE) {
            pipeline.apply(Input::Sockets { found: some.into(), now_ns });
        }
        let cookies: Vec<u64> = self.sockets.iter().map(|socket| socket.cookie).collect();
        let told = Told::ask(object.as_deref_mut(), true);
        let held = match object.as_deref_mut() {
            Some(object) if holders::is_available(object) => {
                let known = self.sockets.iter().filter(|socket| socket.cookie & STAND_IN == 0);
                object.remember_sockets(known.map(owner))?;
                match told.holders() {
                    Some(held) => held,
                    None => by_iterator(object)?,
                }
            }
            _ => by_proc(&self.sockets, degraded)?,
        };
        tell_holders(pipeline, &cookies, &held, now_ns);
        let (found, more) = told.portless(&self.namespaces, self.wanted.ports, &|_| true);
        if more > 0 {
            degraded.push(format!("{more} more packet, raw or XDP sockets than are told at once"));
        }
        if !found.is_empty() {
            pipeline.apply(Input::Portless { found, now_ns });
        }
        let comparison = told.compare(std::mem::take(&mut self.tables), &mut self.degraded);
        pipeline.apply(Input::Compared { comparison, now_ns });
        self.look_again(object, pipeline);
        degraded.append(&mut self.degraded);
        Ok(self.sockets)
    }

    /// What disagrees may be a race: looks again until it has lasted or is over.
    fn look_again(&self, mut object: Option<&mut Object>, pipeline: &mut Pipeline) {
        for _ in 0..MORE_LOOKS {
            if !pipeline.is_suspicious() {
                return;
            }
            std::thread::sleep(BETWEEN_LOOKS);
            let tables = self.namespaces.iter().filter_map(|namespace| {
                crossview::tables(namespace, object.as_deref_mut(), self.wanted).ok()
            });
            let tables = tables.map(|(tables, _)| tables).collect();
            let told = Told::ask(object.as_deref_mut(), true);
            let comparison = told.compare(tables, &mut Vec::new());
            pipeline.apply(Input::Compared { comparison, now_ns: clock::boot_ns() });
        }
    }
}

/// Hands on who holds these sockets: `(cookie, pid)`, complete for all of them.
pub fn tell_holders(pipeline: &mut Pipeline, sockets: &[u64], held: &[(u64, u32)], now_ns: u64) {
    let mut held = held.to_vec();
    held.sort_unstable();
    held.dedup();
    for sockets in sockets.chunks(SOCKETS_AT_ONCE) {
        let of_these: HashSet<u64> = sockets.iter().copied().collect();
        let held = held.iter().filter(|(cookie, _)| of_these.contains(cookie)).copied();
        let held = held.collect::<Vec<_>>().into();
        pipeline.apply(Input::Holders { sockets: sockets.into(), held, now_ns });
    }
}

/// Who holds the sockets the kernel side knows: `(cookie, pid)`.
pub fn by_iterator(object: &mut Object) -> Result<Vec<(u64, u32)>> {
    Ok(holders::list(object)?.into_iter().map(|holder| (holder.cookie, holder.tgid)).collect())
}

fn by_proc(sockets: &[Socket], degraded: &mut Vec<String>) -> Result<Vec<(u64, u32)>> {
    let inodes: BTreeSet<u64> =
        sockets.iter().map(|socket| socket.inode).filter(|inode| *inode != 0).collect();
    let holders = host::holders::find(&inodes).context("looking for holders in /proc")?;
    degraded.extend(holders.unseen);
    let cookies = |inode: u64| sockets.iter().filter(move |socket| socket.inode == inode);
    Ok(holders
        .found
        .iter()
        .flat_map(|held| cookies(held.inode).map(|socket| (socket.cookie, held.pid)))
        .collect())
}

/// Looks up the units in which listeners were made: of the others, who has them tells as much.
fn tell_units(sockets: &mut [Socket], cgroups: &Hierarchy) {
    for socket in sockets.iter_mut().filter(|socket| socket.is_listener()) {
        let path = socket.cgroup_id.and_then(|id| cgroups.path_of(id).ok());
        let placement = path.and_then(|path| Placement::of_path(path.as_os_str().as_bytes()));
        socket.unit = placement.and_then(|placement| placement.unit);
    }
}

/// Where `sock_diag` is missing there are no cookies: the inode stands in, marked by the highest bit,
/// which the kernel's counting cookies never reach. A socket with neither cannot be told from others.
fn has_identity(socket: &mut Socket) -> bool {
    if socket.cookie == 0 && socket.inode != 0 {
        socket.cookie = STAND_IN | socket.inode;
    }
    socket.cookie != 0
}

const STAND_IN: u64 = 1 << 63;

fn owner(socket: &Socket) -> (u64, SocketOwner) {
    let owner = SocketOwner {
        // Nobody was seen using it yet.
        tgid: 0,
        local_port: socket.local.port,
        family: match socket.family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 6,
        },
        protocol: socket.transport.iana_number(),
    };
    (socket.cookie, owner)
}

/// Passes the pipeline's requests on. What cannot be asked is answered at once.
pub fn ask(pipeline: &mut Pipeline, lookup: &Lookup) {
    for request in pipeline.take_requests() {
        let process = match request {
            Request::Hash { key } | Request::Package { key } | Request::Container { key } => {
                pipeline.process(key)
            }
            Request::Identify { .. }
            | Request::Recognise { .. }
            | Request::Namespaces
            | Request::Translate { .. }
            | Request::Relay { .. }
            | Request::Explain { .. } => None,
        };
        if let Some(refusal) = lookup.ask(request, process) {
            answer(pipeline, refusal);
        }
    }
}

/// Hands an answer to the pipeline.
pub fn answer(pipeline: &mut Pipeline, answer: Answer) {
    let input = match answer {
        Answer::Fates { exited, changed, at_ns } => {
            if !changed.is_empty() {
                pipeline.apply(Input::Changed { processes: changed, now_ns: at_ns });
            }
            Input::Exited(exited)
        }
        Answer::Identified { key, process, at_ns } => {
            Input::Identified { key, process, now_ns: at_ns }
        }
        Answer::Hashed { key, hash } => Input::Hashed { key, hash },
        Answer::Packaged { key, packaging } => Input::Packaged { key, packaging: *packaging },
        Answer::Contained { key, container } => {
            let (container, untold) = match *container {
                Ok((container, untold)) => (Ok(Box::new(container)), untold),
                Err(why) => (Err(why), None),
            };
            Input::Contained { key, container, untold }
        }
        Answer::Recognised { cookie, kind } => {
            Input::Recognised { cookie, kind, now_ns: clock::boot_ns() }
        }
        Answer::Namespaces(namespaces) => Input::Namespaces(namespaces),
        Answer::Translated { flow, there } => {
            Input::Translated { flow, there, now_ns: clock::boot_ns() }
        }
        Answer::Relayed { key, to } => Input::Relayed { key, to, now_ns: clock::boot_ns() },
        Answer::Explained { number, explanation } => {
            Input::Explained { number, explanation, now_ns: clock::boot_ns() }
        }
        Answer::Compared(comparison) => {
            Input::Compared { comparison: *comparison, now_ns: clock::boot_ns() }
        }
    };
    pipeline.apply(input);
}

/// Attaches the socket hooks.
pub fn attach_socket_hooks(
    object: &mut Object,
    pins: Option<&Pins>,
    degraded: &mut Vec<String>,
) -> Result<Vec<(String, String)>> {
    let in_cgroups = cgroup::attach(object, pins, degraded)?;
    let mut attached: Vec<(String, String)> =
        in_cgroups.into_iter().map(|name| (name, "cgroup".to_owned())).collect();
    let in_tracepoints = Tracepoints::offered(object);
    attached.extend(in_tracepoints.map(|name| (name.to_owned(), tracepoint::MODE.to_owned())));
    Ok(attached)
}
