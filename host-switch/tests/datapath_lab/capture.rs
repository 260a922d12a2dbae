//! Capture files: what a pcap port plays, and what it has written.

use std::path::Path;

const FILE_HEADER: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1];

pub fn write(path: &Path, frames: &[Vec<u8>]) {
    let mut file: Vec<u8> = FILE_HEADER.iter().flat_map(|word| word.to_le_bytes()).collect();
    for (second, frame) in (0_u32..).zip(frames) {
        let len = u32::try_from(frame.len()).unwrap();
        for word in [second, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    std::fs::write(path, file).unwrap();
}

pub fn read(path: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::read(path).unwrap();
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + len].to_vec());
        rest = &rest[16 + len..];
    }
    frames
}

/// A small generator with a seed: xorshift, the same sequence every time.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Frames of all lengths and contents; most are no valid packets of anything.
    pub fn frames(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|_| {
                let len = 14 + self.below(1501);
                (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
            })
            .collect()
    }
}
