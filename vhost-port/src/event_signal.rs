//! Raises an event counter that somebody else made, without ever blocking.
//!
//! A `write` to a guest's eventfd waits while its counter is full, and `O_NONBLOCK` does not help: the flag belongs
//! to the open file, so the other side can clear it at any moment. The kernel's own completions never wait: they
//! add to the counter as far as it goes. So each signal is a read of one byte of our own memory, submitted by
//! `io_submit` with the guest's descriptor as the eventfd of its completion (`IOCB_FLAG_RESFD`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;

/// `IOCB_CMD_PREAD` of linux/aio_abi.h.
const READ: u16 = 0;
/// `IOCB_FLAG_RESFD` of linux/aio_abi.h.
const TELL_EVENTFD: u32 = 1;

/// `struct iocb` of linux/aio_abi.h, little-endian.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len_bytes: u64,
    offset_bytes: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// `struct io_event` of linux/aio_abi.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Completion {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// A context of the kernel's asynchronous reads, used for their completions only.
#[derive(Debug)]
pub(crate) struct EventSignal {
    context: libc::c_ulong,
    source: OwnedFd,
    target: Box<u8>,
}

impl EventSignal {
    /// A context of its own.
    pub(crate) fn new() -> io::Result<Self> {
        let source = rustix::fs::memfd_create("netvm-signal", MemfdFlags::CLOEXEC)?;
        let source = File::from(source);
        source.set_len(1)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup writes one context id to the place of the second argument, which is ours.
        let answer = unsafe { libc::syscall(libc::SYS_io_setup, 1 as libc::c_long, &raw mut context) };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { context, source: source.into(), target: Box::new(0) })
    }

    /// Adds one to the counter of an eventfd; one whose counter is full stays as it is.
    ///
    /// # Errors
    /// `EINVAL` if it is no eventfd.
    pub(crate) fn raise(&mut self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        let number = |fd: &dyn AsRawFd| u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX);
        let mut request = Request {
            opcode: READ,
            fd: number(&self.source),
            buffer: std::ptr::from_mut(self.target.as_mut()).expose_provenance() as u64,
            len_bytes: 1,
            flags: TELL_EVENTFD,
            eventfd: number(&eventfd),
            ..Request::default()
        };
        let mut list = [&raw mut request];
        // SAFETY: the list has one request, and the request's buffer is our box of one byte, which outlives the
        // read: it is over when `finish` has its completion, and the box is not touched until then.
        let answer =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1 as libc::c_long, list.as_mut_ptr()) };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        self.finish()
    }

    /// Takes the completion. A read of one resident byte is over when it was submitted, so this does not wait.
    fn finish(&mut self) -> io::Result<()> {
        let mut completion = Completion::default();
        // SAFETY: asks for exactly one completion, and there is room for one; no time limit is given.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                1 as libc::c_long,
                1 as libc::c_long,
                &raw mut completion,
                std::ptr::null_mut::<libc::timespec>(),
            )
        };
        if answer == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for EventSignal {
    fn drop(&mut self) {
        // SAFETY: the context is ours and no read is under way (`finish`).
        _ = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn count_of(fd: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        rustix::io::read(fd, &mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    }

    #[test]
    fn adds_one_to_the_counter() {
        let counter = eventfd(3, EventfdFlags::empty()).unwrap();
        let mut signal = EventSignal::new().unwrap();
        signal.raise(counter.as_fd()).unwrap();
        signal.raise(counter.as_fd()).unwrap();
        assert_eq!(count_of(&counter), 5);
    }

    #[test]
    fn a_full_counter_that_blocks_writers_does_not_block_it() {
        let counter = eventfd(0, EventfdFlags::empty()).unwrap();
        rustix::io::write(&counter, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let mut signal = EventSignal::new().unwrap();
        for _ in 0..10 {
            signal.raise(counter.as_fd()).unwrap();
        }
        assert!(count_of(&counter) >= u64::MAX - 1);
    }

    #[test]
    fn refuses_what_is_no_eventfd() {
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        let memory = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        let mut signal = EventSignal::new().unwrap();
        for fd in [pipe, memory] {
            assert_eq!(signal.raise(fd.as_fd()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
    }
}
