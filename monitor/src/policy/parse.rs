//! From the text of a policy to its rules; the first problem ends it.
//!
//! Read key by key and not by `serde`, so that each message names its place and what was meant, and
//! so that a key this version does not know is never silently ignored.

use std::collections::HashMap;

use toml::Spanned;
use toml::de::{DeString, DeTable};

use super::key::{self, Problem, Value, line, quoted};
use super::pins::PIN_KEYS;
use super::place::Places;
use super::rule::{Rule, RuleKind};
use crate::report::RuleKey;

const KEYS: [&str; 3] = ["version", "listener", "client"];
const LISTENER_KEYS: [&str; 12] = [
    "id",
    "reason",
    "expires",
    "port",
    "transport",
    "address",
    "exe",
    "sha256",
    "user",
    "unit",
    "package",
    "container_image",
];
const CLIENT_KEYS: [&str; 12] = [
    "id",
    "reason",
    "expires",
    "port",
    "transport",
    "remote",
    "exe",
    "sha256",
    "user",
    "unit",
    "package",
    "container_image",
];

type Key<'t> = Spanned<DeString<'t>>;

/// Where each id stands: every rule of a file has one of its own, whatever its kind.
type Ids = HashMap<String, usize>;

/// The rules of a policy: of listeners and of clients, each in the order of the file.
pub(super) fn parse(text: &str) -> Result<(Vec<Rule>, Vec<Rule>), Problem> {
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
    let (mut listeners, mut clients) = (Vec::new(), Vec::new());
    let mut ids = Ids::new();
    let mut problems = Vec::new();
    for (key, value) in entries {
        let read = match key.get_ref().as_ref() {
            "version" => Ok(()),
            "listener" => {
                rules(text, RuleKind::Listener, value, &mut ids).map(|read| listeners = read)
            }
            "client" => rules(text, RuleKind::Client, value, &mut ids).map(|read| clients = read),
            _ => Err(unknown_key(key, &KEYS)),
        };
        problems.extend(read.err());
    }
    // Another table can stand between two rules.
    match problems.into_iter().min_by_key(|problem| problem.offset) {
        Some(problem) => Err(problem),
        None => Ok((listeners, clients)),
    }
}

fn rules(
    text: &str,
    kind: RuleKind,
    value: &Value<'_>,
    ids: &mut Ids,
) -> Result<Vec<Rule>, Problem> {
    let name = kind.name();
    let not_tables = || Problem::at(value, format!("`{name}` must be tables, write [[{name}]]"));
    let list = value.get_ref().as_array().ok_or_else(not_tables)?;
    let mut rules = Vec::new();
    for item in list {
        let table = item.get_ref().as_table().ok_or_else(not_tables)?;
        let (rule, id_offset) = rule(kind, item, table)?;
        if let Some(other) = ids.insert(rule.id.clone(), id_offset) {
            let (first, second) = (other.min(id_offset), other.max(id_offset));
            let (first_line, _) = Places::of(text).at(first);
            let id = quoted(&rule.id);
            let message = format!("`id` `{id}` is used already on line {first_line}");
            return Err(Problem { offset: second, message });
        }
        rules.push(rule);
    }
    Ok(rules)
}

/// A rule, and where its id stands.
fn rule(kind: RuleKind, item: &Value<'_>, table: &DeTable<'_>) -> Result<(Rule, usize), Problem> {
    let mut rule = Rule { kind, offset: item.span().start, ..Rule::default() };
    let mut id_offset = None;
    for (key, value) in in_order(table) {
        if key.get_ref() == "id" {
            id_offset = Some(value.span().start);
        }
        if let Some(set) = set(&mut rule, key, value)? {
            rule.values.push((set, value.span().start));
        }
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

/// Takes in one key; which one, if it is one that can hold or not.
fn set(rule: &mut Rule, key: &Key<'_>, value: &Value<'_>) -> Result<Option<RuleKey>, Problem> {
    let name = key.get_ref().as_ref();
    let set = match (name, rule.kind) {
        ("id", _) => {
            rule.id = key::text(name, value)?;
            return Ok(None);
        }
        ("reason", _) => {
            rule.reason = Some(key::text(name, value)?);
            return Ok(None);
        }
        ("expires", _) => {
            rule.expires = Some(key::date(name, value)?);
            RuleKey::Expires
        }
        ("port", _) => {
            rule.port = Some(key::ports(name, value)?);
            RuleKey::Port
        }
        ("transport", _) => {
            rule.transport = key::each(name, value, key::transport)?;
            RuleKey::Transport
        }
        ("address", RuleKind::Listener) => {
            rule.network = key::each(name, value, key::address)?;
            RuleKey::Address
        }
        ("remote", RuleKind::Client) => {
            rule.network = key::each(name, value, key::address)?;
            RuleKey::Remote
        }
        _ => pin(rule, key, value)?,
    };
    Ok(Some(set))
}

/// Takes in a key about processes.
fn pin(rule: &mut Rule, key: &Key<'_>, value: &Value<'_>) -> Result<RuleKey, Problem> {
    let name = key.get_ref().as_ref();
    let pins = &mut rule.pins;
    match name {
        "exe" => pins.exe = key::each(name, value, key::exe)?,
        "sha256" => pins.sha256 = key::each(name, value, key::sha256)?,
        "user" => pins.user = key::each(name, value, |user| Ok(user.to_owned()))?,
        "unit" => pins.unit = key::each(name, value, key::unit)?,
        "package" => pins.package = key::each(name, value, key::package)?,
        "container_image" => pins.container_image = key::each(name, value, key::image)?,
        _ => return Err(no_such_key(rule.kind, key)),
    }
    let named = PIN_KEYS.into_iter().find(|key| key.name() == name);
    named.ok_or_else(|| no_such_key(rule.kind, key))
}

/// Entries as they stand in the file; the table itself is sorted by key.
fn in_order<'v, 't>(table: &'v DeTable<'t>) -> Vec<(&'v Key<'t>, &'v Value<'t>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn no_such_key(kind: RuleKind, key: &Key<'_>) -> Problem {
    let message = match (kind, key.get_ref().as_ref()) {
        (RuleKind::Listener, "remote") => {
            "a listener has no `remote`: write `address` for where it listens, or [[client]] for who \
             may talk"
        }
        (RuleKind::Client, "address") => "a client has no `address`: write `remote`",
        (RuleKind::Listener, _) => return unknown_key(key, &LISTENER_KEYS),
        (RuleKind::Client, _) => return unknown_key(key, &CLIENT_KEYS),
    };
    Problem::at(key, message)
}

fn unknown_key(key: &Key<'_>, known: &[&str]) -> Problem {
    let name = key.get_ref().as_ref();
    let meant = known
        .iter()
        .map(|candidate| (distance(&name.to_lowercase(), candidate), candidate))
        // Two letters that changed places are one slip.
        .map(|(distance, candidate)| {
            let is_swapped = letters(name) == letters(candidate);
            (if is_swapped { 1 } else { distance }, candidate)
        })
        // A third of the letters wrong: `adress`, `sha-256`, but not `uid` for `id`.
        .filter(|(distance, candidate)| *distance <= candidate.len() / 3)
        .min();
    let name = quoted(name);
    Problem::at(
        key,
        match meant {
            Some((_, candidate)) => format!("unknown key `{name}`; did you mean `{candidate}`?"),
            None => format!("unknown key `{name}`; there are {}", known.join(", ")),
        },
    )
}

/// The letters of a word, whatever their order.
fn letters(word: &str) -> Vec<char> {
    let mut letters: Vec<char> = word.chars().collect();
    letters.sort_unstable();
    letters
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
