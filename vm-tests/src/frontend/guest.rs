//! A session of a frontend, with a guest behind it that has two queues.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::SealFlags;

use super::ram::{BUFFER_BYTES, Descriptor, ENTRIES, HEADER_BYTES, REGION, Ram};
use super::wire::{self, Wire, rings, state, table, words};

/// What the driver takes of what is offered: VERSION_1, INDIRECT_DESC, EVENT_IDX and the bit of vhost-user.
const DRIVER_FEATURES: u64 = 1 << 32 | 1 << 28 | 1 << 29 | 1 << 30;

/// A guest and its frontend.
#[derive(Debug)]
pub struct Guest {
    pub wire: Wire,
    pub ram: Ram,
    /// How the guest is interrupted.
    pub call: OwnedFd,
}

impl Guest {
    /// Connects and negotiates; nothing else. Nothing if the port does not serve it.
    pub fn greeted(socket: &Path, seals: SealFlags) -> Option<Self> {
        let ram = Ram::new(seals).ok()?;
        let call = eventfd(0, EventfdFlags::NONBLOCK).ok()?;
        let guest = Self { wire: Wire::connect(socket).ok()?, ram, call };
        guest.negotiate().then_some(guest)
    }

    /// The same, with memory.
    pub fn with_memory(socket: &Path, seals: SealFlags) -> Option<Self> {
        let guest = Self::greeted(socket, seals)?;
        guest.give_memory().then_some(guest)
    }

    /// The same, with queues that run.
    pub fn started(socket: &Path, seals: SealFlags) -> Option<Self> {
        let mut guest = Self::with_memory(socket, seals)?;
        guest.ram.offer_to_receive();
        (guest.start(0) && guest.start(1)).then_some(guest)
    }

    fn negotiate(&self) -> bool {
        let wire = &self.wire;
        let asked =
            |request| wire.ask(request, &[]).and_then(|body| Some(u64::from_le_bytes(body.try_into().ok()?)));
        let Some(offered) = asked(wire::GET_FEATURES) else { return false };
        let Some(protocol) = asked(wire::GET_PROTOCOL_FEATURES) else { return false };
        wire.send(wire::SET_OWNER, &[], &[])
            && wire.send(wire::SET_PROTOCOL_FEATURES, &words(&[protocol]), &[])
            && wire.demand(wire::SET_FEATURES, &words(&[offered & DRIVER_FEATURES]), &[])
    }

    /// Tells of its memory.
    pub fn give_memory(&self) -> bool {
        self.wire.demand(wire::SET_MEM_TABLE, &table(&[REGION]), &[self.ram.fd()])
    }

    /// Sets a queue up and starts it.
    fn start(&self, queue: u32) -> bool {
        let wire = &self.wire;
        wire.demand(wire::SET_VRING_NUM, &state(queue, u32::from(ENTRIES)), &[])
            && wire.demand(wire::SET_VRING_ADDR, &rings(queue, Ram::rings(queue)), &[])
            && wire.demand(wire::SET_VRING_CALL, &words(&[u64::from(queue)]), &[self.call.as_fd()])
            && wire.demand(wire::SET_VRING_ENABLE, &state(queue, 1), &[])
            && self.kick(queue)
    }

    fn kick(&self, queue: u32) -> bool {
        let Ok(kick) = eventfd(0, EventfdFlags::empty()) else { return false };
        self.wire.send(wire::SET_VRING_BASE, &state(queue, 0), &[])
            && self.wire.demand(wire::SET_VRING_KICK, &words(&[u64::from(queue)]), &[kick.as_fd()])
    }

    /// Stops a queue, broken or not, and starts it with nothing in it.
    pub fn start_anew(&mut self, queue: u32) -> bool {
        let stopped = self.wire.ask(wire::GET_VRING_BASE, &state(queue, 0)).is_some();
        self.ram.empty(queue as usize);
        stopped && self.kick(queue)
    }

    /// Sends a frame behind this header, if there is room in the ring.
    pub fn send(&mut self, header: [u8; HEADER_BYTES], frame: &[u8]) -> bool {
        if self.ram.outstanding(1) >= ENTRIES {
            return false;
        }
        let slot = self.ram.next_slot(1);
        let address = Ram::buffer(1, slot);
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(frame);
        bytes.truncate(BUFFER_BYTES as usize);
        self.ram.write(address, &bytes);
        let len_bytes = u32::try_from(bytes.len()).unwrap_or(BUFFER_BYTES);
        self.ram.describe(1, slot, Descriptor { address, len_bytes, flags: 0, next: 0 });
        self.ram.offer(1, slot);
        true
    }
}
