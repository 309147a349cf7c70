//! Where programs and maps come from: loaded by us, or adopted from pins that another portwatch left.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::maps::{Map, MapData, MapType};
use aya::programs::{BtfTracePoint, Iter, Program, SchedClassifier};
use monitor_ebpf::wire::{self, Fates, FlowRecord, PROGRAMS, RingEnds, SocketOwner, aside};

use crate::kernel::cgroup;
use crate::kernel::classifiers::CLASSIFIERS;
use crate::kernel::layout::Layout;
use crate::kernel::object::{ITERATOR, TRACEPOINTS, VIEWS};
use crate::kernel::pin::Pins;

/// Programs and maps by their names.
pub(super) enum Source {
    /// Loaded by us; gone with us, unless pinned.
    Loaded(Ebpf),
    /// Found pinned.
    Adopted {
        /// The classifiers; the iterators and the tracepoints where the kernel took them.
        programs: HashMap<String, Program>,
        /// What user space reads and writes.
        maps: HashMap<String, Map>,
    },
}

/// What a pinned map must look like: name, type, size of a value, entries.
pub(super) type Shape = (&'static str, MapType, usize, u32);

/// The maps that user space reads or writes after the start. The others live as long as the programs.
pub(super) fn shapes(layout: Layout) -> Result<[Shape; 9]> {
    let programs = u32::try_from(PROGRAMS.len()).context("counting programs")?;
    Ok([
        ("pw_flows", MapType::Array, size_of::<wire::Set>(), layout.cpus * layout.sets),
        ("pw_totals", MapType::Array, size_of::<wire::Total>(), layout.cpus * layout.total_rows),
        ("pw_flow_ring", MapType::Array, size_of::<FlowRecord>(), layout.cpus * layout.flow_ring),
        ("pw_flow_ends", MapType::Array, size_of::<RingEnds>(), layout.cpus),
        ("pw_sample_ring", MapType::RingBuf, 0, layout.sample_ring_bytes),
        ("pw_socket_ring", MapType::RingBuf, 0, 0),
        ("pw_sockets", MapType::Unspecified, size_of::<SocketOwner>(), 0),
        ("pw_fates", MapType::PerCpuArray, size_of::<Fates>(), programs),
        ("pw_aside", MapType::PerCpuArray, size_of::<u64>(), aside::COUNT),
    ])
}

impl Source {
    /// Opens what is pinned, if it is all there and looks as it must.
    pub(super) fn adopt(pins: &Pins, shapes: &[Shape]) -> Result<Self> {
        let mut maps = HashMap::new();
        for &(name, kind, value_size, entries) in shapes {
            let data =
                MapData::from_pin(pins.map(name)).with_context(|| format!("opening {name}"))?;
            let info = data.info().with_context(|| format!("looking at {name}"))?;
            let is_alike = info.name_as_str() == Some(name)
                && (kind == MapType::Unspecified || info.map_type().is_ok_and(|it| it == kind))
                && info.value_size() as usize == value_size
                && (entries == 0 || info.max_entries() == entries);
            ensure!(is_alike, "{name} has another type or size");
            maps.insert(name.to_owned(), Map::from_map_data(data).context("opening a map")?);
        }
        let mut programs = HashMap::new();
        for name in CLASSIFIERS {
            let program = SchedClassifier::from_pin(pins.program(name))
                .with_context(|| format!("opening {name}"))?;
            let info = program.info().with_context(|| format!("looking at {name}"))?;
            ensure!(info.name_as_str() == Some(name), "the program {name} has another name");
            programs.insert(name.to_owned(), Program::SchedClassifier(program));
        }
        for (name, _) in TRACEPOINTS {
            if fs::exists(pins.program(name)).unwrap_or_default() {
                let program = BtfTracePoint::from_pin(pins.program(name))
                    .with_context(|| format!("opening {name}"))?;
                programs.insert(name.to_owned(), Program::BtfTracePoint(program));
            }
        }
        for name in iterators() {
            if fs::exists(pins.program(name)).unwrap_or_default() {
                let program = Iter::from_pin(pins.program(name))
                    .with_context(|| format!("opening {name}"))?;
                programs.insert(name.to_owned(), Program::Iter(program));
            }
        }
        for name in cgroup::socket_programs() {
            ensure!(cgroup::is_attached(pins, name), "{name} is no longer attached");
        }
        Ok(Self::Adopted { programs, maps })
    }

    /// Pins what the next portwatch needs; the links are pinned as they are made.
    pub(super) fn pin(&self, pins: &Pins, shapes: &[Shape]) -> Result<()> {
        let Self::Loaded(ebpf) = self else { return Ok(()) };
        for &(name, ..) in shapes {
            let map = ebpf.map(name).with_context(|| format!("the kernel object has no {name}"))?;
            pins.pin(descriptor(map)?, &pins.map(name))?;
        }
        let traced = TRACEPOINTS.map(|(name, _)| name);
        for name in CLASSIFIERS.into_iter().chain(iterators()).chain(traced) {
            let program = ebpf.program(name).and_then(|program| program.fd().ok());
            match program {
                Some(program) => pins.pin(program, &pins.program(name))?,
                None => ensure!(!CLASSIFIERS.contains(&name), "this kernel refuses {name}"),
            }
        }
        Ok(())
    }

    pub(super) fn program(&mut self, name: &str) -> Option<&mut Program> {
        match self {
            Self::Loaded(ebpf) => ebpf.program_mut(name),
            Self::Adopted { programs, .. } => programs.get_mut(name),
        }
    }

    /// Every program, by its name.
    pub(super) fn programs_mut(&mut self) -> Box<dyn Iterator<Item = (&str, &mut Program)> + '_> {
        match self {
            Self::Loaded(ebpf) => Box::new(ebpf.programs_mut()),
            Self::Adopted { programs, .. } => {
                Box::new(programs.iter_mut().map(|(name, program)| (name.as_str(), program)))
            }
        }
    }

    pub(super) fn map(&self, name: &str) -> Option<&Map> {
        match self {
            Self::Loaded(ebpf) => ebpf.map(name),
            Self::Adopted { maps, .. } => maps.get(name),
        }
    }

    pub(super) fn map_mut(&mut self, name: &str) -> Option<&mut Map> {
        match self {
            Self::Loaded(ebpf) => ebpf.map_mut(name),
            Self::Adopted { maps, .. } => maps.get_mut(name),
        }
    }

    pub(super) fn take_map(&mut self, name: &str) -> Option<Map> {
        match self {
            Self::Loaded(ebpf) => ebpf.take_map(name),
            Self::Adopted { maps, .. } => maps.remove(name),
        }
    }
}

/// The iterators, which not every kernel takes.
fn iterators() -> impl Iterator<Item = &'static str> {
    [ITERATOR].into_iter().chain(VIEWS.map(|(name, _)| name))
}

/// The data of the kinds of map that we pin.
fn descriptor(map: &Map) -> Result<&aya::maps::MapFd> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data) => Ok(data.fd()),
        _ => anyhow::bail!("a map of this kind is not pinned"),
    }
}
