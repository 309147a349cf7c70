//! `.ebpf-toolchain`: which toolchain and linker build the kernel object on this machine.
//!
//! `cargo xtask setup` writes it and `monitor/build.rs` reads it: lines of `key = value`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;
use crate::toolchain::{Compiler, Toolchain};

/// What it takes to build the kernel object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Recipe {
    /// What the user asked for, empty when the choice was ours.
    request: String,
    /// The cargo that builds it.
    cargo: PathBuf,
    /// The compiler of that cargo.
    rustc: PathBuf,
    /// What the compiler said of itself, so that another one in its place is noticed.
    version: String,
    /// Whether the compiler takes unstable options only with `RUSTC_BOOTSTRAP=1`.
    bootstrap: bool,
    /// The path of bpf-linker.
    linker: PathBuf,
}

impl Recipe {
    /// The recipe for this toolchain and linker.
    pub(crate) fn new(request: Option<&OsStr>, toolchain: Toolchain, linker: PathBuf) -> Self {
        let Toolchain { cargo, rustc, compiler, has_sources: _ } = toolchain;
        Self {
            request: request.unwrap_or_default().to_string_lossy().into_owned(),
            cargo,
            rustc,
            bootstrap: !compiler.is_nightly,
            version: compiler.version,
            linker,
        }
    }

    /// The recipe at this path, if there is one that still holds.
    ///
    /// A user who asks for nothing keeps what was asked for earlier.
    pub(crate) fn read(path: &Path, request: Option<&OsStr>) -> Option<Self> {
        let recipe = Self::parse(&fs::read_to_string(path).ok()?)?;
        let is_same_request =
            request.is_none_or(|request| request.to_string_lossy() == recipe.request);
        let is_there = recipe.cargo.is_file() && recipe.linker.is_file();
        let is_same_compiler = || {
            Compiler::ask(&recipe.rustc).is_ok_and(|compiler| compiler.version == recipe.version)
        };
        (is_same_request && is_there && is_same_compiler()).then_some(recipe)
    }

    /// The cargo of the kernel object, in the root of the workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(&self.cargo);
        cargo.env("RUSTC", &self.rustc).current_dir(command::workspace());
        if self.bootstrap {
            cargo.env("RUSTC_BOOTSTRAP", "1");
        }
        cargo
    }

    /// Writes the recipe to this path.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.render()).with_context(|| format!("write {}", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
        };
        Some(Self {
            request: value("request").unwrap_or_default().to_owned(),
            cargo: PathBuf::from(value("cargo")?),
            rustc: PathBuf::from(value("rustc")?),
            version: value("version")?.to_owned(),
            bootstrap: value("bootstrap")? == "yes",
            linker: PathBuf::from(value("linker")?),
        })
    }

    fn render(&self) -> String {
        let Self { request, cargo, rustc, version, bootstrap, linker } = self;
        let (cargo, rustc, linker) = (cargo.display(), rustc.display(), linker.display());
        let bootstrap = if *bootstrap { "yes" } else { "no" };
        format!(
            "# What builds the kernel object on this machine; written by `cargo xtask setup`.\n\
             request = {request}\n\
             cargo = {cargo}\n\
             rustc = {rustc}\n\
             version = {version}\n\
             bootstrap = {bootstrap}\n\
             linker = {linker}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_reads_as_it_was_written() {
        let recipe = recipe();

        assert_eq!(Recipe::parse(&recipe.render()), Some(recipe));
    }

    #[test]
    fn the_build_script_finds_these_lines() {
        let text = recipe().render();

        assert!(text.contains("\ncargo = /usr/bin/cargo\n"));
        assert!(text.contains("\nrustc = /usr/bin/rustc\n"));
        assert!(text.contains("\nbootstrap = yes\n"));
        assert!(text.contains("\nlinker = /opt/with space/bpf-linker\n"));
    }

    #[test]
    fn a_recipe_that_lacks_a_line_is_none() {
        let text = recipe().render().replace("linker = ", "linker: ");

        assert_eq!(Recipe::parse(&text), None);
    }

    #[test]
    fn a_recipe_whose_cargo_is_gone_does_not_hold() {
        let path = std::env::temp_dir().join(format!("portwatch-recipe-{}", std::process::id()));
        let gone = Recipe { cargo: PathBuf::from("/no/such/cargo"), ..recipe() };
        gone.write(&path).unwrap();

        let read = Recipe::read(&path, None);
        fs::remove_file(&path).unwrap();

        assert_eq!(read, None);
    }

    fn recipe() -> Recipe {
        Recipe {
            request: String::new(),
            cargo: PathBuf::from("/usr/bin/cargo"),
            rustc: PathBuf::from("/usr/bin/rustc"),
            version: "rustc 1.96.0 (ac68faa20 2026-05-25)".to_owned(),
            bootstrap: true,
            linker: PathBuf::from("/opt/with space/bpf-linker"),
        }
    }
}
