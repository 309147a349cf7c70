//! Who passes on what comes for a port, as a `docker-proxy` does. Where to is in its arguments, and anybody can
//! write such arguments: they are believed once the process has a connection to there, or where a package
//! has installed what it runs.

use std::collections::HashSet;

use crate::attribution::{ProcessKey, Request};
use crate::endpoint::Endpoint;
use crate::flow::Flow;
use crate::owner::{Integrity, Process};
use crate::pipeline::Pipeline;

/// Processes that are asked about at a time.
const MAX_ASKED: usize = 64;

/// Those that are asked about.
#[derive(Debug, Default)]
pub(super) struct Relays {
    asked: HashSet<ProcessKey>,
}

impl Pipeline {
    /// A conversation has come to a port: asks whether who listens there passes it on, if it says so.
    pub(super) fn ask_for_relays(&mut self, flow: &Flow) {
        let transport = flow.id.transport;
        let answered = flow.id.endpoint(flow.opener.other());
        let listeners = self.known.sockets.listeners(transport, answered.port);
        let owners = listeners.filter(|it| it.gets(answered)).flat_map(|it| &it.owners);
        for key in owners.map(|owner| owner.process) {
            let Some((process, false)) = self.known.processes.get(key) else { continue };
            let (Some(to), Some(start_ticks)) = (published(process), process.start_ticks) else {
                continue;
            };
            let asked = &mut self.relays.asked;
            if process.relays_to != Some(to) && asked.len() < MAX_ASKED && asked.insert(key) {
                let pid = process.pid;
                self.requests.push(Request::Relay { key, pid, start_ticks, transport, to });
            }
        }
    }

    /// Takes in where a process is connected to, of what was asked; `None`: not to there, as far as is known.
    pub(super) fn relayed(&mut self, key: ProcessKey, to: Option<Endpoint>, now_ns: u64) {
        self.relays.asked.remove(&key);
        if let Some(to) = to {
            self.known.processes.relays(key, to);
            self.judge_listeners_anew(now_ns);
        }
    }
}

/// What a `docker-proxy` says that it serves, in its arguments: it need not be true.
pub(super) fn published(process: &Process) -> Option<Endpoint> {
    let argument = |name: &str| {
        let position = process.args.iter().position(|argument| argument == name)?;
        process.args.get(position.checked_add(1)?)
    };
    if process.name != "docker-proxy" {
        return None;
    }
    let (ip, port) = (argument("-container-ip")?, argument("-container-port")?);
    Some(Endpoint::new(ip.parse().ok()?, port.parse().ok()?))
}

/// Whether that is to be believed.
pub(super) fn is_believed(process: &Process) -> bool {
    let package = process.packaging.package();
    let is_installed = package.is_some_and(|it| it.integrity == Integrity::Unmodified);
    is_installed || process.relays_to.is_some() && process.relays_to == published(process)
}

/// In words.
pub(super) fn in_words(process: &Process) -> Option<String> {
    let to = published(process)?;
    Some(if process.relays_to == Some(to) {
        format!(
            "it passes on what comes to {to}, as its arguments say and a connection of it confirms: a \
             published port of a container"
        )
    } else {
        format!(
            "its arguments say that it serves {to} for a container; no connection of it to there was seen"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::{Package, PackageFormat, Packaging};

    #[test]
    fn a_docker_proxy_is_told_with_what_it_says_that_it_serves_and_nobody_else() {
        let other = Process { name: "nginx".to_owned(), ..proxy() };
        let cut = Process { args: proxy().args[..8].to_vec(), ..proxy() };

        assert_eq!(published(&proxy()), Some(container()));
        assert_eq!([published(&other), published(&cut)], [None, None]);
    }

    #[test]
    fn what_it_says_is_believed_once_it_is_connected_there_or_comes_from_a_package() {
        let connected = Process { relays_to: Some(container()), ..proxy() };
        let elsewhere = Endpoint::new([172, 17, 0, 3].into(), 80);
        let elsewhere = Process { relays_to: Some(elsewhere), ..proxy() };
        let package = Package {
            format: PackageFormat::Dpkg,
            name: "docker-ce".to_owned(),
            version: None,
            architecture: None,
            integrity: Integrity::Unmodified,
        };
        let installed = Process { packaging: Packaging::Package(package), ..proxy() };

        assert!(is_believed(&connected) && is_believed(&installed));
        assert!(!is_believed(&proxy()) && !is_believed(&elsewhere));
        assert!(
            in_words(&connected).unwrap().starts_with("it passes on what comes to 172.17.0.2:80")
        );
        assert!(in_words(&installed).unwrap().ends_with("no connection of it to there was seen"));
    }

    fn container() -> Endpoint {
        Endpoint::new([172, 17, 0, 2].into(), 80)
    }

    fn proxy() -> Process {
        let args = ["/usr/bin/docker-proxy", "-proto", "tcp", "-host-port", "3516"]
            .into_iter()
            .chain(["-container-ip", "172.17.0.2", "-container-port", "80"])
            .map(str::to_owned);
        let name = "docker-proxy".to_owned();
        Process { name, args: args.collect(), ..Process::default() }
    }
}
