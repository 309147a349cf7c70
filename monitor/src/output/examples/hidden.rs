//! Who hides, and who needs no port.

use crate::filter::Reach;
use crate::owner::{Attribution, Evidence, Owner, Role};
use crate::report::{
    Finding, FindingKind, FindingReport, FindingState, PortlessFilter, PortlessKind,
    PortlessReport, PortlessSocket, Severity, Technique, ViewReport,
};

use super::finding::report;
use super::network::{host_netns, listener};
use super::process::{owner, python};

/// A packet socket whose filter singles out the port.
pub(in crate::output) fn portless() -> PortlessReport {
    let holder: Owner = owner(None, Role::Holder, Evidence::Observed, python());
    PortlessReport {
        socket: PortlessSocket {
            kind: PortlessKind::Packet,
            protocol: "all".to_owned(),
            netns: host_netns(),
            interface: Some("eth0".to_owned()),
            cookie: 4120,
            filter: Some(PortlessFilter {
                reach: Reach::Payload,
                length: 2,
                program: None,
                payload: vec!["0x7255".to_owned()],
                instructions: ["(000) ldh [x + 22]", "(001) jeq #0x7255 jt 2 jf 3"]
                    .map(str::to_owned)
                    .to_vec(),
            }),
        },
        attribution: Attribution::of_processes(
            "the process has a descriptor of the socket",
            vec![holder],
        ),
    }
}

/// An XDP socket that an eBPF program filters.
pub(in crate::output) fn xdp() -> PortlessReport {
    let mut xdp = portless();
    xdp.socket.kind = PortlessKind::Xdp;
    xdp.socket.protocol = String::new();
    xdp.socket.interface = None;
    xdp.socket.filter = Some(PortlessFilter {
        reach: Reach::Unknown,
        length: 0,
        program: Some(12),
        payload: Vec::new(),
        instructions: Vec::new(),
    });
    xdp
}

/// A process whose descriptors `/proc` does not show.
pub(in crate::output) fn hidden_owner() -> FindingReport {
    let view =
        |name: &'static str, says: &str| ViewReport { name: name.into(), says: says.to_owned() };
    let message = "python3 (pid 4242) holds a socket tcp 0.0.0.0:3516, and /proc does not show it.";
    let kind = FindingKind::HiddenOwner;
    let finding = Finding {
        evidence: vec!["executable: /usr/bin/python3.11".to_owned()],
        views: vec![
            view("descriptors (BPF iterator)", "pid 4242 has it as descriptor 3"),
            view("/proc", "has something else mounted over its directory 4242"),
        ],
        techniques: vec![&Technique::BIND_MOUNTS],
        listener: Some(Box::new(listener())),
        ..Finding::new(kind, "python3|descriptor", Severity::Critical, message.to_owned())
    };
    report(FindingState::Open, finding)
}
