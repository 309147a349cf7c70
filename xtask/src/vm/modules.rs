//! Kernel modules: which files, in which order.
//!
//! Debian's kernel packages carry no `modules.dep`, so that what a module depends on is read from the
//! module itself: section `.modinfo`, entry `depends=`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _};

use crate::command;

/// What the tests need, as far as a kernel has it. What it does not have, the tests say themselves.
pub(super) const WANTED: &[&str] = &[
    // Devices.
    "veth",
    "dummy",
    "bridge",
    "tun",
    "ifb",
    "8021q",
    "vxlan",
    "geneve",
    "ip_gre",
    "ip6_gre",
    "ipip",
    "sit",
    "ip6_tunnel",
    "wireguard",
    "nfsd",
    "nfs",
    "nfsv4",
    "vrf",
    "macvlan",
    "netkit",
    // Where programs and other guests attach.
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "cls_u32",
    "cls_flower",
    "cls_matchall",
    "act_gact",
    "act_mirred",
    "sch_tbf",
    "sch_htb",
    "sch_fq_codel",
    "sch_netem",
    // What packets are counted by besides us.
    "nf_tables",
    "nf_tables_set",
    "nft_objref",
    "nft_counter",
    "nft_ct",
    "nft_limit",
    "nft_nat",
    "nft_chain_nat",
    "nft_masq",
    "nft_redir",
    "nft_tproxy",
    "nft_synproxy",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "ip_vs",
    "ip_vs_rr",
    "af_packet",
    // Tables of sockets.
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "unix_diag",
    "af_packet_diag",
    "netlink_diag",
];

/// A module of a kernel's package.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Module {
    /// Its name, with underscores.
    pub(super) name: String,
    /// The file as the kernel loads it: not compressed.
    pub(super) content: Vec<u8>,
}

/// Those of [`WANTED`] that the package unpacked at `tree` has, each after those it depends on.
pub(super) fn wanted_of(tree: &Path) -> Result<Vec<Module>> {
    let files = module_files(tree)?;
    let mut contents = BTreeMap::new();
    let mut depends = |name: &str| -> Result<Option<Vec<String>>> {
        let Some(file) = files.get(name) else { return Ok(None) };
        let content = read(file)?;
        let depends = dependencies(&content);
        contents.insert(name.to_owned(), content);
        depends.map(Some).with_context(|| format!("read {}", file.display()))
    };
    let order = order(WANTED, &mut depends)?;
    let module = |name: String| contents.remove(&name).map(|content| Module { name, content });
    Ok(order.into_iter().filter_map(module).collect())
}

/// All modules below a directory, by name.
fn module_files(tree: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![tree.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let reading = || format!("read {}", directory.display());
        for entry in fs::read_dir(&directory).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let path = entry.path();
            if entry.file_type().with_context(reading)?.is_dir() {
                directories.push(path);
            } else if let Some(name) = module_name(&path) {
                files.insert(name, path);
            }
        }
    }
    Ok(files)
}

/// `nf_tables` for `…/nf-tables.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let (name, rest) = path.file_name()?.to_str()?.split_once('.')?;
    matches!(rest, "ko" | "ko.xz").then(|| name.replace('-', "_"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "xz") {
        // Kernels before 5.17 cannot load compressed ones, and those after need not.
        return command::output_bytes(Command::new("xz").args(["-dc", "--"]).arg(file));
    }
    fs::read(file).with_context(|| format!("read {}", file.display()))
}

/// What a module depends on, by its own word.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module).context("read the module as ELF")?;
    let section = file.section_by_name(".modinfo").context("find the section .modinfo")?;
    Ok(named_in(section.data().context("read the section .modinfo")?))
}

/// The names in the `depends=` entry of a `.modinfo` section: entries end in a zero byte.
fn named_in(modinfo: &[u8]) -> Vec<String> {
    let entries = modinfo.split(|byte| *byte == 0);
    let depends =
        entries.filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("depends="));
    depends
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// Names in an order in which each comes after those it depends on. A name for which `depends` has
/// no answer is built into the kernel or not there at all, and is left out.
fn order(
    wanted: &[&str],
    depends: &mut impl FnMut(&str) -> Result<Option<Vec<String>>>,
) -> Result<Vec<String>> {
    enum Step {
        Enter(String),
        Leave(String),
    }
    let mut seen = BTreeSet::new();
    let mut order = Vec::new();
    for name in wanted {
        let mut steps = vec![Step::Enter((*name).to_owned())];
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter(name) if seen.insert(name.clone()) => {
                    if let Some(others) = depends(&name)? {
                        steps.push(Step::Leave(name));
                        steps.extend(others.into_iter().rev().map(Step::Enter));
                    }
                }
                Step::Enter(_) => {}
                Step::Leave(name) => order.push(name),
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_depends_on() {
        let modinfo = b"license=GPL\0depends=udp_tunnel,ip6-udp-tunnel\0name=vxlan\0";

        assert_eq!(named_in(modinfo), ["udp_tunnel", "ip6_udp_tunnel"]);
        assert_eq!(named_in(b"depends=\0name=veth\0"), Vec::<String>::new());
        assert_eq!(named_in(b""), Vec::<String>::new());
    }

    #[test]
    fn each_module_comes_once_and_after_those_it_depends_on() {
        let mut depends = |name: &str| {
            Ok(match name {
                "vxlan" => Some(vec!["udp_tunnel".to_owned(), "built_in".to_owned()]),
                "geneve" => Some(vec!["udp_tunnel".to_owned(), "vxlan".to_owned()]),
                "udp_tunnel" => Some(Vec::new()),
                _ => None,
            })
        };

        let order = order(&["geneve", "vxlan", "absent"], &mut depends).unwrap();

        assert_eq!(order, ["udp_tunnel", "vxlan", "geneve"]);
    }

    #[test]
    fn modules_that_depend_on_each_other_do_not_go_round_for_ever() {
        let mut depends = |name: &str| {
            Ok(Some(vec![if name == "hen" { "egg".to_owned() } else { "hen".to_owned() }]))
        };

        let order = order(&["hen"], &mut depends).unwrap();

        assert_eq!(order, ["egg", "hen"]);
    }

    #[test]
    fn a_module_has_the_name_of_its_file() {
        let name = |path: &str| module_name(Path::new(path));

        assert_eq!(name("net/nf-tables.ko.xz").as_deref(), Some("nf_tables"));
        assert_eq!(name("net/veth.ko").as_deref(), Some("veth"));
        assert_eq!(name("lib/modules.builtin"), None);
    }

    #[test]
    fn what_is_no_module_is_an_error() {
        assert!(dependencies(b"no ELF").is_err());
    }
}
