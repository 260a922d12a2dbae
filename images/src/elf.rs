//! The little of the ELF format that a guest program is judged and trimmed by (64-bit, little-endian).

/// What a program is made of as far as its loader cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// It asks for a dynamic linker.
    pub is_dynamic: bool,
    /// End of the last byte that the loader reads; symbols and debug information come after it.
    pub loaded_bytes: usize,
}

/// Segment type of the dynamic linker's name.
const PT_INTERP: u64 = 3;
// Where the header has the section table's offset, its entry count and its index of names.
const E_SHOFF: usize = 40;
const E_SHNUM: usize = 60;
const HEADER_BYTES: usize = 64;

/// Reads the segment table; none if the bytes are no whole 64-bit ELF file.
#[must_use]
pub fn program(elf: &[u8]) -> Option<Program> {
    if !elf.starts_with(b"\x7fELF\x02\x01") || elf.len() < HEADER_BYTES {
        return None;
    }
    let (table, entry_bytes, count) = (number(elf, 32, 8)?, number(elf, 54, 2)?, number(elf, 56, 2)?);
    let mut found = Program {
        is_dynamic: false,
        loaded_bytes: usize::try_from(table.checked_add(entry_bytes * count)?).ok()?,
    };
    for index in 0..count {
        let entry = usize::try_from(table + index * entry_bytes).ok()?;
        found.is_dynamic |= number(elf, entry, 4)? == PT_INTERP;
        let end = number(elf, entry + 8, 8)?.checked_add(number(elf, entry + 32, 8)?)?;
        found.loaded_bytes = found.loaded_bytes.max(usize::try_from(end).ok()?);
    }
    (found.loaded_bytes <= elf.len()).then_some(found)
}

/// The program without what its loader never reads: it runs the same, and backtraces lose their names.
#[must_use]
pub fn trimmed(elf: &[u8], program: Program) -> Vec<u8> {
    let mut bytes = elf[..program.loaded_bytes].to_vec();
    bytes[E_SHOFF..E_SHOFF + 8].fill(0);
    // Count and index of names lie side by side.
    bytes[E_SHNUM..E_SHNUM + 4].fill(0);
    bytes
}

/// A little-endian number in the file.
fn number(elf: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let field = elf.get(at..)?.get(..bytes)?;
    Some(field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A program of one segment of the given type that spans its first 200 bytes, with 100 bytes of symbols.
    pub(crate) fn sample(segment: u8) -> Vec<u8> {
        let mut elf = vec![7; 300];
        elf[..HEADER_BYTES + 56].fill(0);
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[32], elf[54], elf[56]) = (64, 56, 1);
        (elf[E_SHOFF], elf[E_SHNUM]) = (200, 1);
        (elf[64], elf[64 + 32]) = (segment, 200);
        elf
    }

    #[test]
    fn tells_static_programs_from_dynamic_ones() {
        assert_eq!(program(&sample(1)), Some(Program { is_dynamic: false, loaded_bytes: 200 }));
        assert_eq!(program(&sample(3)), Some(Program { is_dynamic: true, loaded_bytes: 200 }));
    }

    #[test]
    fn takes_a_file_that_ends_with_its_segment_and_refuses_one_byte_less() {
        assert!(program(&sample(1)[..200]).is_some());
        assert!(program(&sample(1)[..199]).is_none());
    }

    #[test]
    fn refuses_what_is_no_program() {
        let mut wild = sample(1);
        wild[64 + 32..64 + 40].fill(0xff);
        for bytes in [&b"#!/bin/sh"[..], b"", &sample(1)[..63], &wild] {
            assert_eq!(program(bytes), None);
        }
    }

    #[test]
    fn trimming_leaves_the_segment_and_no_section_table() {
        let elf = sample(1);
        let bytes = trimmed(&elf, program(&elf).unwrap());
        assert_eq!(bytes.len(), 200);
        assert_eq!((&bytes[E_SHOFF..E_SHOFF + 8], &bytes[E_SHNUM..E_SHNUM + 4]), (&[0; 8][..], &[0; 4][..]));
        assert_eq!(bytes[64..], elf[64..200]);
    }
}
