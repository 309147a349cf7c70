//! The values of a rule's keys, each checked as it is read, and what is said when one is wrong.

use std::net::IpAddr;

use globset::{ErrorKind, GlobBuilder, GlobSet};
use ipnet::IpNet;
use jiff::civil::Date;
use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use super::pins::Pattern;
use super::rule::AddressPin;
use crate::endpoint::Transport;
use crate::escape;
use crate::ports::PortSet;

/// As long as a path can be; nested globs are compiled recursively.
const MAX_GLOB_BYTES: usize = 4096;

/// Columns of a value that an error message quotes.
const MAX_QUOTED: usize = 60;

/// What is wrong in a policy, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Problem {
    /// Byte offset into the text.
    pub(super) offset: usize,
    /// One line.
    pub(super) message: String,
}

impl Problem {
    pub(super) fn at<T>(place: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { offset: place.span().start, message: message.into() }
    }
}

/// A value as it stands in the file.
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// A string that is not empty.
pub(super) fn text(key: &str, value: &Value<'_>) -> Result<String, Problem> {
    let Some(text) = value.get_ref().as_str() else {
        return Err(wrong_type(key, "a string", value));
    };
    if text.is_empty() {
        return Err(Problem::at(value, format!("`{key}` is empty")));
    }
    Ok(text.to_owned())
}

/// A string or a list of strings, each read by `read`.
pub(super) fn each<T>(
    key: &str,
    value: &Value<'_>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, Problem> {
    const EXPECTED: &str = "a string or a list of strings";

    items(key, value)?
        .map(|item| {
            let Some(text) = item.get_ref().as_str() else {
                return Err(wrong_type(key, EXPECTED, item));
            };
            if text.is_empty() {
                return Err(Problem::at(item, format!("`{key}` is empty")));
            }
            read(text).map_err(|problem| Problem::at(item, format!("`{key}`: {problem}")))
        })
        .collect()
}

/// A port, a list of ports as `--port` takes it, or a list of either.
pub(super) fn ports(key: &str, value: &Value<'_>) -> Result<PortSet, Problem> {
    const EXPECTED: &str = "a number, a string such as \"8000-8010\" or a list of these";

    let sets: Vec<PortSet> = items(key, value)?
        .map(|item| match item.get_ref() {
            DeValue::Integer(integer) => match integer_value(integer).map(u16::try_from) {
                Some(Ok(port)) if port != 0 => Ok(PortSet::from(port)),
                _ => Err(Problem::at(
                    item,
                    format!(
                        "`{key}`: {} is not a port, which is a number from 1 to 65535",
                        number(integer)
                    ),
                )),
            },
            DeValue::String(list) => {
                list.parse().map_err(|problem| Problem::at(item, format!("`{key}`: {problem}")))
            }
            _ => Err(wrong_type(key, EXPECTED, item)),
        })
        .collect::<Result<_, _>>()?;
    Ok(sets.iter().flat_map(PortSet::iter).collect())
}

/// A calendar date without a time.
pub(super) fn date(key: &str, value: &Value<'_>) -> Result<Date, Problem> {
    const EXPECTED: &str = "a date without quotes such as 2027-06-30";

    let Some(datetime) = value.get_ref().as_datetime() else {
        return Err(wrong_type(key, EXPECTED, value));
    };
    let no_date = || Problem::at(value, format!("`{key}` must be {EXPECTED}, without a time"));
    let (Some(date), None) = (datetime.date, datetime.time) else {
        return Err(no_date());
    };
    match (i16::try_from(date.year), i8::try_from(date.month), i8::try_from(date.day)) {
        (Ok(year), Ok(month), Ok(day)) => Date::new(year, month, day)
            .map_err(|error| Problem::at(value, line(&error.to_string()))),
        _ => Err(no_date()),
    }
}

/// The version of the format: there is only one.
pub(super) fn version(value: &Value<'_>) -> Result<(), Problem> {
    match value.get_ref() {
        DeValue::Integer(integer) if integer_value(integer) == Some(1) => Ok(()),
        DeValue::Integer(integer) => Err(Problem::at(
            value,
            format!("version {} is not supported, this portwatch reads version 1", number(integer)),
        )),
        _ => Err(wrong_type("version", "the number 1", value)),
    }
}

pub(super) fn transport(text: &str) -> Result<Transport, String> {
    [Transport::Tcp, Transport::Udp]
        .into_iter()
        .find(|transport| transport.name() == text)
        .ok_or_else(|| format!("`{}` is neither tcp nor udp", quoted(text)))
}

pub(super) fn address(text: &str) -> Result<AddressPin, String> {
    let net = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(net), _) => net,
        (_, Ok(ip)) => IpNet::from(ip),
        _ => {
            let text = quoted(text);
            return Err(format!("`{text}` is neither an IP address nor a CIDR such as 10.0.0.0/8"));
        }
    };
    if net.addr() != net.network() {
        let text = quoted(text);
        return Err(format!("`{text}` has bits set after its prefix, write {}", net.trunc()));
    }
    match net.addr() {
        // Bound addresses are shown as IPv4 where they are: this would never match.
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            Err(format!("`{}` is IPv4 mapped into IPv6, write it as IPv4", quoted(text)))
        }
        _ => Ok(AddressPin(net)),
    }
}

pub(super) fn exe(text: &str) -> Result<Pattern, String> {
    if !text.starts_with('/') {
        return Err(format!("`{}` would never match, begin it with `/`", quoted(text)));
    }
    glob(text, true)
}

pub(super) fn unit(text: &str) -> Result<Pattern, String> {
    // systemd escapes `-` in names as `\x2d`: such a name can be pasted as it is.
    glob(text, false)
}

pub(super) fn sha256(text: &str) -> Result<String, String> {
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("`{}` is not hexadecimal", quoted(text)));
    }
    if text.len() != 64 {
        return Err(format!("has {} hexadecimal digits instead of 64", text.len()));
    }
    Ok(text.to_ascii_lowercase())
}

/// The name of a package: what dpkg and rpm allow as one.
pub(super) fn package(text: &str) -> Result<String, String> {
    let is_name = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_'))
    };
    match text.split_once(':') {
        None if is_name(text) => Ok(text.to_owned()),
        Some((name, _)) if is_name(name) => {
            Err(format!("`{}`: write {name}, without the architecture", quoted(text)))
        }
        _ => Err(format!("`{}` is not the name of a package", quoted(text))),
    }
}

/// A container image, as its runtime names it.
pub(super) fn image(text: &str) -> Result<String, String> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("`{}` is not the name of an image", quoted(text)));
    }
    Ok(text.to_owned())
}

pub(super) fn wrong_type(key: &str, expected: &str, value: &Value<'_>) -> Problem {
    let found = value.get_ref().type_str();
    Problem::at(value, format!("`{key}` must be {expected}, found {found}"))
}

/// Foreign text for the middle of a one-line message.
pub(super) fn quoted(text: &str) -> String {
    escape::truncate(text, MAX_QUOTED).into_owned()
}

/// A message of a library, in one line.
pub(super) fn line(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    escape::escape(&lines.join(", ")).into_owned()
}

fn items<'v, 't>(
    key: &str,
    value: &'v Value<'t>,
) -> Result<impl Iterator<Item = &'v Value<'t>>, Problem> {
    let list = value.get_ref().as_array();
    if list.is_some_and(|list| list.is_empty()) {
        return Err(Problem::at(value, format!("`{key}` is an empty list, leave it out")));
    }
    let single = list.is_none().then_some(value);
    Ok(list.into_iter().flatten().chain(single))
}

/// A number, for the middle of a one-line message: the library takes text for one that has control characters.
fn number(integer: &DeInteger<'_>) -> String {
    quoted(&integer.to_string())
}

fn integer_value(integer: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn glob(text: &str, backslash_escape: bool) -> Result<Pattern, String> {
    if text.len() > MAX_GLOB_BYTES {
        return Err(format!("is longer than {MAX_GLOB_BYTES} bytes"));
    }
    let not_a_glob = |error: globset::Error| {
        let reason = match error.kind() {
            // What the library says of its own regular expression helps nobody.
            ErrorKind::Regex(_) => "nested too deep or too large".to_owned(),
            kind => line(&kind.to_string()),
        };
        format!("`{}` is not a glob: {reason}", quoted(text))
    };
    let glob = GlobBuilder::new(text)
        // `*` stays inside one directory, `**` does not.
        .literal_separator(true)
        .backslash_escape(backslash_escape)
        .build()
        .map_err(not_a_glob)?;
    // A set of one, since compiling a glob by itself panics when it is nested too deep.
    let matcher = GlobSet::builder().add(glob).build().map_err(not_a_glob)?;
    Ok(Pattern { text: text.to_owned(), matcher })
}
