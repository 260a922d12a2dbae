//! The keyed hash that says where a flow may be.
//!
//! NH (the universal hash of UMAC, RFC 4418) with words of 64 bits: for two keys that somebody picked without
//! knowing the seed, the 128-bit sums are the same for at most one seed in 2⁶⁴. One more secret
//! multiplication folds the sum to 64 bits. Nobody outside sees any bit of it.

use crate::key::Key;

/// The secret of a table: random words that never leave the process.
#[derive(Clone)]
pub struct Seed([u64; 8]);

impl core::fmt::Debug for Seed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Seed(secret)")
    }
}

impl Seed {
    /// From random words.
    #[must_use]
    pub const fn new(words: [u64; 8]) -> Self {
        Self(words)
    }

    /// Where a flow may be.
    #[inline(always)]
    pub(crate) fn hash(&self, key: &Key) -> Hash {
        let s = if cfg!(feature = "sabotage-seed") { &[0; 8] } else { &self.0 };
        let [a, b, c, d, e] = key.0;
        let sum = multiply(a.wrapping_add(s[0]), b.wrapping_add(s[1]))
            .wrapping_add(multiply(c.wrapping_add(s[2]), d.wrapping_add(s[3])))
            .wrapping_add(multiply(e.wrapping_add(s[4]), s[5]));
        let (high, low) = halves(sum);
        let (high, low) = halves(multiply(high ^ s[6], low ^ s[7]));
        Hash(high ^ low)
    }
}

#[inline(always)]
const fn multiply(a: u64, b: u64) -> u128 {
    a as u128 * b as u128
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the halves of a product are wanted")]
const fn halves(product: u128) -> (u64, u64) {
    ((product >> 64) as u64, product as u64)
}

/// The hash of one key: two buckets, and a tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hash(u64);

impl Hash {
    /// What stands in the bucket; 0 says that nobody is there.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "16 bits of the hash are the tag")]
    pub const fn tag(self) -> u16 {
        let tag = self.0 as u16;
        if tag == 0 { 1 } else { tag }
    }

    /// The bucket that is looked at first.
    #[inline(always)]
    pub const fn first(self, buckets: u32) -> u32 {
        scale(self.0, buckets)
    }

    /// The other one.
    #[inline(always)]
    pub const fn second(self, buckets: u32) -> u32 {
        let second = scale(self.0.wrapping_mul(SPREAD), buckets);
        if second != self.first(buckets) {
            second
        } else if second + 1 == buckets {
            0
        } else {
            second + 1
        }
    }
}

/// Odd, with half its bits set: the fractional part of the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The upper half of the hash as a part of `buckets`.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "below `buckets`")]
const fn scale(hash: u64, buckets: u32) -> u32 {
    (((hash >> 32) * buckets as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed::new([
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
        0x4528_21e6_38d0_1377,
        0xbe54_66cf_34e9_0c6c,
        0xc0ac_29b7_c97c_50dd,
        0x3f84_d5b5_b547_0917,
    ]);

    /// Keys that differ in few bits, as neighbouring flows do.
    fn neighbours() -> impl Iterator<Item = Key> {
        (0..64_000_u64).map(|n| Key([0, 0x0a00_0001 + n % 250, 0, 0x0a00_0101, (n / 250) << 48 | 80 << 32]))
    }

    #[test]
    fn neighbouring_flows_spread_evenly_over_both_choices_of_buckets() {
        let mut counts = [[0_u32; 64]; 2];
        for key in neighbours() {
            let hash = SEED.hash(&key);
            counts[0][hash.first(64) as usize] += 1;
            counts[1][hash.second(64) as usize] += 1;
        }
        // 1000 expected each; five standard deviations are about 160.
        assert!(counts.iter().flatten().all(|n| (840..=1160).contains(n)), "{counts:?}");
    }

    #[test]
    fn neighbouring_flows_spread_evenly_over_tags() {
        let mut counts = [0_u32; 64];
        for key in neighbours() {
            counts[usize::from(SEED.hash(&key).tag() >> 10)] += 1;
        }
        assert!(counts.iter().all(|n| (840..=1160).contains(n)), "{counts:?}");
    }

    #[test]
    fn the_two_buckets_of_a_flow_are_two() {
        for buckets in [2, 3, 7, 1000] {
            for key in neighbours().take(10_000) {
                let hash = SEED.hash(&key);
                assert_ne!(hash.first(buckets), hash.second(buckets));
                assert!(hash.first(buckets) < buckets && hash.second(buckets) < buckets);
            }
        }
    }

    #[test]
    fn flows_that_meet_in_a_bucket_part_under_another_seed() {
        let buckets = 64;
        let meeting: Vec<Key> =
            neighbours().filter(|key| SEED.hash(key).first(buckets) == 5).take(640).collect();
        let other = Seed::new(SEED.0.map(|word| word.rotate_left(17) ^ 0x5555));
        let mut counts = [0_u32; 64];
        for key in &meeting {
            counts[other.hash(key).first(buckets) as usize] += 1;
        }
        // 10 expected each.
        assert!(counts.iter().all(|n| *n < 40), "{counts:?}");
    }

    #[test]
    fn no_tag_is_zero() {
        assert_eq!(Hash(0xffff_0000).tag(), 1);
        assert_eq!(Hash(0xffff_0002).tag(), 2);
    }
}
