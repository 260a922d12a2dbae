//! A VM: what it boots, how large it is, and the NFs in it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::access::{ACCESS, Access, Grant, KEYS, Pins, belongs_to};
use crate::cursor::{Cursor, quoted};
use crate::domain::DOMAIN;
use crate::endpoint::{CREDIT, Endpoint, LIMIT, QUOTA, RING_SLOTS, SERVICE};
use crate::finding::Kind;
use crate::form::{Form, Number};
use crate::ids::{DomainId, EndpointId, PortId, VmId};
use crate::key::{Key, Presence, Table};
use crate::names::NAME;
use crate::nic;
use crate::scope::{OwnerTables, Scope};

const FILE_PATH: Form = Form::Text("the path of a file, relative to this one");
const KERNEL: Key = Key {
    name: "kernel",
    form: FILE_PATH,
    presence: Presence::Optional,
    doc: "Linux kernel image, relative to the configuration file. An untrusted VM may boot from its disk instead.",
};
const INITRAMFS: Key = Key {
    name: "initramfs",
    form: FILE_PATH,
    presence: Presence::Optional,
    doc: "Initramfs, relative to the configuration file. An untrusted VM may do without.",
};
const DISK: Key = Key {
    name: "disk",
    form: FILE_PATH,
    presence: Presence::Optional,
    doc: "Raw image of its disk, relative to the configuration file, which it reads and writes; only with access \"untrusted\".",
};
const KERNEL_ARGS: Key = Key {
    name: "kernel_args",
    form: Form::Text("words for the kernel's command line"),
    presence: Presence::Optional,
    doc: "What its kernel is told besides; only with access \"untrusted\".",
};
const GUEST_MEMORY: Key = Key {
    name: "guest_memory",
    form: Form::Text("\"memfd\", \"hugetlb-memfd\" or the absolute path of a file"),
    presence: Presence::Optional,
    doc: "What its memory is made of: a sealed memfd (left out), the same of 2 MiB pages, or a file, which cannot be sealed; only with access \"untrusted\".",
};
const ACCEPT_UNSEALED: Key = Key {
    name: "accept_unsealed_memory",
    form: Form::Flag,
    presence: Presence::Flag(false),
    doc: "Whether its memory may be a file: whoever truncates it takes this VM's NICs down; only with access \"untrusted\".",
};
const VCPUS: Key = Key {
    name: "vcpus",
    form: Form::Number(Number::between(1, 255)),
    presence: Presence::Number(1),
    doc: "Virtual CPUs.",
};
const MEMORY_MIB: Key = Key {
    name: "memory_mib",
    form: Form::Number(Number::between(64, 1 << 20)),
    presence: Presence::Number(256),
    doc: "Memory of its own; nobody else maps it.",
};
const QEMU_EXTRA: Key = Key {
    name: "qemu_extra",
    form: Form::List { of: &Form::Text("a string"), min: 0, max: 256 },
    presence: Presence::Empty,
    doc: "Arguments added to its QEMU command line.",
};
pub(crate) const ENDPOINT: Key = Key {
    name: "endpoint",
    form: Form::Tables { of: &ENDPOINT_TABLE, min: 0, max: 64 },
    presence: Presence::Empty,
    doc: "Its NFs: at least one, none in an untrusted VM.",
};
pub(crate) const NIC: Key = Key {
    name: "nic",
    form: Form::Tables { of: &nic::TABLE, min: 0, max: 8 },
    presence: Presence::Empty,
    doc: "The network cards of an untrusted VM: at least one.",
};
pub(crate) const TABLE: Table = Table {
    header: "[[vm]]",
    doc: "A guest.",
    keys: &[
        &NAME,
        &DOMAIN,
        KEYS[0],
        KEYS[1],
        KEYS[2],
        KEYS[3],
        &KERNEL,
        &INITRAMFS,
        &DISK,
        &KERNEL_ARGS,
        &FILES,
        &GUEST_MEMORY,
        &ACCEPT_UNSEALED,
        &VCPUS,
        &MEMORY_MIB,
        &QEMU_EXTRA,
        &ENDPOINT,
        &NIC,
    ],
};

const NF: Key = Key {
    name: "nf",
    form: Form::Text("the name of an NF binary in the image"),
    presence: Presence::Needed,
    doc: "NF binary in the image.",
};
const ARGS: Key = Key {
    name: "args",
    form: Form::List { of: &Form::Text("a string"), min: 0, max: 256 },
    presence: Presence::Empty,
    doc: "Arguments of the NF.",
};
const FILES: Key = Key {
    name: "files",
    form: Form::Texts("a table of \"/path/in/guest\" = \"host file\""),
    presence: Presence::Empty,
    doc: "Files for the guest: path in the guest = host file, relative to the configuration file.",
};
const ENDPOINT_TABLE: Table = Table {
    header: "[[vm.endpoint]]",
    doc: "One NF in the VM above.",
    keys: &[&SERVICE, &NF, &ARGS, &FILES, &QUOTA, &RING_SLOTS, &CREDIT, &LIMIT.pps, &LIMIT.mbit],
};

/// A host file that appears in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmFile {
    /// Absolute path in the guest.
    pub guest_path: String,
    /// The file on the host.
    pub host_path: PathBuf,
}

/// One NF in a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmEndpoint {
    /// Its service and what it may hold.
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// NF binary in the image.
    pub nf: String,
    /// Arguments of the NF.
    pub args: Vec<String>,
    /// Files that it needs in the guest.
    pub files: Vec<VmFile>,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// Its name; also how its endpoints are named.
    pub name: String,
    /// The domain it belongs to.
    pub domain: DomainId,
    /// What it may do with the packet memory of its domain.
    pub access: Access,
    /// Its private packet memory, if its access gives it any.
    pub region_mib: Option<u32>,
    /// Its references, if it is an observer.
    pub pins: Option<Pins>,
    /// Linux kernel image; an untrusted VM may have none, and boots from its disk then.
    pub kernel: Option<PathBuf>,
    /// Initramfs; only an untrusted VM may have none.
    pub initramfs: Option<PathBuf>,
    /// Raw image of its disk.
    pub disk: Option<PathBuf>,
    /// What its kernel is told besides.
    pub kernel_args: Option<String>,
    /// Files that an untrusted VM needs in its initramfs; NFs have their own.
    pub files: Vec<VmFile>,
    /// What its memory is made of, if it is untrusted.
    pub guest_memory: GuestMemory,
    /// Whether its memory may be a file.
    pub accept_unsealed_memory: bool,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Memory of its own.
    pub memory_mib: u32,
    /// Arguments added to its QEMU command line.
    pub qemu_extra: Vec<String>,
    /// Its NFs; at least one, none if it is untrusted.
    pub endpoints: Vec<VmEndpoint>,
    /// Its network cards; at least one if it is untrusted, else none.
    pub nics: Vec<PortId>,
}

/// What the memory of an untrusted VM is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestMemory {
    /// A memfd that QEMU seals.
    #[default]
    Memfd,
    /// The same of 2 MiB pages.
    HugetlbMemfd,
    /// A file, on hugetlbfs as a rule.
    File(PathBuf),
}

impl Vm {
    /// `folder` is that of the configuration file; `first_endpoint` the id of its first endpoint.
    pub(crate) fn read(
        owner: &OwnerTables<'_>,
        (id, name): (VmId, Option<&str>),
        scope: &Scope<'_>,
        first_endpoint: u16,
        folder: &Path,
    ) -> Option<Self> {
        let cursor = &owner.cursor;
        let domain = cursor.reference(&DOMAIN, &scope.domains.names).map(DomainId);
        let grant = Grant::read(cursor);
        let has_parts = check_parts(owner);
        let boots = Boots::read(owner, folder);
        let memory = read_memory(owner);
        let nics = scope.nics.iter().filter(|nic| nic.vm == id).map(|nic| nic.port).collect();
        let vcpus = cursor.number_u16(&VCPUS);
        let memory_mib = cursor.number(&MEMORY_MIB);
        let qemu_extra = cursor.texts(&QEMU_EXTRA);
        // All are read, so that all are checked, before the first missing one ends the reading.
        let endpoints: Vec<Option<VmEndpoint>> = (first_endpoint..)
            .zip(&owner.endpoints)
            .map(|(id, cursor)| VmEndpoint::read(cursor, EndpointId(id), owner, scope, folder))
            .collect();
        let Grant { access, region_mib, pins } = grant.filter(|_| has_parts)?;
        let Boots { kernel, initramfs, disk, kernel_args, files } = boots?;
        let (guest_memory, accept_unsealed_memory) = memory?;
        Some(Self {
            name: name?.to_owned(),
            domain: domain?,
            access,
            region_mib,
            pins,
            kernel,
            initramfs,
            disk,
            kernel_args,
            files,
            guest_memory,
            accept_unsealed_memory,
            vcpus: vcpus?,
            memory_mib: memory_mib?,
            qemu_extra: qemu_extra?,
            endpoints: endpoints.into_iter().collect::<Option<_>>()?,
            nics,
        })
    }
}

/// Whether it has what its access asks for: NFs, or network cards.
fn check_parts(owner: &OwnerTables<'_>) -> bool {
    let (cursor, Some(access)) = (&owner.cursor, owner.access) else { return false };
    let is_untrusted = access == Access::Untrusted;
    let (wanted, other) = if is_untrusted { (&NIC, &ENDPOINT) } else { (&ENDPOINT, &NIC) };
    let Form::Tables { of, max, .. } = wanted.form else { unreachable!("both are lists of tables") };
    let has_wanted = cursor.has(wanted);
    if !has_wanted {
        cursor.refuse(wanted, Kind::Value, format!("must be 1 to {max} tables {}", of.header), Vec::new());
    }
    if cursor.has(other) {
        let rule = if is_untrusted {
            format!(
                "must be left out with {} = \"{access}\": nothing of the switch is mapped for NFs there",
                ACCESS.name
            )
        } else {
            format!("must come with {} = \"{}\": others get no network card", ACCESS.name, Access::Untrusted)
        };
        cursor.refuse(other, Kind::Conflict, rule, Vec::new());
    }
    has_wanted && !cursor.has(other)
}

/// What a VM boots.
struct Boots {
    kernel: Option<PathBuf>,
    initramfs: Option<PathBuf>,
    disk: Option<PathBuf>,
    kernel_args: Option<String>,
    files: Vec<VmFile>,
}

impl Boots {
    fn read(owner: &OwnerTables<'_>, folder: &Path) -> Option<Self> {
        let cursor = &owner.cursor;
        let path = |key| optional_text(cursor, key).map(|path| path.map(|path| folder.join(path)));
        let (kernel, initramfs, disk) = (path(&KERNEL), path(&INITRAMFS), path(&DISK));
        let kernel_args = optional_text(cursor, &KERNEL_ARGS);
        let files = read_files(cursor, folder);
        let is_whole = Self::check(owner);
        let boots = Self {
            kernel: kernel?,
            initramfs: initramfs?,
            disk: disk?,
            kernel_args: kernel_args?.map(str::to_owned),
            files: files?,
        };
        is_whole.then_some(boots)
    }

    /// Whether the keys that are there make something that boots.
    fn check(owner: &OwnerTables<'_>) -> bool {
        let (cursor, Some(access)) = (&owner.cursor, owner.access) else { return false };
        if access != Access::Untrusted {
            let missing = [&KERNEL, &INITRAMFS].map(|key| {
                let is_missing = !cursor.has(key);
                if is_missing {
                    cursor.refuse(key, Kind::Value, key.form.rule(), Vec::new());
                }
                is_missing
            });
            let foreign = [&DISK, &KERNEL_ARGS, &FILES]
                .map(|key| !belongs_to(cursor, key, access, &[Access::Untrusted]));
            return !missing.into_iter().chain(foreign).any(|wrong| wrong);
        }
        if cursor.has(&KERNEL) {
            let lacks_initramfs = cursor.has(&FILES) && !cursor.has(&INITRAMFS);
            if lacks_initramfs {
                let rule = format!("must come with {}: they are put into it", INITRAMFS.name);
                cursor.refuse(&FILES, Kind::Conflict, rule, Vec::new());
            }
            return !lacks_initramfs;
        }
        if !cursor.has(&DISK) {
            let rule = format!("must be there, or {} to boot from", DISK.name);
            cursor.refuse(&KERNEL, Kind::Conflict, rule, Vec::new());
        }
        let without = [&INITRAMFS, &KERNEL_ARGS, &FILES].map(|key| {
            if cursor.has(key) {
                let rule = format!("must come with {}: it is for that", KERNEL.name);
                cursor.refuse(key, Kind::Conflict, rule, Vec::new());
            }
            cursor.has(key)
        });
        cursor.has(&DISK) && without == [false; 3]
    }
}

/// What the memory of an untrusted VM is made of, and whether it may be a file.
fn read_memory(owner: &OwnerTables<'_>) -> Option<(GuestMemory, bool)> {
    let (cursor, access) = (&owner.cursor, owner.access?);
    if access != Access::Untrusted {
        let left_out = [&GUEST_MEMORY, &ACCEPT_UNSEALED]
            .map(|key| belongs_to(cursor, key, access, &[Access::Untrusted]));
        return (left_out == [true; 2]).then_some((GuestMemory::Memfd, false));
    }
    let accepts = cursor.flag(&ACCEPT_UNSEALED);
    let memory = match optional_text(cursor, &GUEST_MEMORY)? {
        None | Some("memfd") => GuestMemory::Memfd,
        Some("hugetlb-memfd") => GuestMemory::HugetlbMemfd,
        Some(path) if path.starts_with('/') && !path.ends_with('/') => GuestMemory::File(path.into()),
        Some(found) => {
            let near = quoted(crate::nearest::near_enough(found, ["memfd", "hugetlb-memfd"]));
            cursor.refuse(&GUEST_MEMORY, Kind::Value, GUEST_MEMORY.form.rule(), near);
            return None;
        }
    };
    if matches!(memory, GuestMemory::File(_)) && accepts == Some(false) {
        let rule = format!(
            "must come with {} = true: a file cannot be sealed, and whoever truncates it takes this VM's NICs down",
            ACCEPT_UNSEALED.name
        );
        cursor.refuse(&GUEST_MEMORY, Kind::Conflict, rule, quoted(["memfd", "hugetlb-memfd"]));
        return None;
    }
    Some((memory, accepts?))
}

/// `Some(None)`: it is left out. `None`: there is a finding.
fn optional_text<'d>(cursor: &Cursor<'d>, key: &Key) -> Option<Option<&'d str>> {
    if cursor.has(key) { cursor.text(key).map(Some) } else { Some(None) }
}

impl VmEndpoint {
    fn read(
        cursor: &Cursor<'_>,
        id: EndpointId,
        owner: &OwnerTables<'_>,
        scope: &Scope<'_>,
        folder: &Path,
    ) -> Option<Self> {
        let endpoint = Endpoint::read(cursor, id, owner, scope);
        let nf = read_nf(cursor);
        let args = cursor.texts(&ARGS);
        let files = read_files(cursor, folder);
        Some(Self { endpoint: endpoint?, nf: nf?, args: args?, files: files? })
    }
}

/// A file name, not a path: the image decides where its NFs are.
fn read_nf(cursor: &Cursor<'_>) -> Option<String> {
    let nf = cursor.text(&NF)?;
    if nf.contains(['/', ' ']) || nf.starts_with(['.', '-']) {
        let near = nf.rsplit('/').next().filter(|last| !last.is_empty() && !last.contains(' '));
        cursor.refuse(&NF, Kind::Value, NF.form.rule(), quoted(near));
        return None;
    }
    Some(nf.to_owned())
}

fn read_files(cursor: &Cursor<'_>, folder: &Path) -> Option<Vec<VmFile>> {
    let mut files = Vec::new();
    let mut legal = true;
    for (place, guest_path, host_path) in cursor.text_table(&FILES)? {
        if !is_guest_path(guest_path) {
            let rule = "must go to an absolute path in the guest without . or ..";
            cursor.refuse_at(&place, Kind::Value, rule, Vec::new());
            legal = false;
        }
        let Some(host_path) = host_path else {
            cursor.refuse_at(&place, Kind::Value, FILE_PATH.rule(), Vec::new());
            legal = false;
            continue;
        };
        files.push(VmFile { guest_path: guest_path.to_owned(), host_path: folder.join(host_path) });
    }
    legal.then_some(files)
}

fn is_guest_path(path: &str) -> bool {
    let climbs = path.split('/').any(|part| part == ".." || part == ".");
    path.starts_with('/') && !path.ends_with('/') && !climbs && !path.chars().any(char::is_control)
}
