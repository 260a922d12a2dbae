//! The right to attach to one endpoint: one holder at a time, in this process and in this guest.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::Arc;

use crate::device::Device;

/// Held while somebody is attached to an endpoint.
#[derive(Debug)]
pub(crate) struct Seat {
    device: Arc<Device>,
    position: usize,
}

/// Why a seat cannot be had.
#[derive(Debug)]
pub(crate) enum SeatError {
    Taken,
    Lock(io::Error),
}

impl Seat {
    pub(crate) fn take(device: &Arc<Device>, position: usize) -> Result<Self, SeatError> {
        if !device.take(position) {
            return Err(SeatError::Taken);
        }
        let seat = Self { device: Arc::clone(device), position };
        let Some(file) = device.lock_file() else { return Ok(seat) };
        match lock(file, position, libc::F_WRLCK) {
            Ok(true) => Ok(seat),
            Ok(false) => Err(SeatError::Taken),
            Err(err) => Err(SeatError::Lock(err)),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(file) = self.device.lock_file()
            && let Err(err) = lock(file, self.position, libc::F_UNLCK)
        {
            log::warn!("unlocking endpoint {}: {err}", self.position);
        }
        self.device.let_go(self.position);
    }
}

/// Locks or unlocks the byte at `position` for this open file; false if another open file has it.
///
/// Such a lock belongs to the open file, and a mapping keeps the open file alive: it ends when the last process
/// that maps the memory through it, forked children included, is gone.
pub(crate) fn lock(file: BorrowedFd<'_>, position: usize, kind: libc::c_int) -> io::Result<bool> {
    // SAFETY: all zero is a valid `flock`: `l_whence` is SEEK_SET, and F_OFD_SETLK wants `l_pid` to be zero.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::c_short::try_from(kind).map_err(io::Error::other)?;
    range.l_start = libc::off_t::try_from(position).map_err(io::Error::other)?;
    range.l_len = 1;
    // SAFETY: the descriptor is open while borrowed; F_OFD_SETLK reads a `flock`, initialised above, during
    // the call.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) };
    if done == 0 {
        return Ok(true);
    }
    let err = io::Error::last_os_error();
    match err.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(err),
    }
}
