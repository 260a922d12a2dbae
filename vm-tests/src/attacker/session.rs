//! One attach, with what was lent in it.

use std::time::{Duration, Instant};

use shm_ring::attach::{HostPhase, Refusal};
use shm_ring::desc::{Desc, RawDesc, Verdict};
use shm_ring::layout::{VERSION_MAJOR, VERSION_MINOR};

use super::device::Device;
use super::memory::Memory;
use super::seat::Seat;
use crate::random::Random;

/// Between two looks at an answer.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

/// An attach as the attacker keeps it.
#[derive(Debug)]
pub struct Session {
    /// The epoch that the switch gave.
    pub epoch: u32,
    taken: u32,
    given: u32,
    /// Packets that were lent and not given back, as far as is known.
    pub loans: Vec<Desc>,
}

/// The verdict on a lent packet, with nothing else changed.
#[must_use]
pub fn verdict(desc: Desc, verdict: Verdict) -> Desc {
    Desc { code: verdict as u8, aux: 0, ..desc }
}

impl Session {
    /// Asks, waits for at most `limit`, and confirms.
    ///
    /// # Errors
    /// With the refusal, if the switch gave one.
    pub fn begin(device: &Device, random: &mut Random, limit: Duration) -> Result<Self, Option<Refusal>> {
        let (control, words) = (&device.control, &device.seat.words);
        let nonce = random.next() | 1;
        control.store32(words.version, u32::from(VERSION_MAJOR) << 16 | u32::from(VERSION_MINOR));
        control.store64(words.features, 0);
        control.store64(words.attach_nonce, nonce);
        let deadline = Instant::now() + limit;
        wait_until(deadline, || control.load64(words.answered_nonce) == nonce).ok_or(None)?;
        let (epoch, refusal) = (control.load32(words.epoch), control.load32(words.refusal));
        if refusal != 0 || epoch == 0 {
            return Err(Refusal::from_code(refusal));
        }
        control.store32(device.seat.to_guest.consumed, 0);
        control.store32(device.seat.to_host.produced, 0);
        control.store32(words.confirmed_epoch, epoch);
        wait_until(deadline, || control.load32(words.phase) == HostPhase::Attached as u32).ok_or(None)?;
        Ok(Self { epoch, taken: 0, given: 0, loans: Vec::new() })
    }

    /// Whether the switch still serves this attach, as far as its words say.
    #[must_use]
    pub fn is_served(&self, device: &Device) -> bool {
        device.control.load32(device.seat.words.epoch) == self.epoch
    }

    /// Takes what is lent, until `wanted` packets are in hand or `limit` has passed; false if the rings make no
    /// sense.
    pub fn take(&mut self, device: &Device, wanted: usize, limit: Duration) -> bool {
        let (control, ring) = (&device.control, &device.seat.to_guest);
        let deadline = Instant::now() + limit;
        loop {
            let waiting = control.load32(ring.produced).wrapping_sub(self.taken);
            if waiting > ring.slots {
                return false;
            }
            for _ in 0..waiting {
                let at = ring.slot(self.taken);
                let raw = RawDesc { word0: control.load64(at), word1: control.load64(at + 8) };
                self.loans.push(raw.unpack());
                self.taken = self.taken.wrapping_add(1);
            }
            control.store32(ring.consumed, self.taken);
            beat(control, &device.seat);
            if self.loans.len() >= wanted || Instant::now() >= deadline {
                return true;
            }
            std::thread::yield_now();
        }
    }

    /// The position that the next descriptor gets.
    #[must_use]
    pub fn next_position(&self) -> u32 {
        self.given
    }

    /// Gives descriptors, true or not, as fast as the switch takes them; how many were put into the ring. Fewer
    /// than all: the switch takes none any more.
    pub fn give(&mut self, device: &Device, descs: &[Desc]) -> u64 {
        let (control, ring) = (&device.control, &device.seat.to_host);
        let mut put = 0;
        for burst in descs.chunks(32) {
            let count = u32::try_from(burst.len()).unwrap_or(32);
            let room = || self.given.wrapping_sub(control.load32(ring.consumed)) <= ring.slots - count;
            if wait_until(Instant::now() + Duration::from_millis(5), room).is_none() {
                return put;
            }
            for desc in burst {
                write(control, ring.slot(self.given), *desc);
                self.given = self.given.wrapping_add(1);
                put += 1;
            }
            control.store32(ring.produced, self.given);
        }
        put
    }

    /// Whether the switch has read everything that was given.
    #[must_use]
    pub fn is_read(&self, device: &Device) -> bool {
        device.control.load32(device.seat.to_host.consumed) == self.given
    }

    /// Gives everything in hand back with this verdict.
    pub fn give_all(&mut self, device: &Device, how: Verdict) -> u64 {
        let descs: Vec<Desc> = self.loans.drain(..).map(|desc| verdict(desc, how)).collect();
        self.give(device, &descs)
    }
}

/// Writes a descriptor into a slot.
pub fn write(control: &Memory, at: usize, desc: Desc) {
    let raw = desc.pack();
    control.store64(at, raw.word0);
    control.store64(at + 8, raw.word1);
}

/// Moves the heartbeat on.
pub fn beat(control: &Memory, seat: &Seat) {
    control.store64(seat.words.heartbeat, control.load64(seat.words.heartbeat).wrapping_add(1));
}

/// Looks again and again; `None` if the deadline came first.
pub fn wait_until(deadline: Instant, mut reached: impl FnMut() -> bool) -> Option<()> {
    for look in 0_u32.. {
        if reached() {
            return Some(());
        }
        if Instant::now() >= deadline {
            return None;
        }
        if look < 64 { std::thread::yield_now() } else { std::thread::sleep(LOOK_AGAIN) }
    }
    None
}
