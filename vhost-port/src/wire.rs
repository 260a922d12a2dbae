//! Messages of one connection: framed, bounded, and never waited for.
//!
//! The `vhost` crate names the messages; its own reader is not used. That one waits inside a message for as long
//! as the other side likes, loses its place behind a message with more than 32 file descriptors, and receives
//! descriptors that children of this process would inherit.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use vhost::vhost_user::message::{MAX_MSG_SIZE, VhostUserHeaderFlag};

use crate::memory::REGIONS_MAX;
use crate::refusal::Refusal;

/// Request, flags, length of the body; four bytes each.
const HEADER_BYTES: usize = 12;
/// The only version there is.
const VERSION: u32 = 1;
/// Most file descriptors of one message: one for each region of a table.
pub(crate) const FDS_MAX: usize = REGIONS_MAX;
/// How long the rest of a message may take, and how long an answer may lie unread.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// One whole message.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) request: u32,
    pub(crate) needs_reply: bool,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// What a look at the connection brought.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Nothing whole yet.
    Nothing,
    Message(Message),
    /// The other side is gone.
    End,
}

/// A connection with what has come of the next message.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// When the first byte of the incomplete message came.
    since: Option<Instant>,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Result<Self, Refusal> {
        stream.set_nonblocking(true).map_err(Refusal::Connection)?;
        Ok(Self { stream, bytes: Vec::new(), fds: Vec::new(), since: None })
    }

    /// Takes what has come. Never waits.
    pub(crate) fn receive(&mut self) -> Result<Incoming, Refusal> {
        loop {
            let missing = self.missing_bytes()?;
            if missing == 0 {
                return Ok(Incoming::Message(self.take_message()));
            }
            match self.read(missing)? {
                Read::Some => _ = self.since.get_or_insert_with(Instant::now),
                Read::Nothing => return self.check_patience(),
                Read::End => return Ok(Incoming::End),
            }
        }
    }

    /// How many bytes of the message are to come, as far as it says; 0 if it is whole.
    fn missing_bytes(&self) -> Result<usize, Refusal> {
        let Some(header) = self.bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(HEADER_BYTES - self.bytes.len());
        };
        let (_, flags, size_bytes) = split_header(header);
        let sane_flags = VERSION | VhostUserHeaderFlag::NEED_REPLY.bits();
        let is_sane = flags & !sane_flags == 0 && flags & VhostUserHeaderFlag::VERSION.bits() == VERSION;
        if !is_sane || size_bytes as usize > MAX_MSG_SIZE {
            return Err(Refusal::Header { flags, size_bytes });
        }
        Ok(HEADER_BYTES + size_bytes as usize - self.bytes.len())
    }

    fn take_message(&mut self) -> Message {
        self.since = None;
        let bytes = std::mem::take(&mut self.bytes);
        let fds = std::mem::take(&mut self.fds);
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Message::default();
        };
        let (request, flags, _) = split_header(header);
        let needs_reply = flags & VhostUserHeaderFlag::NEED_REPLY.bits() != 0;
        Message { request, needs_reply, body: body.to_vec(), fds }
    }

    fn check_patience(&self) -> Result<Incoming, Refusal> {
        match self.since.map(|since| since.elapsed()) {
            Some(waited) if waited > PATIENCE && !cfg!(feature = "sabotage-partial-message") => {
                Err(Refusal::Partial { waited })
            }
            _ => Ok(Incoming::Nothing),
        }
    }

    /// Reads no further than this message goes, so that descriptors stay with the message they came with.
    fn read(&mut self, bytes_max: usize) -> Result<Read, Refusal> {
        let start = self.bytes.len();
        self.bytes.resize(start + bytes_max, 0);
        // Room for one more than allowed, so that too many is told from just enough.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX + 1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(&mut self.bytes[start..])],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        self.bytes.truncate(start + got.as_ref().map_or(0, |got| got.bytes));
        let got = match got {
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Read::Nothing),
            Err(Errno::CONNRESET) => return Ok(Read::End),
            Err(error) => return Err(Refusal::Connection(error.into())),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.fds.extend(rights);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > FDS_MAX {
            return Err(Refusal::Fds { request: 0, fds: self.fds.len(), allowed: FDS_MAX });
        }
        Ok(if got.bytes == 0 { Read::End } else { Read::Some })
    }

    /// Answers a request. Waits for the other side to read, but not for long.
    pub(crate) fn reply(&self, request: u32, body: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Refusal> {
        let flags = VERSION | VhostUserHeaderFlag::REPLY.bits();
        let size_bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let mut bytes = [request, flags, size_bytes].map(u32::to_le_bytes).concat();
        bytes.extend_from_slice(body);
        let deadline = Instant::now() + PATIENCE;
        let (mut sent, mut fd) = (0, fd);
        while sent < bytes.len() {
            match self.write(&bytes[sent..], fd) {
                Ok(now) => (sent, fd) = (sent + now, None),
                Err(Errno::AGAIN | Errno::INTR) => self.wait_for_room(deadline)?,
                Err(error) => return Err(Refusal::Connection(error.into())),
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = fd.as_slice();
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::TOOMANYREFS);
        }
        sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
    }

    fn wait_for_room(&self, deadline: Instant) -> Result<(), Refusal> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Refusal::Unread { waited: PATIENCE });
        }
        let mut fds = [PollFd::new(&self.stream, PollFlags::OUT)];
        let limit = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Refusal::Connection(error.into())),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

enum Read {
    Some,
    Nothing,
    End,
}

/// Request, flags, length of the body.
fn split_header(header: &[u8; HEADER_BYTES]) -> (u32, u32, u32) {
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    (word(0), word(4), word(8))
}
