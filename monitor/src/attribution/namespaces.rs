//! The network namespaces of the host by the cookies that records name them by.

use std::collections::{HashMap, HashSet};

use crate::endpoint::Netns;
use crate::host::netns::Mark;

/// Network namespaces by cookie and by inode.
#[derive(Debug, Default)]
pub struct Namespaces {
    by_cookie: HashMap<u64, Netns>,
    by_inode: HashMap<u64, Netns>,
    /// The witnesses that were made last, with the namespaces they were made in.
    witnesses: HashMap<u64, Netns>,
    /// Those of which no hook has told yet.
    unheard: HashSet<u64>,
    /// A cookie was asked for that is not known.
    missing: bool,
}

impl Namespaces {
    /// Takes in what is on the host now.
    pub fn learn(&mut self, namespaces: impl IntoIterator<Item = (Netns, Mark)>) {
        self.witnesses.clear();
        self.unheard.clear();
        for (netns, mark) in namespaces {
            self.by_inode.insert(netns.inode, netns.clone());
            match mark {
                Mark::Cookie(cookie) => drop(self.by_cookie.insert(cookie, netns)),
                Mark::Witness(socket) => {
                    self.unheard.insert(socket);
                    self.witnesses.insert(socket, netns);
                }
                Mark::None => {}
            }
        }
        self.missing = false;
    }

    /// The namespace with this inode.
    pub fn by_inode(&self, inode: u64) -> Netns {
        self.by_inode.get(&inode).cloned().unwrap_or(Netns { inode, name: None })
    }

    /// The namespace with this cookie.
    pub fn by_cookie(&self, cookie: u64) -> Option<Netns> {
        self.by_cookie.get(&cookie).cloned()
    }

    /// The namespace with this cookie; that it is not known is remembered.
    pub fn ask(&mut self, cookie: u64) -> Option<Netns> {
        let known = self.by_cookie(cookie);
        self.missing |= known.is_none() && cookie != 0;
        known
    }

    /// Was a cookie asked for that is not known? Asking resets the answer.
    pub fn take_missing(&mut self) -> bool {
        std::mem::take(&mut self.missing)
    }

    /// Was this socket made to tell the cookie of its namespace?
    pub fn is_witness(&self, socket: u64) -> bool {
        self.witnesses.contains_key(&socket)
    }

    /// Witnesses of which no hook has told yet.
    pub fn unheard(&self) -> Vec<u64> {
        self.unheard.iter().copied().collect()
    }

    /// A hook has told the cookie of the namespace a witness is in. True: that is news.
    pub fn hear(&mut self, witness: u64, netns_cookie: u64) -> bool {
        let netns = self.witnesses.get(&witness).filter(|_| netns_cookie != 0);
        let Some(netns) = netns.filter(|_| self.unheard.remove(&witness)) else { return false };
        self.by_cookie.insert(netns_cookie, netns.clone());
        true
    }
}
