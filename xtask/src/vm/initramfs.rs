//! What a guest boots from: `/init`, the test programs and all they run, with the libraries they are
//! linked with, each at the path it has on this machine.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::command;
use crate::vm::cpio::Archive;
use crate::vm::kernels::Kernel;

/// Programs that tests drive, or their scripts. One that is missing here is missing in the guest,
/// where the tests that need it say so.
const TOOLS: &[&str] = &[
    "ip", "tc", "nft", "ipvsadm", "bpftool", "tcpdump", "ethtool", "sysctl", "setpriv", "unshare",
    "nsenter", "sh", "bash", "cat", "head", "sleep", "true", "false", "id", "mkdir", "rm", "ls",
    "kill", "dd", "mount", "umount",
];

/// systemd, which becomes the first process for the tests of [`MANAGED`].
const MANAGER: &str = "/usr/lib/systemd/systemd";

/// What starts its services from version 255 on, and what it is asked with.
const OF_MANAGER: &[&str] = &["/usr/lib/systemd/systemd-executor", "/usr/bin/systemctl"];

/// Tests that are run under it, after the others. Where it is not here they say that they cannot run.
const MANAGED: &[&str] = &["units"];

/// Files that a Linux system has and programs look for.
const FILES: &[(&str, &str)] = &[
    ("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("/etc/machine-id", "0000000000003516000000000000cafe\n"),
];

/// With `/usr` merged, these are links into it.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// The programs of a guest.
pub(super) struct Programs {
    init: PathBuf,
    portwatch: PathBuf,
    /// What plays processes and attackers.
    players: [PathBuf; 3],
    tests: Vec<PathBuf>,
    /// Directory for what is packed without its symbols.
    stripped: PathBuf,
}

/// What a guest does with the programs.
pub(super) struct Orders<'a> {
    /// Test programs to run, by name; empty: all.
    pub(super) programs: &'a [String],
    /// Arguments for each of them.
    pub(super) arguments: &'a [String],
    /// Seconds that each may take.
    pub(super) limit: u64,
    /// How many times longer than here tests wait for things.
    pub(super) slowness: u32,
}

impl Programs {
    /// Builds everything, as `cargo xtask test` does: what that has built is not built again.
    pub(super) fn build() -> Result<Self> {
        let built = command::development_directory()?;
        Ok(Self {
            init: build_init()?,
            portwatch: built.join("portwatch"),
            tests: build_tests()?,
            // Built along with the tests.
            players: ["actor", "flood", "ring"].map(|player| built.join(player)),
            stripped: command::target_directory()?.join("vm/stripped"),
        })
    }

    /// Writes the part of the archive that is the same for every kernel.
    pub(super) fn pack(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        for directory in ["dev", "proc", "sys", "run", "tmp", "etc", "usr", "vm"] {
            archive.directory(Path::new(directory))?;
        }
        for name in MERGED {
            archive.link(Path::new(&format!("/{name}")), &format!("usr/{name}"))?;
        }
        archive.device(Path::new("/dev/console"), 5, 1)?;
        for (path, text) in FILES {
            archive.file(Path::new(path), false, text.as_bytes())?;
        }
        archive.file(Path::new("/init"), true, &read(&self.init)?)?;
        let mut libraries = BTreeSet::new();
        let managers = [MANAGER].iter().chain(OF_MANAGER).map(PathBuf::from);
        let managers = managers.filter(|program| program.is_file());
        let tools = TOOLS.iter().filter_map(|tool| command::program(tool)).chain(managers);
        for program in self.tests.iter().chain(&self.players).chain([&self.portwatch]) {
            libraries.extend(libraries_of(program)?);
            archive.file(program, true, &self.without_symbols(program)?)?;
        }
        for program in tools {
            libraries.extend(libraries_of(&program)?);
            archive.file(&program, true, &read(&program)?)?;
        }
        let libraries: BTreeSet<PathBuf> =
            libraries.iter().map(|library| in_merged_usr(library)).collect::<Result<_>>()?;
        for library in &libraries {
            archive.file(library, true, &read(library)?)?;
        }
        archive.finish()?.flush().context("write the archive")
    }

    /// A program as small as it runs: with symbols, an archive would be larger than a guest's memory.
    fn without_symbols(&self, program: &Path) -> Result<Vec<u8>> {
        fs::create_dir_all(&self.stripped)?;
        let stripped = self.stripped.join(program.file_name().unwrap_or_default());
        command::output(Command::new("strip").arg("-o").args([stripped.as_path(), program]))?;
        read(&stripped)
    }

    /// Writes what is of one kernel behind `common`, into `path`.
    pub(super) fn pack_for(
        &self,
        kernel: &Kernel,
        orders: &Orders<'_>,
        common: &Path,
        path: &Path,
    ) -> Result<()> {
        fs::copy(common, path).with_context(|| format!("write {}", path.display()))?;
        let file = File::options().append(true).open(path).context("open the archive")?;
        let mut archive = Archive::new(BufWriter::new(file));
        for module in &kernel.modules {
            archive.file(&in_guest(module), false, &read(module)?)?;
        }
        archive.file(Path::new("/vm/plan"), false, self.plan(kernel, orders)?.as_bytes())?;
        archive.finish()?.flush().context("write the archive")
    }

    /// What `tests/vm-init` reads.
    fn plan(&self, kernel: &Kernel, orders: &Orders<'_>) -> Result<String> {
        let mut lines: Vec<String> = Vec::new();
        lines.extend(kernel.modules.iter().map(|it| format!("module {}", in_guest(it).display())));
        lines.push("environment PATH=/usr/sbin:/usr/bin".to_owned());
        lines.push("environment HOME=/tmp".to_owned());
        lines.push(format!("environment PORTWATCH_TEST_SLOWNESS={}", orders.slowness));
        lines.push(format!("environment PORTWATCH_BIN={}", self.portwatch.display()));
        lines.push(format!("limit {}", orders.limit));
        lines.extend(orders.arguments.iter().map(|argument| format!("argument {argument}")));
        let is_wanted = |program: &&PathBuf| {
            orders.programs.is_empty() || orders.programs.iter().any(|name| is_test(program, name))
        };
        let programs: Vec<&PathBuf> = self.tests.iter().filter(is_wanted).collect();
        ensure!(!programs.is_empty(), "no test program is called {}", orders.programs.join(" or "));
        let has_manager = Path::new(MANAGER).is_file();
        lines.extend(has_manager.then(|| format!("manager {MANAGER}")));
        lines.extend(programs.iter().map(|program| {
            let is_managed = has_manager && MANAGED.iter().any(|name| is_test(program, name));
            format!("{} {}", if is_managed { "managed" } else { "program" }, program.display())
        }));
        ensure!(lines.iter().all(|line| !line.contains('\n')), "a line break in an argument");
        Ok(lines.join("\n") + "\n")
    }
}

/// Is it the program of `tests/NAME.rs`? Cargo adds a hash to the name.
fn is_test(program: &Path, name: &str) -> bool {
    let file = program.file_name().unwrap_or_default().to_string_lossy();
    file.rsplit_once('-').is_some_and(|(test, _hash)| test == name)
}

/// Builds `/init`, linked statically: in the guest it is the first to run.
fn build_init() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let variable =
        format!("CARGO_TARGET_{}_RUSTFLAGS", target.replace('-', "_").to_ascii_uppercase());
    let mut build = command::cargo(["build", "--locked", "--package=vm-init", "--target", &target]);
    // For this target only, else build scripts and macros would be built so as well.
    command::run(build.env(variable, "-Ctarget-feature=+crt-static"))?;
    Ok(command::target_directory()?.join(target).join("debug/vm-init"))
}

/// Builds the integration tests and gives their programs.
fn build_tests() -> Result<Vec<PathBuf>> {
    let mut build = command::cargo(command::EVERYTHING);
    build.arg("--message-format=json-render-diagnostics");
    command::say(&format!("$ {}", command::line(&build)));
    let mut programs: Vec<PathBuf> =
        command::output(&mut build)?.lines().filter_map(test_program).collect();
    programs.sort();
    Ok(programs)
}

/// The program in a message of cargo, if that is about a test in `tests/`.
fn test_program(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_test = message.pointer("/target/kind/0")? == "test";
    let executable = message.get("executable")?.as_str().filter(|_| is_test)?;
    Some(executable.into())
}

/// The files that the dynamic linker would load for a program, itself included.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = command::output(Command::new("ldd").arg(program));
    Ok(parse_ldd(&listed.with_context(|| format!("list libraries of {}", program.display()))?))
}

fn parse_ldd(listed: &str) -> Vec<PathBuf> {
    let words = listed.lines().flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// The path of a library without the links by which `/lib` leads into `/usr`.
fn in_merged_usr(library: &Path) -> Result<PathBuf> {
    let directory = library.parent().context("a library without a directory")?;
    let name = library.file_name().context("a library without a name")?;
    let directory = directory.canonicalize();
    Ok(directory.with_context(|| format!("find {}", library.display()))?.join(name))
}

fn in_guest(module: &Path) -> PathBuf {
    Path::new("/vm/modules").join(module.file_name().unwrap_or_default())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_the_linker() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";

        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(listed), expected.map(PathBuf::from));
    }

    #[test]
    fn a_test_program_is_found_in_the_messages_of_cargo() {
        let message = |kind: &str| {
            format!("{{\"target\":{{\"kind\":[\"{kind}\"]}},\"executable\":\"/t/loss-1a\"}}")
        };

        assert_eq!(test_program(&message("test")), Some("/t/loss-1a".into()));
        assert_eq!(test_program(&message("bin")), None);
        assert_eq!(test_program("warning: unused"), None);
    }

    #[test]
    fn a_test_has_the_name_of_its_file_without_the_hash() {
        let program = Path::new("/t/loss-1a2b");

        assert!(is_test(program, "loss"));
        assert!(!is_test(program, "los"));
    }
}
