//! Descriptors that lie.

use std::time::Duration;

use shm_ring::desc::{Desc, Verdict};

use super::kind::Kind;
use super::seat::Seat;
use super::session::verdict;
use super::siege::Siege;
use crate::random::Random;

/// How long to wait for packets.
const LENDING: Duration = Duration::from_millis(20);
/// Packets to lie about in one go.
const LOANS: usize = 16;

impl Siege<'_> {
    /// Lent packets, some; `None` when there are none to be had.
    pub(super) fn borrow(&mut self, wanted: usize) -> Option<Vec<Desc>> {
        if !self.attach() {
            return None;
        }
        let session = self.session.as_mut()?;
        if !session.take(&self.device, wanted, LENDING) {
            self.ended.push(session.epoch);
            self.session = None;
            return None;
        }
        let loans = &mut session.loans;
        if loans.is_empty() {
            return None;
        }
        Some(loans.split_off(loans.len().saturating_sub(wanted)))
    }

    /// Gives descriptors; how many the switch took.
    pub(super) fn give(&mut self, descs: &[Desc]) -> u64 {
        self.session.as_mut().map_or(0, |session| session.give(&self.device, descs))
    }

    /// Bouts of one pattern: borrow, make lies out of it, give them, count the lies. What is left in hand is
    /// given back, so that the quota never stands in the way of the next lie.
    fn lie(
        &mut self,
        kind: Kind,
        truths: usize,
        mut lies: impl FnMut(&mut Random, &Seat, Desc) -> Vec<Desc>,
    ) {
        while !self.is_bout_over() && !self.is_over() {
            let Some(loans) = self.borrow(LOANS) else { return };
            let mut told: Vec<Desc> =
                loans.iter().flat_map(|loan| lies(&mut self.random, &self.device.seat, *loan)).collect();
            let lies = (told.len() - truths * loans.len()) as u64;
            let true_ones = (truths * loans.len()) as u64;
            // Whatever of them is still held goes home; the rest is one lie more.
            told.extend(loans.iter().map(|loan| verdict(*loan, Verdict::Drop)));
            let taken = self.give(&told);
            // At worst, all that was true was taken first.
            self.attempts.add(kind, taken.saturating_sub(true_ones).min(lies));
            if taken < told.len() as u64 {
                return;
            }
        }
    }

    /// See [`Kind::ForgedDescriptors`].
    pub(super) fn forge_descriptors(&mut self) {
        self.lie(Kind::ForgedDescriptors, 0, |random, seat, loan| {
            (0..8).map(|_| forged(random, seat, verdict(loan, Verdict::Next))).collect()
        });
    }

    /// See [`Kind::DoubleReturn`].
    pub(super) fn return_twice(&mut self) {
        self.lie(Kind::DoubleReturn, 1, |_, _, loan| vec![verdict(loan, Verdict::Next); 5]);
    }

    /// See [`Kind::UnheldBuffers`].
    pub(super) fn give_unheld(&mut self) {
        self.lie(Kind::UnheldBuffers, 0, |random, seat, loan| {
            let not_lent = |random: &mut Random| {
                let away = 1 + random.below(u64::from(seat.buffers) - 1);
                let index = (u64::from(loan.buffer_index) + away) % u64::from(seat.buffers);
                let buffer_index = u32::try_from(index).unwrap_or(0);
                Desc { buffer_index, ..verdict(loan, Verdict::Next) }
            };
            (0..8).map(|_| not_lent(random)).collect()
        });
    }

    /// See [`Kind::DeniedTargets`].
    pub(super) fn name_denied_targets(&mut self) {
        self.lie(Kind::DeniedTargets, 0, |random, seat, loan| {
            let code = random.of(&[Verdict::ToService, Verdict::ToPort]);
            let allowed = |aux: u32| {
                let kind = if code == Verdict::ToService { 1 } else { 2 };
                seat.targets.iter().any(|target| target.kind == kind && u32::from(target.id) == aux)
            };
            let any = u32::try_from(random.below(1 << 32)).unwrap_or(0);
            // Small ones, which exist; those that become small when cut to sixteen bits; and any.
            let small = any % 24;
            let aux = random.of(&[small, small, small, small + 0x1_0000, u32::MAX, any]);
            if allowed(aux) { Vec::new() } else { vec![Desc { aux, ..verdict(loan, code) }] }
        });
    }
}

/// A descriptor with one or two fields that lie.
pub(super) fn forged(random: &mut Random, seat: &Seat, truth: Desc) -> Desc {
    let mut lie = truth;
    for _ in 0..1 + random.below(2) {
        forge_a_field(random, seat, &mut lie);
    }
    lie
}

fn forge_a_field(random: &mut Random, seat: &Seat, lie: &mut Desc) {
    let [b0, b1, b2, b3, b4, b5, ..] = random.next().to_le_bytes();
    let any16 = u16::from_le_bytes([b0, b1]);
    let any32 = u32::from_le_bytes([b2, b3, b4, b5]);
    let stride = u16::try_from(seat.stride).unwrap_or(u16::MAX);
    let (offset, length) = (lie.data_offset_bytes, lie.data_len_bytes);
    match random.below(8) {
        0 => {
            let (index, count) = (lie.buffer_index, seat.buffers);
            lie.buffer_index = random.of(&[
                0,
                index ^ 1,
                index.wrapping_sub(1),
                index ^ 0x8000_0000,
                count - 1,
                count,
                count + 1,
                0x7fff_ffff,
                0x8000_0000,
                u32::MAX,
                any32 % count,
                any32,
            ]);
        }
        1 => {
            let ends_at_the_end = stride.wrapping_sub(length);
            lie.data_offset_bytes = random.of(&[
                0,
                1,
                ends_at_the_end,
                ends_at_the_end.wrapping_add(1),
                stride - 1,
                stride,
                stride + 1,
                0u16.wrapping_sub(length),
                u16::MAX,
                any16,
            ]);
        }
        2 => {
            let rest = stride.wrapping_sub(offset);
            lie.data_len_bytes = random.of(&[
                0,
                1,
                13,
                14,
                59,
                60,
                1514,
                1522,
                1523,
                rest,
                rest.wrapping_add(1),
                0u16.wrapping_sub(offset),
                u16::MAX,
                any16,
            ]);
        }
        3 => {
            let generation = lie.generation;
            lie.generation =
                random.of(&[generation.wrapping_add(1), generation.wrapping_sub(1), 0, u16::MAX, any16]);
        }
        4 => lie.code = random.of(&[0, 1, 2, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x91, 0xff, b0]),
        // The longest frame that still ends inside, and one byte more or less than a domain allows.
        5 => {
            lie.data_offset_bytes = random.of(&[0, 127, 128, 129]);
            let room = stride - 128;
            lie.data_len_bytes = random.of(&[room - 1, room, room + 1, stride - lie.data_offset_bytes]);
        }
        6 => lie.flags = random.of(&[1, 2, 4, 8, 16, 32, 64, 128, 0xff, b1]),
        _ => lie.aux = random.of(&[0, 1, 0xffff, 0x1_0000, 0x8000_0000, u32::MAX, any32]),
    }
}
