//! Puts the image together.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};

use crate::cpio::{Archive, CpioError};
use crate::elf;
use crate::manifest::{Manifest, Tested, differences};
use crate::modules::{Module, ModuleError, ModuleTree};
use crate::package::{Package, PackageError, sha256};

/// File name of the kernel in the output folder.
pub const KERNEL_FILE: &str = "vmlinuz";
/// File name of the initramfs in the output folder.
pub const INITRAMFS_FILE: &str = "initramfs.cpio.gz";
/// File name of the record of what was used.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The meta-package that leads to the newest kernel for virtual machines.
const KERNEL_META: &str = "linux-image-cloud-amd64";
/// The power button.
const MODULES: &[&str] = &["button", "evdev"];
/// A virtio network card, loaded if the machine has one: all that an untrusted VM has, and one of the user's own.
const MODULES_VIRTIO: &[&str] = &["virtio_pci", "virtio_net"];

const INIT: &[u8] = include_bytes!("../guest/init");
const POWER_BUTTON: &[u8] = include_bytes!("../guest/power-button");
const DHCP_EVENT: &[u8] = include_bytes!("../guest/dhcp-event");

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A package cannot be had.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A kernel module cannot be had.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// A file does not fit the archive.
    #[error(transparent)]
    Archive(#[from] CpioError),
    /// The list of tested packages is broken.
    #[error("images/manifest.toml: {0}")]
    Tested(#[from] toml_edit::de::Error),
    /// A file could not be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel package is not laid out as expected.
    #[error("{package} has {found} files boot/vmlinuz-*; one is expected")]
    Kernel {
        /// Which package.
        package: String,
        /// How many there are.
        found: usize,
    },
    /// It is no 64-bit ELF program, or the guest has no dynamic linker for it.
    #[error(
        "{path} is not a static program; build it with RUSTFLAGS=\"-C target-feature=+crt-static\" and --target x86_64-unknown-linux-gnu"
    )]
    Dynamic {
        /// Which program.
        path: PathBuf,
    },
}

/// What to build.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// Static programs for the guest's `/bin`.
    pub programs: Vec<PathBuf>,
    /// Where the image goes.
    pub out: PathBuf,
    /// Where fetched packages are kept.
    pub cache: PathBuf,
}

/// A finished image.
#[derive(Clone, Debug)]
pub struct Image {
    /// A bzImage.
    pub kernel: PathBuf,
    /// A gzipped cpio archive.
    pub initramfs: PathBuf,
    /// What it was made of.
    pub manifest: Manifest,
    /// What an operator should hear of: packages other than the tested ones.
    pub notes: Vec<String>,
}

/// Builds the image; the same packages and programs give the same bytes.
///
/// # Errors
/// If a package, a module or a file cannot be had. Files in `out` are then as they were.
pub fn build(spec: &ImageSpec) -> Result<Image, BuildError> {
    let kernel = Package::behind(KERNEL_META, "linux-image-")?;
    let busybox = Package::candidate("busybox-static")?;
    let notes = differences(&Tested::committed()?, &kernel, &busybox);

    let unpacked = tempfile::tempdir().map_err(file(Path::new("a temporary folder")))?;
    for package in [&kernel, &busybox] {
        package.unpack(&package.fetch(&spec.cache)?, unpacked.path())?;
    }
    let parts = assemble(unpacked.path(), kernel, busybox, &spec.programs)?;
    write_out(&spec.out, &parts)?;
    Ok(Image {
        kernel: spec.out.join(KERNEL_FILE),
        initramfs: spec.out.join(INITRAMFS_FILE),
        manifest: parts.manifest,
        notes,
    })
}

/// An image in memory.
struct Parts {
    vmlinuz: Vec<u8>,
    initramfs: Vec<u8>,
    manifest: Manifest,
}

/// Makes an image of packages that lie unpacked below `root`, and of static programs.
fn assemble(
    root: &Path,
    kernel: Package,
    busybox: Package,
    programs: &[PathBuf],
) -> Result<Parts, BuildError> {
    let vmlinuz = read(&kernel_file(&kernel, root)?)?;
    let tree = ModuleTree::below(&root.join("lib/modules"))?;
    let base = tree.in_load_order(MODULES)?;
    let virtio = tree.in_load_order(MODULES_VIRTIO)?;

    let mut programs = read_programs(programs)?;
    programs.insert("busybox".to_owned(), read(&root.join("bin/busybox"))?);
    let mut archive = guest_root(&base, &virtio)?;
    for (name, bytes) in &programs {
        archive.file(&format!("/bin/{name}"), 0o755, bytes.clone())?;
    }
    let initramfs = gzipped(&archive.to_bytes());

    let hashes = |named: &[(&str, &[u8])]| {
        named.iter().map(|(name, bytes)| ((*name).to_owned(), sha256(bytes))).collect::<BTreeMap<_, _>>()
    };
    let manifest = Manifest {
        kernel,
        busybox,
        programs: programs.iter().map(|(name, bytes)| (name.clone(), sha256(bytes))).collect(),
        guest_files: hashes(&[
            ("/init", INIT),
            (POWER_BUTTON_PATH, POWER_BUTTON),
            (DHCP_EVENT_PATH, DHCP_EVENT),
        ]),
        modules: base.iter().chain(&virtio).map(|module| module.name.clone()).collect(),
        outputs: hashes(&[(KERNEL_FILE, &vmlinuz), (INITRAMFS_FILE, &initramfs)]),
    };
    Ok(Parts { vmlinuz, initramfs, manifest })
}

/// Where busybox' acpid looks for what to do when the power button is pressed.
const POWER_BUTTON_PATH: &str = "/etc/acpi/PWRF/00000080";

/// Where busybox' udhcpc looks for what to do with what a DHCP server says.
const DHCP_EVENT_PATH: &str = "/etc/udhcpc/default.script";

fn guest_root(base: &[Module], virtio: &[Module]) -> Result<Archive, BuildError> {
    let mut archive = Archive::new();
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/run", "/etc/netvm/boot.d"] {
        archive.directory(folder)?;
    }
    archive.file("/init", 0o755, INIT.to_vec())?;
    archive.file(POWER_BUTTON_PATH, 0o755, POWER_BUTTON.to_vec())?;
    archive.file(DHCP_EVENT_PATH, 0o755, DHCP_EVENT.to_vec())?;
    for (list, modules) in [("/etc/netvm/modules", base), ("/etc/netvm/modules.virtio", virtio)] {
        let mut names = String::new();
        for module in modules {
            names.push_str(&format!("{}.ko\n", module.name));
            archive.file(&format!("/lib/modules/{}.ko", module.name), 0o644, module.bytes.clone())?;
        }
        archive.file(list, 0o644, names.into_bytes())?;
    }
    Ok(archive)
}

fn kernel_file(package: &Package, root: &Path) -> Result<PathBuf, BuildError> {
    let boot = root.join("boot");
    let names = std::fs::read_dir(&boot).map_err(file(&boot))?.flatten().map(|entry| entry.path());
    let is_kernel = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("vmlinuz-"))
    };
    let mut kernels: Vec<_> = names.filter(is_kernel).collect();
    match (kernels.pop(), kernels.len()) {
        (Some(kernel), 0) => Ok(kernel),
        (last, more) => Err(BuildError::Kernel {
            package: package.name.clone(),
            found: more + usize::from(last.is_some()),
        }),
    }
}

fn read_programs(paths: &[PathBuf]) -> Result<BTreeMap<String, Vec<u8>>, BuildError> {
    let mut programs = BTreeMap::new();
    for path in paths {
        let bytes = read(path)?;
        let dynamic = || BuildError::Dynamic { path: path.clone() };
        let program = elf::program(&bytes).filter(|program| !program.is_dynamic).ok_or_else(dynamic)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        programs.insert(name, elf::trimmed(&bytes, program));
    }
    Ok(programs)
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    // Date zero and no file name, so that the bytes depend on the content alone.
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(6));
    match gzip.write_all(bytes).and_then(|()| gzip.finish()) {
        Ok(packed) => packed,
        Err(error) => unreachable!("writing to memory cannot fail: {error}"),
    }
}

/// Replaces each file in one step, so that a VM that boots meanwhile reads an old or a new one.
fn write_out(out: &Path, parts: &Parts) -> Result<(), BuildError> {
    std::fs::create_dir_all(out).map_err(file(out))?;
    let mut json = serde_json::to_string_pretty(&parts.manifest)
        .map_err(|error| BuildError::File { path: out.join(MANIFEST_FILE), source: error.into() })?;
    json.push('\n');
    for (name, bytes) in [
        (KERNEL_FILE, &parts.vmlinuz[..]),
        (INITRAMFS_FILE, &parts.initramfs),
        (MANIFEST_FILE, json.as_bytes()),
    ] {
        let path = out.join(name);
        let mut temporary = tempfile::NamedTempFile::new_in(out).map_err(file(&path))?;
        temporary.write_all(bytes).map_err(file(&path))?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        temporary.as_file().set_permissions(permissions).map_err(file(&path))?;
        temporary.persist(&path).map_err(|error| BuildError::File { path, source: error.error })?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path).map_err(file(path))
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> BuildError {
    move |source| BuildError::File { path: path.to_owned(), source }
}

/// The programs that a build has left in a folder: executable files without an extension.
///
/// # Errors
/// If the folder cannot be listed.
pub fn programs_in(folder: &Path) -> Result<Vec<PathBuf>, BuildError> {
    use std::os::unix::fs::PermissionsExt;
    let mut programs = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(file(folder))? {
        let path = entry.map_err(file(folder))?.path();
        let metadata = std::fs::metadata(&path).map_err(file(&path))?;
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 && path.extension().is_none() {
            programs.push(path);
        }
    }
    programs.sort();
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files where the real packages have them.
    fn unpacked_packages() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        put("boot/vmlinuz-9", b"kernel");
        put("bin/busybox", b"busybox");
        for (name, depends) in [
            ("button", ""),
            ("evdev", ""),
            ("virtio_net", "virtio"),
            ("virtio_pci", "virtio"),
            ("virtio", ""),
        ] {
            put(&format!("lib/modules/9/{name}.ko"), format!("\0depends={depends}\0").as_bytes());
        }
        root
    }

    fn assembled(programs: &[PathBuf]) -> Result<Parts, BuildError> {
        let package = Package { name: "p".to_owned(), version: "9".to_owned(), sha256: String::new() };
        assemble(unpacked_packages().path(), package.clone(), package, programs)
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes() {
        let (one, two) = (assembled(&[]).unwrap(), assembled(&[]).unwrap());
        assert_eq!(one.initramfs, two.initramfs);
        assert_eq!(one.manifest, two.manifest);
        assert_eq!(one.manifest.modules, ["button", "evdev", "virtio", "virtio_pci", "virtio_net"]);
    }

    #[test]
    fn a_program_goes_in_without_its_symbols() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("forwarder");
        std::fs::write(&path, elf::tests::sample(1)).unwrap();
        let programs = assembled(&[path]).unwrap().manifest.programs;
        let trimmed = elf::trimmed(&elf::tests::sample(1), elf::program(&elf::tests::sample(1)).unwrap());
        assert_eq!(programs["forwarder"], sha256(&trimmed));
    }

    #[test]
    fn refuses_a_program_that_needs_a_dynamic_linker() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("forwarder");
        std::fs::write(&path, elf::tests::sample(3)).unwrap();
        assert!(matches!(assembled(&[path]), Err(BuildError::Dynamic { .. })));
    }

    #[test]
    fn programs_are_the_executable_files_without_extension() {
        use std::os::unix::fs::OpenOptionsExt;
        let folder = tempfile::tempdir().unwrap();
        for (name, mode) in
            [("forwarder", 0o755), ("forwarder.d", 0o644), ("libnetlib.so", 0o755), ("x", 0o644)]
        {
            std::fs::File::options()
                .write(true)
                .create(true)
                .mode(mode)
                .truncate(false)
                .open(folder.path().join(name))
                .unwrap();
        }
        assert_eq!(programs_in(folder.path()).unwrap(), [folder.path().join("forwarder")]);
    }
}
