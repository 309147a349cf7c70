//! docs/events.md against the documents: it names every field, and its examples are theirs.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::output::{examples, text};
use crate::report::Report;

use super::{all, flatten, render};

const REFERENCE: &str = include_str!("../../../../../docs/events.md");

/// Columns of an example in the reference.
const PAGE_WIDTH: usize = 98;

#[test]
fn the_reference_names_every_field_of_the_documents() {
    let mut missing = BTreeSet::new();

    for (name, _) in all().iter().flat_map(flatten) {
        let name = named_as_in_reference(&name);
        if !REFERENCE.contains(&format!("`{name}`")) {
            missing.insert(name);
        }
    }

    assert!(missing.is_empty(), "docs/events.md does not name {missing:#?}");
}

#[test]
fn the_reference_shows_each_event_as_it_is() {
    let mut reference = REFERENCE.to_owned();

    for line in render(&examples::run()).lines() {
        let document: Value = serde_json::from_str(line).unwrap();
        let action = document["event"]["action"].as_str().unwrap();
        let example = format!("```json\n{}\n```\n", laid_out(line, 0));
        let state = document.pointer("/portwatch/finding/state").and_then(Value::as_str);
        let which = match state {
            None | Some("open") => action.to_owned(),
            Some(state) => format!("{action}, {state}"),
        };
        reference = with_example(&reference, &format!("example: {which}"), &example);
    }
    if let Some(line) = render(&examples::doctor()).lines().nth(1) {
        let example = format!("```json\n{}\n```\n", laid_out(line, 0));
        reference = with_example(&reference, "example: check", &example);
    }
    let run = text_of(&examples::run());
    let scan = text::scan(&arcs(examples::scan()), &text::Look::plain());
    let doctor = text::checks(&arcs(examples::doctor()), &text::Look::plain());
    for (name, text) in [("run", run), ("scan", scan), ("doctor", doctor)] {
        let example = format!("```text\n{text}```\n");
        reference = with_example(&reference, &format!("text: {name}"), &example);
    }

    examples::assert_file("../docs/events.md", &reference);
}

#[test]
fn an_example_on_several_lines_is_the_same_document() {
    for line in render(&examples::rarities()).lines() {
        let document: Value = serde_json::from_str(line).unwrap();

        let example = laid_out(line, 0);

        assert_eq!(serde_json::from_str::<Value>(&example).unwrap(), document);
    }
}

/// Keys that data chooses are placeholders in the reference.
fn named_as_in_reference(name: &str) -> String {
    name.replace(".unparsable.truncated", ".unparsable.REASON")
        .replace(".programs.pw_ingress.", ".programs.NAME.")
}

/// The reference with what stands between the marks of this example replaced, if it has them.
fn with_example(reference: &str, mark: &str, example: &str) -> String {
    let start = format!("<!-- {mark} -->\n");
    let Some((before, rest)) = reference.split_once(&start) else {
        return reference.to_owned();
    };
    let (_, after) = rest.split_once("<!-- end of ").unwrap();
    format!("{before}{start}{example}<!-- end of {after}")
}

fn text_of(reports: &[Report]) -> String {
    let mut encoder = text::Encoder::new(text::Look::plain());
    let mut out = Vec::new();
    for report in reports {
        encoder.encode(report, &mut out);
    }
    String::from_utf8(out).unwrap()
}

fn arcs(reports: Vec<Report>) -> Vec<Arc<Report>> {
    reports.into_iter().map(Arc::new).collect()
}

/// Compact JSON with what fits on a line on one, in the order of the document.
fn laid_out(json: &str, indent: usize) -> String {
    let within = |(open, close)| {
        let inner = json.strip_prefix(open)?.strip_suffix(close)?;
        Some((open, inner, close))
    };
    let Some((open, inner, close)) = [('{', '}'), ('[', ']')].into_iter().find_map(within) else {
        return json.to_owned();
    };
    let members: Vec<_> = split(inner, ',')
        .into_iter()
        .map(|member| match split(&member, ':').as_slice() {
            [key, value] => format!("{key}: {}", laid_out(value, indent + 2)),
            _ => laid_out(&member, indent + 2),
        })
        .collect();
    let on_one_line = format!("{open}{}{close}", members.join(", "));
    if on_one_line.len() + indent <= PAGE_WIDTH && !on_one_line.contains('\n') {
        return on_one_line;
    }
    let margin = " ".repeat(indent + 2);
    let lines = members.join(&format!(",\n{margin}"));
    format!("{open}\n{margin}{lines}\n{}{close}", " ".repeat(indent))
}

/// The parts of JSON between separators that are in no string and no bracket.
fn split(json: &str, separator: char) -> Vec<String> {
    let (mut parts, mut part, mut depth) = (Vec::new(), String::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for c in json.chars() {
        if c == separator && depth == 0 && !quoted {
            parts.push(std::mem::take(&mut part));
            continue;
        }
        part.push(c);
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth -= 1,
            _ => {}
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}
