//! Where the attacker's memory comes from: the socket of a switch, or the PCI devices of a guest.

use std::fs::{self, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::IoSliceMut;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recvmsg, send, socket_with, sockopt,
};

use super::memory::Memory;
use super::seat::Seat;

const PCI_DEVICES: &str = "/sys/bus/pci/devices";
/// How long the switch may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection of a process.
#[derive(Debug)]
pub struct Link {
    socket: PathBuf,
    /// Its end is said to be our end.
    pub connection: OwnedFd,
    /// The files of control area and region.
    pub files: [OwnedFd; 2],
}

/// Everything that this program can map.
#[derive(Debug)]
pub struct Device {
    /// The control area.
    pub control: Memory,
    /// The region of the domain.
    pub region: Memory,
    /// Other mappable memory of PCI devices, by the file's name.
    pub others: Vec<(String, Memory)>,
    /// Where the endpoint's parts lie.
    pub seat: Seat,
    /// The way to the switch, in a process.
    pub link: Option<Link>,
}

impl Device {
    /// Takes the memory of process `name` from the switch at `socket`.
    ///
    /// # Errors
    /// If the switch refuses, or its control area makes no sense.
    pub fn process(socket: &Path, name: &str) -> io::Result<Self> {
        let (connection, files) = hello(socket, name)?;
        let [control, region] = &files;
        let control = Memory::map(control.as_fd(), file_bytes(control)?)?;
        let region = Memory::map(region.as_fd(), file_bytes(region)?)?;
        let seat = Seat::read(&control).ok_or_else(|| io::Error::other("no control area came"))?;
        let link = Link { socket: socket.to_owned(), connection, files };
        Ok(Self { control, region, others: Vec::new(), seat, link: Some(link) })
    }

    /// Maps every BAR of this guest that can be mapped.
    ///
    /// # Errors
    /// If there is no control area, or nothing that can be its region.
    pub fn guest() -> io::Result<Self> {
        let mut bars = every_bar()?;
        let found = bars.iter().position(|(_, memory)| Seat::read(memory).is_some());
        let found = found.ok_or_else(|| io::Error::other("no BAR of this guest is a control area"))?;
        let (_, control) = bars.swap_remove(found);
        let seat = Seat::read(&control).ok_or_else(|| io::Error::other("the control area has changed"))?;
        // By its size: an attacker elsewhere may have scribbled over its first page.
        let region = bars.iter().position(|(_, memory)| memory.bytes() == seat.region_bytes);
        let region = region.ok_or_else(|| io::Error::other("no BAR has the size of the region"))?;
        let (_, region) = bars.swap_remove(region);
        Ok(Self { control, region, others: bars, seat, link: None })
    }

    /// Whether this is a process, which can talk to the switch.
    #[must_use]
    pub fn has_socket(&self) -> bool {
        self.link.is_some()
    }

    /// Every mapping, by what it is.
    pub fn mappings(&self) -> impl Iterator<Item = (&str, &Memory)> {
        let others = self.others.iter().map(|(name, memory)| (name.as_str(), memory));
        [("control", &self.control), ("region", &self.region)].into_iter().chain(others)
    }
}

impl Link {
    /// A new connection to the socket, without a word.
    ///
    /// # Errors
    /// If nobody listens.
    pub fn dial(&self) -> io::Result<OwnedFd> {
        dial(&self.socket)
    }
}

fn dial(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Says hello until the switch has noticed that an earlier life is over: the connection, control area and region.
pub(super) fn hello(socket: &Path, name: &str) -> io::Result<(OwnedFd, [OwnedFd; 2])> {
    let hello = format!(r#"{{"netvm":1,"hello":"process","name":"{name}"}}"#);
    let mut said = String::new();
    for _ in 0..500 {
        let connection = dial(socket)?;
        send(&connection, hello.as_bytes(), SendFlags::NOSIGNAL)?;
        let (text, files) = answer(&connection)?;
        if let Ok(files) = <[OwnedFd; 2]>::try_from(files) {
            return Ok((connection, files));
        }
        said = text;
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::other(format!("the switch refuses {name}: {said}")))
}

/// One message of the switch, and the files that came with it.
fn answer(connection: &OwnedFd) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut text = vec![0_u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(connection, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    text.truncate(received.bytes);
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    Ok((String::from_utf8_lossy(&text).into_owned(), files))
}

fn file_bytes(file: &OwnedFd) -> io::Result<usize> {
    let bytes = rustix::fs::fstat(file)?.st_size;
    usize::try_from(bytes).map_err(|_| io::Error::other("a file of a negative size"))
}

/// Every BAR that the kernel lets us map, of every device: `0000:00:04.0/resource2` and its memory.
fn every_bar() -> io::Result<Vec<(String, Memory)>> {
    let mut bars = Vec::new();
    for entry in fs::read_dir(PCI_DEVICES)? {
        let device = entry?.path();
        let enable = device.join("enable");
        // A device that a driver has enabled needs it no more, and one that cannot be enabled has no memory.
        if fs::read_to_string(&enable).is_ok_and(|state| state.trim() == "0") {
            let _cannot_be_enabled = fs::write(&enable, "1");
        }
        for number in 0..6 {
            let path = device.join(format!("resource{number}"));
            let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
            let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(0);
            // Ports of the old kind cannot be mapped.
            if let Ok(memory) = Memory::map(file.as_fd(), bytes) {
                bars.push((path.display().to_string().replace(&format!("{PCI_DEVICES}/"), ""), memory));
            }
        }
    }
    bars.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(bars)
}
