//! The interfaces at which packets are seen, by what packets call them.

use std::collections::{BTreeMap, HashMap};

use monitor_ebpf::wire::InterfaceId;

use crate::endpoint::{Interface, Netns};
use crate::report::InterfaceReport;

/// Names of interfaces and their namespaces, also of those that are gone: reports come later.
#[derive(Debug)]
pub(super) struct Observed {
    own: Netns,
    /// Ordered: of two numbers for one namespace, always the same one is found.
    namespaces: BTreeMap<u32, Netns>,
    names: HashMap<InterfaceId, String>,
}

impl Observed {
    /// Knows only portwatch's own namespace.
    pub(super) fn new(own: Netns) -> Self {
        Self { own, namespaces: BTreeMap::new(), names: HashMap::new() }
    }

    pub(super) fn learn(&mut self, report: &InterfaceReport) {
        let Some(id) = report.id else { return };
        self.names.insert(id, report.interface.name.clone());
        if id.netns() != 0 {
            self.namespaces.insert(id.netns(), report.netns.clone());
        }
    }

    /// An interface and its namespace.
    pub(super) fn at(&self, id: InterfaceId) -> (Interface, Netns) {
        let ifindex = id.ifindex();
        let name = self.names.get(&id).cloned().unwrap_or_else(|| unnamed(ifindex));
        let netns = self.namespaces.get(&id.netns()).unwrap_or(&self.own);
        (Interface { ifindex, name }, netns.clone())
    }

    /// The name of an interface of this namespace.
    pub(super) fn name(&self, netns: Option<&Netns>, ifindex: u32) -> String {
        let number = netns.and_then(|netns| self.number(netns));
        let id = number.and_then(|number| InterfaceId::new(number, ifindex));
        let name = id.and_then(|id| self.names.get(&id)).cloned();
        name.unwrap_or_else(|| unnamed(ifindex))
    }

    fn number(&self, netns: &Netns) -> Option<u32> {
        if netns.inode == self.own.inode {
            return Some(0);
        }
        let mut others = self.namespaces.iter();
        others.find(|(_, other)| other.inode == netns.inode).map(|(number, _)| *number)
    }
}

fn unnamed(ifindex: u32) -> String {
    format!("if{ifindex}")
}
