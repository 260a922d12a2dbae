//! Every touch of bytes that a guest can write.
//!
//! Laws of this file:
//! - No reference to such bytes is ever made but one to an atomic, and no slice: a guest writes them at any moment.
//! - Ring words are read and written as atomics of their own size, once each. What is read is a copy, and the
//!   copy is what gets checked.
//! - Packet bytes move by machine instructions that the compiler cannot see through, so it can neither repeat a
//!   read nor put off a write. A copy may be torn when the guest writes meanwhile; any bytes are valid, and who
//!   judges them judges the copy. The instructions are those of x86-64, as is their strong order of stores.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

/// A cache line.
pub(crate) const LINE_BYTES: usize = 64;
/// An offload header.
const HEADER_BYTES: usize = 12;
/// Up to this many bytes, a copy is made in place; beyond it the C library's, which knows the machine, is faster.
const INLINE_BYTES_MAX: usize = 256;

/// A 16-bit word of a ring: an atomic, which the guest may write like anybody else.
///
/// # Safety
/// - `at` is aligned to 2 bytes and lies in a mapping that stays in place for `'m`.
/// - Our process has no other kind of reference to these bytes.
#[inline(always)]
pub(crate) unsafe fn shared_u16<'m>(at: NonNull<u16>) -> &'m AtomicU16 {
    // SAFETY: the caller promises a mapping and alignment. Whoever else writes this word does so through a
    // mapping of its own, and an atomic has no invalid values.
    unsafe { at.cast::<AtomicU16>().as_ref() }
}

/// A 64-bit word of a ring; visible in the order of an acquired index read before.
///
/// # Safety
/// As [`shared_u16`], aligned to 8 bytes.
#[inline(always)]
pub(crate) unsafe fn load_u64(at: NonNull<u64>) -> u64 {
    // SAFETY: as in `shared_u16`.
    let word = unsafe { at.cast::<AtomicU64>().as_ref() };
    word.load(Ordering::Relaxed)
}

/// Writes two 32-bit words of a used ring, which is aligned to 4 bytes only.
///
/// # Safety
/// - The 8 bytes from `at` lie in a mapping that stays in place for the call.
/// - Our process has no reference to these bytes.
#[inline(always)]
pub(crate) unsafe fn store_pair(at: NonNull<u8>, pair: u64) {
    // SAFETY: the caller promises the mapping. The store is one instruction, which needs no alignment.
    unsafe {
        std::arch::asm!("mov [{at}], {pair}", at = in(reg) at.as_ptr(), pair = in(reg) pair,
            options(nostack, preserves_flags));
    }
}

/// The 12 bytes of an offload header as two words, each byte read once.
///
/// # Safety
/// - The 12 bytes from `at` lie in a mapping that stays in place for the call.
/// - Our process has no reference to these bytes.
#[inline(always)]
pub(crate) unsafe fn load_header(at: NonNull<u8>) -> (u64, u32) {
    let (low, high): (u64, u64);
    // SAFETY: the caller promises the place. Loads need no alignment, and end in registers: nobody can read
    // the guest's bytes again in their stead.
    unsafe {
        std::arch::asm!("mov {low}, [{at}]", "mov {high:e}, [{at} + 8]", at = in(reg) at.as_ptr(),
            low = out(reg) low, high = out(reg) high, options(readonly, nostack, preserves_flags));
    }
    #[allow(clippy::cast_possible_truncation, reason = "a load of 32 bits leaves the upper half zero")]
    (low, high as u32)
}

/// Writes the 12 bytes of an offload header.
///
/// # Safety
/// As [`load_header`].
#[inline(always)]
unsafe fn store_header(at: NonNull<u8>, low: u64, high: u32) {
    // SAFETY: the caller promises the place. Stores need no alignment.
    unsafe {
        std::arch::asm!("mov [{at}], {low}", "mov [{at} + 8], {high:e}", at = in(reg) at.as_ptr(),
            low = in(reg) low, high = in(reg) high, options(nostack, preserves_flags));
    }
}

/// Whether a header here is the last of its cache line: what comes behind begins the next.
#[inline(always)]
pub(crate) fn ends_its_line(header: *const u8) -> bool {
    header.addr() % LINE_BYTES == LINE_BYTES - HEADER_BYTES
}

/// Writes the 12 bytes of an offload header, unless they are in memory already and in a line of their own: drivers
/// that keep their buffers have the same there each time, and a line that nobody writes stays in both caches. Who
/// changes it meanwhile has changed its own.
///
/// # Safety
/// As [`load_header`].
#[inline(always)]
pub(crate) unsafe fn store_header_if_new(at: NonNull<u8>, low: u64, high: u32) {
    // SAFETY: the caller's promises.
    if ends_its_line(at.as_ptr()) && unsafe { load_header(at) } == (low, high) {
        return;
    }
    // SAFETY: the caller's promises.
    unsafe { store_header(at, low, high) };
}

/// Copies bytes from or to guest memory, each byte once but for the seams of wide instructions.
///
/// # Safety
/// - `len_bytes` bytes from `from` and from `to` lie in mappings that stay in place for the call, and the two
///   do not overlap.
/// - Nobody in this process has a reference to the bytes at `to`, nor a mutable one to those at `from`.
#[inline(always)]
pub(crate) unsafe fn copy(from: NonNull<u8>, to: NonNull<u8>, len_bytes: usize) {
    if len_bytes <= INLINE_BYTES_MAX {
        // SAFETY: the caller's promises.
        unsafe { copy_small(from.as_ptr(), to.as_ptr(), len_bytes) };
    } else {
        // SAFETY: the caller's promises.
        unsafe { copy_large(from.as_ptr(), to.as_ptr(), len_bytes) };
    }
}

/// Starts to fetch a line that will be read. Any address may be given.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8) {
    // SAFETY: a prefetch is a hint: it neither faults nor changes anything, whatever the address.
    unsafe {
        std::arch::asm!("prefetcht0 [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags));
    }
}

/// Starts to fetch a line that will be written. Any address may be given.
///
/// By hand: the intrinsic for it compiles to a fetch for reading at the baseline of this architecture, and the
/// line then comes from the guest's core twice. Processors that do not know the instruction skip it.
#[inline(always)]
pub(crate) fn prefetch_to_write(at: *const u8) {
    // SAFETY: as in `prefetch`.
    unsafe {
        std::arch::asm!("prefetchw [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags));
    }
}

/// Up to 256 bytes, in place. The last move ends with the length: some bytes move twice, and none is judged in between.
///
/// # Safety
/// As [`copy`].
#[inline(always)]
unsafe fn copy_small(from: *const u8, to: *mut u8, len_bytes: usize) {
    if len_bytes >= LINE_BYTES {
        let mut done = 0;
        while len_bytes - done >= LINE_BYTES {
            // SAFETY: 64 bytes from `done` are within the length.
            unsafe { move_64(from.wrapping_add(done), to.wrapping_add(done)) };
            done += LINE_BYTES;
        }
        if done < len_bytes {
            let last = len_bytes - LINE_BYTES;
            // SAFETY: 64 bytes that end with the length.
            unsafe { move_64(from.wrapping_add(last), to.wrapping_add(last)) };
        }
    } else if len_bytes >= 32 {
        // SAFETY: two times 32 bytes, the second of which end with the length.
        unsafe { move_32_and_32(from, to, len_bytes - 32) };
    } else if len_bytes >= 16 {
        // SAFETY: 16 bytes at the start of the length.
        unsafe { move_16(from, to) };
        let last = len_bytes - 16;
        // SAFETY: 16 bytes that end with it.
        unsafe { move_16(from.wrapping_add(last), to.wrapping_add(last)) };
    } else {
        // SAFETY: the caller's promises; fewer than 16 bytes.
        unsafe { move_bytes(from, to, len_bytes) };
    }
}

/// Some bytes one by one: rests shorter than any register.
///
/// # Safety
/// As [`copy`].
#[cold]
unsafe fn move_bytes(from: *const u8, to: *mut u8, len_bytes: usize) {
    // SAFETY: the caller promises both places. The direction flag is clear, as the ABI has it.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") len_bytes => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}

/// More than 256 bytes, by the C library.
///
/// # Safety
/// As [`copy`].
#[inline(never)]
unsafe fn copy_large(from: *const u8, to: *mut u8, len_bytes: usize) {
    // SAFETY: the caller promises both places. A call that is not inlined is as opaque as an instruction: the
    // caller's code cannot read the guest's bytes a second time.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len_bytes) };
}

/// Moves 64 bytes through registers.
///
/// # Safety
/// As [`copy`], of 64 bytes.
#[inline(always)]
unsafe fn move_64(from: *const u8, to: *mut u8) {
    // SAFETY: the caller promises both places. SSE2 is part of the architecture.
    unsafe {
        std::arch::asm!(
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            "movdqu [{to}], {a}",
            "movdqu [{to} + 16], {b}",
            "movdqu [{to} + 32], {c}",
            "movdqu [{to} + 48], {d}",
            from = in(reg) from,
            to = in(reg) to,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves 32 bytes, and 32 bytes from `second` on, which is at most 32.
///
/// # Safety
/// As [`copy`], of `second` and 32 bytes.
#[inline(always)]
unsafe fn move_32_and_32(from: *const u8, to: *mut u8, second: usize) {
    // SAFETY: the caller promises both places.
    unsafe {
        std::arch::asm!(
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + {second}]",
            "movdqu {d}, [{from} + {second} + 16]",
            "movdqu [{to}], {a}",
            "movdqu [{to} + 16], {b}",
            "movdqu [{to} + {second}], {c}",
            "movdqu [{to} + {second} + 16], {d}",
            from = in(reg) from,
            to = in(reg) to,
            second = in(reg) second,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves 16 bytes through a register.
///
/// # Safety
/// As [`copy`], of 16 bytes.
#[inline(always)]
unsafe fn move_16(from: *const u8, to: *mut u8) {
    // SAFETY: the caller promises both places.
    unsafe {
        std::arch::asm!("movdqu {a}, [{from}]", "movdqu [{to}], {a}",
            from = in(reg) from, to = in(reg) to, a = out(xmm_reg) _, options(nostack, preserves_flags));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_exactly_what_was_asked_at_every_length_and_alignment() {
        let from: Vec<u8> = (0..1100_u32).map(|at| (at % 251) as u8).collect();
        for len_bytes in (0..300).chain([511, 512, 513, 1000]) {
            for shift in [0, 1, 7, 15, 63] {
                let mut to = vec![0xaa; 1100];
                let (source, target) = (NonNull::from(&from[shift]), NonNull::from(&mut to[16]));
                // SAFETY: both vectors are longer than shift, 16 and length together.
                unsafe { copy(source, target, len_bytes) };
                assert!(to[16..16 + len_bytes] == from[shift..shift + len_bytes], "{len_bytes} at {shift}");
                assert!(to[..16].iter().chain(&to[16 + len_bytes..]).all(|&byte| byte == 0xaa));
            }
        }
    }

    #[test]
    fn a_header_keeps_its_bytes_in_order() {
        let mut bytes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15_u8];
        let at = NonNull::from(&mut bytes[1]);
        // SAFETY: 12 bytes from the second are inside the array.
        let (low, high) = unsafe { load_header(at) };
        assert_eq!((low, high), (0x0807_0605_0403_0201, 0x0c0b_0a09));
        // SAFETY: as above.
        unsafe { store_header(at, 0, 0) };
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 13, 14, 15]);
    }

    #[test]
    fn a_header_in_a_line_of_its_own_is_written_if_any_byte_of_it_differs() {
        #[repr(align(64))]
        struct Lines([u8; 2 * LINE_BYTES]);
        let mut lines = Lines([0xee; 2 * LINE_BYTES]);
        let header = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12_u8];
        let (low, high) = (0x0807_0605_0403_0201, 0x0c0b_0a09);
        for start in [LINE_BYTES - HEADER_BYTES, LINE_BYTES - HEADER_BYTES - 1, LINE_BYTES - 1, LINE_BYTES] {
            let at = NonNull::from(&mut lines.0[start]);
            assert_eq!(ends_its_line(at.as_ptr()), start == LINE_BYTES - HEADER_BYTES);
            for differs in 0..=HEADER_BYTES {
                lines.0[start..start + HEADER_BYTES].copy_from_slice(&header);
                if let Some(byte) = lines.0[start..start + HEADER_BYTES].get_mut(differs) {
                    *byte ^= 0x80;
                }
                // SAFETY: 12 bytes from there are inside the two lines.
                unsafe { store_header_if_new(at, low, high) };
                assert_eq!(lines.0[start..start + HEADER_BYTES], header);
            }
        }
    }
}
