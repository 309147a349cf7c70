//! Tables and rules of every network namespace, what is loaded of BPF, the policy, and the host itself.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::processes::{OUT_OF_TIME, nanoseconds};
use super::store::Store;
use crate::clock;
use crate::host::artifacts::{self, Lines};
use crate::host::netns::{self, Descriptors};
use crate::kernel::inventory;

/// Keeps all of them.
pub(super) fn preserve(store: &mut Store) {
    let until_ns = clock::boot_ns().saturating_add(nanoseconds(TIME));
    let (found, unseen) = match netns::list(&mut Descriptors::default()) {
        Ok(namespaces) => (namespaces.found, namespaces.unseen),
        Err(error) => (Vec::new(), vec![error.to_string()]),
    };
    let mut list = Lines::default();
    list.lack(unseen);
    for (count, namespace) in found.iter().enumerate() {
        let inode = namespace.netns.inode;
        list.push(&json!({ "inode": inode, "name": namespace.netns.name }));
        let directory = format!("namespaces/{inode}");
        if count >= NAMESPACES {
            store.miss(directory, format!("more than {NAMESPACES} network namespaces"));
            continue;
        }
        if clock::boot_ns() > until_ns {
            store.miss(directory, OUT_OF_TIME);
            continue;
        }
        let told = artifacts::of_namespace(namespace, &mut |artifact| {
            store.take(&directory, artifact);
            true
        });
        if let Err(error) = told {
            store.miss(&directory, error.to_string());
        }
        store.take(&directory, inventory::of_namespace(namespace));
    }
    store.put("namespaces/list.ndjson", "/proc, mounts and descriptors", &list.into_content());
    for artifact in inventory::read() {
        store.take("system", artifact);
    }
    artifacts::of_system(&mut |artifact| {
        store.take("system", artifact);
        true
    });
}

/// Keeps the policy by which it was judged.
pub(super) fn policy(path: &str, store: &mut Store) {
    match artifacts::read_path(Path::new(path), POLICY_BYTES) {
        Ok(content) => store.put("policy.toml", path, &content),
        Err(error) => store.miss("policy.toml", error.to_string()),
    }
}

/// No namespace is begun with after this time.
const TIME: Duration = Duration::from_secs(30);
/// Network namespaces preserved; that of portwatch is the first.
const NAMESPACES: usize = 256;
const POLICY_BYTES: usize = 4 << 20;
