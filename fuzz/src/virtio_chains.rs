//! A virtio ring whose driver links together what it likes: a lane serves it.
//!
//! The `virtio-queue` crate reads the same ring, and both must agree on which chains can be followed, on every byte
//! of every frame, both ways, and on the used ring. The same file is a property test of the product.

#[path = "../../vhost-port/tests/oracle/mod.rs"]
mod oracle;

pub use oracle::run;
