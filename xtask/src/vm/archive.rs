//! Debian's kernel packages, through an apt of our own: its lists and its packages stay below
//! `target/vm`, and this machine's apt is not touched.
//!
//! The mirror is the one this machine uses. What apt fetches it verifies with Debian's keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Debian's suites that have kernels, each with whether it is of the security archive.
const SUITES: [(&str, bool); 4] = [
    ("bullseye-security", true),
    ("bookworm-security", true),
    ("trixie-security", true),
    ("trixie-backports", false),
];

const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The names of kernel packages around the release.
const IMAGE: &str = "linux-image-";
const FLAVOUR: &str = "-cloud-amd64";

/// The series that stands for whatever is newest.
pub(super) const NEWEST: &str = "newest";

/// An apt with fresh lists of Debian's kernels.
pub(super) struct DebianArchive {
    directory: PathBuf,
}

impl DebianArchive {
    /// Sets it up below `directory`, an absolute path: with a relative one apt finds nothing.
    pub(super) fn open(directory: PathBuf) -> Result<Self> {
        for name in ["lists/partial", "cache/archives/partial", "parts"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let mirrors = Mirrors::of_this_machine()?;
        let path = directory.join("debian.sources");
        fs::write(&path, mirrors.sources()).with_context(|| format!("write {}", path.display()))?;
        let archive = Self { directory };
        command::output(archive.apt("apt-get").args(["--quiet=2", "update", "--error-on=any"]))
            .context("Debian's archive cannot be asked for kernels: is there a network?")?;
        Ok(archive)
    }

    /// The newest release of a series, such as `6.12.117+deb13-cloud-amd64` of `6.12`, and the
    /// packages that it consists of.
    pub(super) fn resolve(&self, series: &str) -> Result<(String, Vec<String>)> {
        let every = "^linux-(image|binary|modules|base)-[0-9].*-cloud-amd64$";
        let listed =
            command::output(self.apt("apt-cache").args(["search", "--names-only", every]))?;
        let names: Vec<&str> =
            listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let mut releases = releases(&names, series);
        releases.sort_by_key(|release| numbers(release));
        let release = releases.pop().with_context(|| {
            format!("Debian's archive has no complete kernel {series} in {}", suites(|_| true))
        })?;
        Ok((release.to_owned(), packages(&names, release)))
    }

    /// Downloads packages and unpacks them all into `tree`.
    pub(super) fn unpack(&self, packages: &[String], tree: &Path) -> Result<()> {
        let downloads = self.directory.join("packages");
        fs::create_dir_all(&downloads)?;
        let mut download = self.apt("apt-get");
        download.args(["--quiet=2", "download"]).args(packages).current_dir(&downloads);
        command::output(&mut download)?;
        for file in fs::read_dir(&downloads)? {
            let file = file?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if packages.iter().any(|package| name.starts_with(&format!("{package}_"))) {
                command::output(Command::new("dpkg-deb").arg("-x").args([&*file, tree]))?;
                fs::remove_file(&file)?;
            }
        }
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let directory = self.directory.display();
        let mut apt = Command::new(program);
        for option in [
            format!("Dir::Etc::sourcelist={directory}/debian.sources"),
            format!("Dir::Etc::sourceparts={directory}/parts"),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            format!("Dir::Etc::preferencesparts={directory}/parts"),
            format!("Dir::State::Lists={directory}/lists"),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={directory}/cache"),
            // Its own user could not write into our directory.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Retries=3".to_owned(),
            // Descriptions of desktop programs: 50 MB.
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ] {
            apt.args(["-o", &option]);
        }
        apt.env("LC_ALL", "C");
        apt
    }
}

/// Where this machine gets Debian's packages.
#[derive(Debug, Eq, PartialEq)]
struct Mirrors {
    main: String,
    security: String,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
            files.extend(parts.filter_map(|part| Some(part.ok()?.path())));
        }
        let texts: Vec<String> =
            files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
        Self::find(&texts.join("\n"))
            .context("apt of this machine has no Debian archive to get kernels from")
    }

    /// The archives named in apt's configuration, in either of its formats.
    fn find(configuration: &str) -> Option<Self> {
        let lines = configuration.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let words = lines.flat_map(str::split_whitespace);
        let addresses: Vec<&str> = words
            .filter(|word| word.contains(":/"))
            .map(|word| word.trim_end_matches('/'))
            .collect();
        let of = |end: &str| addresses.iter().find(|address| address.ends_with(end)).copied();
        Some(Self { main: of("/debian")?.to_owned(), security: of("/debian-security")?.to_owned() })
    }

    fn sources(&self) -> String {
        let section = |address: &str, suites: &str| {
            format!(
                "Types: deb\nURIs: {address}\nSuites: {suites}\nComponents: main\n\
                 Architectures: amd64\nSigned-By: {KEYS}\n\n"
            )
        };
        let security = section(&self.security, &suites(|is_security| is_security));
        security + &section(&self.main, &suites(|is_security| !is_security))
    }
}

fn suites(is_wanted: impl Fn(bool) -> bool) -> String {
    let wanted = SUITES.iter().filter(|(_, is_security)| is_wanted(*is_security));
    wanted.map(|(suite, _)| *suite).collect::<Vec<_>>().join(" ")
}

/// The releases of a series whose packages are all there.
fn releases<'a>(names: &[&'a str], series: &str) -> Vec<&'a str> {
    let is_of_series = |release: &str| {
        // Without a third number it is a package that only depends on the newest one.
        let is_release = numbers(release).len() >= 3 && release.split('.').count() >= 3;
        let rest = release.strip_prefix(series);
        is_release && (series == NEWEST || rest.is_some_and(|rest| rest.starts_with('.')))
    };
    let images = names.iter().filter_map(|name| name.strip_prefix(IMAGE));
    images.filter(|release| is_of_series(release) && is_complete(names, release)).collect()
}

/// Up to 6.18 the image has everything; later ones are in parts, which do not go out of the archive
/// at the same time.
fn is_complete(names: &[&str], release: &str) -> bool {
    let has = |part: &str| names.contains(&&*format!("linux-{part}-{release}"));
    has("binary") == has("modules")
}

fn packages(names: &[&str], release: &str) -> Vec<String> {
    let parts = ["image", "binary", "modules", "base"];
    let packages = parts.iter().map(|part| format!("linux-{part}-{release}"));
    packages.filter(|package| names.contains(&&**package)).collect()
}

/// The numbers in a release, by which releases are ordered: as text 6.9 would come after 6.12.
pub(super) fn numbers(release: &str) -> Vec<u64> {
    let release = release.strip_suffix(FLAVOUR).unwrap_or(release);
    let numbers = release.split(|letter: char| !letter.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// Fails with a reason where this machine has no apt to ask.
pub(super) fn require_apt() -> Result<()> {
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        if command::program(program).is_none() {
            bail!("kernels come from Debian's archive, which takes {program}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_of_a_series_is_found_by_numbers() {
        let names = [
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12.95+deb13-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.117+deb13-cloud-amd64",
        ];
        let newest = |series| {
            let mut releases = releases(&names, series);
            releases.sort_by_key(|release| numbers(release));
            releases.pop()
        };

        assert_eq!(newest("6.1"), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(newest("6.12"), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(newest(NEWEST), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(newest("5.10"), None);
        assert_eq!(newest("6"), Some("6.12.117+deb13-cloud-amd64"));
    }

    #[test]
    fn a_release_whose_modules_are_gone_is_passed_over() {
        let names = [
            "linux-image-7.1.13+deb13-cloud-amd64",
            "linux-binary-7.1.13+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
        ];

        assert_eq!(releases(&names, "7.1"), Vec::<&str>::new());
        assert_eq!(releases(&names, NEWEST), ["7.3.4+deb13-cloud-amd64"]);
        let parts = packages(&names, "7.3.4+deb13-cloud-amd64");
        assert_eq!(
            parts,
            ["image", "binary", "modules"]
                .map(|part| { format!("linux-{part}-7.3.4+deb13-cloud-amd64") })
        );
    }

    #[test]
    fn the_mirror_is_read_from_either_format_of_apt() {
        let expected = Mirrors {
            main: "https://mirror.example/debian".to_owned(),
            security: "https://mirror.example/debian-security".to_owned(),
        };
        let sources = "# http://old.example/debian\nTypes: deb\nURIs: https://mirror.example/debian/\n\n\
                       Types: deb\nURIs: https://mirror.example/debian-security\n";
        let list = "deb https://mirror.example/debian bookworm main\n\
                    deb [signed-by=/x] https://mirror.example/debian-security/ bookworm-security main\n";

        assert_eq!(Mirrors::find(sources).as_ref(), Some(&expected));
        assert_eq!(Mirrors::find(list).as_ref(), Some(&expected));
        assert_eq!(Mirrors::find("deb https://mirror.example/ubuntu noble main"), None);
    }
}
