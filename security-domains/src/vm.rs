//! A VM: what it boots, how large it is, and the NFs in it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::access::{Access, Grant, KEYS, Pins};
use crate::cursor::{Cursor, quoted};
use crate::domain::DOMAIN;
use crate::endpoint::{CREDIT, Endpoint, LIMIT, QUOTA, RING_SLOTS, SERVICE};
use crate::finding::Kind;
use crate::form::{Form, Number};
use crate::ids::{DomainId, EndpointId};
use crate::key::{Key, Presence, Table};
use crate::names::NAME;
use crate::scope::{OwnerTables, Scope};

const FILE_PATH: Form = Form::Text("the path of a file, relative to this one");
const KERNEL: Key = Key {
    name: "kernel",
    form: FILE_PATH,
    presence: Presence::Needed,
    doc: "Linux kernel image, relative to the configuration file.",
};
const INITRAMFS: Key = Key {
    name: "initramfs",
    form: FILE_PATH,
    presence: Presence::Needed,
    doc: "Initramfs, relative to the configuration file.",
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
    form: Form::Tables { of: &ENDPOINT_TABLE, min: 1, max: 64 },
    presence: Presence::Needed,
    doc: "Its NFs.",
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
        &VCPUS,
        &MEMORY_MIB,
        &QEMU_EXTRA,
        &ENDPOINT,
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
    /// Linux kernel image.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initramfs: PathBuf,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Memory of its own.
    pub memory_mib: u32,
    /// Arguments added to its QEMU command line.
    pub qemu_extra: Vec<String>,
    /// Its NFs; at least one.
    pub endpoints: Vec<VmEndpoint>,
}

impl Vm {
    /// `folder` is that of the configuration file; `first_endpoint` the id of its first endpoint.
    pub(crate) fn read(
        owner: &OwnerTables<'_>,
        name: Option<&str>,
        scope: &Scope<'_>,
        first_endpoint: u16,
        folder: &Path,
    ) -> Option<Self> {
        let cursor = &owner.cursor;
        let domain = cursor.reference(&DOMAIN, &scope.domains.names).map(DomainId);
        let grant = Grant::read(cursor);
        let kernel = cursor.text(&KERNEL).map(|path| folder.join(path));
        let initramfs = cursor.text(&INITRAMFS).map(|path| folder.join(path));
        let vcpus = cursor.number_u16(&VCPUS);
        let memory_mib = cursor.number(&MEMORY_MIB);
        let qemu_extra = cursor.texts(&QEMU_EXTRA);
        // All are read, so that all are checked, before the first missing one ends the reading.
        let endpoints: Vec<Option<VmEndpoint>> = (first_endpoint..)
            .zip(&owner.endpoints)
            .map(|(id, cursor)| VmEndpoint::read(cursor, EndpointId(id), owner, scope, folder))
            .collect();
        let Grant { access, region_mib, pins } = grant?;
        Some(Self {
            name: name?.to_owned(),
            domain: domain?,
            access,
            region_mib,
            pins,
            kernel: kernel?,
            initramfs: initramfs?,
            vcpus: vcpus?,
            memory_mib: memory_mib?,
            qemu_extra: qemu_extra?,
            endpoints: endpoints.into_iter().collect::<Option<_>>()?,
        })
    }
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
