//! The golden documents, and every field of theirs against what ECS says of it.

mod reference;

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

use crate::output::examples;

use super::*;

/// `name, type, array, values`; see the comment at the head of the file.
const ECS_FIELDS: &str = include_str!("../../../../tests/data/ecs-fields.csv");

#[test]
fn the_documents_of_a_run_are_as_agreed() {
    examples::assert_golden("run.jsonl", &render(&examples::run()));
}

#[test]
fn what_is_unknown_is_left_out_and_what_is_hostile_is_escaped() {
    let documents = render(&examples::rarities());

    examples::assert_golden("rarities.jsonl", &documents);
    assert!(!documents.contains("null"));
    assert!(!documents.contains(|c: char| c.is_control() && c != '\n'));
}

#[test]
fn an_empty_argument_is_the_only_empty_text() {
    let empty = |(_, value): &(String, Value)| value.as_str() == Some("");

    let found: Vec<_> = all().iter().flat_map(flatten).filter(empty).collect();

    assert!(found.iter().all(|(name, _)| name.ends_with(".args[]")), "{found:?}");
}

#[test]
fn every_field_outside_ours_is_one_of_ecs_with_its_type() {
    let fields = ecs_fields();

    for (name, value) in all().iter().flat_map(flatten) {
        if name.starts_with("portwatch.") {
            continue;
        }
        let (bare, array) = match name.strip_suffix("[]") {
            Some(bare) => (bare, true),
            None => (name.as_str(), false),
        };
        let field = fields.get(bare).unwrap_or_else(|| panic!("{bare} is not a field of ECS"));
        assert_eq!(field.array, array, "{bare} is an array or it is not");
        assert!(field.fits(&value), "{bare} is {value}, not {}", field.kind);
    }
}

#[test]
fn every_field_of_the_list_is_used() {
    let used: Vec<_> = all().iter().flat_map(flatten).map(|(name, _)| name).collect();

    for name in ecs_fields().keys().filter(|name| !name.contains(' ')) {
        let array = format!("{name}[]");
        assert!(used.iter().any(|used| used == name || *used == array), "{name} is not used");
    }
}

#[test]
fn every_event_type_is_allowed_for_one_of_its_categories() {
    let fields = ecs_fields();

    for document in all() {
        let event = document.get("event").unwrap();
        let categories = event.get("category").and_then(Value::as_array).unwrap();
        for kind in event.get("type").and_then(Value::as_array).unwrap() {
            let allowed = categories.iter().any(|category| {
                let name = format!("event.type of {}", category.as_str().unwrap());
                fields[name.as_str()].fits(kind)
            });
            assert!(allowed, "{event}");
        }
    }
}

/// One row of the list.
#[derive(Debug)]
struct Field {
    kind: &'static str,
    array: bool,
    values: Vec<&'static str>,
}

impl Field {
    fn fits(&self, value: &Value) -> bool {
        let text = value.as_str();
        let fits = match self.kind {
            "long" => value.is_u64(),
            "ip" => text.is_some_and(|text| text.parse::<IpAddr>().is_ok()),
            "date" => {
                text.is_some_and(|text| text.len() == 30 && text.parse::<Timestamp>().is_ok())
            }
            "keyword" | "match_only_text" | "wildcard" => text.is_some(),
            kind => panic!("no such type: {kind}"),
        };
        fits && (self.values.is_empty() || text.is_some_and(|text| self.values.contains(&text)))
    }
}

fn ecs_fields() -> BTreeMap<&'static str, Field> {
    let rows = ECS_FIELDS.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.map(|row| {
        let [name, kind, array, values] = row.split(',').collect::<Vec<_>>().try_into().unwrap();
        let values = values.split_whitespace().collect();
        (name, Field { kind, array: array == "array", values })
    })
    .collect()
}

/// Every golden document.
fn all() -> Vec<Value> {
    let reports =
        [examples::run(), examples::rarities(), examples::scan(), examples::doctor()].concat();
    render(&reports).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn documents_are_numbered_from_1_without_gaps() {
    let lines = render(&examples::run());

    let numbers = lines.lines().map(|line| {
        let document: Value = serde_json::from_str(line).unwrap();
        document["event"]["sequence"].as_u64().unwrap()
    });
    assert!(numbers.eq(1..=examples::run().len() as u64));
}

fn render(reports: &[Report]) -> String {
    let mut encoder = Encoder::new(RunIdentity {
        host_name: "web1".to_owned(),
        host_id: "8b1f0c6a5d3e4f27a9b8c7d6e5f40312".to_owned(),
        run_id: "01989a7e-9d1c-7c3a-b6f0-2f8e5d4c3b2a".to_owned(),
        version: "0.1.0".to_owned(),
    });
    let mut out = Vec::new();
    for report in reports {
        encoder.encode(report, &mut out).unwrap();
    }
    String::from_utf8(out).unwrap()
}

/// The leaves of a document by name; elements of an array are `name[]`.
fn flatten(document: &Value) -> Vec<(String, Value)> {
    match document {
        Value::Object(fields) => {
            fields.iter().flat_map(|(key, value)| beneath(key, value)).collect()
        }
        Value::Array(elements) => elements.iter().flat_map(|value| beneath("[]", value)).collect(),
        leaf => vec![(String::new(), leaf.clone())],
    }
}

fn beneath(name: &str, value: &Value) -> impl Iterator<Item = (String, Value)> {
    flatten(value).into_iter().map(move |(rest, leaf)| {
        let dot = if rest.is_empty() || rest.starts_with('[') { "" } else { "." };
        (format!("{name}{dot}{rest}"), leaf)
    })
}
