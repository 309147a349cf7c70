//! The text of a draft: TOML that reads as if a colleague had written it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use jiff::{Timestamp, ToSpan as _};

use super::{Draft, MAX_REMOTES, Place};
use crate::endpoint::Transport;
use crate::escape;
use crate::owner::Process;

/// How long a learned rule holds.
const DAYS: i64 = 90;

/// Columns of a command line in a comment.
const MAX_COMMAND: usize = 120;

/// The whole policy.
pub(super) fn render(draft: &Draft) -> String {
    let settings = &draft.settings;
    let (host, ports) = (escape::escape(&settings.host), &settings.ports);
    let mut out = format!(
        "# Learned on {host} on {}, from {} at port {ports}.\n\
         # Review every rule: it says what was there, not what should be. Then try it:\n\
         #\n\
         #     portwatch policy check FILE\n\
         \n\
         version = 1\n",
        settings.today, settings.how,
    );
    if draft.listeners.is_empty() && draft.clients.is_empty() {
        let _infallible = writeln!(out, "\n# Nothing to expect was seen.");
    }
    let mut ids = BTreeSet::new();
    for (place, addresses) in &draft.listeners {
        out.push_str(&rule(draft, "listener", place, addresses, &mut ids));
    }
    for (place, addresses) in &draft.clients {
        out.push_str(&rule(draft, "client", place, addresses, &mut ids));
    }
    if !draft.refused.is_empty() {
        out.push_str("\n# Not learned:\n");
    }
    for line in &draft.refused {
        let _infallible = writeln!(out, "#   {}", escape::escape(line));
    }
    if draft.beyond > 0 {
        let _infallible =
            writeln!(out, "\n# Not learned, since it was too much: {} more.", draft.beyond);
    }
    out
}

fn rule(
    draft: &Draft,
    kind: &str,
    place: &Place,
    addresses: &BTreeSet<IpAddr>,
    ids: &mut BTreeSet<String>,
) -> String {
    let Place { port, transport, identity } = place;
    let mut out = String::from("\n");
    if let Some(evidence) = draft.evidence.get(place) {
        let _infallible = writeln!(out, "# {evidence}");
    }
    for name in identity.iter().flat_map(|identity| &identity.interpreters) {
        let name = escape::escape(name);
        let _infallible = writeln!(out, "# Review: {name} runs whatever it is given.");
    }
    if addresses.len() > MAX_REMOTES {
        let _infallible =
            writeln!(out, "# Review: more than {MAX_REMOTES} addresses, so that any will do.");
    }
    let id = id(kind, place, ids);
    let reason = format!("learned {}, to be reviewed", draft.settings.today);
    let expires = draft.settings.today.saturating_add(DAYS.days());
    let _infallible = write!(
        out,
        "[[{kind}]]\nid = {}\nreason = {}\nexpires = {expires}\nport = {port}\ntransport = \"{}\"\n",
        quoted(&id),
        quoted(&reason),
        transport.name(),
    );
    let mut key = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            let _infallible = writeln!(out, "{name} = {}", list(&values));
        }
    };
    if addresses.len() <= MAX_REMOTES {
        let name = if kind == "client" { "remote" } else { "address" };
        key(name, addresses.iter().map(ToString::to_string).collect());
    }
    if let Some(identity) = identity {
        key("exe", identity.exe.iter().map(|path| glob(path, true)).collect());
        key("sha256", identity.sha256.iter().cloned().collect());
        key("user", identity.user.iter().cloned().collect());
        key("unit", identity.unit.iter().map(|unit| glob(unit, false)).collect());
        key("package", identity.package.iter().cloned().collect());
        key("container_image", identity.container_image.iter().cloned().collect());
    }
    out
}

/// `cardbridged-3516`, and no two are the same.
fn id(kind: &str, place: &Place, ids: &mut BTreeSet<String>) -> String {
    let name = match &place.identity {
        None => "others".to_owned(),
        Some(identity) => {
            let unit = identity.unit.first().and_then(|unit| unit.strip_suffix(".service"));
            let exe = identity.exe.first().and_then(|exe| exe.rsplit('/').next());
            slug(unit.or(exe).unwrap_or_default())
        }
    };
    let transport = if place.transport == Transport::Udp { "-udp" } else { "" };
    let client = if kind == "client" { "-client" } else { "" };
    let base = format!("{name}-{}{transport}{client}", place.port);
    let mut id = base.clone();
    let mut number = 2_u32;
    while !ids.insert(id.clone()) {
        id = format!("{base}-{number}");
        number = number.saturating_add(1);
    }
    id
}

fn slug(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let slug: String = name.chars().take(40).map(letter).collect();
    slug.trim_matches('-').to_owned()
}

/// A value that stands for itself where a glob is read.
fn glob(text: &str, backslash_escape: bool) -> String {
    let mut glob = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '*' | '?' | '[' | ']' | '{' | '}' => glob.extend(['[', c, ']']),
            '\\' if backslash_escape => glob.push_str("\\\\"),
            c => glob.push(c),
        }
    }
    glob
}

fn list(values: &[String]) -> String {
    let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
    match &*values {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// A basic string of TOML; what could deceive a reader is written as `\uXXXX`.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if escape::escape(c.encode_utf8(&mut [0; 4])).starts_with('\\') => {
                let _infallible = write!(quoted, "\\U{:08x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `Seen 2026-11-29 02:03:04 UTC: cardbridged[812] cardbridge, started by systemd[1]: cardbridged -d`.
pub(super) fn evidence(processes: &[&Process], time_unix_ns: i64) -> String {
    let mut line = when(time_unix_ns);
    let Some(process) = processes.first() else { return line };
    line.push_str(&escape::escape(&who(processes)).replacen(' ', ": ", 1));
    if let Some(parent) = process.ancestors.first() {
        let _infallible =
            write!(line, ", started by {}[{}]", escape::escape(&parent.name), parent.pid);
    }
    if !process.args.is_empty() {
        let command = process.args.join(" ");
        let _infallible = write!(line, ": {}", escape::truncate(&command, MAX_COMMAND));
    }
    line
}

/// `Seen 2026-11-29 02:03:04 UTC`.
pub(super) fn when(time_unix_ns: i64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(time_unix_ns)).unwrap_or_default();
    format!("Seen {}", time.strftime("%F %T UTC"))
}

/// ` cardbridged[812] and 2 more`, ready to follow something; nothing where nobody is known. Not escaped.
pub(super) fn who(processes: &[&Process]) -> String {
    let Some(first) = processes.first() else { return String::new() };
    let more = match processes.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(" {}[{}]{more}", first.name, first.pid)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_text_reads_back_as_itself() {
        for text in ["/a b", "quo\"te", r"back\slash", "\u{1b}[2J\n", "東京\u{202e}", ""] {
            let toml = format!("x = {}", quoted(text));
            assert!(!toml.contains(char::is_control), "{toml}");
            let read: BTreeMap<String, String> = toml::from_str(&toml).unwrap();
            assert_eq!(read["x"], text);
        }
    }

    #[test]
    fn a_name_becomes_an_id() {
        let table = [("python3.11", "python3-11"), ("-x--", "x"), ("Büro", "b-ro")];
        for (name, expected) in table {
            assert_eq!(slug(name), expected);
        }
    }
}
