//! Copies between slots and private memory, two descriptors at once where the processor can.
//!
//! A line of slots that the other core read last takes a round trip before it can be written. Stores reach the
//! caches in order, so whatever is stored behind it waits in the store queue, which has some dozens of entries: two
//! words for each descriptor fill it within a few packets, and then the core stands still. So descriptors are staged
//! in private memory and go out together, in as few stores as there are.

use core::cell::Cell;

use crate::desc::RawDesc;
use crate::layout::Slot;

/// How descriptors are copied here. The same ones arrive either way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copier {
    in_pairs: bool,
}

impl Copier {
    /// The best that this processor can do.
    pub(crate) fn of_this_processor() -> Self {
        Self { in_pairs: pairs::are_possible() }
    }

    /// Writes descriptors into as many slots.
    #[inline(always)]
    pub(crate) fn put(self, from: &[Cell<RawDesc>], to: &[Slot]) {
        let (from, to) = if self.in_pairs { pairs::put(from, to) } else { (from, to) };
        for (raw, slot) in from.iter().zip(to) {
            slot.store(raw.get());
        }
    }

    /// Copies slots, each word once.
    #[inline(always)]
    pub(crate) fn get(self, from: &[Slot], to: &mut [RawDesc]) {
        let (from, to) = if self.in_pairs { pairs::get(from, to) } else { (from, to) };
        for (slot, raw) in from.iter().zip(to) {
            *raw = slot.load();
        }
    }
}

/// 32 bytes in one load and one store (AVX), by instructions of our own: what the peer maps is no memory that a
/// plain access of the language may touch.
#[cfg(all(target_arch = "x86_64", not(any(loom, miri, test))))]
mod pairs {
    use core::arch::asm;
    use core::arch::x86_64::__cpuid;
    use core::cell::Cell;

    use crate::desc::RawDesc;
    use crate::layout::Slot;

    /// Leaf 1, ECX: the system saves wide registers, and the processor has AVX.
    const OSXSAVE_AND_AVX: u32 = 1 << 27 | 1 << 28;
    /// XCR0: SSE and AVX state.
    const SAVED: u32 = 0b110;

    pub(super) fn are_possible() -> bool {
        if __cpuid(1).ecx & OSXSAVE_AND_AVX != OSXSAVE_AND_AVX {
            return false;
        }
        let saved: u32;
        // SAFETY: OSXSAVE says that XGETBV is there; register 0 always is. It touches no memory.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _, options(nomem, nostack, preserves_flags));
        }
        saved & SAVED == SAVED
    }

    /// Writes pairs that share a cache line; what is left is to be written one by one.
    #[inline(always)]
    pub(super) fn put<'d, 's>(
        mut from: &'d [Cell<RawDesc>],
        mut to: &'s [Slot],
    ) -> (&'d [Cell<RawDesc>], &'s [Slot]) {
        if !to.as_ptr().addr().is_multiple_of(32)
            && let (Some((raw, later)), Some((slot, behind))) = (from.split_first(), to.split_first())
        {
            slot.store(raw.get());
            (from, to) = (later, behind);
        }
        let (raws, slots) = (from.chunks_exact(2), to.chunks_exact(2));
        let rest = (raws.remainder(), slots.remainder());
        for (raws, slots) in raws.zip(slots) {
            // SAFETY: both chunks are 32 bytes long. Slots are read and written from other mappings at any time,
            // which asm may touch: a word there is at worst an old or a new one, and none is used before the counter
            // behind it is published. No other thread writes them.
            unsafe {
                asm!("vmovdqu ymm0, [{}]", "vmovdqu [{}], ymm0", in(reg) raws.as_ptr(), in(reg) slots.as_ptr(), out("xmm0") _, options(nostack, preserves_flags));
            }
        }
        leave_wide_registers();
        rest
    }

    /// Copies pairs; what is left is to be copied one by one.
    #[inline(always)]
    pub(super) fn get<'s, 'd>(from: &'s [Slot], to: &'d mut [RawDesc]) -> (&'s [Slot], &'d mut [RawDesc]) {
        let pairs = from.len().min(to.len()) / 2;
        let (from, rest) = from.split_at(pairs * 2);
        let (to, room) = to.split_at_mut(pairs * 2);
        for (slots, raws) in from.chunks_exact(2).zip(to.chunks_exact_mut(2)) {
            // SAFETY: both chunks are 32 bytes long, and `raws` is ours alone. Slots: as in `put`; each is read once,
            // and the peer may rewrite it whenever it likes, so what arrives is checked by whoever uses it.
            unsafe {
                asm!("vmovdqu ymm0, [{}]", "vmovdqu [{}], ymm0", in(reg) slots.as_ptr(), in(reg) raws.as_mut_ptr(), out("xmm0") _, options(nostack, preserves_flags));
            }
        }
        leave_wide_registers();
        (rest, room)
    }

    /// Some processors slow down while the upper halves are in use.
    #[inline(always)]
    fn leave_wide_registers() {
        // SAFETY: clears the upper halves of all sixteen registers, and says so. Touches no memory.
        unsafe {
            asm!(
                "vzeroupper",
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nomem, nostack, preserves_flags)
            );
        }
    }
}

/// Words one by one, so that models see each.
#[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, test)))))]
mod pairs {
    use core::cell::Cell;

    use crate::desc::RawDesc;
    use crate::layout::Slot;

    pub(super) fn are_possible() -> bool {
        false
    }

    pub(super) fn put<'d, 's>(
        from: &'d [Cell<RawDesc>],
        to: &'s [Slot],
    ) -> (&'d [Cell<RawDesc>], &'s [Slot]) {
        (from, to)
    }

    pub(super) fn get<'s, 'd>(from: &'s [Slot], to: &'d mut [RawDesc]) -> (&'s [Slot], &'d mut [RawDesc]) {
        (from, to)
    }
}
