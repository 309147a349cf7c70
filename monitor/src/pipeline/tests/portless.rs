//! Sockets that see the port without being on it.

use super::listeners::findings;
use super::scene::*;
use super::*;
use crate::endpoint::Netns;
use crate::filter::Reach;
use crate::host::shown::Task;
use crate::owner::{Integrity, Package, PackageFormat, Packaging, Process};
use crate::report::{FindingKind, PortlessFilter, PortlessKind, PortlessSocket, Severity};

#[test]
fn who_waits_for_certain_packets_is_a_finding_unless_a_package_installed_it() {
    let table = [
        (Reach::Port, None, Some(Severity::High)),
        (Reach::Payload, None, Some(Severity::High)),
        (Reach::Payload, Some(Integrity::Modified), Some(Severity::Critical)),
        (Reach::Payload, Some(Integrity::Unmodified), None),
        (Reach::Everything, None, None),
        (Reach::Unknown, None, None),
    ];
    for (reach, integrity, severity) in table {
        let mut scene = Scene::new();
        scene.pipeline.apply(Input::Portless { found: vec![found(reach)], now_ns: SECOND });
        answer(&mut scene, integrity.as_ref());

        let reports = scene.tick(5 * SECOND);

        let told: Vec<_> = findings(&reports).iter().map(|it| (it.kind, it.severity)).collect();
        let expected = severity.map(|it| (FindingKind::AnswerWithoutSocket, it));
        assert_eq!(told, Vec::from_iter(expected), "{reach:?} {integrity:?}");
        let portless = reports.iter().filter(|it| matches!(it.body, Body::Portless(_)));
        assert_eq!(portless.count(), 1);
    }
}

#[test]
fn what_it_waits_for_and_how_is_the_evidence() {
    let mut scene = Scene::new();
    scene.pipeline.apply(Input::Portless { found: vec![found(Reach::Payload)], now_ns: SECOND });
    answer(&mut scene, None);

    let finding = findings(&scene.tick(5 * SECOND)).remove(0);

    assert_eq!(
        finding.message,
        "cardbridged (pid 4712, user cardbridge) gets packets through a packet socket whose filter \
         waits for packets with certain bytes in them: it can answer without listening."
    );
    assert_eq!(finding.evidence[0], "its filter compares the payload with 0x7255");
    assert_eq!(finding.evidence[1], "its filter: (000) ret #1");
    assert_eq!(finding.evidence[2], "executable: /usr/sbin/cardbridged");
}

/// Tells who it is and what package it is of.
fn answer(scene: &mut Scene, integrity: Option<&Integrity>) {
    for _ in 0..2 {
        for request in scene.requests() {
            match request {
                Request::Identify { key, pid, .. } => {
                    let process: Process = cardbridged(pid);
                    scene.pipeline.identified(key, Arc::new(process), 2 * SECOND);
                }
                Request::Hash { key } => scene.pipeline.hashed(key, Ok(SHA256.to_owned())),
                Request::Package { key } => {
                    let package = integrity.cloned().map(package);
                    let packaging = package.map_or(Packaging::NoPackage, Packaging::Package);
                    scene.pipeline.packaged(key, Ok(packaging));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn package(integrity: Integrity) -> Package {
    Package {
        name: "cardbridge".to_owned(),
        version: None,
        architecture: None,
        format: PackageFormat::Dpkg,
        integrity,
    }
}

fn found(reach: Reach) -> (PortlessSocket, Vec<Task>) {
    let filter = PortlessFilter {
        reach,
        length: 1,
        program: None,
        payload: vec!["0x7255".to_owned()],
        instructions: vec!["(000) ret #1".to_owned()],
    };
    let socket = PortlessSocket {
        kind: PortlessKind::Packet,
        protocol: "all".to_owned(),
        netns: Netns { inode: 1, name: None },
        interface: None,
        cookie: 99,
        filter: Some(filter),
    };
    (socket, vec![Task { pid: PID, ..Task::default() }])
}
