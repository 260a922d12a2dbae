//! Messages with file descriptors over a `SOCK_SEQPACKET` Unix socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recvmsg,
    sendmsg, socket_with,
};

/// Longest message in bytes; a longer one is refused.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// Most file descriptors that come with one message.
pub const FDS_MAX: usize = 2;

/// What arrived.
#[derive(Debug)]
pub enum Received {
    /// The peer is gone: every copy of its end is closed.
    End,
    /// One whole message.
    Message {
        /// Its bytes, as the peer wrote them.
        bytes: Vec<u8>,
        /// The file descriptors that came with it, close-on-exec.
        fds: Vec<OwnedFd>,
    },
    /// Longer than [`MESSAGE_BYTES_MAX`], or with more than [`FDS_MAX`] file descriptors. Its end is lost.
    TooLong,
}

/// A listening socket at `path` that never blocks its owner.
///
/// # Errors
/// What the system says, for example that the path is too long.
pub fn listen_at(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 16)?;
    Ok(socket)
}

/// A blocking connection to the socket at `path`.
///
/// # Errors
/// What the system says, for example that nobody listens.
pub fn connect_to(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Sends one message. Never raises SIGPIPE.
///
/// # Errors
/// `EAGAIN` on a non-blocking socket whose peer does not read; `EPIPE` when the peer is gone.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOMANYREFS);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).map(|_| ())
}

/// Takes the next message.
///
/// # Errors
/// `EAGAIN` on a non-blocking socket with nothing to read; a connection reset counts as [`Received::End`].
pub fn receive(socket: impl AsFd) -> Result<Received, Errno> {
    let socket = socket.as_fd();
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    // Room for one more than allowed, so that too many is told from just enough.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX + 1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got =
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::CONNRESET) => return Ok(Received::End),
            other => other?,
        };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || fds.len() > FDS_MAX {
        return Ok(Received::TooLong);
    }
    if got.bytes == 0 && has_ended(socket)? {
        return Ok(Received::End);
    }
    bytes.truncate(got.bytes);
    Ok(Received::Message { bytes, fds })
}

/// Whether the peer can send no more. A message without bytes reads as the end does, and is none.
fn has_ended(socket: impl AsFd) -> Result<bool, Errno> {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once))?;
    Ok(fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::socketpair;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_message_arrives_with_its_fds() {
        let (here, there) = pair();
        let (read_end, write_end) = rustix::pipe::pipe().unwrap();
        send(&here, b"hello", &[read_end.as_fd(), write_end.as_fd()]).unwrap();
        match receive(&there).unwrap() {
            Received::Message { bytes, fds } => assert_eq!((bytes.as_slice(), fds.len()), (&b"hello"[..], 2)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_of_exactly_the_limit_arrives() {
        let (here, there) = pair();
        send(&here, &[b'x'; MESSAGE_BYTES_MAX], &[]).unwrap();
        assert!(
            matches!(receive(&there).unwrap(), Received::Message { bytes, .. } if bytes.len() == MESSAGE_BYTES_MAX)
        );
    }

    #[test]
    fn a_message_one_byte_over_the_limit_is_too_long() {
        let (here, there) = pair();
        send(&here, &[b'x'; MESSAGE_BYTES_MAX + 1], &[]).unwrap();
        assert!(matches!(receive(&there).unwrap(), Received::TooLong));
    }

    #[test]
    fn a_message_without_bytes_is_not_the_end() {
        let (here, there) = pair();
        send(&here, &[], &[]).unwrap();
        assert!(matches!(receive(&there).unwrap(), Received::Message { bytes, .. } if bytes.is_empty()));
        drop(here);
        assert!(matches!(receive(&there).unwrap(), Received::End));
    }

    #[test]
    fn the_end_comes_when_the_peer_closes() {
        let (here, there) = pair();
        drop(here);
        assert!(matches!(receive(&there).unwrap(), Received::End));
    }
}
