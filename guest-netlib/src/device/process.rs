//! Fetches the shared memory from the switch over its endpoint socket, for a process or a container.
//!
//! The connection stays open as long as the memory is mapped: its end is how the switch knows that this
//! process can no longer write. Every descriptor here is close-on-exec, so a child that runs another program
//! does not hold it open.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::IoSliceMut;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recvmsg, send, socket_with, sockopt,
};
use serde::{Deserialize, Serialize};

use super::Found;
use crate::mapping::Mapping;

/// Version of the messages on the socket.
const PROTOCOL_VERSION: u32 = 1;
/// Most bytes of one message.
const MESSAGE_BYTES_MAX: usize = 4096;
/// How long the switch may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Hello<'a> {
    netvm: u32,
    hello: &'static str,
    name: &'a str,
}

#[derive(Deserialize)]
struct Answer {
    netvm: u32,
    ok: Option<Memory>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Memory {
    control_bytes: u64,
    region_bytes: u64,
    #[serde(default)]
    read_only: bool,
}

/// Why the switch did not lend its memory to this process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Nobody listens there.
    #[error("no switch answers at {}: {source}; check that `netvm run` is up and that NETVM_SOCKET or --socket names its endpoint.sock", socket.display())]
    Connect {
        /// Where we looked.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection broke before the answer was complete.
    #[error("the switch at {} gave no answer within {ANSWER_TIMEOUT:?}: {source}", socket.display())]
    NoAnswer {
        /// Where we asked.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The switch refused, in its own words.
    #[error("the switch refuses process \"{name}\": {reason}")]
    Refused {
        /// The name we gave.
        name: String,
        /// The reason it gave.
        reason: String,
    },
    /// An answer that this program does not understand.
    #[error("the switch at {} answers in an unknown way: {found}; expected protocol version {PROTOCOL_VERSION} with two file descriptors", socket.display())]
    Protocol {
        /// Where we asked.
        socket: PathBuf,
        /// What it said instead.
        found: String,
    },
    /// The memory could not be mapped.
    #[error("mapping the {what} of {mapped_bytes} bytes: {source}")]
    Map {
        /// Control area or region.
        what: &'static str,
        /// Its size.
        mapped_bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The switch's memory and the connection that goes with it.
pub(crate) struct Lent {
    pub(crate) control: Mapping,
    pub(crate) region: Found,
    pub(crate) connection: OwnedFd,
}

/// Asks the switch at `socket` for the memory of process `name`.
pub(crate) fn fetch(socket: &Path, name: &str) -> Result<Lent, ProcessError> {
    let connection = connect_to(socket)
        .map_err(|err| ProcessError::Connect { socket: socket.to_owned(), source: err.into() })?;
    let (text, mut files) = ask(&connection, name)
        .map_err(|source| ProcessError::NoAnswer { socket: socket.to_owned(), source })?;
    let strange = |found: String| ProcessError::Protocol { socket: socket.to_owned(), found };
    let answer: Answer = serde_json::from_slice(&text).map_err(|err| strange(err.to_string()))?;
    if answer.netvm != PROTOCOL_VERSION {
        return Err(strange(format!("protocol version {}", answer.netvm)));
    }
    if let Some(reason) = answer.error {
        return Err(ProcessError::Refused { name: name.to_owned(), reason });
    }
    let memory = answer.ok.ok_or_else(|| strange("neither ok nor error".to_owned()))?;
    let (Some(region), Some(control), None) = (files.pop(), files.pop(), files.pop()) else {
        return Err(strange("another number of file descriptors".to_owned()));
    };
    let map_region: Map = if memory.read_only { Mapping::read_only } else { Mapping::shared };
    let mapping = map("region", &region, memory.region_bytes, map_region)?;
    Ok(Lent {
        control: map("control area", &control, memory.control_bytes, Mapping::shared)?,
        region: Found { mapping, file: region, writable: !memory.read_only },
        connection,
    })
}

fn connect_to(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Says hello and returns the answer with the file descriptors that came along.
fn ask(connection: &OwnedFd, name: &str) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let hello = serde_json::to_vec(&Hello { netvm: PROTOCOL_VERSION, hello: "process", name })?;
    send(connection, &hello, SendFlags::NOSIGNAL)?;

    let mut text = vec![0u8; MESSAGE_BYTES_MAX];
    // Room for one more than the two that the protocol knows, so that a third is seen and refused.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(connection, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    text.truncate(received.bytes);
    Ok((text, files))
}

/// How a file is mapped.
type Map = fn(BorrowedFd<'_>, usize) -> io::Result<Mapping>;

/// Maps `file`, which must be at least as long as the switch says: a shorter one would end in SIGBUS.
fn map(what: &'static str, file: &OwnedFd, said_bytes: u64, map: Map) -> Result<Mapping, ProcessError> {
    let failed = |source: io::Error| ProcessError::Map { what, mapped_bytes: said_bytes, source };
    let file_bytes = rustix::fs::fstat(file).map_err(|err| failed(err.into()))?.st_size;
    let long_enough = u64::try_from(file_bytes).is_ok_and(|bytes| bytes >= said_bytes);
    let mapped_bytes = usize::try_from(said_bytes).ok().filter(|&bytes| bytes > 0 && long_enough);
    let mapped_bytes = mapped_bytes
        .ok_or_else(|| failed(io::Error::other(format!("the file behind it has {file_bytes} bytes"))))?;
    map(file.as_fd(), mapped_bytes).map_err(failed)
}

/// Whether the switch still holds its end of the connection.
pub(crate) fn is_connected(connection: &OwnedFd) -> bool {
    let mut byte = [0u8; 1];
    let looked = rustix::net::recv(connection, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    match looked {
        Ok((_, bytes)) => bytes > 0,
        Err(err) => err == rustix::io::Errno::AGAIN || err == rustix::io::Errno::INTR,
    }
}
