//! What is not seen is a finding, once.

use super::*;
use crate::kernel::chain::{Gap, GapKind};

#[test]
fn a_gap_is_said_once_and_again_when_it_changes_or_comes_back() {
    let mut scene = Scene::new();
    let mut findings = |gaps: &[(&str, &str)]| {
        let gaps = gaps.iter().map(|(name, evidence)| gap(name, evidence)).collect();
        scene.pipeline.coverage(gaps, 1);
        scene.pipeline.take_reports().len()
    };

    assert_eq!(findings(&[("eth0", "program 1"), ("eth1", "program 1")]), 2);
    assert_eq!(findings(&[("eth0", "program 1"), ("eth1", "program 1")]), 0);
    assert_eq!(findings(&[("eth0", "program 2"), ("eth1", "program 1")]), 1);
    assert_eq!(findings(&[("eth1", "program 1")]), 0);
    assert_eq!(findings(&[("eth0", "program 2"), ("eth1", "program 1")]), 1);

    let ended = scene.pipeline.run_ended("done", None);
    assert_eq!(ended.findings, 4);
    assert_eq!(ended.coverage_gaps.len(), 2, "{ended:?}");
    assert!(ended.coverage_gaps[0].contains("eth0"), "{ended:?}");
}

pub(super) fn gap(name: &str, evidence: &str) -> Gap {
    let ifindex = name.bytes().last().map_or(0, u32::from);
    let interface = Interface { ifindex, name: name.to_owned() };
    Gap { interface, netns: netns(), kind: GapKind::Xdp, evidence: vec![evidence.to_owned()] }
}
