//! Where a report stands in the four levels of ECS: kind, category, type, and the action by name.
//!
//! `event.type` has to be one that ECS allows for the category; `tests/data/ecs-fields.csv` lists them.

use crate::report::{Body, FlowChange, InterfaceChange, ListenerChange, PolicyChange};

/// The categorisation of one report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Class {
    /// `event.kind`.
    pub(super) kind: &'static str,
    /// `event.category`.
    pub(super) categories: &'static [&'static str],
    /// `event.type`.
    pub(super) types: &'static [&'static str],
    /// `event.action`.
    pub(super) action: &'static str,
    /// `event.dataset`.
    pub(super) dataset: &'static str,
}

/// How ECS categorises what happened.
pub(super) const fn class(body: &Body) -> Class {
    match body {
        // Not `start` and `end`: in this category they say that the host did.
        Body::RunStarted(_) => run("run-started"),
        Body::RunEnded(_) => run("run-ended"),
        Body::Listener(change, _) => listener(*change),
        Body::Flow(change, _) => flow(*change),
        Body::Sample(_) => network("event", &["info"], "packet-sampled", "portwatch.sample"),
        Body::Portless(_) => network("state", &["info"], "portless-found", "portwatch.portless"),
        Body::Finding(_) => Class {
            kind: "alert",
            categories: &["intrusion_detection", "network"],
            types: &["info"],
            action: "finding",
            dataset: "portwatch.finding",
        },
        Body::Interface(InterfaceChange::Attached, _) => interface("interface-attached"),
        Body::Interface(InterfaceChange::Detached, _) => interface("interface-detached"),
        Body::Policy(PolicyChange::Reloaded(_)) => policy(&["change"], "policy-reloaded"),
        Body::Policy(PolicyChange::Refused { .. }) => policy(&["info"], "policy-refused"),
        Body::Check(_) => Class {
            kind: "state",
            categories: &["host"],
            types: &["info"],
            action: "check",
            dataset: "portwatch.check",
        },
        Body::Counters(_) => network("metric", &["info"], "counters", "portwatch.counters"),
    }
}

const fn listener(change: ListenerChange) -> Class {
    let (kind, types, action): (_, &[_], _) = match change {
        ListenerChange::Found => ("state", &["info"], "listener-found"),
        ListenerChange::Opened => ("event", &["start"], "listener-opened"),
        ListenerChange::Updated => ("event", &["info"], "listener-updated"),
        ListenerChange::Closed => ("event", &["end"], "listener-closed"),
    };
    network(kind, types, action, "portwatch.listener")
}

const fn flow(change: FlowChange) -> Class {
    let (types, action): (&[_], _) = match change {
        FlowChange::Started => (&["connection", "start"], "flow-started"),
        FlowChange::Updated => (&["connection", "info"], "flow-updated"),
        FlowChange::Ended(_) => (&["connection", "end"], "flow-ended"),
    };
    network("event", types, action, "portwatch.flow")
}

const fn interface(action: &'static str) -> Class {
    network("event", &["info"], action, "portwatch.interface")
}

const fn policy(types: &'static [&'static str], action: &'static str) -> Class {
    let categories = &["configuration"];
    Class { kind: "event", categories, types, action, dataset: "portwatch.policy" }
}

const fn run(action: &'static str) -> Class {
    let (categories, types) = (&["host"], &["info"]);
    Class { kind: "event", categories, types, action, dataset: "portwatch.run" }
}

const fn network(
    kind: &'static str,
    types: &'static [&'static str],
    action: &'static str,
    dataset: &'static str,
) -> Class {
    Class { kind, categories: &["network"], types, action, dataset }
}
