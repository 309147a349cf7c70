//! bpf-linker, which turns the bitcode of the kernel programs into the object.
//!
//! It reads what the compiler writes, so that its LLVM must be at least the compiler's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::command::{self, say};
use crate::packages::Installer;

/// How a bpf-linker can be had that reads the bitcode of some compiler.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Linker {
    /// It is there.
    Installed(PathBuf),
    /// It has to be built against an LLVM that is there.
    ToBuild(Llvm),
    /// It has to be built against an LLVM that has to be installed: this major number of it.
    ToBuildWithPackage(u32, Installer),
}

/// An LLVM that a program can be linked against.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Llvm {
    major: u32,
    prefix: PathBuf,
}

impl Linker {
    /// The easiest way to a linker for bitcode of this LLVM; none when it cannot be had.
    pub(crate) fn find(llvm: u32) -> Option<Self> {
        let is_suitable = |path: &PathBuf| {
            version(path).is_some_and(|version| version >= VERSION)
                && fs::read(path).is_ok_and(|program| llvm_of_program(&program) >= Some(llvm))
        };
        let installed = candidates().find(is_suitable).map(Self::Installed);
        installed.or_else(|| Llvm::installed(llvm).map(Self::ToBuild)).or_else(|| {
            let installer = Installer::find()?;
            let mut majors = BUILDABLE.iter().filter(|major| **major >= llvm);
            let offered = |major: &&u32| installer.offers(&[llvm_package(**major)]);
            majors.find(offered).map(|major| Self::ToBuildWithPackage(*major, installer))
        })
    }

    /// Installs what is missing and gives the path of the linker.
    pub(crate) fn install(self) -> Result<PathBuf> {
        match self {
            Self::Installed(path) => Ok(path),
            Self::ToBuild(llvm) => llvm.build_linker(),
            Self::ToBuildWithPackage(major, installer) => {
                installer.install(&[llvm_package(major)])?;
                let llvm = Llvm::installed(major)
                    .with_context(|| format!("find LLVM {major} after its installation"))?;
                llvm.build_linker()
            }
        }
    }
}

impl Llvm {
    /// The oldest LLVM on this machine that is at least `minimum` and that bpf-linker knows.
    fn installed(minimum: u32) -> Option<Self> {
        let packaged = BUILDABLE.iter().map(|major| {
            let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
            Self { major: *major, prefix }
        });
        packaged
            .chain(Self::of_config())
            .filter(|llvm| llvm.major >= minimum && BUILDABLE.contains(&llvm.major))
            .find(|llvm| llvm.prefix.join("lib/libLLVM.so").exists())
    }

    /// The LLVM that the `llvm-config` on the `PATH` tells of.
    fn of_config() -> Option<Self> {
        let ask = |question| command::output(Command::new("llvm-config").arg(question)).ok();
        let version = ask("--version")?;
        let major = version.split('.').next()?.parse().ok()?;
        Some(Self { major, prefix: PathBuf::from(ask("--prefix")?.trim()) })
    }

    fn build_linker(&self) -> Result<PathBuf> {
        let (major, minor, patch) = VERSION;
        let release = format!("{major}.{minor}.{patch}");
        let llvm = self.major;
        say(&format!("setup: installs bpf-linker {release} for LLVM {llvm}; takes minutes"));
        let feature = format!("--features=llvm-{llvm}");
        let arguments = ["install", "bpf-linker", "--locked", "--no-default-features", "--version"];
        let mut install = command::cargo(arguments);
        command::run(install.args([&release, &feature]).env("LLVM_PREFIX", &self.prefix))?;
        match Linker::find(llvm) {
            Some(Linker::Installed(path)) => Ok(path),
            _ => None.context("find bpf-linker after its installation"),
        }
    }
}

/// The bpf-linkers of this machine.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    let installed = cargo_home.map(|home| home.join("bin/bpf-linker")).filter(|path| path.exists());
    command::programs("bpf-linker").chain(installed)
}

fn version(linker: &Path) -> Option<(u32, u32, u32)> {
    parse_version(&command::output(Command::new(linker).arg("--version")).ok()?)
}

fn parse_version(report: &str) -> Option<(u32, u32, u32)> {
    let mut numbers =
        report.split_whitespace().nth(1)?.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// The major number of the LLVM that a program is linked with.
///
/// bpf-linker does not tell. The program does: by the name of the library (`libLLVM.so.22.1`), or by
/// what a bitcode writer that is linked in signs its work with (`LLVM22.1.8`).
fn llvm_of_program(program: &[u8]) -> Option<u32> {
    let major = |start| {
        let rest = program.get(start..)?.strip_prefix(b"LLVM")?;
        let version = rest.strip_prefix(b".so.").unwrap_or(rest);
        let digits = version.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (major, rest) = version.split_at_checked(digits)?;
        str::from_utf8(major).ok()?.parse().ok().filter(|_| rest.starts_with(b"."))
    };
    (0..program.len()).find_map(major)
}

/// Debian's package with the library to link against.
fn llvm_package(major: u32) -> String {
    format!("llvm-{major}-dev")
}

/// The release that is installed, and the oldest that will do.
const VERSION: (u32, u32, u32) = (0, 13, 0);

/// The LLVMs that this release can be built against.
const BUILDABLE: [u32; 3] = [21, 22, 23];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_tells_its_version() {
        assert_eq!(parse_version("bpf-linker 0.13.0\n"), Some((0, 13, 0)));
        assert_eq!(parse_version("bpf-linker\n"), None);
        assert_eq!(parse_version("bpf-linker next\n"), None);
    }

    #[test]
    fn the_llvm_of_a_program_is_read_from_its_library_or_its_bitcode_writer() {
        assert_eq!(llvm_of_program(b"\0LLVMContextCreate\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_of_program(b"\0LLVM_20.ext\0LLVM23.1.0-rc2\0"), Some(23));
        assert_eq!(llvm_of_program(b"\0LLVMContextCreate\0LLVM7"), None);
    }

    #[test]
    fn a_linker_of_unknown_llvm_is_older_than_any() {
        assert!(llvm_of_program(b"") < Some(21));
    }
}
