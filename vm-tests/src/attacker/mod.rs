//! A guest that breaks every rule it can: in a VM, or as a process at endpoint.sock.
//!
//! It maps what any network function of its owner maps, reads the tables once, and then writes wherever and
//! whatever it likes: netlib, which keeps rules, is not used. Each [`kind::Kind`] of attack is a bout of some
//! milliseconds; rounds of all kinds, in an order that follows from the seed, go on until the time is over.
//! When the switch cuts it off, it comes back.
//!
//! | module | noun |
//! |---|---|
//! | `memory` | shared memory, every byte of it writable; the only unsafe code |
//! | `device` | where the memory comes from: the socket, or the PCI devices of a guest |
//! | `seat` | where everything of one endpoint lies |
//! | `session` | an attach, with what was lent in it |
//! | `siege` | the rounds |
//! | `deface` | what an observer must not be able to do |
//! | `handshake`, `descriptors`, `edges`, `races`, `scribbles`, `holes`, `messages`, `canary` | the attacks |

pub mod canary;
pub mod deface;
mod descriptors;
pub mod device;
pub mod edges;
mod handshake;
mod holes;
pub mod kind;
pub mod memory;
mod messages;
pub mod plant;
mod races;
mod scribbles;
pub mod seat;
mod session;
pub mod siege;
