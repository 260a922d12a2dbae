//! Lies about who is attached, since when, and how much was moved.

use std::time::{Duration, Instant};

use shm_ring::attach::HostPhase;
use shm_ring::desc::{Desc, Verdict};
use shm_ring::layout::{VERSION_MAJOR, VERSION_MINOR};

use super::kind::Kind;
use super::session::{verdict, wait_until, write};
use super::siege::{SEEN, Siege};

/// Stores of absurd counters in one bout.
const ABSURD: u64 = 1024;
/// Asks in one bout.
const ASKS: u64 = 1000;
/// Claims of other epochs in one bout.
const CLAIMS: u64 = 1024;
/// How often each slot of a ring is used after the detach.
const ROUNDS_AFTER: u32 = 16;
/// Between two asks, two claims.
const PAUSE: Duration = Duration::from_micros(80);

impl Siege<'_> {
    /// See [`Kind::AbsurdCounters`]. The switch lets go at the first one that it sees; the others fall on rings
    /// that it no longer reads.
    pub(super) fn absurd_counters(&mut self) {
        if !self.attach() {
            return;
        }
        let ring = if self.random.below(2) == 0 {
            (self.device.seat.to_host.produced, self.device.seat.to_host)
        } else {
            (self.device.seat.to_guest.consumed, self.device.seat.to_guest)
        };
        let (line, ring) = ring;
        for _ in 0..ABSURD {
            let now = self.device.control.load32(line);
            let [b0, b1, b2, b3, ..] = self.random.next().to_le_bytes();
            let any = u32::from_le_bytes([b0, b1, b2, b3]);
            let absurd = self.random.of(&[
                now.wrapping_add(ring.slots + 1),
                now.wrapping_add(ring.slots),
                now.wrapping_sub(1),
                now.wrapping_sub(ring.slots),
                now ^ 0x8000_0000,
                0,
                u32::MAX,
                any,
            ]);
            self.device.control.store32(line, absurd);
            self.attempts.add(Kind::AbsurdCounters, 1);
        }
        self.ended.extend(self.session.take().map(|session| session.epoch));
    }

    /// See [`Kind::ReturnAfterDetach`].
    pub(super) fn return_after_detach(&mut self) {
        let Some(loans) = self.borrow(32) else { return };
        let truths: Vec<Desc> = loans.iter().map(|loan| verdict(*loan, Verdict::Next)).collect();
        let Some(mut session) = self.session.take() else { return };
        let words = self.device.seat.words;
        self.device.control.store32(words.detached_epoch, session.epoch);
        // While the switch lets go, and after that.
        self.attempts.add(Kind::ReturnAfterDetach, session.give(&self.device, &truths));
        let let_go = || self.device.control.load32(words.phase) != HostPhase::Attached as u32;
        let _in_time = wait_until(Instant::now() + SEEN * 4, let_go);
        let ring = self.device.seat.to_host;
        let first = session.next_position();
        for (position, desc) in (0..ring.slots * ROUNDS_AFTER).zip(truths.iter().cycle()) {
            write(&self.device.control, ring.slot(first.wrapping_add(position)), *desc);
            self.device.control.store32(ring.produced, first.wrapping_add(position + 1));
            self.attempts.add(Kind::ReturnAfterDetach, 1);
        }
        // In the next attach, where they are of an older loan.
        if self.attach() {
            let given = self.give(&truths);
            self.attempts.add(Kind::ReturnAfterDetach, given);
        }
    }

    /// See [`Kind::EpochFlips`].
    pub(super) fn flip_epochs(&mut self) {
        let _attached_or_not = self.attach();
        let words = self.device.seat.words;
        let epoch = self.device.control.load32(words.epoch);
        for _ in 0..CLAIMS {
            let any = u32::try_from(self.random.below(1 << 32)).unwrap_or(0);
            let claim =
                self.random.of(&[epoch, epoch.wrapping_add(1), epoch.wrapping_sub(1), 0, u32::MAX, any]);
            let word = self.random.of(&[
                words.confirmed_epoch,
                words.detached_epoch,
                words.reaped_epoch,
                words.draining_epoch,
            ]);
            self.device.control.store32(word, claim);
            self.attempts.add(Kind::EpochFlips, 1);
            pause(PAUSE);
        }
        self.ended.extend(self.session.take().map(|session| session.epoch));
    }

    /// See [`Kind::AttachStorm`].
    pub(super) fn storm(&mut self) {
        let words = self.device.seat.words;
        let right = u32::from(VERSION_MAJOR) << 16 | u32::from(VERSION_MINOR);
        for _ in 0..ASKS {
            let any = u32::try_from(self.random.below(1 << 32)).unwrap_or(0);
            let nonce = self.random.next();
            let control = &self.device.control;
            control.store32(words.version, self.random.of(&[right, right, right, 0, u32::MAX, any]));
            control.store64(words.features, self.random.of(&[0, 0, 0, 1, u64::MAX]));
            control.store64(words.attach_nonce, nonce);
            // Sometimes as if the answer had come.
            control.store32(words.confirmed_epoch, control.load32(words.epoch));
            self.attempts.add(Kind::AttachStorm, 1);
            pause(PAUSE);
        }
        self.ended.extend(self.session.take().map(|session| session.epoch));
        // What stands there may be scribbled.
        let seen = self.device.control.load32(words.epoch);
        if u64::from(seen.wrapping_sub(self.last_epoch)) <= ASKS {
            self.last_epoch = seen;
        }
        self.ended.push(self.last_epoch);
    }
}

/// Waits without giving the processor away, which could take much longer.
fn pause(time: Duration) {
    let ends = Instant::now() + time;
    while Instant::now() < ends {
        std::hint::spin_loop();
    }
}
