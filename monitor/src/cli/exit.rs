//! Ends that the command line itself brings about: help, version, and bad usage in exactly one line.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, CommandFactory as _, Error};

use super::Cli;
use crate::escape;

/// Columns of a value that the line quotes.
const MAX_QUOTED: usize = 60;

/// How to end instead of running.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Exit {
    /// Asked for: text for stdout. It has the escape sequences of a terminal, which `anstream`
    /// removes where there is none.
    Answer(String),
    /// Bad usage: one line for stderr, without its newline.
    Usage(String),
}

impl Exit {
    /// The exit code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Answer(_) => 0,
            Self::Usage(_) => 2,
        }
    }
}

/// clap's answer as ours: its errors take several lines, scripts are promised one.
pub(super) fn fold(error: &Error) -> Exit {
    if let ErrorKind::DisplayHelp | ErrorKind::DisplayVersion = error.kind() {
        return Exit::Answer(error.render().ansi().to_string());
    }
    let line = format!("portwatch: {}", sentence(error));
    // Values are escaped where they are quoted; this keeps the promise whatever clap says.
    Exit::Usage(line.replace(char::is_control, " "))
}

fn sentence(error: &Error) -> String {
    let option = argument(error);
    let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
    let quoted = escape::truncate(value, MAX_QUOTED);
    match error.kind() {
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("'{option}' needs a value{}", choices(error, ": "))
        }
        ErrorKind::InvalidValue => {
            format!("invalid value '{quoted}' for '{option}': write {}", choices(error, ""))
        }
        ErrorKind::ValueValidation => {
            let reason = error.source().map(ToString::to_string).unwrap_or_default();
            format!("invalid value '{quoted}' for '{option}': {reason}")
        }
        ErrorKind::UnknownArgument => unknown_argument(error, &option),
        ErrorKind::InvalidSubcommand => {
            let name = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            let name = escape::truncate(name, MAX_QUOTED);
            match strings(error, ContextKind::SuggestedSubcommand) {
                // The most similar is the last.
                [.., meant] => format!("unknown subcommand '{name}', did you mean '{meant}'?"),
                [] => format!("unknown subcommand '{name}', see 'portwatch --help'"),
            }
        }
        ErrorKind::MissingSubcommand => {
            let names = strings(error, ContextKind::ValidSubcommand);
            let is_hidden = |name: &String| {
                Cli::command().find_subcommand(name).is_some_and(clap::Command::is_hide_set)
            };
            let offered: Vec<String> =
                names.iter().filter(|name| !is_hidden(name)).cloned().collect();
            format!("a subcommand is missing: {}", alternatives(&offered))
        }
        ErrorKind::TooManyValues => format!("'{option}' takes no value, found '{quoted}'"),
        ErrorKind::ArgumentConflict => match prior(error) {
            Some(other) if other != option => {
                format!("'{option}' and '{other}' exclude each other")
            }
            _ => format!("'{option}' is given twice"),
        },
        ErrorKind::MissingRequiredArgument => {
            let missing = strings(error, ContextKind::InvalidArg);
            format!("{} is missing, see 'portwatch --help'", alternatives(missing))
        }
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8".to_owned(),
        kind => kind.as_str().unwrap_or("bad usage").to_owned(),
    }
}

fn unknown_argument(error: &Error, shown: &str) -> String {
    if !shown.starts_with('-') {
        return format!("unexpected argument '{shown}', a command to run goes after 'watch --'");
    }
    let homes: Vec<String> = Cli::command()
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .filter(|command| command.get_arguments().any(|argument| is_named(argument, shown)))
        .map(|command| format!("'portwatch {}'", command.get_name()))
        .collect();
    match (&*homes, text(error, ContextKind::SuggestedArg)) {
        ([], None) => format!("unknown option '{shown}'"),
        ([], Some(meant)) => format!("unknown option '{shown}', did you mean '{meant}'?"),
        (homes, _) => {
            format!("unknown option '{shown}' here, it is one of {}", listed(homes, "and"))
        }
    }
}

fn is_named(argument: &Arg, option: &str) -> bool {
    match option.strip_prefix("--") {
        Some(long) => argument.get_long() == Some(long),
        None => argument.get_short().is_some_and(|short| option.chars().eq(['-', short])),
    }
}

/// The option or argument it is about.
fn argument(error: &Error) -> String {
    bare(text(error, ContextKind::InvalidArg).unwrap_or_default())
}

/// The option that came before and excludes it.
fn prior(error: &Error) -> Option<String> {
    match error.get(ContextKind::PriorArg)? {
        ContextValue::String(argument) => Some(bare(argument)),
        ContextValue::Strings(arguments) => arguments.first().map(|argument| bare(argument)),
        _ => None,
    }
}

/// Without the name of its value: `--port` of `--port <PORTS>`.
fn bare(argument: &str) -> String {
    let name = match argument.split_once(" <") {
        Some((name, _)) if argument.starts_with('-') => name,
        _ => argument,
    };
    escape::truncate(name, MAX_QUOTED).into_owned()
}

/// The values there are, after `prefix`; nothing where there is no such list.
fn choices(error: &Error, prefix: &str) -> String {
    match strings(error, ContextKind::ValidValue) {
        [] => String::new(),
        values => format!("{prefix}{}", alternatives(values)),
    }
}

fn alternatives(words: &[String]) -> String {
    listed(words, "or")
}

fn listed(words: &[String], conjunction: &str) -> String {
    match words {
        [words @ .., last] if !words.is_empty() => {
            format!("{} {conjunction} {last}", words.join(", "))
        }
        words => words.concat(),
    }
}

fn text(error: &Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    }
}

fn strings(error: &Error, kind: ContextKind) -> &[String] {
    match error.get(kind) {
        Some(ContextValue::Strings(strings)) => strings,
        _ => &[],
    }
}
