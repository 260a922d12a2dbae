//! A control area laid over shared memory: planned and written by the host, opened and checked by a guest.
//!
//! [`AreaLayout`] decides where everything lies. [`HostArea`] writes that into memory and works from its
//! private copy ever after: the host never reads a table back. [`GuestArea`] copies header and tables once,
//! checks the copy, and works from it. All access to shared memory is in `mapping`.

mod error;
mod geometry;
mod guest;
mod host;
mod mapping;
mod plan;
mod tables;

pub use crate::endpoint::{Answer, Counter, GuestEndpoint, GuestReport, HostEndpoint, QueuePair};
pub use error::AreaError;
pub use geometry::RegionGeometry;
pub use guest::GuestArea;
pub use host::HostArea;
pub use mapping::{magic_at, read_region_header, write_region_header};
pub use plan::{AreaLayout, AreaSpec, EndpointSpec, TargetKind, TargetSpec};
