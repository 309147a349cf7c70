//! What one view of the host shows and another does not.

use monitor_ebpf::wire::{SocketRecord, action};

use super::listeners::findings;
use super::scene::*;
use super::*;
use crate::host::process::GONE;
use crate::host::shown::Task;
use crate::owner::{Ancestor, Evidence, Ownership, Process, Role};
use crate::report::{Finding, FindingKind, ListenerChange, Severity, ViewReport};
use crate::views::{Comparison, Disagreement, Explanation, Subject};

#[test]
fn what_goes_on_to_disagree_is_a_finding_with_the_views_and_the_listener() {
    let mut scene = listening();

    let finding = found(&mut scene, true).expect("a finding");

    assert_eq!((finding.kind, finding.severity), (FindingKind::HiddenOwner, Severity::Critical));
    assert_eq!(finding.message, "it hides.");
    assert_eq!(finding.views, [view()]);
    assert_eq!(finding.listener.map(|listener| listener.cookie), Some(LISTENER));
    assert!(finding.evidence.iter().any(|line| line == "executable: /usr/sbin/cardbridged"));
}

#[test]
fn a_connection_that_a_thread_of_the_kernels_uses_may_be_the_kernels_until_that_is_known() {
    let kthreadd = Ancestor { pid: 2, name: "kthreadd".to_owned(), ..Ancestor::default() };
    let thread = Process { ancestors: vec![kthreadd], pid: PID, ..Process::default() };
    let shell = Process { executable: Some("/bin/sh".into()), ..thread.clone() };
    for (process, is_kernels) in [(thread, true), (shell, false), (cardbridged(PID), false)] {
        let mut scene = Scene::new();
        scene.processes.insert(PID, process);
        let (remote, remote_port) = (mapped(CLIENT.0), CLIENT.1);
        let connect = SocketRecord { remote, remote_port, ..socket(action::CONNECT, SECOND) };
        scene.ingest(&connect);
        scene.answer(SECOND);

        assert_eq!(scene.pipeline.has_unexplained_socket(), is_kernels);
        explain(&mut scene, Explanation::Kernel("NFS".to_owned()));
        assert!(!scene.pipeline.has_unexplained_socket());
    }
}

#[test]
fn another_view_than_proc_that_lacks_something_is_a_mismatch() {
    let finding = found(&mut listening(), false).expect("a finding");

    assert_eq!(finding.kind, FindingKind::ViewMismatch);
}

#[test]
fn what_disagrees_once_is_looked_at_again_and_no_finding() {
    let mut scene = listening();

    tell(&mut scene, vec![disagreement(true)], SECOND);
    let suspicious = scene.pipeline.is_suspicious();
    tell(&mut scene, Vec::new(), 2 * SECOND);

    assert!(suspicious && !scene.pipeline.is_suspicious());
    assert!(findings(&scene.tick(10 * SECOND)).is_empty());
}

#[test]
fn a_process_that_hides_has_not_exited_and_has_the_name_the_kernel_knows() {
    let mut scene = Scene::new();
    // As `/proc` answers of a process that is gone.
    let missing = vec![format!("exe: {GONE}")];
    scene.processes.insert(PID, Process { pid: PID, missing, ..Process::default() });
    scene.ingest(&listen(SECOND / 2));

    found(&mut scene, true);

    let socket = scene.pipeline.known.sockets.get(LISTENER).unwrap();
    let answer = scene.pipeline.known.of_socket(socket);
    let owner = answer.attribution.principal().unwrap();
    assert_eq!((owner.exited, owner.process.name.as_str()), (false, "cardbridged"));
    assert_eq!(owner.process.missing, ["exe: /proc does not show it"]);
}

#[test]
fn the_kernels_own_listener_is_named_as_such() {
    let mut scene = Scene::new();
    let record = socket(action::LISTEN, SECOND);
    scene.ingest(&SocketRecord { in_process: 0, ..record });
    let reason = "the kernel made it: vxlan device vx0 uses UDP 3516";

    explain(&mut scene, Explanation::Kernel(reason.to_owned()));
    let reports = scene.tick(5 * SECOND);

    let listener = only(ListenerChange::Opened, &reports);
    assert_eq!(listener.attribution.ownership, Ownership::Kernel);
    assert_eq!(listener.attribution.reason, reason);
    assert!(findings(&reports)[0].message.starts_with("The kernel itself listens"));
}

#[test]
fn a_process_that_has_a_listener_registered_without_a_descriptor_holds_it() {
    let mut scene = listening();

    explain(&mut scene, Explanation::Registered(Task { pid: 55, ..Task::default() }));
    scene.pipeline.holders(&[LISTENER], &[], 2 * SECOND);
    scene.answer(2 * SECOND);

    let listener = only(ListenerChange::Updated, &scene.tick(5 * SECOND));
    assert!(owners(&listener).contains(&(Role::Holder, Evidence::Observed, 55)));
}

/// A scene in which the server has listened for a while.
fn listening() -> Scene {
    let mut scene = Scene::new();
    scene.ingest(&listen(SECOND / 2));
    scene.answer(SECOND / 2);
    scene.tick(SECOND);
    scene
}

/// Three looks disagree; what is found.
fn found(scene: &mut Scene, in_proc: bool) -> Option<Finding> {
    for look in 1..=3 {
        tell(scene, vec![disagreement(in_proc)], look * SECOND);
    }
    scene.answer(4 * SECOND);
    findings(&scene.tick(10 * SECOND)).into_iter().find(|it| it.message == "it hides.")
}

fn tell(scene: &mut Scene, disagreements: Vec<Disagreement>, now_ns: u64) {
    let comparison = Comparison { disagreements, descriptors: true, ..Comparison::default() };
    scene.pipeline.apply(Input::Compared { comparison, now_ns });
}

fn explain(scene: &mut Scene, explanation: Explanation) {
    let explanations = vec![(LISTENER, explanation)];
    let comparison = Comparison { explanations, ..Comparison::default() };
    scene.pipeline.apply(Input::Compared { comparison, now_ns: 2 * SECOND });
}

fn disagreement(in_proc: bool) -> Disagreement {
    Disagreement {
        subject: Subject::Descriptor(PID, 7, LISTENER),
        in_proc,
        message: "it hides.".to_owned(),
        views: vec![view()],
        task: Some(Task { pid: PID, start_ns: 7, name: "cardbridged".to_owned() }),
    }
}

fn view() -> ViewReport {
    ViewReport { name: "/proc".into(), says: "does not list it".to_owned() }
}
