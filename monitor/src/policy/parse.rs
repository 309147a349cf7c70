//! From the text of a policy to its rules; the first problem ends it.
//!
//! Read key by key and not by `serde`, so that each message names its place and what was meant, and
//! so that a key this version does not know is never silently ignored.

use std::collections::HashMap;

use toml::Spanned;
use toml::de::{DeString, DeTable};

use super::key::{self, Problem, Value, line, quoted};
use super::rule::ListenerRule;

const KEYS: [&str; 2] = ["version", "listener"];
const LISTENER_KEYS: [&str; 10] =
    ["id", "reason", "expires", "port", "transport", "address", "exe", "sha256", "user", "unit"];

/// Keys of the format that this version does not know yet.
const LATER_KEYS: [&str; 3] = ["client", "container_image", "package"];

type Key<'t> = Spanned<DeString<'t>>;

/// The rules of a policy.
pub(super) fn parse(text: &str) -> Result<Vec<ListenerRule>, Problem> {
    let document = DeTable::parse(text).map_err(|error| Problem {
        offset: error.span().map_or(0, |span| span.start),
        message: line(error.message()),
    })?;
    let entries = in_order(document.get_ref());
    // First, since it says what the rest means.
    match entries.iter().find(|(key, _)| key.get_ref() == "version") {
        Some((_, version)) => key::version(version)?,
        None => return Err(Problem { offset: 0, message: "`version = 1` is missing".to_owned() }),
    }
    let mut rules = Vec::new();
    let mut problems = Vec::new();
    for (key, value) in entries {
        let read = match key.get_ref().as_ref() {
            "version" => Ok(()),
            "listener" => listeners(text, value).map(|read| rules = read),
            _ => Err(unknown_key(key, &KEYS)),
        };
        problems.extend(read.err());
    }
    // Another table can stand between two rules.
    match problems.into_iter().min_by_key(|problem| problem.offset) {
        Some(problem) => Err(problem),
        None => Ok(rules),
    }
}

fn listeners(text: &str, value: &Value<'_>) -> Result<Vec<ListenerRule>, Problem> {
    let not_tables = || Problem::at(value, "`listener` must be tables, write [[listener]]");
    let list = value.get_ref().as_array().ok_or_else(not_tables)?;
    let mut rules = Vec::new();
    let mut ids: HashMap<String, usize> = HashMap::new();
    for item in list {
        let table = item.get_ref().as_table().ok_or_else(not_tables)?;
        let (rule, id_offset) = listener(item, table)?;
        if let Some(first) = ids.insert(rule.id.clone(), id_offset) {
            let (first_line, _) = super::position(text, first);
            let id = quoted(&rule.id);
            let message = format!("`id` `{id}` is used already on line {first_line}");
            return Err(Problem { offset: id_offset, message });
        }
        rules.push(rule);
    }
    Ok(rules)
}

/// A rule, and where its id stands.
fn listener(item: &Value<'_>, table: &DeTable<'_>) -> Result<(ListenerRule, usize), Problem> {
    let mut rule = ListenerRule::default();
    let mut id_offset = None;
    for (key, value) in in_order(table) {
        if key.get_ref() == "id" {
            id_offset = Some(value.span().start);
        }
        set(&mut rule, key, value)?;
    }
    let Some(id_offset) = id_offset else {
        return Err(Problem::at(item, "this rule has no `id`"));
    };
    if rule.matches_everything() {
        let id = quoted(&rule.id);
        let message = format!("rule `{id}` would match everything: say what is expected");
        return Err(Problem::at(item, message));
    }
    Ok((rule, id_offset))
}

fn set(rule: &mut ListenerRule, key: &Key<'_>, value: &Value<'_>) -> Result<(), Problem> {
    let name = key.get_ref().as_ref();
    match name {
        "id" => rule.id = key::text(name, value)?,
        "reason" => rule.reason = Some(key::text(name, value)?),
        "expires" => rule.expires = Some(key::date(name, value)?),
        "port" => rule.port = Some(key::ports(name, value)?),
        "transport" => rule.transport = key::each(name, value, key::transport)?,
        "address" => rule.address = key::each(name, value, key::address)?,
        "exe" => rule.exe = key::each(name, value, key::exe)?,
        "sha256" => rule.sha256 = key::each(name, value, key::sha256)?,
        "user" => rule.user = key::each(name, value, |user| Ok(user.to_owned()))?,
        "unit" => rule.unit = key::each(name, value, key::unit)?,
        _ => return Err(unknown_key(key, &LISTENER_KEYS)),
    }
    Ok(())
}

/// Entries as they stand in the file; the table itself is sorted by key.
fn in_order<'v, 't>(table: &'v DeTable<'t>) -> Vec<(&'v Key<'t>, &'v Value<'t>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn unknown_key(key: &Key<'_>, known: &[&str]) -> Problem {
    let name = key.get_ref().as_ref();
    if LATER_KEYS.contains(&name) {
        return Problem::at(key, format!("`{name}` is not supported yet by this version"));
    }
    let meant = known
        .iter()
        .map(|candidate| (distance(&name.to_lowercase(), candidate), candidate))
        // A third of the letters wrong: `adress`, `sha-256`, but not `uid` for `id`.
        .filter(|(distance, candidate)| *distance <= candidate.len() / 3)
        .min();
    let name = quoted(name);
    Problem::at(
        key,
        match meant {
            Some((_, candidate)) => format!("unknown key `{name}`, did you mean `{candidate}`?"),
            None => format!("unknown key `{name}`, there are {}", known.join(", ")),
        },
    )
}

/// Levenshtein distance: letters to insert, remove or replace.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (position, letter) in from.chars().enumerate() {
        let mut diagonal = position;
        let mut left = position.saturating_add(1);
        let mut cells = row.iter_mut();
        if let Some(first) = cells.next() {
            *first = left;
        }
        for (cell, other) in cells.zip(to.chars()) {
            let above = *cell;
            let replaced = diagonal.saturating_add(usize::from(letter != other));
            *cell = replaced.min(above.saturating_add(1)).min(left.saturating_add(1));
            diagonal = above;
            left = *cell;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
