//! The packet memory of one domain.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use shm_ring::area::{AreaError, RegionGeometry, write_region_header};

use super::{Mapping, MemoryError, Pages, SharedMemory};

/// Why a domain has no region.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Size or stride break a rule of the layout.
    #[error("region of domain {domain}: {source}")]
    Geometry {
        /// Which domain.
        domain: String,
        /// Which rule.
        source: AreaError,
    },
    /// There is no such memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No random number for the cookie.
    #[error("cannot read /dev/urandom for the cookie of a region: {0}")]
    Random(#[source] io::Error),
}

/// The region of one domain: its file, its mapping in the switch, and where the buffers lie.
#[derive(Debug)]
pub struct Region {
    memory: SharedMemory,
    mapping: &'static Mapping,
    geometry: RegionGeometry,
}

impl Region {
    /// Makes a region of `bytes` bytes with a fresh cookie in its first page. Its mapping stays for the rest
    /// of the process.
    ///
    /// # Errors
    /// If size or stride break a rule, or there is no such memory.
    pub fn create(
        domain: &str,
        bytes: u64,
        buffer_stride_bytes: u32,
        pages: Pages,
    ) -> Result<Self, RegionError> {
        Self::over(domain, bytes, buffer_stride_bytes, || {
            SharedMemory::create(&format!("netvm-region-{domain}"), bytes, pages)
        })
    }

    /// As [`Region::create`], in a file at `path` that others find and can truncate.
    ///
    /// # Errors
    /// As [`Region::create`], or if the file exists.
    pub fn create_file(
        domain: &str,
        bytes: u64,
        buffer_stride_bytes: u32,
        pages: Pages,
        path: &Path,
    ) -> Result<Self, RegionError> {
        Self::over(domain, bytes, buffer_stride_bytes, || SharedMemory::create_file(path, bytes, pages))
    }

    fn over(
        domain: &str,
        bytes: u64,
        buffer_stride_bytes: u32,
        memory: impl FnOnce() -> Result<SharedMemory, MemoryError>,
    ) -> Result<Self, RegionError> {
        let cookie = random_cookie().map_err(RegionError::Random)?;
        let geometry = RegionGeometry::fit(bytes, buffer_stride_bytes, cookie)
            .map_err(|source| RegionError::Geometry { domain: domain.to_owned(), source })?;
        let memory = memory()?;
        let mapping = Mapping::shared(&memory)?.leak();
        // SAFETY: the mapping is writable, starts on a page and is at least 2 MiB long (`fit`). Nobody else
        // maps it yet; whoever does later is another process, which has its own view of these bytes.
        unsafe { write_region_header(mapping.base(), &geometry) };
        Ok(Self { memory, mapping, geometry })
    }

    /// The file, to be handed to the VMs and processes of this domain only.
    #[must_use]
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// The switch's own view.
    #[must_use]
    pub fn mapping(&self) -> &'static Mapping {
        self.mapping
    }

    /// Where the buffers lie.
    #[must_use]
    pub fn geometry(&self) -> &RegionGeometry {
        &self.geometry
    }
}

/// A number that another domain's guest cannot guess, so that region and control area are not mixed up.
fn random_cookie() -> io::Result<u64> {
    let mut cookie = [0; size_of::<u64>()];
    File::open("/dev/urandom")?.read_exact(&mut cookie)?;
    Ok(u64::from_ne_bytes(cookie))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::mapping::HEADER_BYTES_MAX;

    #[test]
    fn a_region_starts_with_its_magic_and_a_cookie_of_its_own() {
        let [one, other] =
            ["red", "blue"].map(|name| Region::create(name, 2 << 20, 2368, Pages::Plain).unwrap());
        assert_ne!(one.geometry().cookie, other.geometry().cookie);
        let mut head = [0; HEADER_BYTES_MAX];
        one.mapping().copy_header(0, 64, &mut head);
        assert_eq!(head[..8], *b"NETVMRGN");
        assert_eq!(head[16..24], one.geometry().cookie.to_le_bytes());
    }

    #[test]
    fn refuses_a_stride_of_an_even_number_of_cache_lines() {
        let error = Region::create("red", 2 << 20, 2304, Pages::Plain).unwrap_err();
        assert!(error.to_string().starts_with("region of domain red: "), "{error}");
    }
}
