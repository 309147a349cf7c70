//! What else than a socket on a port can answer for it, asked in the order in which a packet meets it.
//!
//! That is: programs on the way, rules that translate addresses, the load balancer, programs that choose
//! sockets; then the sockets themselves.
//!
//! Everything is asked in the calling thread's network namespace and takes `CAP_NET_ADMIN` there. What
//! cannot be asked is said.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::AsFd as _;

use serde::{Deserialize, Serialize};

use crate::endpoint::{Endpoint, Netns, Transport};
use crate::host::ipvs::{self, Service};
use crate::host::netns::{self, Namespace};
use crate::host::nftables::{Packet, Redirection, Ruleset};
use crate::host::{bpf_holders, sockets};
use crate::kernel::programs::{self, Placed, Programs};
use crate::ports::PortSet;

/// Something that sends what comes for a port to somewhere else.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Cause {
    /// A rule of nftables or iptables.
    Rule(Redirection),
    /// A service of IPVS, in words.
    Service(String),
    /// A program that chooses sockets, in words. Whether it does so for the port cannot be seen.
    Chooser(String),
}

/// In short, for a sentence: `nft rule of table ip nat, chain prerouting, handle 4`.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(redirection) => f.write_str(&redirection.rule.place()),
            Self::Service(service) => f.write_str(service),
            Self::Chooser(program) => write!(f, "sk_lookup {program}"),
        }
    }
}

/// What was found out about an answer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Explanation {
    /// What was checked, a line each, in order.
    pub checked: Vec<String>,
    /// What sends the port elsewhere, in the order in which a packet meets it.
    pub causes: Vec<Cause>,
    /// Programs of others on the way, which may answer or change packets.
    pub has_programs: bool,
    /// A socket is there that gets what is sent to the port.
    pub has_socket: bool,
}

/// Looks for everything that can answer for an endpoint.
pub fn of_answer(transport: Transport, answered: Endpoint, programs: &Programs) -> Explanation {
    let mut explanation = Explanation::default();
    let holders = bpf_holders::find();
    let describe = |placed: &Placed| programs.describe(placed.id, &holders);
    let is_ours = |placed: &Placed| {
        let held = holders.get(&placed.id).into_iter().flatten();
        held.into_iter().any(|holder| holder.pid == std::process::id())
    };

    let on_the_way = programs::on_the_way().map(|mut placed| {
        placed.retain(|placed| !is_ours(placed));
        placed
    });
    explanation.has_programs = on_the_way.as_ref().is_ok_and(|placed| !placed.is_empty());
    let told = |placed: Placed| format!("{}, {}", describe(&placed), placed.place);
    explanation.check(
        "XDP, TC and netkit programs of others on the interfaces",
        on_the_way.map(|placed| placed.into_iter().map(told).collect()),
    );
    explanation.rules(transport, answered);
    explanation.services(transport, answered.port);
    let choosers = netns::own().and_then(|own| programs::that_choose_sockets(own.file.as_fd()));
    let choosers = choosers.map(|placed| placed.iter().map(describe).collect::<Vec<_>>());
    if let Ok(choosers) = &choosers {
        explanation.causes.extend(choosers.iter().cloned().map(Cause::Chooser));
    }
    explanation.check("sk_lookup programs", choosers);
    let sockmaps = programs.of_sockmaps().iter().map(describe).collect();
    explanation.check("programs of sockmaps, of any namespace", Ok(sockmaps));
    explanation.sockets(transport, answered);
    explanation
}

impl Explanation {
    /// Adds a line about what was found.
    fn check(&mut self, what: &str, found: io::Result<Vec<String>>) {
        self.checked.push(match found {
            Ok(found) if found.is_empty() => format!("checked: {what}: none"),
            Ok(found) => format!("checked: {what}: {}", found.join("; ")),
            Err(error) => format!("not checked: {what}: {error}"),
        });
    }

    fn rules(&mut self, transport: Transport, answered: Endpoint) {
        let family = Some(answered.family());
        let packet = Packet { transport, port: answered.port, family };
        let what = "rules of nftables and iptables that send the port elsewhere";
        let ruleset = Ruleset::read();
        if let Ok(Some(missing)) = ruleset.as_ref().map(|ruleset| &ruleset.incomplete) {
            self.checked.push(format!("not checked: some rules: {missing}"));
        }
        let found = ruleset.map(|ruleset| ruleset.redirections(packet));
        if let Ok(found) = &found {
            self.causes.extend(found.iter().cloned().map(Cause::Rule));
        }
        let told = |it: &Redirection| {
            let perhaps = if it.is_conditional { " (if its other conditions hold)" } else { "" };
            format!("{}{perhaps}", it.rule)
        };
        self.check(what, found.map(|found| found.iter().map(told).collect()));
    }

    fn services(&mut self, transport: Transport, port: u16) {
        let services = ipvs::services(transport, port)
            .map(|services| services.iter().map(service_in_words).collect::<Vec<_>>());
        if let Ok(services) = &services {
            self.causes.extend(services.iter().cloned().map(Cause::Service));
        }
        self.check("services of IPVS", services);
    }

    fn sockets(&mut self, transport: Transport, answered: Endpoint) {
        let listed = netns::own()
            .and_then(|own| sockets::list(&own, &|port| port == answered.port))
            .map(|sockets| sockets.found);
        let gets = |socket: &sockets::Socket| {
            socket.transport == transport
                && socket.is_listener()
                && (socket.local.ip == answered.ip || socket.local.ip.is_unspecified())
        };
        let told = |socket: &sockets::Socket| match socket.inode {
            0 => format!("one at {} that no file belongs to", socket.local),
            inode => format!("one at {}, inode {inode}", socket.local),
        };
        let found: io::Result<Vec<String>> =
            listed.map(|found| found.iter().filter(|it| gets(it)).map(told).collect());
        self.has_socket = found.as_ref().is_ok_and(|found| !found.is_empty());
        self.check("sockets of this namespace that get what is sent there", found);
    }
}

/// Something that sends what comes for a watched port to somewhere else, whether anything comes or not.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Standing {
    /// Where.
    pub netns: Netns,
    /// TCP or UDP; `None` where it may be either.
    pub transport: Option<Transport>,
    /// The port; `None` where it may be any.
    pub port: Option<u16>,
    /// What.
    pub cause: Cause,
}

/// Looks for what sends watched ports elsewhere in these namespaces. Adds a sentence for each that could not be
/// looked at.
pub fn standing(
    namespaces: &[Namespace],
    ports: &PortSet,
    programs: &Programs,
    degraded: &mut Vec<String>,
) -> Vec<Standing> {
    let mut found = Vec::new();
    for namespace in namespaces {
        let look = || standing_here(namespace, ports, programs, degraded);
        let there = netns::within(namespace, look).flatten();
        match there {
            Ok(there) => found.extend(there),
            Err(error) => degraded.push(format!(
                "rules that redirect ports are not seen in network namespace {}: {error}",
                namespace.netns
            )),
        }
    }
    found.truncate(MAX_STANDING);
    found
}

fn standing_here(
    namespace: &Namespace,
    ports: &PortSet,
    programs: &Programs,
    degraded: &mut Vec<String>,
) -> io::Result<Vec<Standing>> {
    let mut found = Vec::new();
    let netns = &namespace.netns;
    let mut add = |transport, port, cause| {
        found.push(Standing { netns: netns.clone(), transport, port, cause });
    };
    let ruleset = Ruleset::read()?;
    if let Some(missing) = &ruleset.incomplete {
        degraded.push(format!("not all rules of network namespace {netns} are read: {missing}"));
    }
    for port in ports.iter().take(if ruleset.is_empty() { 0 } else { MAX_PORTS }) {
        for transport in [Transport::Tcp, Transport::Udp] {
            for rule in ruleset.redirections(Packet { transport, port, family: None }) {
                add(Some(transport), Some(port), Cause::Rule(rule));
            }
        }
    }
    for transport in [Transport::Tcp, Transport::Udp] {
        for port in ports.iter().take(MAX_PORTS) {
            for service in ipvs::services(transport, port)? {
                add(Some(transport), Some(port), Cause::Service(service_in_words(&service)));
            }
        }
    }
    let choosers = programs::that_choose_sockets(namespace.file.as_fd()).unwrap_or_default();
    let holders = if choosers.is_empty() { BTreeMap::new() } else { bpf_holders::find() };
    for placed in choosers {
        add(None, None, Cause::Chooser(programs.describe(placed.id, &holders)));
    }
    Ok(found)
}

/// `IPVS service tcp 10.96.0.1:3516 (wlc) → 10.244.0.3:8080, 10.244.0.4:8080`.
fn service_in_words(service: &Service) -> String {
    let Service { transport, address, scheduler, servers } = service;
    let servers: Vec<String> = servers.iter().take(SHOWN).map(Endpoint::to_string).collect();
    let servers = if servers.is_empty() { "no server".to_owned() } else { servers.join(", ") };
    format!("IPVS service {} {address} ({scheduler}) → {servers}", transport.name())
}

/// Ports that rules are searched for, and what is told of them.
const MAX_PORTS: usize = 1024;
const MAX_STANDING: usize = 1024;
/// Servers of a service that are named.
const SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_told_with_the_servers_behind_it() {
        let end = |ip: [u8; 4], port| Endpoint::new(ip.into(), port);
        let mut service = Service {
            transport: Transport::Tcp,
            address: end([10, 96, 0, 1], 3516),
            scheduler: "wlc".to_owned(),
            servers: vec![end([10, 244, 0, 3], 8080)],
        };

        let with_one = service_in_words(&service);
        service.servers.clear();

        assert_eq!(with_one, "IPVS service tcp 10.96.0.1:3516 (wlc) → 10.244.0.3:8080");
        assert!(service_in_words(&service).ends_with("→ no server"));
    }

    #[test]
    fn what_was_checked_is_told_whatever_came_of_it() {
        let mut explanation = Explanation::default();

        explanation.check("rules", Ok(Vec::new()));
        explanation.check("rules", Ok(vec!["one".to_owned(), "two".to_owned()]));
        explanation.check("rules", Err(io::Error::from_raw_os_error(libc::EPERM)));

        assert_eq!(explanation.checked[0], "checked: rules: none");
        assert_eq!(explanation.checked[1], "checked: rules: one; two");
        assert!(explanation.checked[2].starts_with("not checked: rules: Operation not permitted"));
    }

    #[test]
    fn each_thing_is_asked_for_once_and_in_order() {
        let answered = Endpoint::new([127, 0, 0, 1].into(), 9);

        let checked = of_answer(Transport::Udp, answered, &Programs::default()).checked;

        let order = ["XDP, TC", "nftables", "IPVS", "sk_lookup", "sockmaps", "sockets of"];
        let places = order.map(|what| checked.iter().position(|line| line.contains(what)));
        assert!(places.iter().all(Option::is_some), "{checked:#?}");
        assert!(places.is_sorted(), "{checked:#?}");
    }
}
