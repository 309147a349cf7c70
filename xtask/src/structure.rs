//! What no lint looks at: the direction of module dependencies, the size of files, their first line.
//!
//! Each check takes the text of files and gives its complaints, one line each.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command;

/// A file of Rust code.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Source {
    /// The path, from the root of the workspace.
    path: PathBuf,
    text: String,
}

/// Complains of uses of a module that stands below the user in `monitor/src/lib.rs`.
pub(crate) fn module_order() -> Result<Vec<String>> {
    let sources = sources("monitor/src")?;
    let is_root = |source: &&Source| source.path.ends_with("monitor/src/lib.rs");
    let root = sources.iter().find(is_root).context("find monitor/src/lib.rs")?;
    let modules = declared_modules(&root.text);
    Ok(sources.iter().flat_map(|source| downward_uses(source, &modules)).collect())
}

/// Complains of ways into the core past `Pipeline::apply`: what it is told there can be recorded.
pub(crate) fn pipeline_inputs() -> Result<Vec<String>> {
    let sources = sources("monitor/src")?;
    let core = sources.iter().filter(|source| source.module() == Some("pipeline"));
    Ok(core.filter(|source| !source.is_of_tests()).flat_map(side_entrances).collect())
}

/// Public methods that change the pipeline. What only takes out what is there is none.
fn side_entrances(source: &Source) -> Vec<String> {
    let signature = |text: &'_ str| -> Option<String> {
        let (name, rest) = text.split_once('(')?;
        let changes = rest.trim_start().starts_with("&mut self");
        let is_known = name.starts_with("take_") || ["apply", "tap"].contains(&name);
        (changes && !is_known).then(|| name.to_owned())
    };
    let code = without_comments(&source.text);
    let public = code.split("pub fn ").skip(1).chain(code.split("pub const fn ").skip(1));
    public
        .filter_map(signature)
        .map(|name| {
            let path = source.path.display();
            format!("{path}: `{name}` goes past `Pipeline::apply`: make it an `Input`")
        })
        .collect()
}

/// Complains of files that are too long to read.
pub(crate) fn file_length() -> Result<Vec<String>> {
    let complaint = |source: &Source| {
        let length = length_without_tests(&source.text);
        let complaint =
            || format!("{}: {length} lines; at most {MAX_LINES}", source.path.display());
        (length > MAX_LINES).then(complaint)
    };
    Ok(all_sources()?.iter().filter_map(complaint).collect())
}

/// Complains of files that do not begin by saying what they are.
pub(crate) fn file_purpose() -> Result<Vec<String>> {
    let complaint =
        |source: &Source| format!("{}: does not begin with `//!`", source.path.display());
    let sources = all_sources()?;
    Ok(sources.iter().filter(|source| !states_purpose(&source.text)).map(complaint).collect())
}

fn all_sources() -> Result<Vec<Source>> {
    let packages = ["monitor", "monitor-ebpf", "tests", "xtask"];
    let sources = packages.into_iter().map(sources).collect::<Result<Vec<_>>>()?;
    Ok(sources.concat())
}

/// The files of Rust code below a directory of the workspace, in the order of their paths.
fn sources(directory: &str) -> Result<Vec<Source>> {
    let mut paths = Vec::new();
    let mut directories = vec![command::workspace().join(directory)];
    while let Some(directory) = directories.pop() {
        let reading = || format!("read {}", directory.display());
        for entry in fs::read_dir(&directory).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let kind = entry.file_type().with_context(reading)?;
            let path = entry.path();
            if kind.is_dir() && entry.file_name() != "target" {
                directories.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs")
            {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| Source::read(path)).collect()
}

impl Source {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let path = path.strip_prefix(command::workspace()).unwrap_or(path).to_path_buf();
        Ok(Self { path, text })
    }

    /// It holds nothing but tests.
    fn is_of_tests(&self) -> bool {
        self.path.iter().any(|part| part == "tests" || part == "tests.rs")
    }

    /// The module of the library that this file is, or is part of.
    fn module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("monitor/src").ok()?;
        Path::new(below.iter().next()?).file_stem()?.to_str()
    }
}

/// The modules that the root of a library declares, in their order there.
fn declared_modules(root: &str) -> Vec<&str> {
    let declared = |line: &'_ str| -> Option<(usize, usize)> {
        let name = line.strip_suffix(';')?;
        let start = name.rfind("mod ")?.checked_add("mod ".len())?;
        let before = name.get(..start)?;
        (before == "mod " || before.starts_with("pub")).then_some((start, name.len()))
    };
    root.lines()
        .filter_map(|line| declared(line).and_then(|(from, to)| line.get(from..to)))
        .collect()
}

fn downward_uses(source: &Source, modules: &[&str]) -> Vec<String> {
    let position = |name: &str| modules.iter().position(|module| *module == name);
    let Some(own) = source.module().and_then(position) else { return Vec::new() };
    let is_below = |(_, name): &(usize, &str)| position(name).is_some_and(|other| other > own);
    let code = without_comments(&source.text);
    let complaint = |(line, name)| {
        format!("{}:{line}: uses crate::{name}, which lib.rs declares below", source.path.display())
    };
    crate_uses(&code).into_iter().filter(is_below).map(complaint).collect()
}

/// The names that follow `crate::` in `code`, each with its line.
fn crate_uses(code: &str) -> Vec<(usize, &str)> {
    let mut uses = Vec::new();
    let mut line = 1usize;
    let mut rest = code;
    while let Some((before, after)) = rest.split_once("crate::") {
        line = line.saturating_add(before.matches('\n').count());
        match after.strip_prefix('{') {
            Some(group) => uses.extend(group_names(group).into_iter().map(|name| (line, name))),
            None => uses.push((line, leading_name(after))),
        }
        rest = after;
    }
    uses
}

/// The first name of each path in `{a, b::c, d::{e, f}}`, given what follows the opening brace.
fn group_names(group: &str) -> Vec<&str> {
    let mut depth = 0usize;
    let mut starts_path = true;
    let mut names = Vec::new();
    for (position, letter) in group.char_indices() {
        match letter {
            '{' => depth = depth.saturating_add(1),
            '}' if depth == 0 => break,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => starts_path = true,
            _ if starts_path && is_name_letter(letter) => {
                starts_path = false;
                names.extend(group.get(position..).map(leading_name));
            }
            _ => {}
        }
    }
    names
}

fn leading_name(text: &str) -> &str {
    let end = text.find(|letter| !is_name_letter(letter)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

fn is_name_letter(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The code with its line comments cut off, so that prose may name what lies below.
fn without_comments(text: &str) -> String {
    let code = |line: &'_ str| line.find("//").unwrap_or(line.len());
    let lines: Vec<&str> = text.lines().filter_map(|line| line.get(..code(line))).collect();
    lines.join("\n")
}

/// The number of lines before the unit tests.
fn length_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.iter().position(|line| *line == "mod tests {");
    let code = lines.get(..tests.unwrap_or(lines.len())).unwrap_or_default();
    // The attributes of the module belong to it.
    let attributes = code.iter().rev().take_while(|line| line.starts_with("#["));
    code.len().saturating_sub(attributes.count())
}

/// Whether the first line, but for inner attributes and a shebang, is documentation.
fn states_purpose(text: &str) -> bool {
    let is_preamble = |line: &&str| line.is_empty() || line.starts_with("#!");
    text.lines().find(|line| !is_preamble(line)).is_some_and(|line| line.starts_with("//!"))
}

/// The number of lines, without unit tests, that a file may have.
const MAX_LINES: usize = 600;

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "\
//! A library.
pub mod host;

mod flow;
pub(crate) mod policy;
pub use host::Host;
";

    #[test]
    fn modules_are_declared_in_an_order() {
        assert_eq!(declared_modules(ROOT), ["host", "flow", "policy"]);
    }

    #[test]
    fn a_use_of_a_module_below_is_a_complaint() {
        let flow =
            source("flow.rs", "//! Flows.\nuse crate::host::Host;\nuse crate::policy::Rule;\n");

        let complaints = downward_uses(&flow, &declared_modules(ROOT));

        let expected = "monitor/src/flow.rs:3: uses crate::policy, which lib.rs declares below";
        assert_eq!(complaints, [expected]);
    }

    #[test]
    fn a_use_in_a_group_or_in_a_submodule_counts_too() {
        let table = source("host/table.rs", "use crate::{\n    flow::{Key, policy}, host};\n");

        let complaints = downward_uses(&table, &declared_modules(ROOT));

        let expected = "monitor/src/host/table.rs:1: uses crate::flow, which lib.rs declares below";
        assert_eq!(complaints, [expected]);
    }

    #[test]
    fn uses_of_itself_of_modules_above_and_in_comments_are_fine() {
        let text = "//! See [`crate::policy`].\nuse crate::flow::Key; // crate::policy\nuse crate::host;\n";
        let flow = source("flow.rs", text);

        assert!(downward_uses(&flow, &declared_modules(ROOT)).is_empty());
    }

    #[test]
    fn the_program_stands_outside_the_order() {
        let main = source("main.rs", "use crate::policy;\n");

        assert!(downward_uses(&main, &declared_modules(ROOT)).is_empty());
    }

    #[test]
    fn a_way_into_the_core_past_its_inputs_is_a_complaint() {
        let text = "impl Pipeline {\n    pub fn hear(\n        &mut self,\n    ) {}\n}\n";
        let hearing = source("pipeline/hearing.rs", text);

        let expected = "monitor/src/pipeline/hearing.rs: `hear` goes past `Pipeline::apply`: make it an \
                        `Input`";
        assert_eq!(side_entrances(&hearing), [expected]);
    }

    #[test]
    fn what_is_told_asked_or_taken_out_is_no_way_past_the_inputs() {
        let text = "pub fn apply(&mut self, input: Input<'_>) {}\npub fn is_settled(&self) {}\n\
                    pub const fn take_reports(&mut self) {}\npub(super) fn hear(&mut self) {}\n";

        assert!(side_entrances(&source("pipeline.rs", text)).is_empty());
    }

    #[test]
    fn unit_tests_do_not_make_a_file_long() {
        let code = "fn work() {}\n".repeat(5);
        let tests = "#[cfg(test)]\n#[expect(dead_code, reason = \"a model\")]\nmod tests {\n}\n";

        assert_eq!(length_without_tests(&code), 5);
        assert_eq!(length_without_tests(&format!("{code}{tests}")), 5);
    }

    #[test]
    fn a_file_begins_with_its_purpose() {
        assert!(states_purpose("//! Flows.\nuse std::fmt;\n"));
        assert!(states_purpose("#![no_std]\n\n//! Flows.\n"));
        assert!(!states_purpose("use std::fmt;\n//! Flows.\n"));
        assert!(!states_purpose(""));
    }

    #[test]
    fn this_file_is_among_the_sources() {
        let sources = all_sources().unwrap();

        let this = sources.iter().find(|source| source.path == Path::new("xtask/src/structure.rs"));
        assert!(this.unwrap().text.starts_with("//! What no lint looks at"));
    }

    fn source(name: &str, text: &str) -> Source {
        Source { path: Path::new("monitor/src").join(name), text: text.to_owned() }
    }
}
