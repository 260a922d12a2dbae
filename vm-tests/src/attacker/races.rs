//! Memory that changes while the host looks at it: a second thread changes, the first gives packets back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shm_ring::desc::{Desc, Verdict};

use super::device::Device;
use super::edges::{Edge, addressed};
use super::kind::Kind;
use super::session::wait_until;
use super::siege::Siege;
use crate::random::Random;

/// Packets to give back in one go.
const LOANS: usize = 64;
/// How long to wait for packets.
const LENDING: Duration = Duration::from_millis(5);
/// Bytes of a packet's head: all that a host may decide by.
const HEAD_BYTES: usize = 128;
/// How long the switch may take to read what was published.
const READ_LIMIT: Duration = Duration::from_millis(2);

impl Siege<'_> {
    /// See [`Kind::DescriptorRaces`].
    pub(super) fn race_descriptors(&mut self) {
        self.race(Kind::DescriptorRaces, None, flip_slots);
    }

    /// See [`Kind::PacketRaces`].
    pub(super) fn race_packets(&mut self) {
        // Half of the time towards another domain, whose edge looks at the heads.
        let edge = self.edge.clone().filter(|_| self.random.below(2) == 0);
        let noise = |device: &Device, random: &mut Random| change_heads(device, edge.as_ref(), random);
        self.race(Kind::PacketRaces, edge.as_ref(), noise);
    }

    /// Gives back what is lent as long as the bout takes, while another thread does `change` over and over.
    fn race(&mut self, kind: Kind, edge: Option<&Edge>, change: impl Fn(&Device, &mut Random) + Sync) {
        while !self.is_bout_over() && !self.is_over() && self.attach() {
            let Some(mut session) = self.session.take() else { return };
            let (device, stop) = (&self.device, AtomicBool::new(false));
            let mut random = Random::seeded(self.random.next());
            let (change, bout_over) = (&change, || self.is_bout_over() || self.is_over());
            let given = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        change(device, &mut random);
                        // On a busy machine the other thread waits for this one's processor.
                        std::thread::yield_now();
                    }
                });
                let mut given = 0;
                while !bout_over() && session.is_served(device) && session.take(device, 1, LENDING) {
                    let loans = session.loans.len().min(LOANS);
                    let rest = session.loans.split_off(loans);
                    let lent = session.loans.clone();
                    given += match edge {
                        Some(edge) => {
                            let to_port = |desc: &Desc| addressed(device, *desc, edge.carried(), edge.port);
                            let descs: Vec<Desc> = session.loans.iter().map(to_port).collect();
                            session.loans.clear();
                            session.give(device, &descs)
                        }
                        None => session.give_all(device, Verdict::Next),
                    };
                    let _in_time = wait_until(Instant::now() + READ_LIMIT, || session.is_read(device));
                    // Whatever of them is still held goes home.
                    session.loans = lent;
                    session.give_all(device, Verdict::Drop);
                    session.loans = rest;
                }
                stop.store(true, Ordering::Relaxed);
                given
            });
            self.attempts.add(kind, given);
            self.session = Some(session);
        }
    }
}

/// Changes a bit in each slot of the ring to the host, and changes it back.
fn flip_slots(device: &Device, random: &mut Random) {
    let ring = device.seat.to_host;
    for slot in 0..ring.slots {
        let at = ring.slot(slot) + 8 * random.index(2);
        let word = device.control.load64(at);
        device.control.store64(at, word ^ 1 << random.below(64));
        device.control.store64(at, word);
    }
}

/// Writes noise over the heads of packets, some hundred buffers of the region at a time; or heads that an edge
/// does not carry over those that it does.
fn change_heads(device: &Device, edge: Option<&Edge>, random: &mut Random) {
    let first = random.below(device.seat.buffers.into());
    for away in 0..256 {
        let index = u32::try_from((first + away) % u64::from(device.seat.buffers)).unwrap_or(0);
        let head = device.seat.data_at(index, shm_ring::layout::HEADROOM_BYTES);
        if let Some(edge) = edge {
            device.region.write(head, edge.denied(random));
            continue;
        }
        for at in (head..head + HEAD_BYTES).step_by(8) {
            device.region.store64(at, random.next());
        }
    }
}
