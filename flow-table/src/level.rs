//! What the processor can do.
//!
//! The loops of a burst are compiled more than once; [`Level::best`] says which are run. A level that is not
//! the baseline is made only where the processor was asked.

use crate::bucket::Bucket;

/// Which loops are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every processor of the target has.
    Baseline,
    /// AVX2 and BMI2.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
}

impl Level {
    /// The best that this processor can do.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(level) = Avx2::detect() {
            return Self::Avx2(level);
        }
        Self::Baseline
    }
}

/// Finds tags in buckets.
pub(crate) trait Tags: Copy {
    /// A bit for each way whose tag is `tag`.
    fn ways_with(self, bucket: &Bucket, tag: u16) -> u32;
}

/// Proof that there is nothing to prove.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Baseline;

#[cfg(target_arch = "x86_64")]
impl Tags for Baseline {
    #[inline(always)]
    fn ways_with(self, bucket: &Bucket, tag: u16) -> u32 {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { x86_64::ways_with_sse2(bucket, tag) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Tags for Baseline {
    #[inline(always)]
    fn ways_with(self, bucket: &Bucket, tag: u16) -> u32 {
        one_by_one(bucket, tag)
    }
}

/// As every processor can do it.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn one_by_one(bucket: &Bucket, tag: u16) -> u32 {
    (0..bucket.tags.len()).filter(|way| bucket.tags[*way] == tag).fold(0, |ways, way| ways | 1 << way)
}

/// Asks for a line that is needed soon.
#[inline(always)]
pub(crate) fn prefetch<T>(line: &T) {
    #[cfg(target_arch = "x86_64")]
    x86_64::prefetch(line);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::Avx2;

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use core::arch::x86_64::{
        __m128i, __m256i, _MM_HINT_T0, _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_prefetch,
        _mm_set1_epi16, _mm256_cmpeq_epi16, _mm256_movemask_epi8, _mm256_packs_epi16,
        _mm256_permute4x64_epi64, _mm256_set1_epi16,
    };

    use super::{Bucket, Tags};
    use crate::bucket::WAYS;

    /// Proof that the processor has AVX2, BMI1 and BMI2.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Avx2(());

    impl Avx2 {
        /// Asks the processor.
        pub fn detect() -> Option<Self> {
            let has_all = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2");
            has_all.then_some(Self(()))
        }
    }

    impl Tags for Avx2 {
        #[inline(always)]
        fn ways_with(self, bucket: &Bucket, tag: u16) -> u32 {
            // SAFETY: the processor has AVX2, as `self` proves.
            unsafe { ways_with_avx2(bucket, tag) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn ways_with_avx2(bucket: &Bucket, tag: u16) -> u32 {
        let [low, high]: &[__m256i; 2] = bytemuck::must_cast_ref(bucket);
        let tag = _mm256_set1_epi16(tag.cast_signed());
        let both = _mm256_packs_epi16(_mm256_cmpeq_epi16(*low, tag), _mm256_cmpeq_epi16(*high, tag));
        // The pack takes 8 lanes of each by turns: put its quarters in order.
        _mm256_movemask_epi8(_mm256_permute4x64_epi64::<0b11_01_10_00>(both)).cast_unsigned() & WAYS
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn ways_with_sse2(bucket: &Bucket, tag: u16) -> u32 {
        let [a, b, c, d]: &[__m128i; 4] = bytemuck::must_cast_ref(bucket);
        let tag = _mm_set1_epi16(tag.cast_signed());
        let low = _mm_packs_epi16(_mm_cmpeq_epi16(*a, tag), _mm_cmpeq_epi16(*b, tag));
        let high = _mm_packs_epi16(_mm_cmpeq_epi16(*c, tag), _mm_cmpeq_epi16(*d, tag));
        let (low, high) = (_mm_movemask_epi8(low).cast_unsigned(), _mm_movemask_epi8(high).cast_unsigned());
        (high << 16 | low) & WAYS
    }

    #[inline(always)]
    pub(super) fn prefetch<T>(line: &T) {
        // SAFETY: any address may be asked for; this one is valid besides.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(line).cast()) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_levels_find_the_same_ways(tags in proptest::array::uniform31(0..4_u16), spilled in 0..4_u16, tag in 0..4_u16) {
            let bucket = Bucket { tags, spilled };
            let ways = one_by_one(&bucket, tag);
            prop_assert_eq!(Baseline.ways_with(&bucket, tag), ways);
            #[cfg(target_arch = "x86_64")]
            if let Some(level) = Avx2::detect() {
                prop_assert_eq!(level.ways_with(&bucket, tag), ways);
            }
        }
    }
}
