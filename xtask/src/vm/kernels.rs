//! Kernels to boot, kept under `target/vm/kernels`: the image and the modules that tests need.
//!
//! What is there is used without asking anybody; a directory is complete, since it gets its name last.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::vm::archive::{self, DebianArchive};
use crate::vm::modules;

/// A kernel and its modules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Kernel {
    /// What it was asked for as: `6.12`, `newest`.
    pub(super) series: String,
    /// Its release, as `uname -r` will say.
    pub(super) release: String,
    /// The image that QEMU boots.
    pub(super) image: PathBuf,
    /// Modules, in the order in which they are loaded.
    pub(super) modules: Vec<PathBuf>,
}

/// The kernels on this machine, and where to get more.
pub(super) struct Kernels {
    directory: PathBuf,
    archive: Option<DebianArchive>,
    is_offline: bool,
    is_refreshed: bool,
}

impl Kernels {
    /// Kernels below `directory`, an absolute path. `is_offline`: asks no archive; `is_refreshed`:
    /// asks whether there are newer ones.
    pub(super) fn new(directory: &Path, is_offline: bool, is_refreshed: bool) -> Self {
        Self { directory: directory.to_path_buf(), archive: None, is_offline, is_refreshed }
    }

    /// The newest kernel of a series.
    pub(super) fn get(&mut self, series: &str) -> Result<Kernel> {
        let remembered = self.directory.join("series").join(series);
        if !self.is_refreshed
            && let Ok(release) = fs::read_to_string(&remembered)
            && let Some(kernel) = self.kept(series, &release)
        {
            return Ok(kernel);
        }
        if self.is_offline {
            bail!("kernel {series} is not here yet: run `cargo xtask vm` without --offline once");
        }
        let archive = match &mut self.archive {
            Some(archive) => archive,
            archive => {
                archive::require_apt()?;
                archive.insert(DebianArchive::open(self.directory.join("apt"))?)
            }
        };
        let (release, packages) = archive.resolve(series)?;
        if self.kept(series, &release).is_none() {
            crate::command::say(&format!("vm: downloads kernel {release}"));
            let archive = self.archive.as_ref().context("an archive was just opened")?;
            self.keep(archive, &release, &packages)?;
        }
        fs::create_dir_all(self.directory.join("series"))?;
        fs::write(&remembered, &release)?;
        self.kept(series, &release).context("a kernel that was just unpacked is incomplete")
    }

    /// The kernel with this release, if it is here with the modules that are wanted now.
    fn kept(&self, series: &str, release: &str) -> Option<Kernel> {
        let directory = self.directory.join("kernels").join(release);
        let wanted = fs::read_to_string(directory.join(WANTED_FILE)).ok()?;
        if wanted != modules::WANTED.join("\n") {
            return None;
        }
        let files = fs::read_dir(directory.join("modules")).ok()?;
        let mut modules: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
        modules.sort();
        Some(Kernel {
            series: series.to_owned(),
            release: release.to_owned(),
            image: directory.join("vmlinuz"),
            modules,
        })
    }

    fn keep(&self, archive: &DebianArchive, release: &str, packages: &[String]) -> Result<()> {
        let kernels = self.directory.join("kernels");
        let (tree, new) = (kernels.join(".tree"), kernels.join(".new"));
        for directory in [&tree, &new] {
            remove(directory)?;
            fs::create_dir_all(directory)?;
        }
        archive.unpack(packages, &tree)?;
        // Debian has moved both, with the merge of /usr and with 6.19.
        let images =
            [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")];
        let image = images.iter().map(|image| tree.join(image)).find(|image| image.is_file());
        let image = image.with_context(|| format!("{} have no vmlinuz", packages.join(" ")))?;
        fs::copy(&image, new.join("vmlinuz")).context("keep vmlinuz")?;
        let directories = [format!("lib/modules/{release}"), format!("usr/lib/modules/{release}")];
        let directories: Vec<PathBuf> = directories.iter().map(|it| tree.join(it)).collect();
        let modules = directories.iter().find(|directory| directory.join("kernel").is_dir());
        let modules = modules.with_context(|| format!("{} have no modules", packages.join(" ")))?;
        fs::create_dir(new.join("modules"))?;
        for (number, module) in (0_u32..).zip(modules::wanted_of(modules)?) {
            let name = format!("{number:03}-{}.ko", module.name);
            fs::write(new.join("modules").join(name), module.content)?;
        }
        fs::write(new.join(WANTED_FILE), modules::WANTED.join("\n"))?;
        let directory = kernels.join(release);
        remove(&directory)?;
        fs::rename(&new, &directory)?;
        remove(&tree)
    }
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Names the modules that were asked for when a kernel was unpacked.
const WANTED_FILE: &str = "modules.wanted";
