//! Everything of BPF that is loaded on this host: programs, links and maps, by their numbers. A line of JSON
//! each. Takes `CAP_SYS_ADMIN`.

use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};
use serde_json::{Value, json};

use crate::escape::text_from_bytes;
use crate::host::artifacts::{Artifact, Content, Lines};
use crate::host::bpf_holders;
use crate::host::netns::{self, Namespace};
use crate::kernel::programs::{self, Placed};

/// All programs, links and maps.
pub fn read() -> [Artifact; 3] {
    [
        artifact("bpf-programs.ndjson", "bpf(2): programs, with who holds them", programs()),
        artifact("bpf-links.ndjson", "bpf(2): links", links()),
        artifact("bpf-maps.ndjson", "bpf(2): maps", maps()),
    ]
}

/// The programs at the hooks of a network namespace, in the order of a packet's way.
pub fn of_namespace(namespace: &Namespace) -> Artifact {
    let placed = netns::within(namespace, programs::on_the_way).and_then(|placed| placed);
    let choosers = programs::that_choose_sockets(std::os::fd::AsFd::as_fd(&namespace.file));
    let mut lines = Lines::default();
    let is_none = placed.is_err() && choosers.is_err();
    for (what, placed) in [("hooks", placed), ("sk_lookup", choosers)] {
        match placed {
            Ok(placed) => placed.iter().for_each(|Placed { id, place }| {
                lines.push(&json!({ "program": id, "place": place }));
            }),
            Err(error) => lines.lack([format!("{what}: {error}")]),
        }
    }
    let mut artifact = artifact("bpf-hooks.ndjson", "netlink and bpf(2): programs at hooks", lines);
    if is_none && let Ok(Content { cut: Some(why), .. }) = &artifact.content {
        artifact.content = Err(why.clone());
    }
    artifact
}

fn programs() -> Lines {
    let holders = bpf_holders::find();
    each(loaded_programs(), |program| {
        let holders: Vec<Value> = holders
            .get(&program.id())
            .into_iter()
            .flatten()
            .take(MAX_HOLDERS)
            .map(|holder| json!({ "pid": holder.pid, "name": holder.name }))
            .collect();
        json!({
            "id": program.id(),
            "type": format!("{:?}", program.program_type()),
            "name": text_from_bytes(program.name()),
            "tag": format!("{:016x}", program.tag()),
            "loaded_at": program.loaded_at().and_then(time),
            "uid": program.created_by_uid(),
            "maps": program.map_ids().ok().flatten(),
            "size_translated": program.size_translated(),
            "size_jitted": program.size_jitted(),
            "btf": program.btf_id(),
            "held_by": holders,
        })
    })
}

fn links() -> Lines {
    each(loaded_links(), |link| {
        let kind = link.link_type().map(|kind| format!("{kind:?}"));
        json!({ "id": link.id(), "program": link.program_id(), "type": kind.ok() })
    })
}

fn maps() -> Lines {
    each(loaded_maps(), |map| {
        let kind = map.map_type().map(|kind| format!("{kind:?}"));
        json!({
            "id": map.id(),
            "type": kind.ok(),
            "name": text_from_bytes(map.name()),
            "key_size": map.key_size(),
            "value_size": map.value_size(),
            "max_entries": map.max_entries(),
            "flags": map.map_flags(),
        })
    })
}

fn each<T, E: std::fmt::Display>(
    loaded: impl Iterator<Item = Result<T, E>>,
    line: impl Fn(&T) -> Value,
) -> Lines {
    let mut lines = Lines::default();
    for (count, one) in loaded.enumerate() {
        match one {
            Ok(_) if count == MAX => {
                lines.lack([format!("those after the first {MAX}")]);
                break;
            }
            Ok(one) => lines.push(&line(&one)),
            // The next one would fail the same way, for ever.
            Err(error) => {
                lines.lack([format!("from the {}th on: {error}", count.saturating_add(1))]);
                break;
            }
        }
    }
    lines
}

fn time(at: std::time::SystemTime) -> Option<String> {
    let seconds = at.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    let at = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(at.to_string())
}

fn artifact(name: &'static str, source: &str, lines: Lines) -> Artifact {
    Artifact { name, source: source.to_owned(), content: Ok(lines.into_content()) }
}

/// Programs, links and maps told of.
const MAX: usize = 16_384;
const MAX_HOLDERS: usize = 64;
