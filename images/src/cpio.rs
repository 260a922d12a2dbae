//! Archives in the kernel's initramfs format ("newc" cpio).
//!
//! The bytes depend on the entries alone: sorted by path, owned by 0:0, dated 1970, numbered in order.
//! Source of the format: `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux.

use std::collections::BTreeMap;

/// The kernel looks for the next archive at multiples of four bytes; tools like whole blocks.
const BLOCK_BYTES: usize = 512;

const MODE_DIRECTORY: u32 = 0o040_000;
const MODE_FILE: u32 = 0o100_000;

/// What an archive cannot hold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpioError {
    /// The path would end up somewhere else than where it says.
    #[error("guest path {path:?} must be absolute, of plain names, at most {PATH_BYTES_MAX} bytes long")]
    Path {
        /// What was asked for.
        path: String,
    },
    /// The format has 32 bits for a size.
    #[error("{path} has {bytes} bytes; the archive takes at most {} per file", u32::MAX)]
    FileSize {
        /// Which file.
        path: String,
        /// Its size.
        bytes: usize,
    },
    /// A path is a file and a folder at once.
    #[error("{path} is both a file and a folder of other files")]
    FileIsFolder {
        /// The path.
        path: String,
    },
}

/// The kernel refuses longer names (PATH_MAX with the final zero).
const PATH_BYTES_MAX: usize = 4095;

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File { mode: u32, bytes: Vec<u8> },
}

/// An archive under construction.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// Keyed by path without the leading slash, so that folders sort before what is in them.
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// An archive without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an empty folder; the folders above it come by themselves.
    ///
    /// # Errors
    /// If the path is not absolute and plain, or a file already.
    pub fn directory(&mut self, path: &str) -> Result<(), CpioError> {
        let name = plain_name(path)?;
        self.parents(name)?;
        self.make_directory(name)
    }

    /// Adds a file with the permission bits of `mode`; a second one at the same path replaces the first.
    ///
    /// # Errors
    /// If the path is not absolute and plain, a folder already, or the file does not fit the format.
    pub fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) -> Result<(), CpioError> {
        let name = plain_name(path)?;
        if u32::try_from(bytes.len()).is_err() {
            return Err(CpioError::FileSize { path: path.to_owned(), bytes: bytes.len() });
        }
        self.parents(name)?;
        if self.entries.get(name) == Some(&Entry::Directory) {
            return Err(CpioError::FileIsFolder { path: path.to_owned() });
        }
        self.entries.insert(name.to_owned(), Entry::File { mode: mode & 0o7777, bytes });
        Ok(())
    }

    fn parents(&mut self, name: &str) -> Result<(), CpioError> {
        for (end, _) in name.match_indices('/') {
            self.make_directory(&name[..end])?;
        }
        Ok(())
    }

    fn make_directory(&mut self, name: &str) -> Result<(), CpioError> {
        match self.entries.get(name) {
            Some(Entry::File { .. }) => Err(CpioError::FileIsFolder { path: format!("/{name}") }),
            Some(Entry::Directory) => Ok(()),
            None => {
                self.entries.insert(name.to_owned(), Entry::Directory);
                Ok(())
            }
        }
    }

    /// The archive as bytes, a whole number of 512-byte blocks.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, (name, entry)) in (1..).zip(&self.entries) {
            let (mode, links, bytes) = match entry {
                Entry::Directory => (MODE_DIRECTORY | 0o755, 2, &[][..]),
                Entry::File { mode, bytes } => (MODE_FILE | mode, 1, bytes.as_slice()),
            };
            write_entry(&mut out, number, name, mode, links, bytes);
        }
        write_entry(&mut out, 0, "TRAILER!!!", 0, 1, &[]);
        pad(&mut out, BLOCK_BYTES);
        out
    }
}

/// Fills up with zeros to a multiple of `step_bytes`.
fn pad(out: &mut Vec<u8>, step_bytes: usize) {
    out.resize(out.len().next_multiple_of(step_bytes), 0);
}

/// The path without its slash, if it means what it says.
fn plain_name(path: &str) -> Result<&str, CpioError> {
    let refuse = || CpioError::Path { path: path.to_owned() };
    let name = path.strip_prefix('/').ok_or_else(refuse)?;
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if name.len() > PATH_BYTES_MAX || name.contains('\0') || name.split('/').any(odd) {
        return Err(refuse());
    }
    Ok(name)
}

fn write_entry(out: &mut Vec<u8>, number: usize, name: &str, mode: u32, links: usize, bytes: &[u8]) {
    // Thirteen fields of eight hex digits: inode, mode, uid, gid, links, mtime, size, device (2), device
    // of a node (2), bytes of the name with its zero, checksum (unused in this variant).
    out.extend_from_slice(b"070701");
    let (size, name_size) = (bytes.len(), name.len() + 1);
    for field in [number, mode as usize, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out, 4);
    out.extend_from_slice(bytes);
    pad(out, 4);
}

/// `initramfs` followed by `overlay`, so that the kernel finds both.
///
/// `initramfs` may be compressed; the zeros in between are skipped by the kernel.
#[must_use]
pub fn stacked(initramfs: &[u8], overlay: &[u8]) -> Vec<u8> {
    let mut out = initramfs.to_vec();
    pad(&mut out, BLOCK_BYTES);
    out.extend_from_slice(overlay);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Archive {
        let mut archive = Archive::new();
        archive.file("/b/with space", 0o644, b"xyz".to_vec()).unwrap();
        archive.file("/init", 0o755, b"#!/bin/sh\n".to_vec()).unwrap();
        archive.directory("/a/deep/one").unwrap();
        archive
    }

    /// Reads an archive as the kernel does: path, mode, content.
    fn read_back(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let digits = std::str::from_utf8(&bytes[6 + 8 * index..14 + 8 * index]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = std::str::from_utf8(&bytes[110..110 + name_size - 1]).unwrap().to_owned();
            let data = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert!(bytes[data..].iter().all(|&byte| byte == 0));
                return entries;
            }
            entries.push((name, mode, bytes[data..data + size].to_vec()));
            bytes = &bytes[(data + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn what_was_put_in_comes_out_with_its_folders_first() {
        let folder = |path: &str| (path.to_owned(), 0o040_755, Vec::new());
        let file = |path: &str, mode, bytes: &[u8]| (path.to_owned(), mode, bytes.to_vec());
        let expected = [
            folder("a"),
            folder("a/deep"),
            folder("a/deep/one"),
            folder("b"),
            file("b/with space", 0o100_644, b"xyz"),
            file("init", 0o100_755, b"#!/bin/sh\n"),
        ];
        assert_eq!(read_back(&sample().to_bytes()), expected);
    }

    #[test]
    fn the_order_of_adding_does_not_show() {
        let mut other = Archive::new();
        other.directory("/a/deep/one").unwrap();
        other.file("/init", 0o755, b"#!/bin/sh\n".to_vec()).unwrap();
        other.file("/b/with space", 0o644, b"xyz".to_vec()).unwrap();
        assert_eq!(other.to_bytes(), sample().to_bytes());
    }

    #[test]
    fn an_archive_is_whole_blocks_also_when_stacked() {
        assert_eq!(sample().to_bytes().len() % BLOCK_BYTES, 0);
        let both = stacked(&[1, 2, 3], &sample().to_bytes());
        assert_eq!(&both[512..518], b"070701");
    }

    #[test]
    fn refuses_paths_that_lead_elsewhere() {
        for path in ["relative", "/", "/a/../b", "/a//b", "/a/./b", "/a/", "/a\0b", ""] {
            let refused = Archive::new().file(path, 0o644, Vec::new());
            assert_eq!(refused, Err(CpioError::Path { path: path.to_owned() }), "{path:?}");
        }
    }

    #[test]
    fn takes_a_path_of_the_longest_length_and_refuses_one_more_byte() {
        let longest = format!("/{}", "a".repeat(PATH_BYTES_MAX));
        assert_eq!(Archive::new().file(&longest, 0o644, Vec::new()), Ok(()));
        assert!(Archive::new().file(&format!("{longest}a"), 0o644, Vec::new()).is_err());
    }

    #[test]
    fn refuses_a_file_that_is_also_a_folder() {
        let mut archive = sample();
        let refused = CpioError::FileIsFolder { path: "/init".to_owned() };
        assert_eq!(archive.file("/init/x", 0o644, Vec::new()), Err(refused));
        assert!(archive.file("/a/deep", 0o644, Vec::new()).is_err());
    }
}
