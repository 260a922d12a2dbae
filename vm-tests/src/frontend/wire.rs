//! A frontend's end of a connection: says whatever it is told to.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Requests of vhost-user, by their numbers.
pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const SET_VRING_ERR: u32 = 14;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const SET_VRING_ENABLE: u32 = 18;
pub const NET_SET_MTU: u32 = 20;
pub const GET_INFLIGHT_FD: u32 = 31;
pub const SET_INFLIGHT_FD: u32 = 32;
pub const ADD_MEM_REG: u32 = 37;
pub const REM_MEM_REG: u32 = 38;

/// The version in the flags of a message.
pub const VERSION: u32 = 1;
/// An answer is asked for, whatever the message.
pub const NEED_REPLY: u32 = 8;
/// Longer than a port lets a frontend wait that was refused before.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// A connection.
#[derive(Debug)]
pub struct Wire(UnixStream);

impl Wire {
    /// Connects to a NIC's socket.
    ///
    /// # Errors
    /// If nobody listens.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self(stream))
    }

    /// Sends bytes and descriptors as they are; false if the port has hung up or does not listen.
    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return false;
        }
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).is_ok()
    }

    /// Sends a message.
    pub fn send(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.send_raw(&message(request, VERSION, body), fds)
    }

    /// Sends a message and waits for the body of its answer; nothing if the port hangs up, or says nothing.
    pub fn ask(&self, request: u32, body: &[u8]) -> Option<Vec<u8>> {
        self.send(request, body, &[]).then(|| self.answer())?
    }

    /// Sends a message and waits until it is done; false if it is refused.
    pub fn demand(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let sent = self.send_raw(&message(request, VERSION | NEED_REPLY, body), fds);
        sent && self.answer().is_some_and(|answer| answer == [0; 8])
    }

    fn answer(&self) -> Option<Vec<u8>> {
        let mut header = [0; 12];
        (&self.0).read_exact(&mut header).ok()?;
        let [.., size] = header.as_chunks::<4>().0 else { return None };
        // What answers is the product: it is not asked whether it lies.
        let mut body = vec![0; u32::from_le_bytes(*size) as usize];
        (&self.0).read_exact(&mut body).ok()?;
        Some(body)
    }

    /// Waits until the port hangs up, whatever it says before; or as long as it may be silent.
    pub fn wait_for_end(&self) {
        while (&self.0).read(&mut [0; 256]).is_ok_and(|read| read > 0) {}
    }
}

/// A message.
pub fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = [request, flags, size].map(u32::to_le_bytes).concat();
    bytes.extend_from_slice(body);
    bytes
}

/// Words as a body.
pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The body of a message about one queue.
pub fn state(queue: u32, value: u32) -> Vec<u8> {
    [queue, value].map(u32::to_le_bytes).concat()
}

/// The body of SET_MEM_TABLE: guest address, length, frontend's address, offset in the file.
pub fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut body = words(&[regions.len() as u64]);
    body.extend(regions.iter().flat_map(|region| words(region)));
    body
}

/// The body of ADD_MEM_REG and REM_MEM_REG.
pub fn region(region: [u64; 4]) -> Vec<u8> {
    let mut body = words(&[0]);
    body.extend(words(&region));
    body
}

/// The body of SET_VRING_ADDR.
pub fn rings(queue: u32, [descriptors, used, available]: [u64; 3]) -> Vec<u8> {
    let mut body = state(queue, 0);
    body.extend(words(&[descriptors, used, available, 0]));
    body
}
