//! What to do next: commands for this very case. They only look, and can be pasted into a shell:
//! what others chose is quoted, or left out where even that would not be safe to show.

use crate::endpoint::{Direction, SocketKind, Transport};
use crate::escape::escape;
use crate::explanation::Cause;
use crate::host::nftables::Rule;
use crate::kernel::chain::GapKind;
use crate::owner::{Integrity, Owner, PackageFormat, Packaging, Process, Role};
use crate::report::ListenerReport;

/// About a listener; `id` is that of the finding.
pub(super) fn of_listener(report: &ListenerReport, id: &str, own_netns: u64) -> Vec<String> {
    let port = report.local.port;
    let owner = report.attribution.owners.iter().find(|owner| is_there(owner));
    let process = owner.map(|owner| &*owner.process);
    let mut steps = Vec::new();
    if let Some(Process { pid, .. }) = process {
        steps.push(format!("portwatch policy explain {pid}"));
    }
    steps.push(format!("portwatch evidence evidence-{id} --port {port}"));
    let sockets = sockets(report.transport, port);
    match process {
        Some(process) => {
            steps.extend(of_process(process));
            let is_elsewhere = report.netns.as_ref().is_some_and(|it| it.inode != own_netns);
            let enter = format!("nsenter -t {} -n ", process.pid);
            steps.push(format!("{}{sockets}", if is_elsewhere { &enter } else { "" }));
        }
        None => steps.push(sockets),
    }
    steps.push(format!("portwatch explain {port}"));
    steps
}

/// About a process that talks on a port; `id` is that of the finding.
pub(super) fn of_talker(owner: &Owner, port: u16, id: &str) -> Vec<String> {
    let mut steps = vec![format!("portwatch evidence evidence-{id} --port {port}")];
    if is_there(owner) {
        steps.splice(0..0, [format!("portwatch policy explain {}", owner.process.pid)]);
        steps.extend(of_process(&owner.process));
    }
    steps.push(format!("portwatch explain {port}"));
    steps
}

/// About a process.
pub(super) fn of_process(process: &Process) -> Vec<String> {
    let pid = process.pid;
    let mut steps = vec![format!("ls -l /proc/{pid}/exe /proc/{pid}/cwd")];
    if let Packaging::Package(package) = &process.packaging
        && package.integrity == Integrity::Modified
        && let Some(name) = quoted(&package.name)
    {
        steps.push(match package.format {
            PackageFormat::Dpkg => format!("dpkg --verify {name}"),
            PackageFormat::Rpm => format!("rpm --verify {name}"),
        });
    }
    if let Some(container) = &process.container
        && let Some(id) = quoted(&container.id)
    {
        steps.extend(match container.runtime.as_deref() {
            Some(runtime @ ("docker" | "podman")) => Some(format!("{runtime} inspect {id}")),
            // Which of its namespaces it is in does not show.
            Some("containerd") if container.pod_uid.is_none() => Some(format!(
                "ctr namespaces list -q | xargs -I{{}} ctr -n {{}} containers info {id}"
            )),
            Some("containerd" | "cri-o") => Some(format!("crictl inspect {id}")),
            Some("systemd-nspawn") => Some(format!("machinectl status {id}")),
            Some("lxc") => Some(format!("lxc-info -n {id}")),
            _ => None,
        });
    } else if let Some(unit) = process.unit.as_deref() {
        steps.push(match quoted(unit) {
            Some(unit) => format!("systemctl status -- {unit}"),
            // Of the unit in which that process is.
            None => format!("systemctl status {pid}"),
        });
    }
    steps
}

/// About a socket of this kind that answers for a port; `holder` has it.
pub(super) fn of_stranger(kind: SocketKind, holder: Option<&Process>) -> Vec<String> {
    let mut steps: Vec<String> = match kind {
        SocketKind::Tcp(_) | SocketKind::Udp(_) => {
            ["nft list ruleset", "iptables-save -t nat", "ipvsadm -Ln", "bpftool net"].as_slice()
        }
        SocketKind::Raw => ["ss --raw -p -e"].as_slice(),
        SocketKind::Packet => ["ss --packet -p -e --bpf"].as_slice(),
    }
    .iter()
    .map(|step| (*step).to_owned())
    .collect();
    steps.extend(holder.into_iter().flat_map(of_process));
    steps
}

/// About an answer that no socket on the port explains; `process` is who serves, if that is known.
pub(super) fn of_answer(process: Option<&Process>) -> Vec<String> {
    of_stranger(SocketKind::Tcp(0), process)
}

/// The command that shows what sends a port elsewhere; nothing where its names are none to show.
pub(super) fn of_cause(cause: &Cause) -> Option<String> {
    match cause {
        Cause::Rule(redirection) => {
            let Rule { family, table, chain, .. } = &redirection.rule;
            if redirection.rule.is_legacy() {
                let [table, chain] = [quoted(table)?, quoted(chain)?];
                return Some(format!("{family} -t {table} -nvL {chain} --line-numbers"));
            }
            let names = [quoted(family)?, quoted(table)?, quoted(chain)?];
            Some(format!("nft -a list chain {}", names.join(" ")))
        }
        Cause::Service(_) => Some("ipvsadm -Ln".to_owned()),
        Cause::Chooser(_) => Some("bpftool net".to_owned()),
    }
}

/// About what keeps the packets of an interface from us.
pub(super) fn of_gap(kind: GapKind, interface: &str) -> Vec<String> {
    let Some(interface) = quoted(interface).filter(|name| !name.starts_with('-')) else {
        return vec!["bpftool net".to_owned()];
    };
    let filters =
        |direction: Direction| format!("tc filter show dev {interface} {}", direction.name());
    let net = format!("bpftool net show dev {interface}");
    match kind {
        GapKind::NotAttached | GapKind::NotEntered => {
            vec!["portwatch doctor".to_owned(), format!("ip -details link show dev {interface}")]
        }
        GapKind::Removed(direction) | GapKind::Behind(direction) => vec![net, filters(direction)],
        GapKind::Xdp => vec![net, format!("ip -details link show dev {interface}")],
    }
}

fn is_there(owner: &Owner) -> bool {
    !owner.is_gone() && owner.role != Role::Releaser
}

fn sockets(transport: Transport, port: u16) -> String {
    let only = match transport {
        Transport::Tcp => "t",
        Transport::Udp => "u",
    };
    format!("ss -{only}lnp 'sport = :{port}'")
}

/// One word of a shell. Nothing if it has characters that could deceive whoever reads the line: what is
/// shown of them is not what a shell would take.
fn quoted(text: &str) -> Option<String> {
    (escape(text) == text).then(|| shlex::try_quote(text).ok())?.map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Container;

    #[test]
    fn a_container_is_shown_by_the_tool_of_whoever_runs_it() {
        let (id, pod) = ("0123", Some("0f2a".to_owned()));
        let table = [
            (Some("docker"), None, Some("docker inspect 0123")),
            (Some("containerd"), pod.clone(), Some("crictl inspect 0123")),
            (
                Some("containerd"),
                None,
                Some("ctr namespaces list -q | xargs -I{} ctr -n {} containers info 0123"),
            ),
            (Some("cri-o"), pod, Some("crictl inspect 0123")),
            (None, None, None),
        ];
        for (runtime, pod_uid, expected) in table {
            let runtime = runtime.map(Into::into);
            let container =
                Container { id: id.to_owned(), runtime, pod_uid, ..Container::default() };
            let process = Process { container: Some(container), ..Process::default() };

            let steps = of_process(&process);

            assert_eq!(steps.get(1).map(String::as_str), expected, "{process:?}");
        }
    }

    #[test]
    fn a_unit_whose_name_cannot_be_shown_as_it_is_is_asked_for_by_a_process_in_it() {
        for (unit, expected) in [
            ("card.service", "systemctl status -- card.service"),
            ("card\\x2dbridge.service", "systemctl status 7"),
        ] {
            let process = Process { pid: 7, unit: Some(unit.to_owned()), ..Process::default() };

            assert_eq!(of_process(&process).last().map(String::as_str), Some(expected));
        }
    }

    #[test]
    fn what_others_chose_is_one_word_of_a_shell_or_left_out() {
        let table = [
            ("cardbridged.service", Some("cardbridged.service")),
            ("a b", Some("'a b'")),
            ("$(reboot)", Some("'$(reboot)'")),
            ("it's;reboot", Some("\"it's;reboot\"")),
            ("", Some("''")),
            ("a\\x2db.service", None),
            ("a\nreboot", None),
            ("a\u{202e}b", None),
        ];
        for (text, expected) in table {
            assert_eq!(quoted(text).as_deref(), expected, "{text:?}");
        }
    }
}
