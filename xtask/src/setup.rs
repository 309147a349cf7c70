//! Prepares a machine: a toolchain and a linker for the kernel object, the crates, the programs that
//! tests drive.
//!
//! Each step looks first and acts only on what is missing, so that a second run does nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow};

use crate::command::{self, say};
use crate::linker::Linker;
use crate::packages::Installer;
use crate::recipe::Recipe;
use crate::toolchain::{self, Toolchain};

/// `cargo xtask setup`.
pub(crate) fn setup(with_tests: bool) -> Result<()> {
    prepare()?;
    if with_tests {
        prepare_tests();
    }
    say("setup: done");
    Ok(())
}

/// Installs what a build takes; says nothing when it is there.
pub(crate) fn prepare() -> Result<()> {
    let recipe = prepare_kernel_toolchain()?;
    fetch_crates(&recipe)
}

/// Installs the programs that the integration tests drive, as far as they can be had.
///
/// A test whose program is missing counts as skipped, so that this is no reason to stop.
pub(crate) fn prepare_tests() {
    let is_missing = |tool: &&Tool| command::program(tool.program).is_none();
    let mut missing: Vec<&Tool> = TEST_TOOLS.iter().filter(is_missing).collect();
    let services: Vec<&Tool> = TEST_SERVICES.iter().filter(is_missing).collect();
    if services.is_empty() || !Path::new("/run/systemd/system").exists() {
        missing.extend(services);
    } else {
        let packages: Vec<&str> = services.iter().map(|service| service.package).collect();
        say(&format!(
            "setup: not installed, since they would serve on this host from now on: {}; \
             tests that drive them are skipped",
            packages.join(", ")
        ));
    }
    if missing.is_empty() {
        return;
    }
    let packages: Vec<String> = missing.iter().map(|tool| tool.package.to_owned()).collect();
    let outcome = match Installer::find() {
        // Nobody is there to tell sudo a password when tests run.
        Some(installer @ Installer::Root) => installer.install(&packages),
        _ => Err(anyhow!("it takes root and apt")),
    };
    if let Err(error) = outcome {
        let programs: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
        say(&format!("setup: missing for some tests: {}: {error:#}", programs.join(", ")));
    }
}

fn prepare_kernel_toolchain() -> Result<Recipe> {
    let path = command::workspace().join(".ebpf-toolchain");
    let request = toolchain::request();
    if let Some(recipe) = Recipe::read(&path, request.as_deref()) {
        return Ok(recipe);
    }
    let requested = request.as_deref().map(Toolchain::requested).transpose()?;
    let (toolchain, linker) = match requested {
        Some(toolchain) => {
            let linker = Linker::find(toolchain.compiler.llvm)
                .with_context(|| format!("{toolchain}: {NO_LINKER}"))?;
            (toolchain, linker)
        }
        None => choose()?,
    };
    say(&format!("setup: kernel object: {toolchain}"));
    let recipe = Recipe::new(request.as_deref(), toolchain, linker.install()?);
    recipe.write(&path)?;
    Ok(recipe)
}

/// The first toolchain that can build the kernel object and for whose bitcode a linker can be had.
fn choose() -> Result<(Toolchain, Linker)> {
    let rustup: Vec<(String, Toolchain)> = toolchain::rustup_names()
        .into_iter()
        .filter_map(|name| Toolchain::of_rustup(&name).ok().map(|toolchain| (name, toolchain)))
        .collect();
    let (mut nightly, stable): (Vec<_>, Vec<_>) =
        rustup.into_iter().partition(|(_, toolchain)| toolchain.compiler.is_nightly);
    nightly.sort_by_key(|(_, toolchain)| !toolchain.has_sources);

    let nightly =
        nightly.into_iter().filter_map(|(name, toolchain)| with_sources(&name, toolchain));
    let stable = stable.into_iter().map(|(_, toolchain)| toolchain);
    let outside = std::iter::once_with(toolchain::outside_rustup).flatten();
    let debian = std::iter::once_with(install_debian_toolchain).flatten();
    nightly
        .chain(stable)
        .chain(outside)
        .chain(debian)
        .filter(Toolchain::is_usable)
        .find_map(|toolchain| linker_for(&toolchain).map(|linker| (toolchain, linker)))
        .context(NO_TOOLCHAIN)
}

/// A nightly with the sources of `core`, which rustup downloads if it can.
fn with_sources(name: &str, toolchain: Toolchain) -> Option<Toolchain> {
    if toolchain.has_sources || !toolchain.is_recent() {
        return Some(toolchain);
    }
    say(&format!("setup: asks rustup for rust-src of {name}"));
    let arguments = ["component", "add", "rust-src", "--toolchain", name];
    let added = command::output(Command::new("rustup").args(arguments));
    let toolchain = added.and_then(|_| Toolchain::of_rustup(name));
    toolchain
        .inspect_err(|_| say(&format!("setup: {name} has no rust-src and it cannot be downloaded")))
        .ok()
}

/// Debian's newest Rust, which it packages for building browsers.
fn install_debian_toolchain() -> Option<Toolchain> {
    let install = || {
        let installer = Installer::find().context("it takes apt, and root or sudo")?;
        installer.install(&DEBIAN_TOOLCHAIN.map(ToOwned::to_owned))?;
        Toolchain::of_cargo("/usr/bin/cargo".as_ref())
    };
    install()
        .inspect_err(|error| say(&format!("setup: no toolchain from Debian's packages: {error:#}")))
        .ok()
}

fn linker_for(toolchain: &Toolchain) -> Option<Linker> {
    let linker = Linker::find(toolchain.compiler.llvm);
    if linker.is_none() {
        say(&format!("setup: passed over: {toolchain}: {NO_LINKER}"));
    }
    linker
}

/// Downloads the crates, those that `core` is built with among them: a build needs no network.
fn fetch_crates(recipe: &Recipe) -> Result<()> {
    let fetch = || {
        let mut fetch = recipe.cargo();
        fetch.args(["fetch", "--locked", "--quiet", "-Zbuild-std=core"]);
        fetch
    };
    if command::succeeds(fetch().arg("--offline")) {
        return Ok(());
    }
    say("setup: downloads the crates named in Cargo.lock");
    command::run(&mut fetch())
}

/// A program that tests drive, and Debian's package of it.
struct Tool {
    program: &'static str,
    package: &'static str,
}

/// Services that tests drive: they come to a host that starts no services, such as a container.
const TEST_SERVICES: [Tool; 4] = [
    Tool { program: "nginx", package: "nginx" },
    Tool { program: "sshd", package: "openssh-server" },
    // It brings runc.
    Tool { program: "containerd", package: "containerd" },
    // It comes with pcscd.
    Tool { program: "pcscd", package: "vsmartcard-vpcd" },
];

const TEST_TOOLS: [Tool; 13] = [
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "nft", package: "nftables" },
    Tool { program: "iptables-legacy", package: "iptables" },
    Tool { program: "ipvsadm", package: "ipvsadm" },
    Tool { program: "tcpdump", package: "tcpdump" },
    Tool { program: "tshark", package: "tshark" },
    Tool { program: "ethtool", package: "ethtool" },
    Tool { program: "bpftool", package: "bpftool" },
    Tool { program: "socat", package: "socat" },
    Tool { program: "systemd-socket-activate", package: "systemd" },
    Tool { program: "python3", package: "python3-venv" },
    // rustup's directory always has these two.
    Tool { program: "cargo-fmt", package: "rustfmt-web" },
    Tool { program: "cargo-clippy", package: "rust-web-clippy" },
];

const DEBIAN_TOOLCHAIN: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

const NO_LINKER: &str = "no bpf-linker for its LLVM, and no such LLVM to build one with";

const NO_TOOLCHAIN: &str = "no toolchain can build the kernel object; \
    with rustup: `rustup toolchain install nightly --component rust-src`, \
    and LLVM of the same major number from https://apt.llvm.org";
