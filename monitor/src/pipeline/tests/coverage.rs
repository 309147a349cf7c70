//! What is not seen is a finding, as long as it is so.

use super::listeners::news;
use super::*;
use crate::kernel::chain::{Gap, GapKind};
use crate::report::FindingState;

#[test]
fn a_gap_is_one_finding_while_it_is_there_and_open_again_when_it_comes_back() {
    let mut scene = Scene::new();
    let mut told = |gaps: &[(&str, &str)], now_ns| {
        let gaps = gaps.iter().map(|(name, evidence)| gap(name, evidence)).collect();
        scene.pipeline.coverage(gaps, now_ns);
        let news = news(&scene.pipeline.take_reports());
        news.into_iter().map(|it| (it.state, it.occurrences)).collect::<Vec<_>>()
    };
    let (eth0, eth1) = (("eth0", "program 1"), ("eth1", "program 1"));
    let changed = ("eth0", "program 2");

    assert_eq!(told(&[eth0, eth1], SECOND), [(FindingState::Open, 1), (FindingState::Open, 1)]);
    assert_eq!(told(&[eth0, eth1], 2 * SECOND), []);
    assert_eq!(told(&[changed, eth1], 20 * SECOND), [(FindingState::Updated, 1)]);
    assert_eq!(told(&[eth1], 21 * SECOND), [(FindingState::Closed, 1)]);
    assert_eq!(told(&[changed, eth1], 22 * SECOND), [(FindingState::Open, 2)]);
    assert_eq!(told(&[], 23 * SECOND), [(FindingState::Closed, 2), (FindingState::Closed, 1)]);

    let ended = scene.pipeline.run_ended("done", None);
    assert_eq!((ended.findings, ended.findings_open), (2, 0));
    assert_eq!(ended.coverage_gaps.len(), 2, "{ended:?}");
    assert!(ended.coverage_gaps[0].contains("eth0"), "{ended:?}");
}

pub(super) fn gap(name: &str, evidence: &str) -> Gap {
    let ifindex = name.bytes().last().map_or(0, u32::from);
    let interface = Interface { ifindex, name: name.to_owned() };
    Gap { interface, netns: netns(), kind: GapKind::Xdp, evidence: vec![evidence.to_owned()] }
}
