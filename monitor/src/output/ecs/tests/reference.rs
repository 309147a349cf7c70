//! docs/events.md against the documents: it names every field, and its examples are theirs.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::output::examples;

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
        reference = with_example(&reference, action, &laid_out(line, 0));
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

/// The text with what stands between the marks of this example replaced.
fn with_example(text: &str, name: &str, example: &str) -> String {
    let start = format!("<!-- example: {name} -->\n");
    let end = "<!-- end of example -->";
    let Some((before, rest)) = text.split_once(&start) else {
        return text.to_owned();
    };
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{start}```json\n{example}\n```\n{end}{after}")
}

/// Compact JSON with what fits on a line on one, in the order of the document.
fn laid_out(json: &str, indent: usize) -> String {
    let (open, close) = (&json[..1], &json[json.len() - 1..]);
    if !matches!(open, "{" | "[") {
        return json.to_owned();
    }
    let members: Vec<_> = split(&json[1..json.len() - 1], ',')
        .into_iter()
        .map(|member| match split(member, ':').as_slice() {
            [key, value] => format!("{key}: {}", laid_out(value, indent + 2)),
            _ => laid_out(member, indent + 2),
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
fn split(json: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quoted, mut escaped) = (vec![], 0, 0, false, false);
    for (at, c) in json.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            c if c == separator && depth == 0 => {
                parts.push(&json[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < json.len() {
        parts.push(&json[start..]);
    }
    parts
}
