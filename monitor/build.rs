//! Builds the kernel object that `portwatch` carries, as `$OUT_DIR/portwatch-ebpf`.
//!
//! The nested cargo is started here rather than by the aya-build crate, for two reasons. The
//! toolchain is the one that `cargo xtask setup` found, which need not be rustup's. And a stable
//! compiler builds `core` only with `RUSTC_BOOTSTRAP=1`, which must not reach user space: crates
//! there would take the compiler for a nightly.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::elf;

fn main() -> ExitCode {
    match build_kernel_object() {
        Ok(exit_code) => exit_code,
        Err(error) => {
            // Of a build script that succeeds, cargo shows this line and nothing else.
            println!("cargo::error={error:#}");
            ExitCode::SUCCESS
        }
    }
}

/// Fails as a process where the compiler has said why: only then does cargo show what it said.
fn build_kernel_object() -> Result<ExitCode> {
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..").canonicalize()?;
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    let toolchain = Toolchain::read(&workspace.join(".ebpf-toolchain"))
        .context("no toolchain for the kernel object: run `cargo xtask setup`")?;
    let output_directory = PathBuf::from(variable("OUT_DIR")?);
    let target_directory = nested_target_directory(&output_directory);
    let target = bpf_target()?;

    let mut cargo = toolchain.cargo()?;
    cargo.args(["build", "--release", "--locked", "-Zbuild-std=core", "--target", target]);
    cargo.args(["--package=monitor-ebpf", "--bin", OBJECT, "--features=kernel"]);
    cargo.arg("--target-dir").arg(&target_directory).current_dir(&workspace);
    // A directory that the user shares among builds would be locked by the cargo around us.
    cargo.env("CARGO_BUILD_BUILD_DIR", &target_directory);
    let status = cargo.status().with_context(|| format!("start {}", toolchain.cargo.display()))?;
    if !status.success() {
        println!("cargo::error=the kernel programs do not build; the reason stands below");
        return Ok(ExitCode::FAILURE);
    }
    let object = target_directory.join(target).join("release").join(OBJECT);
    let built = fs::read(&object).with_context(|| format!("read {}", object.display()))?;
    let stripped = without_debug_sections(&built).context("strip the kernel object")?;
    fs::write(output_directory.join(OBJECT), stripped).context("write the kernel object")?;
    Ok(ExitCode::SUCCESS)
}

/// The kernel takes types and lines from BTF, which the linker makes of the debug sections. Those are
/// nine tenths of the object, and would be in the memory of every `portwatch watch`.
fn without_debug_sections(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug") || name.starts_with(b".rel.debug");
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections among those of symbols; the builder wants a place for each.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = elf::SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// What `cargo xtask setup` wrote down.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// Whether the compiler takes unstable options only with `RUSTC_BOOTSTRAP=1`.
    bootstrap: bool,
    linker: PathBuf,
}

impl Toolchain {
    /// The toolchain named in the file at this path, if it is still there.
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let value = |key: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
        };
        let program = |key: &str| value(key).map(PathBuf::from).filter(|path| path.is_file());
        Some(Self {
            cargo: program("cargo")?,
            rustc: program("rustc")?,
            bootstrap: value("bootstrap")? == "yes",
            linker: program("linker")?,
        })
    }

    /// Its cargo, free of what the cargo around us and rustup set for their own toolchain.
    fn cargo(&self) -> Result<Command> {
        let mut cargo = Command::new(&self.cargo);
        for name in FOREIGN_VARIABLES {
            cargo.env_remove(name);
        }
        cargo.env("RUSTC", &self.rustc);
        if self.bootstrap {
            cargo.env("RUSTC_BOOTSTRAP", "1");
        }
        let architecture = variable("CARGO_CFG_TARGET_ARCH")?;
        let mut flags = OsString::from("--cfg=bpf_target_arch=\"");
        flags.push(&architecture);
        flags.push("\"\u{1f}-Cdebuginfo=2\u{1f}-Clink-arg=--btf\u{1f}-Clinker=");
        flags.push(&self.linker);
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
        Ok(cargo)
    }
}

fn bpf_target() -> Result<&'static str> {
    let is_big = variable("CARGO_CFG_TARGET_ENDIAN")? == OsStr::new("big");
    Ok(if is_big { "bpfeb-unknown-none" } else { "bpfel-unknown-none" })
}

/// Where the nested cargo builds: one place for all profiles and for clippy, since the object is the
/// same for all of them.
fn nested_target_directory(output_directory: &Path) -> PathBuf {
    // Cargo marks its target directory for backup programs. The fuzz targets have one within the workspace's.
    let is_target_directory = |directory: &&Path| directory.join("CACHEDIR.TAG").exists();
    let target_directory = output_directory.ancestors().filter(is_target_directory).last();
    target_directory.unwrap_or(output_directory).join("kernel-object")
}

fn variable(name: &str) -> Result<OsString> {
    env::var_os(name).with_context(|| format!("{name} is not set"))
}

/// The program of `monitor-ebpf` that becomes the object.
const OBJECT: &str = "portwatch-ebpf";

/// What the object depends on, from the root of the workspace.
const INPUTS: [&str; 5] =
    ["monitor-ebpf/src", "monitor-ebpf/Cargo.toml", "Cargo.toml", "Cargo.lock", ".ebpf-toolchain"];

/// They choose a compiler, its flags or where it writes.
const FOREIGN_VARIABLES: [&str; 15] = [
    "CARGO",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTC_LINKER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];
