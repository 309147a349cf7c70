//! Which modules of the kernel are there: asking one that is not would load it.

use std::fs;

/// A module is loaded, or part of the kernel. Where that cannot be told it is taken to be there.
pub(super) fn is_there(name: &str) -> bool {
    let Ok(loaded) = fs::read_to_string("/proc/modules") else {
        // A kernel without modules loads none.
        return true;
    };
    is_loaded(&loaded, name) || is_built_in(name)
}

fn is_loaded(modules: &str, name: &str) -> bool {
    modules.lines().any(|line| line.split(' ').next() == Some(name))
}

fn is_built_in(name: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let list = fs::read_to_string(format!("/lib/modules/{}/modules.builtin", release.trim()));
    list.is_ok_and(|list| names_built_in(&list, name))
}

/// `kernel/net/netfilter/nf_tables.ko`, a line each.
fn names_built_in(list: &str, name: &str) -> bool {
    list.lines().any(|line| {
        let file = line.rsplit('/').next().and_then(|file| file.strip_suffix(".ko"));
        // Files may be named with hyphens, modules never are.
        file.is_some_and(|file| file.replace('-', "_") == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_its_whole_name() {
        let modules = "nf_tables_set 16384 1 - Live 0x0\nnf_nat 53248 2 xt_nat - Live 0x0\n";

        assert!(is_loaded(modules, "nf_nat"));
        assert!(!is_loaded(modules, "nf_tables"));
        let built_in = "kernel/net/netfilter/nf_tables.ko\nkernel/net/ip-vs.ko\n";
        assert!(names_built_in(built_in, "nf_tables"));
        assert!(names_built_in(built_in, "ip_vs"));
        assert!(!names_built_in(built_in, "tables"));
    }
}
