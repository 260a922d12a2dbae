//! A network function of the other domain: it does its work, and its memory holds a canary wherever it can.

use std::time::{Duration, Instant};

use shm_ring::desc::Verdict;

use super::canary::Canary;
use super::device::Device;
use super::session::Session;
use crate::random::Random;

/// Bytes of the NF counters: they are shown by the switch, so it copies them into its own memory.
const COUNTERS_BYTES: usize = 128;
/// The first page of a region behind its header: the host never reads it.
const FREE_PAGE: std::ops::Range<usize> = 64..4096;

/// Plants the canary, attaches, and gives on what is lent, for `length`.
///
/// # Errors
/// If the switch does not let it in.
pub fn plant(device: &Device, canary: &Canary, length: Duration) -> Result<(), String> {
    let mut random = Random::seeded(u64::from(std::process::id()));
    let mut session = Session::begin(device, &mut random, Duration::from_secs(10))
        .map_err(|refusal| format!("the switch does not let the canary in: {refusal:?}"))?;
    let counters = device.seat.words.counters;
    let ends = Instant::now() + length;
    while Instant::now() < ends && session.is_served(device) {
        for at in (counters..counters + COUNTERS_BYTES).step_by(canary.bytes.len()) {
            device.control.write(at, &canary.bytes);
        }
        for at in FREE_PAGE.step_by(canary.bytes.len()) {
            device.region.write(at, &canary.bytes);
        }
        session.take(device, 1, Duration::from_millis(20));
        session.give_all(device, Verdict::Next);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
