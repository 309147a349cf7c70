//! Where an executable comes from: the package that installed it, and whether it is still that file.

use serde::{Deserialize, Serialize};

/// What the package database of the host says of an executable.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Packaging {
    /// Not looked up, or it could not be: then `Process::missing` says why.
    #[default]
    Unknown,
    /// No package has installed a file of this name.
    NoPackage,
    /// This one did.
    Package(Package),
    /// What runs was deleted; its path has a newer file by now, which is the one of this package.
    Replaced(Package),
}

impl Packaging {
    /// The package, if there is one.
    pub const fn package(&self) -> Option<&Package> {
        match self {
            Self::Package(package) => Some(package),
            Self::Unknown | Self::NoPackage | Self::Replaced(_) => None,
        }
    }

    /// The name in `portwatch.owners[].package_state`, where something is known.
    pub const fn state(&self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::NoPackage => Some("none"),
            Self::Replaced(_) => Some("replaced"),
            Self::Package(package) => Some(package.integrity.name()),
        }
    }
}

/// The package that installed a file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Package {
    /// Whose database says so.
    pub format: PackageFormat,
    /// Name.
    pub name: String,
    /// Version, with epoch and release as the package system writes it.
    pub version: Option<String>,
    /// Architecture, as the package system writes it.
    pub architecture: Option<String>,
    /// Whether what runs is what the package installed.
    pub integrity: Integrity,
}

/// A package system.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum PackageFormat {
    /// Debian's, with `/var/lib/dpkg`.
    Dpkg,
    /// Red Hat's, with `rpmdb.sqlite`.
    Rpm,
}

impl PackageFormat {
    /// The name in `package.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dpkg => "deb",
            Self::Rpm => "rpm",
        }
    }
}

/// Whether the contents of a file are those that its package installed, by the checksum in the
/// package database: who can write there can deceive us.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Integrity {
    /// They are.
    Unmodified,
    /// They are not.
    Modified,
    /// It cannot be told, and why.
    Unverifiable(String),
}

impl Integrity {
    /// The name in `portwatch.owners[].package_state`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Unmodified => "unmodified",
            Self::Modified => "modified",
            Self::Unverifiable(_) => "unverifiable",
        }
    }
}
