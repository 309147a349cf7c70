//! The run itself: what is observed and how, interfaces that come and go, and the totals at its end.

use serde::Serialize;

use crate::endpoint::Direction;
use crate::report::{InterfaceReport, RunEnded, RunStarted};

use super::document::{Document, known};
use super::network::NetnsFields;

impl<'a> Document<'a> {
    /// The first document of a run.
    pub(super) fn run_started(&mut self, run: &'a RunStarted) {
        let RunStarted { command, ports, interfaces, attached, resumed, payload, policy, degraded } =
            run;
        if let Some(policy) = policy {
            self.policy(policy);
        }
        self.portwatch.run = Some(RunFields {
            command: Some(command),
            ports: known(ports),
            interfaces: Some(interfaces.iter().map(InterfaceFields::of).collect()),
            attached: Some(attached.iter().map(AttachedFields::of).collect()),
            resumed: resumed.then_some(true),
            payload: payload.as_deref(),
            degraded: Some(degraded),
            ..RunFields::default()
        });
    }

    /// The last document of a run.
    pub(super) fn run_ended(&mut self, run: &'a RunEnded) {
        let RunEnded {
            reason,
            counters,
            listeners,
            flows,
            findings,
            findings_open,
            findings_unfollowed,
            coverage_gaps,
        } = run;
        self.event.reason = known(reason);
        self.portwatch.run = Some(RunFields {
            listeners: Some(*listeners),
            flows: Some(*flows),
            findings: Some(*findings),
            findings_open: Some(*findings_open),
            findings_unfollowed: (*findings_unfollowed > 0).then_some(*findings_unfollowed),
            coverage_gaps: Some(coverage_gaps),
            ..RunFields::default()
        });
        if let Some(counters) = counters {
            self.counters(counters);
        }
    }

    /// An interface that is observed from now on, or no longer.
    pub(super) fn interface(&mut self, report: &'a InterfaceReport) {
        // ECS calls the side that traffic enters by `ingress`; an interface seen both ways has no
        // better place.
        self.hook(Direction::Ingress, &report.interface);
        self.portwatch.interface = Some(InterfaceFields::of(report));
    }
}

/// `portwatch.run.*`.
#[derive(Debug, Default, Serialize)]
pub(super) struct RunFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interfaces: Option<Vec<InterfaceFields<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attached: Option<Vec<AttachedFields<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listeners: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings_open: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings_unfollowed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coverage_gaps: Option<&'a [String]>,
}

/// `portwatch.run.attached[]`.
#[derive(Debug, Serialize)]
struct AttachedFields<'a> {
    program: &'a str,
    mode: &'a str,
}

impl<'a> AttachedFields<'a> {
    fn of((program, mode): &'a (String, String)) -> Self {
        Self { program, mode }
    }
}

/// `portwatch.interface.*` and `portwatch.run.interfaces[]`.
#[derive(Debug, Serialize)]
pub(super) struct InterfaceFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    ifindex: u32,
    netns: NetnsFields<'a>,
    mode: &'a str,
}

impl<'a> InterfaceFields<'a> {
    fn of(report: &'a InterfaceReport) -> Self {
        let InterfaceReport { interface, netns, id: _, mode } = report;
        Self {
            name: known(&interface.name),
            ifindex: interface.ifindex,
            netns: NetnsFields::of(netns),
            mode,
        }
    }
}
