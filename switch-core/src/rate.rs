//! Token buckets: how many packets and bits may pass.
//!
//! A bucket belongs to one lcore and one thing that is limited there; control gives each lcore its part of the
//! rate ([`RateSpec::per_lcore`]). What passes in any span of time is at most what the rate allows in it, and
//! one [capacity](Bucket) more.

/// What is allowed; a limit that is `None` does not ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateSpec {
    /// Packets per second.
    pub packets_per_s: Option<u64>,
    /// Bits per second, of frames without preamble and checksum.
    pub bits_per_s: Option<u64>,
}

impl RateSpec {
    /// Whether anything may pass.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.packets_per_s.is_none() && self.bits_per_s.is_none()
    }

    /// The part of one lcore of `lcores`, rounded down, but never down to nothing.
    #[must_use]
    pub fn per_lcore(self, lcores: u16) -> Self {
        let part = |rate: u64| (rate / u64::from(lcores.max(1))).max(rate.min(1));
        Self { packets_per_s: self.packets_per_s.map(part), bits_per_s: self.bits_per_s.map(part) }
    }
}

/// Tokens of a packet or a bit: as many as there are microseconds in a second, so that a rate per second is a
/// whole number of tokens per microsecond.
const TOKENS: u64 = 1_000_000;
/// How long a bucket fills that was empty, for rates at which this is more than the least capacity.
const FILL_US: u64 = 10_000;
/// Packets that a bucket holds at least: a burst of an lcore.
pub const PACKETS_MIN: u32 = 64;
/// Bytes that a bucket holds at least: any frame.
pub const BYTES_MIN: u32 = 65_536;

/// Lets packets pass as its rate allows.
///
/// Its capacity is what the rate allows in 10 ms, at least [`PACKETS_MIN`] packets and [`BYTES_MIN`] bytes. It
/// starts full.
#[derive(Clone, Debug)]
pub struct Bucket {
    packets: Option<Tokens>,
    bits: Option<Tokens>,
    filled_us: u64,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(spec: RateSpec, now_us: u64) -> Self {
        let packets = spec.packets_per_s.map(|rate| Tokens::full(rate, cost(PACKETS_MIN)));
        let bits = spec.bits_per_s.map(|rate| Tokens::full(rate, cost_of_bytes(BYTES_MIN)));
        Self { packets, bits, filled_us: now_us }
    }

    /// Whether `frames` of `bytes` altogether may pass now; if not, nothing is taken.
    ///
    /// More than the capacity never passes at once: a burst that is refused is to be asked for frame by frame.
    /// A clock that goes back gives nothing, and nothing twice.
    #[inline]
    #[must_use]
    pub fn admit(&mut self, now_us: u64, frames: u32, bytes: u32) -> bool {
        let elapsed_us = now_us.saturating_sub(self.filled_us);
        self.filled_us = self.filled_us.max(now_us);
        let (packet_cost, bit_cost) = (cost(frames), cost_of_bytes(bytes));
        let has_packets = self.packets.as_mut().is_none_or(|tokens| tokens.fill(elapsed_us) >= packet_cost);
        let has_bits = self.bits.as_mut().is_none_or(|tokens| tokens.fill(elapsed_us) >= bit_cost);
        let is_refused = !(has_packets && has_bits);
        if is_refused && !cfg!(feature = "sabotage-bucket") {
            return false;
        }
        if let Some(tokens) = &mut self.packets {
            tokens.take(packet_cost);
        }
        if let Some(tokens) = &mut self.bits {
            tokens.take(bit_cost);
        }
        true
    }
}

/// Tokens of one kind. A rate of 0 has a capacity of 0: nothing passes.
#[derive(Clone, Debug)]
struct Tokens {
    left: u64,
    capacity: u64,
    per_us: u64,
}

impl Tokens {
    fn full(per_us: u64, least: u64) -> Self {
        let capacity = if per_us == 0 { 0 } else { per_us.saturating_mul(FILL_US).max(least) };
        Self { left: capacity, capacity, per_us }
    }

    /// How many there are after so long.
    #[inline]
    fn fill(&mut self, elapsed_us: u64) -> u64 {
        // Saturating: however long it was, and however fast, it is no more than full.
        self.left = self.left.saturating_add(self.per_us.saturating_mul(elapsed_us)).min(self.capacity);
        self.left
    }

    #[inline]
    const fn take(&mut self, cost: u64) {
        self.left = self.left.saturating_sub(cost);
    }
}

/// Cannot wrap: 2³² · 10⁶ < 2⁵².
const fn cost(count: u32) -> u64 {
    count as u64 * TOKENS
}

/// Cannot wrap: 2³² · 8 · 10⁶ < 2⁵⁵.
const fn cost_of_bytes(bytes: u32) -> u64 {
    bytes as u64 * 8 * TOKENS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packets(per_s: u64) -> RateSpec {
        RateSpec { packets_per_s: Some(per_s), bits_per_s: None }
    }

    fn bits(per_s: u64) -> RateSpec {
        RateSpec { packets_per_s: None, bits_per_s: Some(per_s) }
    }

    #[test]
    fn admits_its_capacity_at_once_and_not_one_packet_more() {
        let mut bucket = Bucket::new(packets(1000), 5);
        assert!(bucket.admit(5, 64, 64 * 1500));
        assert!(!bucket.admit(5, 1, 60));
        let mut bucket = Bucket::new(packets(1_000_000), 5);
        assert!(bucket.admit(5, 10_000, 0));
        assert!(!bucket.admit(5, 1, 60));
    }

    #[test]
    fn the_next_packet_passes_when_its_time_has_come_and_not_a_microsecond_earlier() {
        let mut bucket = Bucket::new(packets(1000), 0);
        assert!(bucket.admit(0, 64, 0));
        assert!(!bucket.admit(999, 1, 60));
        assert!(bucket.admit(1000, 1, 60));
        assert!(!bucket.admit(1999, 1, 60));
        assert!(bucket.admit(2000, 1, 60));
    }

    #[test]
    fn bits_are_counted_beside_packets_and_a_refusal_takes_neither() {
        let mut bucket = Bucket::new(RateSpec { packets_per_s: Some(1000), ..bits(8_000_000) }, 0);
        assert!(bucket.admit(0, 1, BYTES_MIN));
        assert!(!bucket.admit(0, 1, 1), "no bits left");
        // 63 packets are left, which the refusal has not touched; a byte takes a microsecond.
        assert!(bucket.admit(63, 63, 63));
        assert!(!bucket.admit(63, 1, 0), "no packets left");
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_and_nothing_twice() {
        let mut bucket = Bucket::new(packets(1000), 10_000);
        assert!(bucket.admit(10_000, 64, 0));
        assert!(!bucket.admit(0, 1, 0));
        assert!(!bucket.admit(10_999, 1, 0));
        assert!(bucket.admit(11_000, 1, 0));
    }

    #[test]
    fn no_number_is_too_large() {
        let spec = RateSpec { packets_per_s: Some(u64::MAX), bits_per_s: Some(u64::MAX) };
        let mut bucket = Bucket::new(spec, 0);
        for now_us in [0, 1, u64::MAX, u64::MAX] {
            assert!(bucket.admit(now_us, u32::MAX, u32::MAX));
        }
        let mut slow = Bucket::new(packets(1), 0);
        assert!(!slow.admit(u64::MAX, u32::MAX, 0));
        assert!(slow.admit(u64::MAX, 64, 0));
    }

    #[test]
    fn a_rate_of_nothing_lets_nothing_pass_and_no_rate_everything() {
        assert!(!Bucket::new(packets(0), 0).admit(u64::MAX, 1, 0));
        assert!(!Bucket::new(bits(0), 0).admit(u64::MAX, 1, 1));
        assert!(Bucket::new(RateSpec::default(), 0).admit(0, u32::MAX, u32::MAX));
    }

    #[test]
    fn the_parts_of_all_lcores_are_the_whole_and_none_is_nothing() {
        let part = RateSpec { packets_per_s: Some(1000), bits_per_s: Some(7) }.per_lcore(4);
        assert_eq!(part, RateSpec { packets_per_s: Some(250), bits_per_s: Some(1) });
        assert_eq!(packets(3).per_lcore(4), packets(1));
        assert_eq!(packets(0).per_lcore(4), packets(0));
        assert_eq!(packets(9).per_lcore(0), packets(9));
        assert!(RateSpec::default().per_lcore(4).is_unlimited() && !part.is_unlimited());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

        #[test]
        fn admits_no_more_than_the_rate_allows(
            // Evenly over the orders of magnitude: what is asked for is far above some and far below others.
            packets_per_s in (0..8u32, 1..10u64).prop_map(|(zeros, digit)| digit * 10u64.pow(zeros)),
            bits_per_s in (3..12u32, 1..10u64).prop_map(|(zeros, digit)| digit * 10u64.pow(zeros)),
            asked in proptest::collection::vec((0..20_000u64, 0..100u32, 0..150_000u32), 1..200),
        ) {
            let spec = RateSpec { packets_per_s: Some(packets_per_s), bits_per_s: Some(bits_per_s) };
            let mut bucket = Bucket::new(spec, 7);
            let mut now_us = 7;
            let (mut passed_packets, mut passed_bits) = (0u128, 0u128);
            for (pause_us, frames, bytes) in asked {
                now_us += pause_us;
                if bucket.admit(now_us, frames, bytes) {
                    passed_packets += u128::from(frames);
                    passed_bits += u128::from(bytes) * 8;
                }
                let span_us = u128::from(now_us - 7);
                let allowed = |rate: u64, least: u32| {
                    let rate = u128::from(rate);
                    rate * span_us + (rate * 10_000).max(u128::from(least) * 1_000_000)
                };
                prop_assert!(passed_packets * 1_000_000 <= allowed(packets_per_s, 64));
                prop_assert!(passed_bits * 1_000_000 <= allowed(bits_per_s, 65_536 * 8));
            }
        }

        #[test]
        fn refuses_nobody_who_keeps_to_the_rate(
            packets_per_s in 1..2_000_000u64,
            pauses_us in proptest::collection::vec(0..3000u64, 1..200),
        ) {
            let mut bucket = Bucket::new(packets(packets_per_s), 0);
            let mut now_us = 0;
            for pause_us in pauses_us {
                now_us += 1_000_000u64.div_ceil(packets_per_s) + pause_us;
                prop_assert!(bucket.admit(now_us, 1, 1500));
            }
        }
    }
}
