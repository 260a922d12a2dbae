//! A port that echoes, and a frontend of our own that drives it, well or badly.
#![allow(dead_code, reason = "each test program uses a part of it")]

#[path = "../../../host-switch/src/region/fault.rs"]
mod fault;
pub mod guest;
pub mod port;

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
pub use vhost::vhost_user::message::FrontendReq as Request;

/// Longer than anything takes here, however busy the machine; where a check is turned off, it does not come.
pub const SOON: Duration = Duration::from_secs(if cfg!(feature = "sabotage") { 5 } else { 20 });
pub const NEED_REPLY: u32 = 8;

/// Waits until something is so.
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < SOON, "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A frontend's end of a connection: says whatever it is told to.
pub struct Wire(pub UnixStream);

impl Wire {
    pub fn connect(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self(stream)
    }

    /// Sends bytes and descriptors as they are. False if the port has hung up.
    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        }
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).is_ok()
    }

    pub fn send(&self, request: Request, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.send_raw(&message(request as u32, 1 | flags, body), fds)
    }

    /// The next answer: its body, and the descriptor that came with it. `None` if the port has hung up.
    pub fn answer(&self) -> Option<(Vec<u8>, Option<OwnedFd>)> {
        let mut header = [0; 12];
        let fd = self.read(&mut header)?;
        let len = u32::from_le_bytes(header[8..].try_into().unwrap());
        let mut body = vec![0; len as usize];
        if !body.is_empty() {
            self.read(&mut body)?;
        }
        Some((body, fd))
    }

    fn read(&self, bytes: &mut [u8]) -> Option<Option<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
        let wanted = bytes.len();
        let got = match recvmsg(&self.0, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags) {
            Ok(got) => got.bytes,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(error) => panic!("no answer: {error}"),
        };
        let mut fd = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fd = rights.into_iter().next();
            }
        }
        (got == wanted).then_some(fd)
    }

    /// Asks for a number.
    pub fn ask(&self, request: Request) -> u64 {
        assert!(self.send(request, 0, &[], &[]));
        u64::from_le_bytes(self.answer().unwrap().0.try_into().unwrap())
    }

    /// Sends a request and waits for the acknowledgement: whether it was done. `None` if the port has hung up.
    pub fn demand(&self, request: Request, body: &[u8], fds: &[BorrowedFd<'_>]) -> Option<bool> {
        self.send(request, NEED_REPLY, body, fds);
        Some(self.answer()?.0 == 0_u64.to_le_bytes())
    }

    /// Waits until the port hangs up, whatever it says before.
    pub fn wait_for_end(&self) {
        let mut stream = &self.0;
        loop {
            match stream.read(&mut [0; 256]) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the port does not hang up: {error}"),
            }
        }
    }
}

pub fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap();
    let mut bytes = [request, flags, size].map(u32::to_le_bytes).concat();
    bytes.extend_from_slice(body);
    bytes
}

pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The body of a message about one queue.
pub fn state(queue: u32, value: u32) -> Vec<u8> {
    [queue, value].map(u32::to_le_bytes).concat()
}

pub fn borrow(fd: &impl AsFd) -> BorrowedFd<'_> {
    fd.as_fd()
}
