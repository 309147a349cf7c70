//! Was it seen, and was the right process named? What the decoys did against what portwatch reported.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::owner::Side;
use crate::report::{CheckOutcome, CheckPart, CheckReport};

/// Something that was played.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Act {
    /// Name of the check.
    pub(super) name: &'static str,
    /// What was played, in words.
    pub(super) subject: &'static str,
    /// What came of it.
    pub(super) claim: Claim,
}

/// What came of an act, by the word of the decoys themselves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Claim {
    /// They did it: it has to be seen.
    Done(Deed),
    /// They did not, for this reason.
    NotDone(String),
    /// It cannot be done on this host, where it cannot happen either.
    NotApplicable,
}

/// What a decoy did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Deed {
    /// Where it has to show.
    pub(super) place: Place,
    /// Who has to be named.
    pub(super) pid: u32,
}

/// Where a deed shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// In the listener on this port.
    Listener {
        /// The port.
        port: u16,
    },
    /// At one side of a flow.
    Flow {
        /// Who opened it.
        client: SocketAddr,
        /// The watched port.
        port: u16,
        /// The decoy's side.
        side: Side,
    },
    /// In a finding on an answer that no socket gave.
    Answer {
        /// Who was answered.
        client: SocketAddr,
        /// The port that answered.
        port: u16,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener { port } => write!(f, "the listener on port {port}"),
            Self::Flow { client, port, side } => {
                write!(f, "the {} of the flow {client} > port {port}", side.name())
            }
            Self::Answer { client, port } => write!(f, "the answer of port {port} to {client}"),
        }
    }
}

/// The finding that an answer without a socket makes.
const ANSWER: &str = "answer-without-socket";

/// Everything that has to be seen is.
pub(super) fn is_all_seen(acts: &[Act], events: &[Value], netns: u64) -> bool {
    acts.iter().all(|act| match act.claim {
        Claim::Done(deed) => named(deed, events, netns).is_some(),
        Claim::NotDone(_) | Claim::NotApplicable => true,
    })
}

/// How an act came out, by the events of the network namespace with this inode.
pub(super) fn judge(act: &Act, events: &[Value], netns: u64) -> CheckReport {
    let (outcome, expected, seen, evidence) = match &act.claim {
        Claim::NotDone(why) => (CheckOutcome::NotDone, String::new(), why.clone(), Vec::new()),
        Claim::NotApplicable => {
            let seen = "this host has nothing of the kind".to_owned();
            (CheckOutcome::NotApplicable, String::new(), seen, Vec::new())
        }
        Claim::Done(deed) => {
            let expected = format!("pid {} named for {}", deed.pid, deed.place);
            let (outcome, seen) = outcome(*deed, events, netns);
            let evidence = about(deed.place, events, netns).map(line).collect();
            (outcome, expected, seen, evidence)
        }
    };
    CheckReport {
        part: CheckPart::SelfTest,
        name: act.name,
        subject: act.subject.to_owned(),
        outcome,
        expected,
        seen,
        evidence,
    }
}

fn outcome(deed: Deed, events: &[Value], netns: u64) -> (CheckOutcome, String) {
    if let Some(how) = named(deed, events, netns) {
        return (CheckOutcome::Ok, format!("pid {}, {how}", deed.pid));
    }
    let is_seen = about(deed.place, events, netns).next().is_some();
    let seen = if is_seen { "seen, but the process is not named" } else { "not seen" };
    (CheckOutcome::Missed, seen.to_owned())
}

/// How the process that did it is named.
fn named(deed: Deed, events: &[Value], netns: u64) -> Option<String> {
    match deed.place {
        Place::Answer { port, .. } => {
            let is_named = events.iter().any(|event| is_answer(event, port, deed.pid));
            is_named.then(|| format!("finding {ANSWER}"))
        }
        Place::Listener { .. } | Place::Flow { .. } => {
            let owner = owner(deed, events, netns)?;
            Some(format!("{} ({})", text(owner, "role"), text(owner, "evidence")))
        }
    }
}

/// The entry of `portwatch.owners` that names who did it, from the newest event that has one.
fn owner(deed: Deed, events: &[Value], netns: u64) -> Option<&Value> {
    let side = match deed.place {
        Place::Flow { side, .. } => side.name(),
        Place::Listener { .. } => "",
        Place::Answer { .. } => return None,
    };
    let names = |owner: &&Value| {
        text(owner, "side") == side
            && owner.get("pid").and_then(Value::as_u64) == Some(deed.pid.into())
    };
    about(deed.place, events, netns).filter_map(|event| owners(event).iter().find(names)).last()
}

/// The events about a place.
fn about(place: Place, events: &[Value], netns: u64) -> impl Iterator<Item = &Value> {
    events.iter().filter(move |event| match place {
        Place::Listener { port } => {
            number(event, "/portwatch/listener/port") == Some(port.into())
                && number(event, "/portwatch/listener/netns/inode") == Some(netns)
        }
        Place::Flow { client, port, .. } | Place::Answer { client, port } => {
            event.pointer("/portwatch/flow").is_some()
                && endpoint(event, "source") == Some((client.ip(), client.port()))
                && number(event, "/destination/port") == Some(port.into())
        }
    })
}

/// Is it the finding that this process answers for this port?
fn is_answer(event: &Value, port: u16, pid: u32) -> bool {
    let message = text(event, "message");
    event.pointer("/portwatch/finding/kind").and_then(Value::as_str) == Some(ANSWER)
        && message.contains(&format!(":{port} "))
        && message.contains(&format!("(pid {pid})"))
}

/// `flow-ended: pid 4242 opener (exact), pid 4243 user (exact)`.
fn line(event: &Value) -> String {
    let action = event.pointer("/event/action").and_then(Value::as_str).unwrap_or_default();
    let named = owners(event).iter().map(|owner| {
        let pid = owner.get("pid").and_then(Value::as_u64).unwrap_or_default();
        format!("pid {pid} {} ({})", text(owner, "role"), text(owner, "evidence"))
    });
    let named: Vec<String> = named.collect();
    match named.as_slice() {
        [] => format!("{action}: nobody is named"),
        named => format!("{action}: {}", named.join(", ")),
    }
}

fn owners(event: &Value) -> &[Value] {
    let owners = event.pointer("/portwatch/owners").and_then(Value::as_array);
    owners.map(Vec::as_slice).unwrap_or_default()
}

fn endpoint(event: &Value, side: &str) -> Option<(IpAddr, u16)> {
    let side = event.get(side)?;
    let ip = side.get("ip")?.as_str()?.parse().ok()?;
    Some((ip, u16::try_from(side.get("port")?.as_u64()?).ok()?))
}

fn number(event: &Value, path: &str) -> Option<u64> {
    event.pointer(path).and_then(Value::as_u64)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NETNS: u64 = 4_026_532_000;

    #[test]
    fn the_process_that_did_it_has_to_be_named_on_its_own_side() {
        let client: SocketAddr = "127.0.0.1:40000".parse().unwrap();
        let flow = |side: &str, pid: u32| {
            json!({
                "event": {"action": "flow-ended"},
                "source": {"ip": "127.0.0.1", "port": 40000},
                "destination": {"ip": "127.0.0.1", "port": 23511},
                "portwatch": {
                    "flow": {},
                    "owners": [{"side": side, "pid": pid, "role": "user", "evidence": "exact"}],
                },
            })
        };
        let act = act(Place::Flow { client, port: 23511, side: Side::Destination });
        let outcome = |events: &[Value]| judge(&act, events, NETNS).outcome;

        assert_eq!(outcome(&[flow("destination", 7)]), CheckOutcome::Ok);
        assert_eq!(outcome(&[flow("source", 7)]), CheckOutcome::Missed);
        assert_eq!(outcome(&[flow("destination", 8)]), CheckOutcome::Missed);
        assert_eq!(outcome(&[]), CheckOutcome::Missed);
        // Once named is named: a later event may know less.
        let both = [flow("destination", 7), flow("destination", 8)];
        assert_eq!(outcome(&both), CheckOutcome::Ok);
    }

    #[test]
    fn a_listener_of_another_namespace_is_not_the_decoys() {
        let listener = |netns: u64| {
            json!({
                "event": {"action": "listener-opened"},
                "portwatch": {
                    "listener": {"port": 23511, "netns": {"inode": netns}},
                    "owners": [{"pid": 7, "role": "opener", "evidence": "exact"}],
                },
            })
        };
        let act = act(Place::Listener { port: 23511 });

        assert_eq!(judge(&act, &[listener(NETNS)], NETNS).seen, "pid 7, opener (exact)");
        assert_eq!(judge(&act, &[listener(1)], NETNS).outcome, CheckOutcome::Missed);
    }

    #[test]
    fn what_was_not_played_is_not_missed() {
        let act =
            Act { claim: Claim::NotDone("no room".to_owned()), ..act(Place::Listener { port: 1 }) };

        let report = judge(&act, &[], NETNS);

        assert_eq!((report.outcome, &*report.seen), (CheckOutcome::NotDone, "no room"));
        assert!(report.outcome.is_gap());
    }

    #[test]
    fn an_answer_without_a_socket_needs_a_finding_that_names_who_gave_it() {
        let client = "127.0.0.1:40000".parse().unwrap();
        let act = act(Place::Answer { client, port: 23514 });
        let finding = |pid: u32| {
            let who = format!("tcp 127.0.0.1:23514 is answered by pw-decoy (pid {pid}), by hand.");
            json!({"message": who, "portwatch": {"finding": {"kind": "answer-without-socket"}}})
        };

        assert_eq!(judge(&act, &[], NETNS).outcome, CheckOutcome::Missed);
        assert_eq!(judge(&act, &[finding(77)], NETNS).outcome, CheckOutcome::Missed);
        assert_eq!(judge(&act, &[finding(7)], NETNS).outcome, CheckOutcome::Ok);
    }

    fn act(place: Place) -> Act {
        Act { name: "act", subject: "an act", claim: Claim::Done(Deed { place, pid: 7 }) }
    }
}
