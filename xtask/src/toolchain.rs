//! The Rust toolchains of this machine, and which of them can build the kernel object.
//!
//! No toolchain ships `core` for a BPF target, so it is built from source: that takes the sources, and
//! `-Z build-std`, which a stable compiler accepts only with `RUSTC_BOOTSTRAP=1`.

use std::ffi::{OsStr, OsString};
use std::path::{self, Path, PathBuf};
use std::process::Command;
use std::{env, fmt};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::command;

/// The variable with which a user names the toolchain.
pub(crate) const REQUEST: &str = "PORTWATCH_EBPF_TOOLCHAIN";

/// A Rust toolchain that is installed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Toolchain {
    /// Its cargo.
    pub(crate) cargo: PathBuf,
    /// Its compiler.
    pub(crate) rustc: PathBuf,
    /// What its compiler says of itself.
    pub(crate) compiler: Compiler,
    /// Whether the sources of `core` are there.
    pub(crate) has_sources: bool,
}

/// What `rustc -vV` says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Compiler {
    /// The first line, which changes with each build of the compiler.
    pub(crate) version: String,
    /// Major and minor number of the release.
    pub(crate) release: (u32, u32),
    /// Whether it accepts `-Z` options as it is.
    pub(crate) is_nightly: bool,
    /// Major number of the LLVM that writes its bitcode.
    pub(crate) llvm: u32,
}

impl Toolchain {
    /// The toolchain that the cargo at this path belongs to.
    pub(crate) fn of_cargo(cargo: &Path) -> Result<Self> {
        let rustc = rustc_beside(cargo)?;
        let compiler = Compiler::ask(&rustc)?;
        let sysroot = command::output(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        Ok(Self { cargo: cargo.to_path_buf(), rustc, compiler, has_sources: sources.is_dir() })
    }

    /// The toolchain that rustup knows by this name.
    pub(crate) fn of_rustup(name: &str) -> Result<Self> {
        let mut which = Command::new("rustup");
        let cargo = command::output(which.args(["which", "cargo", "--toolchain", name]))?;
        Self::of_cargo(Path::new(cargo.trim()))
    }

    /// The toolchain a user asked for: the name of a rustup toolchain or the path of a cargo.
    pub(crate) fn requested(request: &OsStr) -> Result<Self> {
        let explain = || format!("use {REQUEST}={}", request.to_string_lossy());
        let toolchain = match request.to_str() {
            Some(name) if !name.contains('/') => Self::of_rustup(name),
            _ => Self::of_cargo(&path::absolute(request)?),
        }
        .with_context(explain)?;
        ensure!(toolchain.has_sources, "{}: {toolchain} has no rust-src", explain());
        ensure!(toolchain.is_recent(), "{}: {toolchain} is older than {MINIMUM}", explain());
        Ok(toolchain)
    }

    /// Whether it can build the kernel object.
    pub(crate) fn is_usable(&self) -> bool {
        self.has_sources && self.is_recent()
    }

    /// Whether it is new enough for this workspace.
    pub(crate) fn is_recent(&self) -> bool {
        release_numbers(MINIMUM).is_ok_and(|minimum| self.compiler.release >= minimum)
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cargo, rustc: _, compiler, has_sources: _ } = self;
        let Compiler { version, release: _, is_nightly: _, llvm } = compiler;
        write!(formatter, "{version}, LLVM {llvm}, {}", cargo.display())
    }
}

impl Compiler {
    /// Asks the compiler at this path.
    pub(crate) fn ask(rustc: &Path) -> Result<Self> {
        Self::parse(&command::output(Command::new(rustc).arg("-vV"))?)
            .with_context(|| format!("understand `{} -vV`", rustc.display()))
    }

    fn parse(report: &str) -> Result<Self> {
        let field = |name: &str| {
            let mut lines = report.lines();
            lines
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .ok_or_else(|| anyhow!("no line `{name}: …`"))
        };
        let release = field("release")?;
        let llvm = field("LLVM version")?;
        let llvm_major = llvm.split('.').next().unwrap_or_default();
        Ok(Self {
            version: report.lines().next().unwrap_or_default().to_owned(),
            release: release_numbers(release)?,
            is_nightly: release.ends_with("-nightly") || release.ends_with("-dev"),
            llvm: llvm_major.parse().with_context(|| format!("read LLVM version {llvm:?}"))?,
        })
    }
}

/// What the user asked for, if anything.
pub(crate) fn request() -> Option<OsString> {
    env::var_os(REQUEST).filter(|request| !request.is_empty())
}

/// The names of rustup's toolchains; none without rustup.
pub(crate) fn rustup_names() -> Vec<String> {
    command::output(Command::new("rustup").args(["toolchain", "list"]))
        .map(|list| parse_rustup_list(&list))
        .unwrap_or_default()
}

/// The toolchains that do not come from rustup, by the cargos on the `PATH`.
pub(crate) fn outside_rustup() -> Vec<Toolchain> {
    let cargos = command::programs("cargo").filter(|cargo| !is_rustup_proxy(cargo));
    cargos.filter_map(|cargo| Toolchain::of_cargo(&cargo).ok()).collect()
}

/// In rustup's directory of programs, each is rustup itself and stands for the default toolchain.
fn is_rustup_proxy(cargo: &Path) -> bool {
    cargo.with_file_name("rustup").exists()
}

/// The compiler that belongs to a cargo: beside it and, in Debian's packages of several versions,
/// with the same suffix.
fn rustc_beside(cargo: &Path) -> Result<PathBuf> {
    let name = cargo.file_name().and_then(OsStr::to_str);
    let suffix = name.and_then(|name| name.strip_prefix("cargo"));
    let suffix = suffix.with_context(|| format!("{} is not a cargo", cargo.display()))?;
    Ok(cargo.with_file_name(format!("rustc{suffix}")))
}

fn parse_rustup_list(list: &str) -> Vec<String> {
    // A line may end in `(active, default)`, and without toolchains there is only a sentence.
    list.lines()
        .filter(|line| !line.starts_with("no installed toolchains"))
        .filter_map(|line| line.split_whitespace().next())
        .map(ToOwned::to_owned)
        .collect()
}

fn release_numbers(release: &str) -> Result<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(anyhow!("read release {release:?}")),
    }
}

/// The oldest compiler this workspace builds with.
const MINIMUM: &str = env!("CARGO_PKG_RUST_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY: &str = "\
rustc 1.97.0-nightly (e50aa6fba 2026-05-19)
binary: rustc
commit-hash: e50aa6fba4e63ab34c72bf9acfd2c307c1155d1a
commit-date: 2026-05-19
host: x86_64-unknown-linux-gnu
release: 1.97.0-nightly
LLVM version: 22.1.4
";

    #[test]
    fn a_compiler_tells_its_release_and_its_llvm() {
        let compiler = Compiler::parse(NIGHTLY).unwrap();

        let version = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)".to_owned();
        let expected = Compiler { version, release: (1, 97), is_nightly: true, llvm: 22 };
        assert_eq!(compiler, expected);
    }

    #[test]
    fn a_release_is_not_a_nightly() {
        let compiler = Compiler::parse(&NIGHTLY.replace("-nightly", "")).unwrap();

        assert!(!compiler.is_nightly);
    }

    #[test]
    fn a_compiler_without_llvm_is_refused_by_the_missing_line() {
        let error = Compiler::parse("rustc 1.97.0\nrelease: 1.97.0\n").unwrap_err();

        assert_eq!(error.to_string(), "no line `LLVM version: …`");
    }

    #[test]
    fn a_toolchain_is_usable_with_sources_and_a_recent_compiler() {
        let usable = toolchain((1, 99), true);
        let without_sources = toolchain((1, 99), false);
        let old = toolchain((1, 63), true);

        assert!(usable.is_usable());
        assert!(!without_sources.is_usable());
        assert!(!old.is_usable());
    }

    #[test]
    fn rustup_lists_names_with_remarks() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\nnightly\n";

        assert_eq!(parse_rustup_list(list), ["stable-x86_64-unknown-linux-gnu", "nightly"]);
        assert!(parse_rustup_list("no installed toolchains\n").is_empty());
    }

    #[test]
    fn a_compiler_has_the_suffix_of_its_cargo() {
        let of = |cargo: &str| rustc_beside(Path::new(cargo)).unwrap();

        assert_eq!(of("/usr/bin/cargo"), Path::new("/usr/bin/rustc"));
        assert_eq!(of("/usr/bin/cargo-1.96"), Path::new("/usr/bin/rustc-1.96"));
        assert!(rustc_beside(Path::new("/usr/bin/make")).is_err());
    }

    fn toolchain(release: (u32, u32), has_sources: bool) -> Toolchain {
        let compiler = Compiler { version: String::new(), release, is_nightly: false, llvm: 22 };
        Toolchain { cargo: PathBuf::new(), rustc: PathBuf::new(), compiler, has_sources }
    }
}
