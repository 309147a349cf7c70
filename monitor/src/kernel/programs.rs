//! BPF programs of others that can answer for a port, or choose who does: by number, name and holder.
//!
//! Which programs are on a hook takes `CAP_NET_ADMIN`. Their names take `CAP_SYS_ADMIN`, so they are those of
//! when the names were read, while portwatch still had it; who holds a program can be told at any time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use aya::programs::loaded_programs;

use crate::endpoint::Direction;
use crate::escape;
use crate::host::bpf_holders::Holder;
use crate::host::links::Netkit;
use crate::host::{bpf_pins, filters, links};
use crate::sys;

/// What is known of loaded programs.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    known: BTreeMap<u32, Known>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Known {
    /// Foreign text.
    name: Option<String>,
    /// Of the instructions: the same for the same program, wherever it is loaded.
    tag: u64,
    /// Number of the type: `BPF_PROG_TYPE_*`.
    kind: u32,
    /// Who loaded it, and when: seconds since the Unix epoch.
    loaded: Option<(u32, u64)>,
    /// Where it, or a link of it, is pinned. Foreign text.
    pins: Vec<PathBuf>,
}

/// A program at a place where it can answer for a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placed {
    /// Number of the program.
    pub id: u32,
    /// Where it runs: `TCX ingress of eth0`. Foreign text: escape before showing.
    pub place: String,
}

impl Programs {
    /// All that are loaded now; none without `CAP_SYS_ADMIN`.
    pub fn read() -> Self {
        let mut pins = bpf_pins::find();
        let known = loaded_programs().map_while(Result::ok).take(MAX).map(|program| {
            let name = escape::text_from_bytes(program.name()).into_owned();
            let time =
                program.loaded_at().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            let loaded = program.created_by_uid().zip(time.map(|time| time.as_secs()));
            let name = Some(name).filter(|name| !name.is_empty());
            let known = Known {
                name,
                tag: program.tag(),
                kind: program.program_type() as u32,
                loaded,
                pins: pins.remove(&program.id()).unwrap_or_default(),
            };
            (program.id(), known)
        });
        Self { known: known.collect() }
    }

    /// Programs of a sockmap: they hand what comes for one socket to another. To which namespace they
    /// belong cannot be told.
    pub fn of_sockmaps(&self) -> Vec<Placed> {
        let is_of_sockmap = |known: &Known| [SK_SKB, SK_MSG].contains(&known.kind);
        let of_sockmaps = self.known.iter().filter(|(_, known)| is_of_sockmap(known));
        of_sockmaps.map(|(id, _)| Placed { id: *id, place: "a sockmap".to_owned() }).collect()
    }

    /// `program 57 (steer, tag 1f2e3d4c5b6a7988), loaded by uid 0 at 2026-11-29T02:00:00Z, pinned at
    /// /sys/fs/bpf/steer, held by steerd (pid 812)`, as far as it is known.
    pub fn describe(&self, id: u32, holders: &BTreeMap<u32, Vec<Holder>>) -> String {
        let known = self.known.get(&id);
        let name = known.and_then(|known| known.name.as_deref());
        let mut text = with_identity(id, name, known.map(|known| known.tag));
        if let Some((uid, seconds)) = known.and_then(|known| known.loaded) {
            _ = write!(text, ", loaded by uid {uid}");
            let at =
                i64::try_from(seconds).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
            if let Some(at) = at {
                _ = write!(text, " at {at}");
            }
        }
        let pins = known.map(|known| known.pins.as_slice()).unwrap_or_default();
        for pin in pins.iter().take(NAMED) {
            _ = write!(text, ", pinned at {}", escape::text_from_bytes(pin.as_os_str().as_bytes()));
        }
        match holders.get(&id).map(Vec::as_slice) {
            Some(holders) if !holders.is_empty() => {
                let names: Vec<String> = holders
                    .iter()
                    .take(NAMED)
                    .map(|holder| format!("{} (pid {})", holder.name, holder.pid))
                    .collect();
                _ = write!(text, ", held by {}", names.join(", "));
            }
            _ if pins.is_empty() => {
                text.push_str(", held by no process: pinned, or only attached");
            }
            _ => text.push_str(", held by no process"),
        }
        text
    }
}

/// `program 57 (steer, tag 1f2e3d4c5b6a7988)`, as far as it is known.
pub(super) fn with_identity(id: u32, name: Option<&str>, tag: Option<u64>) -> String {
    let tag = tag.map(|tag| format!("tag {tag:016x}"));
    let known: Vec<&str> = name.into_iter().chain(tag.as_deref()).collect();
    if known.is_empty() {
        format!("program {id}")
    } else {
        format!("program {id} ({})", known.join(", "))
    }
}

/// The `sk_lookup` programs of a network namespace: they choose the socket that gets a packet, on whatever
/// port it is. Linux 5.9.
pub fn that_choose_sockets(namespace: BorrowedFd<'_>) -> io::Result<Vec<Placed>> {
    let ids = sys::bpf::sk_lookup_programs(namespace)?;
    let place = || "sk_lookup of the namespace".to_owned();
    Ok(ids.into_iter().map(|id| Placed { id, place: place() }).collect())
}

/// Programs at the hooks of the interfaces of the calling thread's namespace that packets pass: netkit, XDP, TCX
/// and clsact.
pub fn on_the_way() -> io::Result<Vec<Placed>> {
    let mut found = Vec::new();
    for link in links::list()?.into_iter().take(MAX) {
        if let Some(Netkit { is_primary: true, .. }) = link.netkit {
            for (of_the_other, end) in [(true, "peer"), (false, "primary")] {
                let ids = sys::bpf::netkit_programs(link.ifindex, of_the_other).unwrap_or_default();
                let place = || format!("netkit {end} of {}", link.name);
                found.extend(ids.into_iter().map(|id| Placed { id, place: place() }));
            }
        }
        if let Some(xdp) = &link.xdp {
            found.push(Placed { id: xdp.program, place: format!("XDP of {}", link.name) });
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let is_egress = direction == Direction::Egress;
            let place = |hook: &str| format!("{hook} {} of {}", direction.name(), link.name);
            // Before Linux 6.6 there is no TCX.
            let on_tcx = sys::bpf::tcx_programs(link.ifindex, is_egress).unwrap_or_default();
            found.extend(on_tcx.into_iter().map(|id| Placed { id, place: place("TCX") }));
            let filters = filters::list(link.ifindex, direction).unwrap_or_default();
            let of_filters = filters.into_iter().filter_map(|filter| filter.program?.id);
            found.extend(of_filters.map(|id| Placed { id, place: place("clsact") }));
        }
    }
    Ok(found)
}

/// `BPF_PROG_TYPE_*` of include/uapi/linux/bpf.h.
const SK_SKB: u32 = 14;
const SK_MSG: u32 = 16;

/// Programs and interfaces looked at.
const MAX: usize = 4096;
/// Holders named.
const NAMED: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_with_name_user_time_and_holder_as_far_as_they_are_known() {
        let known = Known {
            name: Some("steer".to_owned()),
            tag: 0x001f_2e3d_4c5b_6a79,
            kind: 30,
            loaded: Some((0, 1_790_000_000)),
            pins: Vec::new(),
        };
        let pinned = Known {
            name: None,
            loaded: None,
            pins: vec![PathBuf::from("/sys/fs/bpf/steer")],
            ..known.clone()
        };
        let programs = Programs { known: BTreeMap::from([(57, known), (59, pinned)]) };
        let holder = Holder { pid: 812, name: "steerd".to_owned() };
        let holders = BTreeMap::from([(57, vec![holder])]);

        assert_eq!(
            programs.describe(57, &holders),
            "program 57 (steer, tag 001f2e3d4c5b6a79), loaded by uid 0 at 2026-09-21T14:13:20Z, held by \
             steerd (pid 812)"
        );
        assert_eq!(
            programs.describe(58, &holders),
            "program 58, held by no process: pinned, or only attached"
        );
        assert_eq!(
            programs.describe(59, &holders),
            "program 59 (tag 001f2e3d4c5b6a79), pinned at /sys/fs/bpf/steer, held by no process"
        );
    }

    #[test]
    fn only_programs_of_sockmaps_are_programs_of_sockmaps() {
        let of_kind = |kind| Known { kind, ..Known::default() };
        let known = BTreeMap::from([(1, of_kind(SK_SKB)), (2, of_kind(3)), (3, of_kind(SK_MSG))]);
        let programs = Programs { known };

        let ids: Vec<u32> = programs.of_sockmaps().into_iter().map(|it| it.id).collect();

        assert_eq!(ids, [1, 3]);
    }
}
