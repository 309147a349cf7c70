//! A run of portwatch that has ended, and what holds of every run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;

use serde_json::Value;

use crate::count::Count;
use crate::event::Event;

/// Everything a run has said.
#[derive(Debug)]
pub struct Run {
    /// Its events.
    pub events: Vec<Event>,
    /// The lines of its standard error.
    pub stderr: Vec<String>,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
}

impl Run {
    /// The last event.
    pub fn ended(&self) -> &Event {
        self.events.last().expect("find the last event")
    }

    /// Events of one kind.
    pub fn of<'a>(&'a self, action: &'a str) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(move |event| event.is(action))
    }

    /// Was this program attached?
    pub fn attached(&self, program: &str) -> bool {
        let started = self.of("run-started").next().expect("find the first event");
        let attached = started.list("portwatch.run.attached");
        attached.iter().any(|it| it["program"] == program)
    }

    /// The end of the flow that `source` opened.
    pub fn flow_from(&self, source: SocketAddr) -> &Event {
        let mut ends = self.events.iter().filter(|event| event.is_flow("flow-ended", source));
        let flow = ends.next().unwrap_or_else(|| panic!("no flow from {source}"));
        assert!(ends.next().is_none(), "more than one flow from {source}");
        flow
    }

    /// What was counted of a port in one direction.
    pub fn counted(&self, port: u16, direction: &str) -> Count {
        let counts = self.ended().list("portwatch.counters.ports");
        let of_port = counts.iter().filter(|it| it["port"] == port && it["direction"] == direction);
        of_port.map(Count::read).sum()
    }

    /// What was counted of all ports in one direction.
    pub fn counted_in_all(&self, direction: &str) -> Count {
        let counts = self.ended().list("portwatch.counters.ports");
        counts.iter().filter(|it| it["direction"] == direction).map(Count::read).sum()
    }

    /// A number of the counters at the end, such as `records.read`.
    pub fn counter(&self, path: &str) -> u64 {
        self.ended().number(&format!("portwatch.counters.{path}"))
    }

    /// Asserts what holds of every run: the form of its events, and the equations of its counters.
    #[track_caller]
    pub fn assert_sound(&self) {
        for (event, sequence) in self.events.iter().zip(1_u64..) {
            assert_eq!(event.at("event.sequence"), sequence, "{event}");
            assert_form(event, self.ended());
        }
        assert!(self.events.first().is_some_and(|first| first.is("run-started")));
        assert!(self.ended().is("run-ended"), "{}", self.ended());
        self.assert_balanced();
        assert_eq!(self.in_flows(), self.in_ports(), "flows and overflow, ports");
    }

    /// Asserts the equations of the counters at the end, which hold also when reports were lost.
    #[track_caller]
    pub fn assert_balanced(&self) {
        assert!(self.ended().is("run-ended"), "{}", self.ended());
        let records = |fate: &str| self.counter(&format!("records.{fate}"));
        let fates = records("filtered") + records("submitted") + records("ring_full");
        assert_eq!(records("seen"), fates, "records seen: {}", self.ended());
        assert_eq!(records("submitted"), records("read"), "records read: {}", self.ended());
        let mut sums = BTreeMap::new();
        add(&mut sums, None, self.ended().list("portwatch.counters.interfaces"));
        add(&mut sums, None, self.ended().list("portwatch.counters.overflow"));
        if let Some(earlier) = self.ended().at("portwatch.counters.earlier").as_array() {
            add(&mut sums, None, earlier);
        }
        assert_eq!(sums, self.in_ports(), "interfaces, overflow and earlier runs, ports");
    }

    /// Per port and direction: all flows, and what belongs to none.
    fn in_flows(&self) -> BTreeMap<(u64, String), Count> {
        let mut sums = BTreeMap::new();
        for flow in self.of("flow-ended") {
            let port = flow.number("portwatch.flow.port");
            add(&mut sums, Some(port), flow.list("portwatch.flow.interfaces"));
        }
        add(&mut sums, None, self.ended().list("portwatch.counters.overflow"));
        if let Some(earlier) = self.ended().at("portwatch.counters.earlier").as_array() {
            add(&mut sums, None, earlier);
        }
        sums
    }

    /// Per port and direction: the truth.
    fn in_ports(&self) -> BTreeMap<(u64, String), Count> {
        let mut sums = BTreeMap::new();
        add(&mut sums, None, self.ended().list("portwatch.counters.ports"));
        sums
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if thread::panicking() {
            said(&self.events, &self.stderr);
        }
    }
}

/// Adds counts by port and direction; `port` for those that do not say theirs. Zeros are left out.
fn add(sums: &mut BTreeMap<(u64, String), Count>, port: Option<u64>, counts: &[Value]) {
    for value in counts.iter().filter(|value| value["packets"] != 0) {
        let port = port.or_else(|| value["port"].as_u64()).expect("find the port of a count");
        let direction = value["direction"].as_str().expect("find the direction of a count");
        let sum = sums.entry((port, direction.to_owned())).or_default();
        *sum = *sum + Count::read(value);
    }
}

/// Every event says when, what, where and who saw it; nothing in it is empty.
#[track_caller]
fn assert_form(event: &Event, ended: &Event) {
    for path in [
        "@timestamp",
        "event.kind",
        "event.action",
        "event.dataset",
        "host.name",
        "host.id",
        "observer.vendor",
        "observer.product",
        "observer.version",
    ] {
        assert!(!event.text(path).is_empty(), "no {path} in {event}");
    }
    assert_eq!(event.text("ecs.version"), "9.4.0");
    assert!(!event.list("event.category").is_empty() && !event.list("event.type").is_empty());
    assert_eq!(event.text("portwatch.run_id"), ended.text("portwatch.run_id"));
    assert!(!has_empty(event.document()), "null or empty text in {event}");
}

fn has_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.iter().any(has_empty),
        // An argument of a process may be empty.
        Value::Object(fields) => fields.iter().any(|(key, it)| key != "args" && has_empty(it)),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Shows the end of what portwatch said.
#[expect(clippy::print_stderr, reason = "the harness shows it with the test that failed")]
pub(crate) fn said(events: &[Event], stderr: &[String]) {
    eprintln!("--- portwatch, {} events, the last of them:", events.len());
    for event in events.iter().skip(events.len().saturating_sub(SHOWN_EVENTS)) {
        eprintln!("{:.*}", SHOWN_LETTERS, event.to_string());
    }
    eprintln!("--- portwatch, standard error:");
    for line in stderr.iter().skip(stderr.len().saturating_sub(SHOWN_LINES)) {
        eprintln!("{line}");
    }
}

const SHOWN_EVENTS: usize = 12;
const SHOWN_LETTERS: usize = 6000;
const SHOWN_LINES: usize = 60;
