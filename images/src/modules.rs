//! Kernel modules of a package: which files a module needs, in the order to load them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a module cannot be put into an image.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The kernel package has no such file.
    #[error("the kernel package has no module {name}, needed by {needed_by}")]
    Missing {
        /// Module name.
        name: String,
        /// Who asked for it.
        needed_by: String,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A compressed module could not be unpacked.
    #[error("xz cannot unpack {path}: {why}")]
    Unpack {
        /// Which file.
        path: PathBuf,
        /// What xz said.
        why: String,
    },
}

/// A module as it goes into the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Name with underscores.
    pub name: String,
    /// The unpacked ELF file.
    pub bytes: Vec<u8>,
}

/// Modules of one kernel by name.
#[derive(Debug)]
pub struct ModuleTree {
    files: BTreeMap<String, PathBuf>,
}

impl ModuleTree {
    /// Looks for `*.ko` and `*.ko.xz` below a folder.
    ///
    /// # Errors
    /// If a folder cannot be listed.
    pub fn below(folder: &Path) -> Result<Self, ModuleError> {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let read = |source| ModuleError::Read { path: folder.clone(), source };
            for entry in std::fs::read_dir(&folder).map_err(read)? {
                let path = entry.map_err(read)?.path();
                // A link is no folder of this package: /lib/modules/*/build leads to the headers.
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        Ok(Self { files })
    }

    /// The named modules and all they depend on, each after what it depends on.
    ///
    /// # Errors
    /// If one is missing or unreadable.
    pub fn in_load_order(&self, names: &[&str]) -> Result<Vec<Module>, ModuleError> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            self.visit(name, "the image", &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        needed_by: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<(), ModuleError> {
        // Marked before its dependencies: the kernel build refuses cycles, and we must end even so.
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let missing = || ModuleError::Missing { name: name.to_owned(), needed_by: needed_by.to_owned() };
        let bytes = unpacked(self.files.get(name).ok_or_else(missing)?)?;
        for dependency in dependencies(&bytes) {
            self.visit(&dependency, name, seen, order)?;
        }
        order.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

/// `virtio-rng.ko.xz` → `virtio_rng`, as the kernel calls it.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = file.strip_suffix(".ko").or_else(|| file.strip_suffix(".ko.xz"))?;
    Some(stem.replace('-', "_"))
}

fn unpacked(path: &Path) -> Result<Vec<u8>, ModuleError> {
    let read = |source| ModuleError::Read { path: path.to_owned(), source };
    if path.extension().is_some_and(|extension| extension == "ko") {
        return std::fs::read(path).map_err(read);
    }
    let xz = Command::new("xz").arg("-dc").arg(path).output().map_err(read)?;
    if !xz.status.success() {
        let why = String::from_utf8_lossy(&xz.stderr).trim().to_owned();
        return Err(ModuleError::Unpack { path: path.to_owned(), why });
    }
    Ok(xz.stdout)
}

/// The `depends=` text of the module's `.modinfo` section: zero-terminated strings, names parted by commas.
fn dependencies(elf: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = elf.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = elf[start + KEY.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(modules: &[(&str, &str)]) -> (tempfile::TempDir, ModuleTree) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("net")).unwrap();
        for (file, depends) in modules {
            let elf = format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0");
            std::fs::write(folder.path().join("net").join(file), elf).unwrap();
        }
        let tree = ModuleTree::below(folder.path()).unwrap();
        (folder, tree)
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn a_module_comes_after_all_it_depends_on_and_once() {
        let (_folder, tree) = tree(&[
            ("virtio-net.ko", "ring,failover"),
            ("ring.ko", "virtio"),
            ("virtio.ko", ""),
            ("failover.ko", "ring"),
        ]);
        let order = tree.in_load_order(&["virtio_net", "ring"]).unwrap();
        assert_eq!(names(&order), ["virtio", "ring", "failover", "virtio_net"]);
    }

    #[test]
    fn a_missing_dependency_is_named_with_who_needs_it() {
        let (_folder, tree) = tree(&[("a.ko", "b")]);
        let error = tree.in_load_order(&["a"]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel package has no module b, needed by a");
    }

    #[test]
    fn a_compressed_module_is_unpacked() {
        let (folder, _) = tree(&[("a.ko", ""), ("b.ko", "a")]);
        let packed = Command::new("xz").arg(folder.path().join("net/b.ko")).status().unwrap();
        assert!(packed.success());
        let order = ModuleTree::below(folder.path()).unwrap().in_load_order(&["b"]).unwrap();
        assert_eq!(names(&order), ["a", "b"]);
        assert!(order[1].bytes.starts_with(b"\x7fELF"));
    }
}
