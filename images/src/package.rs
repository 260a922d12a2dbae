//! Debian packages: which one a name stands for today, fetched once and checked by hash.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Why a package cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A Debian tool could not be started.
    #[error("cannot start {tool}: {source}; the image is built from Debian packages, on Debian or Ubuntu")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// apt knows no such package.
    #[error("apt knows no package {name}; `apt-get update` fetches the lists")]
    Unknown {
        /// What was looked for.
        name: String,
    },
    /// A Debian tool failed.
    #[error("{tool} failed for {name}: {why}")]
    Failed {
        /// Its name.
        tool: &'static str,
        /// The package.
        name: String,
        /// What it said.
        why: String,
    },
    /// The file is not the one that apt's signed lists promise.
    #[error("{path} has sha256 {found}, and apt promises {promised}; delete it and try again")]
    Hash {
        /// Which file.
        path: PathBuf,
        /// Its hash.
        found: String,
        /// The hash in apt's lists.
        promised: String,
    },
    /// A file could not be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A package of one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the package file, in hex.
    pub sha256: String,
}

impl Package {
    /// What apt would install for `name`.
    ///
    /// # Errors
    /// If apt cannot be asked or knows no such package.
    pub fn candidate(name: &str) -> Result<Self, PackageError> {
        // Versions come newest first.
        let text = ask_apt(&["show", "--no-all-versions", name], name)?;
        let field = |key: &str| {
            text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).map(str::to_owned)
        };
        match (field("Version"), field("SHA256")) {
            (Some(version), Some(sha256)) => Ok(Self { name: name.to_owned(), version, sha256 }),
            _ => Err(PackageError::Unknown { name: name.to_owned() }),
        }
    }

    /// The versioned package behind a meta-package: its first dependency that starts with `prefix`.
    ///
    /// # Errors
    /// If apt cannot be asked or the meta-package has no such dependency.
    pub fn behind(meta: &str, prefix: &str) -> Result<Self, PackageError> {
        let text = ask_apt(&["depends", meta], meta)?;
        let name = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .ok_or_else(|| PackageError::Unknown { name: format!("{prefix}* behind {meta}") })?;
        Self::candidate(name)
    }

    /// The package's file in `cache`; fetched if it is not there, and checked either way.
    ///
    /// # Errors
    /// If it cannot be fetched, or is not what apt promises.
    pub fn fetch(&self, cache: &Path) -> Result<PathBuf, PackageError> {
        std::fs::create_dir_all(cache).map_err(file(cache))?;
        // The name that apt-get gives it: a colon of the version is escaped.
        let version = self.version.replace(':', "%3a");
        let path = cache.join(format!("{}_{version}_amd64.deb", self.name));
        if !path.exists() {
            let mut apt = Command::new("apt-get");
            // apt would rather download as the user _apt, who may not write here, and warns of it.
            apt.args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
            apt.arg(format!("{}={}", self.name, self.version)).current_dir(cache);
            run("apt-get", &self.name, &mut apt)?;
        }
        let found = sha256_of_file(&path)?;
        if found != self.sha256 {
            return Err(PackageError::Hash { path, found, promised: self.sha256.clone() });
        }
        Ok(path)
    }

    /// Unpacks the package's file below `folder`, where nothing is installed by it.
    ///
    /// # Errors
    /// If `dpkg-deb` fails.
    pub fn unpack(&self, deb: &Path, folder: &Path) -> Result<(), PackageError> {
        run("dpkg-deb", &self.name, Command::new("dpkg-deb").arg("-x").arg(deb).arg(folder)).map(drop)
    }
}

fn ask_apt(arguments: &[&str], name: &str) -> Result<String, PackageError> {
    let output = Command::new("apt-cache")
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .map_err(|source| PackageError::Tool { tool: "apt-cache", source })?;
    if !output.status.success() {
        return Err(PackageError::Unknown { name: name.to_owned() });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(tool: &'static str, name: &str, command: &mut Command) -> Result<Output, PackageError> {
    let output = command.output().map_err(|source| PackageError::Tool { tool, source })?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(PackageError::Failed { tool, name: name.to_owned(), why });
    }
    Ok(output)
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> PackageError {
    move |source| PackageError::File { path: path.to_owned(), source }
}

/// SHA-256 in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a file, in hex.
///
/// # Errors
/// If it cannot be read.
pub fn sha256_of_file(path: &Path) -> Result<String, PackageError> {
    Ok(sha256(&std::fs::read(path).map_err(file(path))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        let name = "no-such-package".to_owned();
        Package { name, version: "1:2".to_owned(), sha256: sha256(b"right") }
    }

    #[test]
    fn the_hash_of_nothing_is_the_known_one() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_cached_file_is_taken_if_its_hash_is_right() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join("no-such-package_1%3a2_amd64.deb");
        std::fs::write(&path, b"right").unwrap();
        assert_eq!(package().fetch(cache.path()).unwrap(), path);
    }

    #[test]
    fn refuses_a_cached_file_with_another_hash() {
        let cache = tempfile::tempdir().unwrap();
        std::fs::write(cache.path().join("no-such-package_1%3a2_amd64.deb"), b"wrong").unwrap();
        assert!(matches!(package().fetch(cache.path()), Err(PackageError::Hash { .. })));
    }

    #[test]
    #[ignore = "asks apt; `cargo xtask test` runs it"]
    fn an_unknown_package_is_said_with_the_way_out() {
        let text = Package::candidate("no-such-package-of-any-name").unwrap_err().to_string();
        assert!(text.ends_with("`apt-get update` fetches the lists"), "{text}");
    }
}
